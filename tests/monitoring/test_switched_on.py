from pathlib import Path

import pytest
import yaml

from srch3 import monitoring
from srch3.cli import main
from tests.runs import CONFIGS, small


def built(*more: str) -> list[object]:
    arguments = small("fit", "rl", Path("beir"), Path("model"), *more)[1:]
    return list(main(arguments, run=False).trainer.callbacks)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_stage_two_is_watched_unless_asked_otherwise() -> None:
    kinds = {type(callback).__name__ for callback in built()}
    assert set(monitoring.__all__) <= kinds
    assert kinds.isdisjoint({"Witness"})
    kinds = {type(callback).__name__ for callback in built("--trainer.callbacks=tests.runs.Witness", FOLDER)}
    assert kinds.isdisjoint(monitoring.__all__)
    kinds = {type(callback).__name__ for callback in built("--trainer.callbacks+=tests.runs.Witness", FOLDER)}
    assert {*monitoring.__all__, "Witness"} <= kinds


FOLDER = "--trainer.callbacks.folder=seen"


@pytest.mark.parametrize("name", ["CollapseGuard", "srch3.monitoring.CollapseGuard"])
def test_callbacks_go_by_their_short_or_full_name(name: str) -> None:
    (guard,) = (
        callback
        for callback in built(f"--trainer.callbacks={name}", "--trainer.callbacks.patience=7")
        if isinstance(callback, monitoring.CollapseGuard)
    )
    assert guard.patience == 7


def test_the_experiments_of_stage_two_share_their_callbacks() -> None:
    def named(path: str) -> set[str]:
        trainer = yaml.safe_load((CONFIGS / path).read_text(encoding="utf-8"))["trainer"]
        return {callback["class_path"].rpartition(".")[2] for callback in trainer["callbacks"]}

    assert named("rl.yaml") == named("small/rl.yaml") == set(monitoring.__all__)
    assert named("quickstart/rl.yaml") == {"CollapseGuard"}
