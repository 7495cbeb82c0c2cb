import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml

from srch3.checkpoint_callbacks import BestCheckpoint, LastCheckpoint
from srch3.checkpoints import read_checkpoint
from srch3.cli import main
from tests.cli.line import LAST, toy


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
