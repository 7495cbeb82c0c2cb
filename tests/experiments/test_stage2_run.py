import json
import shlex
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from experiments.quickstart.curves import read_curves
from experiments.stage2 import run, smoke
from experiments.stage2.clock import TrainingTime
from experiments.stage2.pauses import PauseThoughts
from experiments.stage2.settings import Settings
from experiments.stage2.variants import ALL_MODES
from srch3.errors import ConfigError
from srch3.types import Query

ROOT = Path(__file__).parent.parent.parent


# Parts


def test_pauses_say_the_same_whatever_the_query() -> None:
    pauses = PauseThoughts(3, "-")
    assert pauses(Query("a", "one", {}), "text") == pauses(Query("b", "two", {}), "") == "- - -"
    with pytest.raises(ConfigError, match="expected at least 1; got 0"):
        PauseThoughts(0)


def test_the_clock_leaves_evaluation_out_and_goes_on_in_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("experiments.stage2.clock.time.process_time", lambda: now[0])
    module, logger = L.LightningModule(), CSVLogger(tmp_path, name="", flush_logs_every_n_steps=1)
    trainer = L.Trainer(accelerator="cpu", logger=logger, enable_checkpointing=False)

    def train(timer: TrainingTime) -> float:
        timer.on_train_start(trainer, module)
        for step in range(3):
            now[0] += 2
            timer.on_train_batch_end(trainer, module, None, None, step)
            if step == 1:
                now[0] += 0.5
                timer.on_validation_start(trainer, module)
                now[0] += 50
                timer.on_validation_end(trainer, module)
        now[0] += 0.25
        timer.on_train_end(trainer, module)
        return read_curves(tmp_path)[-1]["train/seconds"]

    timer = TrainingTime()
    assert train(timer) == 6.75
    resumed = TrainingTime()
    resumed.load_state_dict(timer.state_dict())
    now[0] += 1000
    assert train(resumed) == 13.5


# All of it


@pytest.mark.slow
def test_the_smoke_version_measures_what_it_trained_and_then_has_nothing_left_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    chosen = ["direct-in-time", "pause"]
    arguments = ["--smoke", "--output", str(tmp_path), "--seeds", "0", "--variants", *chosen]
    assert run.main(arguments) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["figures"]) == ["stage 1", "full", "direct", "direct-in-time", "pause"]
    for name, modes in (("stage 1", ALL_MODES), ("full", ALL_MODES), ("direct", ["direct"]), ("pause", ["thinking"])):
        assert set(results["figures"][name]) == {"dev", "test", "unseen"}
        assert set(results["figures"][name]["test"]) - {"thoughts"} == set(modes)
    assert list(results["curves"]) == ["full"]
    assert [len(results["curves"]["full"][name]["per_seed"][0]) for name in ("reward", "val")] == [2, 2]
    full, direct = (results["seconds"][name][0] / results["steps"][name][0] for name in ("full", "direct"))
    assert results["steps"]["direct-in-time"][0] == pytest.approx(2 * full / direct, abs=1)
    assert torch.load(tmp_path / "full" / "seed0" / "best.ckpt", weights_only=True)["global_step"] > 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "BM25" in capsys.readouterr().out

    monkeypatch.setattr(run, "perform", lambda *arguments: pytest.fail("nothing is left to do"))
    assert run.main(arguments) == 0
    assert json.loads((tmp_path / "results.json").read_text())["figures"] == results["figures"]


def test_a_failure_here_is_a_code_as_it_would_be_elsewhere(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    command = ["test", "-c", "nowhere.yaml"]
    assert smoke.run_here(["-m", "srch3", *command], log) == 2
    assert smoke.run_here(["-m", "experiments.stage1.several", shlex.join(command)], log) == 2
    assert log.read_text().count("nowhere.yaml") >= 2


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (ConfigError("why"), 1)])
def test_what_stops_the_experiment_is_said_in_one_line(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(settings: Settings) -> int:
        raise error

    monkeypatch.setattr(run, "run", stop)
    assert run.main(["--quickstart"]) == code
    assert len(capsys.readouterr().err.splitlines()) == 1
