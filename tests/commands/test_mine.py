import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from srch3.cli import main
from srch3.commands.negatives import Miner
from srch3.data import BeirDataModule
from srch3.modules import SFTModule
from tests.runs import QUIET, make_beir_folder, small

CKPT = "runs/version_0/checkpoints/best.ckpt"
MINE = ["mine", "--config=runs/version_0/config.yaml", f"--ckpt_path={CKPT}", "--output=mined"]
SETTINGS = ["--mining.negatives=3", "--mining.ranks=[2, 12]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a model and a run of stage 1."""
    folder = tmp_path_factory.mktemp("trained")
    make_beir_folder(folder / "beir")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["srch3"])
        more = ["--trainer.max_steps=3", "--trainer.val_check_interval=3", "--data.init_args.train_slice=[0.0, 1.0]"]
        main(small("fit", "sft", Path("beir"), Path("model"), *more, "--model.init_args.modes=[direct, thinking]"))
    return folder


@pytest.fixture(autouse=True)
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["srch3"])
    return tmp_path


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def refused(*more: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main([*MINE, *more])
        assert stop.value.code in {1, 2}
        last = capfd.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        return last.removeprefix("error: ")

    return refused


def negatives(root: str) -> dict[str, tuple[str, ...]]:
    return {query.id: query.negatives for query in BeirDataModule(root).queries("train")}


def test_what_is_mined_is_what_the_checkpoint_finds_and_serves_training(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cli = main([*MINE, *SETTINGS])
    assert "120 hard negatives for 40 training queries; 0 of them have fewer than 3, 0 none" in caplog.text
    assert not any(negatives("beir").values())
    mined = negatives("mined")

    model: Any = cli.model
    weights = torch.load(CKPT, weights_only=True)["state_dict"]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights.items())
    data = BeirDataModule("beir")
    corpus, queries = data.corpus("train"), data.queries("train")
    vectors = model.encode_documents(list(corpus.texts))
    for query in queries[::8]:
        scores = vectors @ model([query.text], "direct")[0]
        others = [row for row in scores.sort(descending=True, stable=True).indices.tolist() if row != int(query.id[5:])]
        assert mined[query.id] == tuple(corpus.ids[row] for row in others[1:4])

    (printed,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mined: train with ")]
    options = shlex.split(printed.removeprefix("mined: train with "))
    assert options == ["--data.init_args.root", "mined"]
    fitted: Any = main(["fit", "--config=runs/version_0/config.yaml", *options, "--trainer.max_steps=2"])
    batch = next(iter(fitted.datamodule.train_dataloader()))
    assert all(batch.negative_ids)
    assert batch.negative_ids == [list(mined[name]) for name in batch.ids]
    assert fitted.trainer.global_step == 2


def test_a_run_leaves_nothing_but_its_output_with_its_settings(folder: Path) -> None:
    main([*MINE, *SETTINGS, "--mining.relative=0.95"])
    assert sorted(path.name for path in folder.iterdir()) == ["beir", "mined", "model", "runs"]
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["version_0"]
    settings = yaml.safe_load((folder / "mined" / "mine.yaml").read_text())
    assert settings["mining"]["relative"] == 0.95
    assert settings["ckpt_path"] == CKPT
    first = negatives("mined")
    main(["mine", "--config=mined/mine.yaml", "--output=again"])
    assert negatives("again") == first


def test_mode_and_precision_are_honoured_and_one_process_suffices(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    original = SFTModule.embed_queries

    def embed_queries(self: SFTModule, texts: Any, modes: Any) -> Any:
        results = original(self, texts, modes)
        seen.append((list(modes), torch.is_autocast_enabled("cpu")))
        return results

    monkeypatch.setattr(SFTModule, "embed_queries", embed_queries)
    parallel = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.precision=bf16-mixed"]
    cli = main([*MINE, *SETTINGS, "--mining.mode=thinking", *parallel])
    assert {(tuple(modes), autocast) for modes, autocast in seen} == {(("thinking",), True)}
    assert cli.trainer.world_size == 1
    assert len(negatives("mined")) == 40


def test_queries_with_too_few_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    main([*MINE, *SETTINGS, "--mining.margin=2.0"])
    assert "0 hard negatives for 40 training queries; 40 of them have fewer than 3, 40 none" in caplog.text
    assert not any(negatives("mined").values())


def test_ctrl_c_leaves_no_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Miner, batch: Any, batch_idx: int) -> dict[str, list[str]]:
        os.kill(os.getpid(), signal.SIGINT)
        return {}

    monkeypatch.setattr(Miner, "predict_step", interrupted)
    with pytest.raises(SystemExit) as stop:
        main([*MINE, *SETTINGS])
    assert stop.value.code == 130
    assert capfd.readouterr().err.endswith("stopped; nothing was written\n")
    assert not (folder / "mined").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--output=beir"], "output: expected a new or empty folder; got beir, which has content; give another"),
        ([f"--output={CKPT}"], f"output: expected a new or empty folder; got {CKPT}, which has content"),
        (["--ckpt_path=absent.ckpt"], "ckpt_path: expected a checkpoint file; got absent.ckpt, which is not a file"),
        (["--mining.negative=3"], "unknown key mining.negative; did you mean mining.negatives?"),
        (["--mining.ranks=[5]"], "mining.ranks: expected "),
        (["--mining.mode=empty"], "mining.mode: expected one of 'direct', 'thinking' or null; got empty"),
        (["--mining.relative=95"], "mining.relative: expected a share above 0 and at most 1; got 95.0"),
        (["--environment=NoEnvironment"], "environment: mine expects SearchEnvironment; got NoEnvironment"),
        (["--model=tests.programs.Line"], "model: mine expects one that embeds queries, such as SFTModule; got Line"),
        (["--data=tests.programs.NumberData"], "data: mine expects a data module with judged queries; got NumberData"),
        (["--data=tests.toy.ToyDataModule"], "data: expected a BeirDataModule, JsonlDataModule or HubDataModule to"),
        (["--optput=x"], "unknown key optput; did you mean output? (see: python -m srch3 mine --help)"),
    ],
)
def test_mistakes_are_one_line(refusal: Callable[..., str], more: list[str], expected: str) -> None:
    assert refusal(*more).startswith(expected)


def test_a_checkpoint_of_another_stage_is_refused(refusal: Callable[..., str]) -> None:
    checkpoint = torch.load(CKPT, weights_only=True)
    checkpoint["srch3"]["stage"] = "RLModule"
    checkpoint["hyper_parameters"] = {}
    torch.save(checkpoint, "other.ckpt")
    assert "other.ckpt was saved by RLModule, but `model` is SFTModule" in refusal("--ckpt_path=other.ckpt")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([f"--ckpt_path={CKPT}", *QUIET], "missing required key output (see: python -m srch3 mine --help)"),
        (["--output=mined"], "missing required key ckpt_path (see: python -m srch3 mine --help)"),
    ],
)
def test_what_must_be_given_is_named(given: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["mine", "--config=runs/version_0/config.yaml", *given])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["mine", "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for text in (
        "python -m srch3 mine",
        "--mining.relative",
        "--mining.sampled",
        "--ckpt_path",
        "--output",
        "--environment",
    ):
        assert text in printed
