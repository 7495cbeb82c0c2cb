import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from srch3.checkpoints import read_checkpoint
from srch3.cli import main
from srch3.data import BeirDataModule
from srch3.errors import ConfigError
from srch3.messages import in_our_words
from tests.models import make_model_folder
from tests.runs import make_beir_folder, small, witnessed

ROOT = Path(__file__).parent.parent
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=3", "--trainer.val_check_interval=3"]
UNEVEN = "--data.init_args.limit_val=29"
"""Fifteen queries in three batches for one process, fourteen in two for the other."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set, and a model whose output matrix is one of its own."""
    monkeypatch.chdir(tmp_path)
    make_beir_folder(tmp_path / "beir", documents=60)
    make_model_folder(tmp_path / "model", "qwen3", chat=False)
    return tmp_path


def options(stage: str, *more: str, subcommand: str = "fit") -> list[str]:
    return small(subcommand, stage, Path("beir"), Path("model"), UNEVEN, *more)


def run_two(stage: str, *more: str) -> str:
    """Runs on two processes, as a shell would, and returns what they print to stderr."""
    witness = ["--trainer.callbacks+=tests.runs.Witness", "--trainer.callbacks.folder=seen"]
    environment = {name: value for name, value in os.environ.items() if name not in {"OMP_NUM_THREADS", "SRCH3_DEBUG"}}
    done = subprocess.run(
        [sys.executable, "-m", "srch3", *options(stage, *TWO, *witness, *more)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def assert_equal_to_one_process(stage: str) -> None:
    """Validation of both processes gives what one process gives with the same weights."""
    validated = main(options(stage, "--ckpt_path=runs/version_0/checkpoints/last.ckpt", subcommand="validate"))
    expected = {name: float(value) for name, value in validated.trainer.callback_metrics.items()}
    assert len(expected) > 8
    for rank in (0, 1):
        assert witnessed(Path("seen"), rank)[-1]["metrics"] == pytest.approx(expected, abs=1e-6)


def steps(rank: int) -> list[dict[str, Any]]:
    return [record for record in witnessed(Path("seen"), rank) if "step" in record]


def assert_each_has_its_own_share_and_one_thread() -> None:
    cores = len(os.sched_getaffinity(0))
    for mine, others in zip(steps(0), steps(1), strict=True):
        assert len(mine["queries"]) == len(others["queries"]) == 6
        assert set(mine["queries"]).isdisjoint(others["queries"])
    assert [witnessed(Path("seen"), rank)[-1]["threads"] for rank in (0, 1)] == [max(1, cores // 2)] * 2


@pytest.mark.slow
def test_stage_one_on_two_processes(folder: Path) -> None:
    printed = run_two("sft")
    assert "It is recommended" not in printed
    assert_each_has_its_own_share_and_one_thread()
    assert_equal_to_one_process("sft")


def weights_of(version: int) -> dict[str, torch.Tensor]:
    return read_checkpoint(Path(f"runs/version_{version}/checkpoints/last.ckpt"))["state_dict"]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(folder: Path) -> None:
    """Plain gradient descent shows the gradients: those of the whole batch, in any number of passes."""
    options_of_both = [
        "--model.init_args.optimizer=torch.optim.SGD", "--model.init_args.optimizer.init_args.lr=0.05",
        "--model.init_args.schedule=constant", "--model.init_args.warmup=0", "--model.init_args.embedding_lr_scale=1",
        "--model.init_args.base_kl.init_args.weight=1", "--model.init_args.info_nce.init_args.query_query=true",
        "--model.init_args.thought_dropout=0.3", "--model.init_args.train_modes=[thinking]",
        "--trainer.gradient_clip_val=0", "--trainer.max_steps=2", "--trainer.limit_val_batches=0",
    ]  # fmt: skip
    start = main(options("sft", *options_of_both, "--trainer.max_steps=0")).model.state_dict()
    run_two("sft", *options_of_both, "--model.init_args.cache_tokens=80")
    main(options("sft", *options_of_both, "--data.init_args.batch_size=12"))
    assert_same_steps(start, weights_of(1), weights_of(2))


def assert_same_steps(
    start: dict[str, torch.Tensor], one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]
) -> None:
    largest = max(float((one[name] - value).abs().max()) for name, value in start.items())
    assert largest > 1e-3
    for name in start:
        assert float((other[name] - one[name]).abs().max()) <= 1e-5 * largest, name


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_in_stage_two(folder: Path) -> None:
    """The same completions, rewards and gradients, however the batch is spread and cut."""
    options_of_both = [
        "--model.init_args.optimizer=torch.optim.SGD", "--model.init_args.optimizer.init_args.lr=0.05",
        "--model.init_args.schedule=constant", "--model.init_args.warmup=0", "--model.init_args.embedding_lr_scale=1",
        "--model.init_args.reference_kl.init_args.weight=1", "--model.init_args.info_nce.init_args.query_query=true",
        "--model.init_args.updates=2", "--model.init_args.hard_negatives=1", "--trainer.gradient_clip_val=0",
        "--trainer.max_steps=2", "--trainer.limit_val_batches=0",
    ]  # fmt: skip
    start = main(options("rl", *options_of_both, "--trainer.max_steps=0")).model.state_dict()
    run_two("rl", *options_of_both, "--model.init_args.cache_tokens=80")
    main(options("rl", *options_of_both, "--data.init_args.batch_size=12"))
    assert_same_steps(start, weights_of(1), weights_of(2))


@pytest.mark.slow
def test_stage_two_on_two_processes_keeps_their_indexes_equal(folder: Path) -> None:
    run_two("rl", "--trainer.callbacks.index=true", "--environment.init_args.budget.init_args.share=0.2")
    assert_each_has_its_own_share_and_one_thread()
    for mine, others in zip(steps(0), steps(1), strict=True):
        assert mine["vectors"] == others["vectors"]
        assert mine["stamps"] == others["stamps"]
        assert mine["loss"] != others["loss"]
    assert len({str(record["stamps"]) for record in steps(0)}) == 3
    assert_equal_to_one_process("rl")


@pytest.mark.slow
def test_training_without_thoughts_leaves_no_parameter_unused(folder: Path) -> None:
    run_two("sft", "--model.init_args.train_modes=[direct]", "--model.init_args.modes=[direct]")
    assert len(steps(0)) == len(steps(1)) == 3


def test_an_output_matrix_that_no_loss_is_about_stays_as_it_was(folder: Path) -> None:
    short = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0"]
    names = ["backbone.model.lm_head.weight", "backbone.model.model.norm.weight"]
    start = main(options("sft", "--trainer.max_steps=0", "--trainer.limit_val_batches=0")).model.state_dict()
    for version, (modes, trained) in enumerate([("[direct]", [False, True]), ("[thinking]", [True, True])], start=1):
        main(options("sft", f"--model.init_args.train_modes={modes}", *short))
        end = read_checkpoint(Path(f"runs/version_{version}/checkpoints/last.ckpt"))["state_dict"]
        assert [not torch.equal(start[name], end[name]) for name in names] == trained


def test_fewer_queries_than_processes_are_refused(folder: Path) -> None:
    data = BeirDataModule("beir", limit_val=1)
    data.trainer = SimpleNamespace(global_rank=1, world_size=2)  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="expected at least one val query per process; got 1 for 2"):
        data.val_dataloader()


def test_what_several_processes_cannot_train_is_one_line() -> None:
    words = "It looks like your LightningModule has parameters that were not used in producing the loss returned by …"
    assert "set `strategy: ddp_find_unused_parameters_true`" in str(in_our_words(RuntimeError(words)))
