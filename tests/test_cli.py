import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import SingleDeviceStrategy

from srch3.checkpoint_callbacks import BestCheckpoint, LastCheckpoint
from srch3.checkpoints import AtomicCheckpointIO, read_checkpoint
from srch3.cli import SearchCLI, main
from srch3.environments import NoEnvironment, SearchEnvironment
from srch3.usage import SUBCOMMANDS

TOY = ["--data=tests.programs.NumberData", "--environment=NoEnvironment", "--trainer.accelerator=cpu"]
FAST = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.devices=1"]
SHORT = ["--trainer.max_epochs=2", "--trainer.num_sanity_val_steps=0", *FAST]
LAST = "runs/version_0/checkpoints/last.ckpt"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, and the command line of a program without arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["srch3"])
    handler = signal.getsignal(signal.SIGINT)
    yield tmp_path
    signal.signal(signal.SIGINT, handler)


def toy(subcommand: str, *more: str, model: str = "Line") -> list[str]:
    return [subcommand, f"--model=tests.programs.{model}", *TOY, *SHORT, *more]


def built(*more: str, model: str = "Line") -> SearchCLI:
    return main(toy("fit", *more, model=model)[1:], run=False)


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail, and returns the line that it prints."""

    def run(args: list[str], code: int = 2) -> str:
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == code
        printed = [line for line in capsys.readouterr().err.splitlines() if "error" in line or "Error" in line]
        assert len(printed) == 1, printed
        return printed[0]

    return run


# A run and what it leaves behind


def test_a_run_leaves_its_config_metrics_and_checkpoints_in_its_own_folder(folder: Path) -> None:
    for _ in range(2):
        main(toy("fit", "--model.lr=0.25"))
    for version in ("version_0", "version_1"):
        config = yaml.safe_load((folder / "runs" / version / "config.yaml").read_text())
        assert config["model"] == {
            "class_path": "tests.programs.Line",
            "init_args": {"lr": 0.25, "weight_decay": 0.0, "decays": False, "width": 1},
        }
        assert (folder / "runs" / version / "metrics.csv").is_file()
        assert sorted(path.name for path in (folder / "runs" / version / "checkpoints").iterdir()) == [
            "best.ckpt",
            "last.ckpt",
        ]
    assert sorted(path.name for path in folder.iterdir()) == ["runs"]


def test_the_saved_config_of_a_fit_runs_again_and_serves_the_other_subcommands(folder: Path) -> None:
    fitted = main(toy("fit"))
    config = "runs/version_0/config.yaml"
    again = main(["fit", "-c", config])
    assert torch.equal(fitted.model.weight, again.model.weight)
    tested = main(["test", "-c", config, "--ckpt_path", LAST])
    assert tested.trainer.callback_metrics["test/weight"] == fitted.model.weight.sum()


def test_later_files_and_options_win_and_files_named_in_a_file_are_found_beside_it(folder: Path) -> None:
    (folder / "parts").mkdir()
    (folder / "parts" / "line.yaml").write_text("class_path: tests.programs.Line\ninit_args: {lr: 0.5, width: 3}\n")
    (folder / "base.yaml").write_text(
        "model: parts/line.yaml\ndata: tests.programs.NumberData\nenvironment: NoEnvironment\n"
    )
    (folder / "more.yaml").write_text("model:\n  class_path: tests.programs.SteeperLine\n  init_args: {lr: 0.25}\n")
    cli = main(["-c", "base.yaml", "-c", "more.yaml", "--model.init_args.weight_decay=0.125", *FAST], run=False)
    assert type(cli.model).__name__ == "SteeperLine"
    assert (cli.model.lr, cli.model.weight.numel(), cli.model.weight_decay) == (0.25, 3, 0.125)


def test_settings_may_be_a_dictionary() -> None:
    cli = main(
        {
            "model": {"class_path": "tests.programs.Line"},
            "data": {"class_path": "tests.programs.NumberData"},
            "environment": {"class_path": "NoEnvironment"},
        },
        run=False,
    )
    assert isinstance(cli.model, L.LightningModule)


def test_a_run_names_its_folder_and_its_checkpoints(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        main(toy("fit"))
    (begun,) = [line for line in caplog.messages if line.startswith("this run's folder")]
    (over,) = [line for line in caplog.messages if line.startswith("fit is done")]
    assert begun == "this run's folder: runs/version_0"
    best, last = (f"runs/version_0/checkpoints/{name}.ckpt" for name in ("best", "last"))
    assert over == f"fit is done, in runs/version_0; checkpoints: {best}, {last}"
    assert Path(best).is_file()
    assert Path(last).is_file()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("max_steps=2 --trainer.val_check_interval=3", f"; checkpoints: {LAST}; no best.ckpt, since no validation ran"),
        ("enable_checkpointing=false", "; no checkpoint was written"),
    ],
)
def test_a_run_says_which_checkpoints_it_lacks(caplog: pytest.LogCaptureFixture, option: str, expected: str) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        main(toy("fit", *f"--trainer.{option}".split()))
    (over,) = [line for line in caplog.messages if line.startswith("fit is done")]
    assert over == f"fit is done, in runs/version_0{expected}"


def test_weights_and_biases_gets_the_whole_nested_config_offline(folder: Path) -> None:
    wandb = pytest.importorskip("wandb")
    cli = main(
        toy("fit", "--trainer.logger=WandbLogger", "--trainer.logger.offline=true", "--trainer.logger.project=p")
    )
    config = dict(cli.trainer.logger.experiment.config)
    version = cli.trainer.logger.version
    wandb.finish()
    assert config["model"]["init_args"]["lr"] == 0.1
    assert config["last_checkpoint"]["every_n_minutes"] == 5.0
    assert (folder / "runs" / "p" / version / "config.yaml").is_file()
    assert [path.name for path in folder.iterdir()] == ["runs"]


def test_without_a_logger_the_config_goes_to_the_root_of_the_run(folder: Path) -> None:
    main(toy("fit", "--trainer.logger=false", "--trainer.default_root_dir=here"))
    assert (folder / "here" / "config.yaml").is_file()
    assert (folder / "here" / "checkpoints" / "last.ckpt").is_file()


# What is built


def test_the_environment_is_a_callback_that_no_list_of_callbacks_displaces() -> None:
    cli = built("--trainer.callbacks=RichProgressBar", "--trainer.enable_progress_bar=true")
    kinds = [type(callback) for callback in cli.trainer.callbacks]
    assert NoEnvironment in kinds
    assert kinds.count(RichProgressBar) == 1
    assert kinds[-2:] == [BestCheckpoint, LastCheckpoint]


def test_the_search_environment_is_the_default() -> None:
    args = [arg for arg in toy("fit")[1:] if "environment" not in arg]
    cli = main(args, run=False)
    assert any(isinstance(callback, SearchEnvironment) for callback in cli.trainer.callbacks)


def test_classes_go_by_their_short_names() -> None:
    config = built("--environment=SearchEnvironment", "--environment.index=HnswIndex", "--environment.index.m=8").config
    assert config.environment.init_args.index.class_path.endswith("HnswIndex")
    assert config.environment.init_args.index.init_args.m == 8


def test_samplers_are_left_alone_and_seeds_are_fixed_by_default() -> None:
    config = built().config
    assert config.trainer.use_distributed_sampler is False
    assert config.seed_everything == 0


def test_a_users_own_checkpoint_replaces_the_best_and_not_the_last() -> None:
    cli = built("--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.monitor=val/other")
    assert [type(keeper) for keeper in cli.trainer.checkpoint_callbacks] == [ModelCheckpoint, LastCheckpoint]


@pytest.mark.parametrize("switch", ["--trainer.enable_checkpointing=false", "--trainer.fast_dev_run=true"])
def test_checkpoints_can_be_switched_off(switch: str) -> None:
    keepers = built(switch).trainer.checkpoint_callbacks
    assert not any(isinstance(keeper, BestCheckpoint | LastCheckpoint) for keeper in keepers)


def test_files_are_atomic_unless_the_user_brings_other_ones() -> None:
    assert isinstance(built().trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    brought = built("--trainer.plugins=TorchCheckpointIO")
    assert type(brought.trainer.strategy.checkpoint_io) is TorchCheckpointIO


def test_a_strategy_with_files_of_its_own_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    own = TorchCheckpointIO()
    kept = SearchCLI.instantiate_trainer(built(), strategy=SingleDeviceStrategy("cpu", checkpoint_io=own))
    assert kept.strategy.checkpoint_io is own


def test_print_config_shows_what_was_asked_and_runs_nothing(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(toy("fit", "--model.lr=0.75", "--print_config"))
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["lr"] == 0.75
    assert list(folder.iterdir()) == []


# Resuming


def test_a_resumed_run_equals_an_uninterrupted_one(folder: Path) -> None:
    whole = main(toy("fit", "--model.decays=true"))
    main(toy("fit", "--model.decays=true", "--trainer.max_steps=4"))
    resumed = main(toy("fit", "--model.decays=true", "--ckpt_path", "runs/version_1/checkpoints/last.ckpt"))
    assert resumed.model.seen == whole.model.seen[8:]
    assert torch.equal(resumed.model.weight, whole.model.weight)


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_resume(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    whole = main(toy("fit"))
    with pytest.raises(SystemExit) as stop:
        main(toy("fit", model="InterruptedLine"))
    assert stop.value.code == 130
    last = "runs/version_1/checkpoints/last.ckpt"
    assert f"stopped; the same command with --ckpt_path {last} resumes it" in capsys.readouterr().err
    assert read_checkpoint(folder / last)["global_step"] == 4
    resumed = main(toy("fit", "--ckpt_path", last, model="InterruptedLine"))
    assert resumed.model.seen == whole.model.seen[8:]
    assert torch.equal(resumed.model.weight, whole.model.weight)


def test_ctrl_c_waits_for_the_optimizer_step_of_accumulated_gradients(folder: Path) -> None:
    with pytest.raises(SystemExit):
        main(toy("fit", "--trainer.accumulate_grad_batches=2", model="InterruptedLine"))
    assert read_checkpoint(folder / LAST)["global_step"] == 4


def test_the_last_checkpoint_is_written_as_often_as_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr(LastCheckpoint, "_save", lambda keeper, trainer: steps.append(trainer.global_step))
    main(toy("fit", "--last_checkpoint.every_n_train_steps=3", "--last_checkpoint.every_n_minutes=0"))
    assert steps == [3, 4, 6, 8]
    steps.clear()
    main(toy("fit", "--last_checkpoint.every_n_minutes=1e-9"))
    assert steps == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]


def test_a_run_off_the_main_thread_leaves_ctrl_c_alone() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(main, toy("fit")).result()
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_is_handed_back_after_the_run(folder: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    main(toy("fit"))
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_ctrl_c_stops_at_once(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(toy("fit", "--last_checkpoint.every_n_train_steps=1", model="ImpatientLine"))
    assert stop.value.code == 130
    assert read_checkpoint(folder / LAST)["global_step"] == 3


def test_ctrl_c_before_anything_is_saved_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(toy("fit", model="ImpatientLine"))
    assert stop.value.code == 130
    assert "nothing had been saved yet" in capsys.readouterr().err


def test_resuming_overrides_nothing_that_was_asked(folder: Path) -> None:
    main(toy("fit", "--model.lr=0.5"))
    asked = toy("fit", "--trainer.max_epochs=3", "--model.lr=0.25", "--ckpt_path", LAST)
    resumed = main(asked)
    assert resumed.model.lr == 0.25
    assert resumed.model.hparams["lr"] == 0.25
    assert resumed.trainer.optimizers[0].param_groups[0]["lr"] == 0.25
    assert yaml.safe_load((folder / "runs/version_1/config.yaml").read_text())["model"]["init_args"]["lr"] == 0.25


def test_a_resumed_run_remembers_what_was_best(folder: Path) -> None:
    first = main(toy("fit", "--model.lr=0.01"))
    resumed = main(toy("fit", "--model.lr=0", "--trainer.max_epochs=3", "--ckpt_path", LAST))
    best = next(keeper for keeper in resumed.trainer.checkpoint_callbacks if isinstance(keeper, BestCheckpoint))
    assert best.best_model_score == first.model.weight.sum()
    assert Path(best.best_model_path).resolve() == folder / "runs/version_0/checkpoints/best.ckpt"
    assert not (folder / "runs/version_1/checkpoints/best.ckpt").exists()
    (folder / "runs/version_0/checkpoints/best.ckpt").unlink()
    main(toy("fit", "--trainer.max_epochs=3", "--ckpt_path", LAST))
    assert (folder / "runs/version_2/checkpoints/best.ckpt").is_file()


def test_another_stage_is_refused_before_any_work(folder: Path, refusal: Callable[..., str]) -> None:
    main(toy("fit"))
    line = refusal(toy("fit", "--ckpt_path", LAST, model="OtherStage"), code=1)
    assert line.startswith(f"error: ckpt_path: {LAST} was saved by Line, but `model` is OtherStage")
    assert f"model.init_args.init_from: {LAST}" in line
    assert not (folder / "runs" / "version_1").exists()


@pytest.mark.parametrize("subcommand", ["fit", "test"])
def test_an_absent_or_damaged_checkpoint_is_refused(folder: Path, refusal: Callable[..., str], subcommand: str) -> None:
    assert "absent.ckpt, which is not a file" in refusal(toy(subcommand, "--ckpt_path=absent.ckpt"), code=1)
    (folder / "bad.ckpt").write_bytes(b"PK\x03\x04 no")
    assert "bad.ckpt is damaged" in refusal(toy(subcommand, "--ckpt_path=bad.ckpt"), code=1)


def test_weights_of_another_shape_are_refused_in_one_line(refusal: Callable[..., str]) -> None:
    main(toy("fit"))
    line = refusal(toy("fit", "--model.width=2", "--ckpt_path", LAST), code=1)
    assert "weights do not fit the configured model: size mismatch for weight" in line


def test_last_is_found_in_the_folder_asked_for(folder: Path) -> None:
    where = "--last_checkpoint.dirpath=kept"
    main(toy("fit", where))
    resumed = main(toy("fit", where, "--trainer.max_epochs=3", "--ckpt_path=last"))
    assert resumed.trainer.global_step == 12
    assert len(resumed.model.seen) == 8


def test_last_is_refused_for_another_stage(refusal: Callable[..., str]) -> None:
    main(toy("fit", "--last_checkpoint.dirpath=kept"))
    line = refusal(toy("fit", "--last_checkpoint.dirpath=kept", "--ckpt_path=last", model="OtherStage"), code=1)
    assert "was saved by Line" in line


def test_last_without_a_last_checkpoint_says_so() -> None:
    with pytest.warns(UserWarning, match=r"ckpt_path: last: no last.ckpt .* set last_checkpoint.dirpath"):
        cli = main([*toy("fit", "--ckpt_path=last")])
    assert cli.trainer.global_step == 8


def test_last_without_a_last_checkpoint_cannot_be_tested(refusal: Callable[..., str]) -> None:
    assert "no last.ckpt" in refusal(toy("test", "--ckpt_path=last"), code=1)


# Bad input


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "expected a subcommand, one of fit, validate, test, predict"),
        (["fti"], "unknown subcommand fti; did you mean fit?"),
        (["--config", "a.yaml", "fit"], "the subcommand comes first: python -m srch3 fit --config a.yaml"),
        (["--config", "a.yaml"], "expected a subcommand"),
        (["fit"], "missing required keys model, data (see: python -m srch3 fit --help)"),
        (["test", *TOY], "missing required key model (see: python -m srch3 test --help)"),
        (["fit", "--config", "absent.yaml"], "--config: cannot read absent.yaml: No such file or directory"),
        (["fit", "--config=absent.yaml"], "--config: cannot read absent.yaml: No such file or directory"),
        (toy("fit", "--trainer.max_epoch=3"), "unknown key trainer.max_epoch; did you mean trainer.max_epochs?"),
        (toy("fit", "--trianer.max_epochs=3"), "unknown key trianer.max_epochs; did you mean trainer?"),
        (toy("fit", "--trainer.max_epochs=abc"), "trainer.max_epochs: expected int or null; got abc"),
        (toy("fit", "--model.lr=fast"), "model.init_args.lr: expected float; got fast"),
        (
            toy("fit", "--model.init_args.lrr=1"),
            "unknown key model.init_args.lrr: Line has no such argument; did you mean lr?",
        ),
        (toy("fit", "--model.zzz=1"), "Line has no such argument; it takes lr, weight_decay, decays, width"),
        (toy("fit", model="Lime"), "model: unknown class tests.programs.Lime"),
        (toy("fit", "--model=SFTModle"), "model: unknown class SFTModle; did you mean SFTModule?"),
        (toy("fit", "--model=no.such.Thing"), "model: unknown class no.such.Thing"),
        (toy("fit", "--model=absent/line.yaml"), "model: file absent/line.yaml does not exist"),
        (
            toy("fit", "--model=srch3.indexes.HnswIndex"),
            "model: expected a subclass of LightningModule; got srch3.indexes",
        ),
        (
            toy("fit", "--environment=SearchEnvironment", "--environment.index=HnswIndx"),
            "environment.init_args.index: unknown class HnswIndx; did you mean HnswIndex?",
        ),
        (
            toy("fit", "--environment=SearchEnvironment", "--environment.index=HnswIndex", "--environment.index.m=x"),
            "environment.init_args.index.init_args.m: expected int; got x",
        ),
        (toy("fit", "--model"), "argument --model: expected one argument"),
        (toy("fit", "extra"), "unrecognized arguments: extra"),
        (toy("fit", "--trainer.logger=CSVLoger"), "trainer.logger: unknown class CSVLoger; did you mean CSVLogger?"),
    ],
)
def test_what_cannot_be_parsed_is_one_line_that_says_what_to_type(
    refusal: Callable[..., str], args: list[str], expected: str
) -> None:
    line = refusal(args)
    assert line.startswith(f"error: {expected}") or (not expected.startswith("unknown") and expected in line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: [\n", "bad.yaml:2:1: not valid YAML"),
        ("- model\n- data\n", "bad.yaml: expected keys such as `model:` and `data:`; got list"),
        ("\x00", "bad.yaml: not valid YAML"),
        ("modle:\n  class_path: tests.programs.Line\n", "unknown key modle.class_path; did you mean model?"),
        ("model:\n  class_pth: tests.programs.Line\n", "unknown key model.class_pth; did you mean class_path?"),
        ("model:\n  class_path: Lne\n", "model: unknown class Lne; did you mean Line?"),
        ("trainer:\n  max_epohcs: 3\n", "unknown key trainer.max_epohcs; did you mean trainer.max_epochs?"),
        (
            "model:\n  class_path: tests.programs.Line\n  init_args:\n    lr: fast\n",
            "model.init_args.lr: expected float",
        ),
    ],
)
def test_a_bad_config_file_is_one_line(folder: Path, refusal: Callable[..., str], text: str, expected: str) -> None:
    (folder / "bad.yaml").write_text(text)
    assert refusal(["fit", *TOY, "-c", "bad.yaml"]).startswith(f"error: {expected}")


def test_no_environment_at_all_is_refused(refusal: Callable[..., str]) -> None:
    line = refusal(toy("fit", "--environment=null"))
    assert line.startswith("error: missing required key environment; write `environment: NoEnvironment` for none")


def test_what_the_trainer_refuses_is_one_line(refusal: Callable[..., str]) -> None:
    assert refusal(toy("fit", "--trainer.accelerator=abacus"), code=1).startswith("error: trainer: ")


def test_our_errors_while_training_are_one_line(refusal: Callable[..., str]) -> None:
    line = refusal(toy("fit", model="NanLine"), code=1)
    assert line == "error: loss: expected a finite number; got nan; lower the learning rate"


def test_our_errors_in_a_worker_process_are_one_line(refusal: Callable[..., str]) -> None:
    line = refusal(toy("fit", "--data.broken=true", "--data.num_workers=1"), code=1)
    assert line == "error: data.init_args.root: expected a folder; got nothing"


def test_a_metric_to_monitor_that_is_never_logged_is_one_line(refusal: Callable[..., str]) -> None:
    assert "val/nothing" in refusal(toy("fit", "--best_checkpoint.monitor=val/nothing"), code=1)


def test_a_full_disk_while_training_is_one_line(refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    main(toy("fit"))
    monkeypatch.setattr(os, "fsync", refuse)
    line = refusal(toy("fit", "--ckpt_path", LAST, "--trainer.max_epochs=3"), code=1)
    assert "cannot write" in line
    assert "No space left on device" in line
    assert read_checkpoint(Path(LAST))["global_step"] == 8


def test_a_bug_in_a_users_class_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match="a bug in a user's subclass"):
        main(toy("fit", model="BuggyLine"))


def test_the_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRCH3_DEBUG", "1")
    with pytest.raises(Exception, match="unknown key modle"):
        main(toy("fit", "--modle=1"))


# Help, predictions, processes


def test_help_says_what_it_is_and_how_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["--help"], ["fit", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "python -m srch3 fit --config stage1.yaml --config more.yaml --trainer.max_epochs 2\n" in printed
    assert "SRCH3_DEBUG=1" in printed
    for option in ("--environment", "--best_checkpoint.monitor", "--last_checkpoint.every_n_minutes", "--ckpt_path"):
        assert option in printed


def test_the_subcommands_are_described_in_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for name, text in SUBCOMMANDS.items():
        assert f"{name} {text}" in printed
    assert "Perform one evaluation epoch" not in printed
    with pytest.raises(SystemExit):
        main(["test", "--help"])
    assert SUBCOMMANDS["test"] in capsys.readouterr().out


def test_predict_writes_its_results_into_the_run(folder: Path) -> None:
    main(toy("predict", model="Searcher"))
    results = folder / "runs" / "version_0" / "predictions"
    assert len((results / "run.trec").read_text().splitlines()) == 24
    first = json.loads((results / "searches.jsonl").read_text().splitlines()[0])
    assert first["hits"][0] == {"id": "a", "score": 0.5}


@pytest.mark.slow
def test_the_program_exits_with_a_code_and_one_line(folder: Path) -> None:
    command = [sys.executable, "-m", "srch3", "fit", "--modle", "x"]
    root = str(Path(__file__).parent.parent)
    failed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root})
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr == "error: unknown key modle; did you mean model? (see: python -m srch3 fit --help)\n"


@pytest.mark.slow
def test_two_processes_share_the_cores_between_them(folder: Path) -> None:
    program = (
        "import torch; from srch3.cli import main;"
        f"cli = main({toy('fit', '--trainer.devices=2', '--trainer.strategy=ddp')!r});"
        "print(f'threads {torch.get_num_threads()}\\n', end='')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    (folder / "program.py").write_text(program)
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    each = max(1, len(os.sched_getaffinity(0)) // 2)
    assert done.stdout.count(f"threads {each}\n") == 2
