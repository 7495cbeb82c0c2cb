import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.quickstart import run as quickstart
from experiments.quickstart import stages
from experiments.quickstart.process import Spent, run
from experiments.quickstart.progress import Progress, forget, progress_of, resuming, save
from experiments.quickstart.settings import CONFIGS, Settings, parse
from experiments.quickstart.stages import Stage, prediction, read_config, systems
from srch3.errors import DataError

ROOT = Path(__file__).parent.parent.parent
PROGRAM = "experiments.quickstart.run"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def a_stage(name: str = "sft", fingerprint: str = "f") -> Stage:
    return Stage(name, "a title", ["program", "argument"], (), True, fingerprint)


def option(command: Sequence[str], name: str) -> str:
    return command[command.index(name) + 1]


# Settings and commands


def test_each_seed_and_the_smoke_version_have_a_folder_of_their_own() -> None:
    def output(*arguments: str) -> str:
        return str(parse(PROGRAM, "", arguments).output)

    assert output() == "runs/quickstart"
    assert output("--seed", "2") == "runs/quickstart-seed2"
    assert output("--smoke", "--seed", "2") == "runs/quickstart-smoke-seed2"
    assert output("--seed", "2", "--output", "elsewhere") == "elsewhere"


@pytest.mark.parametrize("arguments", [[], ["--seed", "3"], ["--smoke"], ["--seed", "3", "--output", "elsewhere"]])
def test_settings_give_the_options_that_give_them(arguments: list[str]) -> None:
    settings = parse(PROGRAM, "", [*arguments, "--fresh"])
    assert settings.options() == arguments
    assert parse(PROGRAM, "", settings.options()) == settings._replace(fresh=False)


def test_outside_the_repository_one_line_says_where_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        parse(PROGRAM, "", [])
    assert stop.value.code == 2
    assert "run this in the root of the repository" in capsys.readouterr().err


def test_options_say_only_what_the_file_does_not() -> None:
    config = {"model": {"init_args": {"seed": 4, "width": 3}}, "data": {"init_args": {}}}
    asked = {
        "model.init_args.seed": 4,
        "model.init_args.width": 5,
        "data.init_args.seed": 0,
        "data.init_args.root": "x",
    }
    assert stages._unsaid(asked, config) == ["--model.init_args.width", "5", "--data.init_args.root", "x"]
    assert stages._unsaid({"data.init_args.seed": 7, "model.init_args.width": None}, config) == [
        *["--data.init_args.seed", "7"],
        *["--model.init_args.width", "null"],
    ]


def test_files_named_in_a_file_take_their_places(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text("a: 1\n")
    (tmp_path / "whole.yaml").write_text("b: {c: part.yaml}\nd: plain\n")
    assert read_config(tmp_path / "whole.yaml") == {"b": {"c": {"a": 1}}, "d": "plain"}


def test_output_and_seed_reach_every_stage() -> None:
    todo = {stage.name: stage.command for stage in stages.stages(Settings(Path("there"), seed=5))}
    assert list(todo) == ["base", "sft", "rl", "direct", "evaluate"]
    for name in ("base", "sft", "rl", "direct"):
        assert option(todo[name], "-c") == str(CONFIGS / f"{name}.yaml")
        for seed in ("--seed_everything", "--model.init_args.seed", "--data.init_args.seed"):
            assert option(todo[name], seed) == "5"
        assert option(todo[name], "--best_checkpoint.dirpath") == f"there/{name}"
        assert option(todo[name], "--last_checkpoint.dirpath") == f"there/{name}"
    for name in ("sft", "rl", "direct"):
        assert option(todo[name], "--model.init_args.backbone.init_args.model") == "there/base"
    for name in ("rl", "direct"):
        assert option(todo[name], "--model.init_args.init_from") == "there/sft/best.ckpt"
    assert todo["evaluate"][2:] == ["experiments.quickstart.evaluate", "--seed", "5", "--output", "there"]


def test_all_seeds_are_tested_on_the_same_queries() -> None:
    commands = [system.command for system in systems(Settings(Path("there"), seed=5))]
    commands.append(prediction(Settings(Path("there"), seed=5), 5))
    assert not any("--data.init_args.seed" in command for command in commands)


def test_the_control_trains_on_the_queries_of_stage_two_and_never_thinks() -> None:
    reinforced, control = (read_config(CONFIGS / f"{name}.yaml") for name in ("rl", "direct"))
    data = ("train_slice", "max_train_documents", "limit_train", "roots")
    for name in data:
        assert control["data"]["init_args"].get(name) == reinforced["data"]["init_args"].get(name)
    assert control["model"]["init_args"]["train_modes"] == ["direct"]
    assert control["model"]["init_args"]["modes"] == ["direct"]


def test_every_stage_is_tested_on_the_same_queries_and_documents() -> None:
    settings = [read_config(CONFIGS / f"{name}.yaml")["data"]["init_args"] for name in ("sft", "rl", "direct")]
    for name in ("roots", "test_roots", "limit_test", "max_document_characters", "seed"):
        assert len({str(some.get(name)) for some in settings}) == 1


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("base", {"base", "sft", "rl", "direct", "evaluate"}),
        ("sft", {"sft", "rl", "direct", "evaluate"}),
        ("rl", {"rl", "evaluate"}),
    ],
)
def test_fingerprints_follow_the_files_that_a_stage_builds_on(
    edited: str, changed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("base", "sft", "rl", "direct"):
        (tmp_path / f"{name}.yaml").write_text("trainer: {max_steps: 3}\n")
    monkeypatch.setattr(stages, "CONFIGS", tmp_path)
    before = {stage.name: stage.fingerprint for stage in stages.stages(Settings(tmp_path))}
    (tmp_path / f"{edited}.yaml").write_text("trainer: {max_steps: 4}\n")
    after = {stage.name: stage.fingerprint for stage in stages.stages(Settings(tmp_path))}
    assert {name for name in before if before[name] != after[name]} == changed


def test_what_cannot_be_compared_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> int:
        raise DataError("data: expected the same")

    monkeypatch.setattr(quickstart, "run", lambda command: Spent(1.0, 10.0, 0))
    monkeypatch.setattr(quickstart, "_conclude", refuse)
    assert quickstart.main(["--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: data: expected the same\n"


# Processes and progress


def python_says(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_process_is_measured_by_one_that_is_small_itself() -> None:
    code = """if True:
        import json, sys
        from experiments.quickstart import run
        small = [sys.executable, "-c", "import time; time.sleep(0.2)"]
        large = [sys.executable, "-c", "x = bytearray(300 * 2**20)"]
        print(json.dumps([*run.run(small), *run.run(large), "torch" in sys.modules]))"""
    answer = subprocess.run(python_says(code), check=True, capture_output=True).stdout
    seconds, small, code_small, _, large, code_large, heavy = json.loads(answer)
    assert (code_small, code_large, heavy) == (0, 0, False)
    assert 0.2 <= seconds < 20
    assert 300 <= large < 400
    assert small < 100


def test_exit_codes_and_signals_are_told_apart() -> None:
    assert run(python_says("raise SystemExit(3)")).code == 3
    assert run(python_says("import os; os.kill(os.getpid(), 9)")).code == -signal.SIGKILL


def test_ctrl_c_waits_for_the_process_to_save_and_is_reported() -> None:
    handler = signal.getsignal(signal.SIGINT)
    press = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(0.2); raise SystemExit({})"
    stopped = run(python_says(press.format(1)))
    assert stopped.code == 130
    assert stopped.seconds >= 0.2
    assert run(python_says(press.format(0))).code == 0
    assert signal.getsignal(signal.SIGINT) is handler


def test_progress_adds_up_over_attempts(tmp_path: Path) -> None:
    stage = a_stage()
    progress, changed = progress_of(stage, tmp_path)
    assert (progress, changed) == (Progress("f"), False)
    save(progress.after(Spent(2.0, 300.0, -9)), stage, tmp_path)
    progress, changed = progress_of(stage, tmp_path)
    assert (progress, changed) == (Progress("f", False, 1, 2.0, 300.0), False)
    assert progress.after(Spent(1.5, 200.0, 0)) == Progress("f", True, 2, 3.5, 300.0)


def test_what_was_made_with_other_settings_is_removed(tmp_path: Path) -> None:
    save(Progress("old", finished=True), a_stage(fingerprint="old"), tmp_path)
    (tmp_path / "sft" / "last.ckpt").touch()
    assert progress_of(a_stage(fingerprint="new"), tmp_path) == (Progress("new"), True)
    assert not (tmp_path / "sft").exists()


def test_a_damaged_note_means_starting_over(tmp_path: Path) -> None:
    save(Progress("f", finished=True), a_stage(), tmp_path)
    (tmp_path / "sft" / "stage.json").write_text("{")
    assert progress_of(a_stage(), tmp_path) == (Progress("f"), True)


def test_a_folder_of_somebody_else_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "thesis.txt").touch()
    forget(a_stage(), tmp_path)
    assert progress_of(a_stage(), tmp_path) == (Progress("f"), False)
    assert (tmp_path / "sft" / "thesis.txt").is_file()


def test_a_stage_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    assert resuming(a_stage(), tmp_path) == ["program", "argument"]
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "last.ckpt").touch()
    assert resuming(a_stage(), tmp_path)[2:] == ["--ckpt_path", str(tmp_path / "sft" / "last.ckpt")]
    assert resuming(a_stage()._replace(resumable=False), tmp_path) == ["program", "argument"]


@pytest.mark.parametrize(("code", "reason", "exit_code"), [(130, "stopped", 130), (2, "exit code 2", 2), (-9, "9", 1)])
def test_one_line_says_how_to_go_on(
    code: int,
    reason: str,
    exit_code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers = iter([0, code])
    monkeypatch.setattr(quickstart, "run", lambda command: Spent(1.0, 10.0, next(answers)))
    assert quickstart.main(["--output", str(tmp_path), "--fresh"]) == exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert line.endswith(f"-m {PROGRAM} --output {tmp_path}")
    first, second, _, _, _ = stages.stages(Settings(tmp_path))
    assert progress_of(first, tmp_path)[0].finished
    assert not progress_of(second, tmp_path)[0].finished


def test_what_builds_on_a_stage_that_runs_again_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = stages.stages(Settings(tmp_path))
    for stage in todo:
        save(Progress(stage.fingerprint, finished=stage.name != "rl"), stage, tmp_path)
    commands: list[list[str]] = []

    def note(command: list[str]) -> Spent:
        commands.append(command)
        return Spent(1.0, 10.0, 0)

    monkeypatch.setattr(quickstart, "run", note)
    monkeypatch.setattr(quickstart, "_conclude", lambda *arguments: 0)
    assert quickstart.main(["--output", str(tmp_path)]) == 0
    assert commands == [stage.command for stage in todo if stage.name in {"rl", "evaluate"}]
