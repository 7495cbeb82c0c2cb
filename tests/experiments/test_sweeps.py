"""The sweeps: what wandb says of them, what an agent makes of them, and one trial of each as the agent starts it."""

import itertools
import json
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from wandb import wandb_agent

from srch3.cli import SearchCLI, main
from srch3.modules import SFTModule
from tests.models import make_model_folder
from tests.runs import QUIET, TINY, make_beir_folder, small

ROOT = Path(__file__).parent.parent.parent
SWEEPS = ROOT / "experiments" / "sweeps"
NAMES = ["sft", "rl"]
PYTHON = ["/usr/bin/env", "python", "-m", "srch3", "fit"]
BRIEF = {"trainer.max_steps": 2, "trainer.val_check_interval": 1, "data.init_args.batch_size": 4}
LEARNING_RATE = "model.init_args.optimizer.init_args.lr"
README = (SWEEPS / "README.md").read_text(encoding="utf-8")


def sweep(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((SWEEPS / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def wandbs_own() -> ModuleType:
    """What wandb's server and its local controller check and draw with; its last free of numpy 1 warns on import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("sweeps")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The repository as an agent sees it, with the variables that the README has it set."""
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "configs").symlink_to(ROOT / "configs")
    make_beir_folder(folder / "beir")
    make_model_folder(folder / "model")
    variables = {"BEIR_FOLDER": "beir", "MODEL_FOLDER": "model", "STAGE_1": str(folder / "stage1.ckpt")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in variables.items():
            patch.setenv(name, value)
        for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):  # the agent sets them for its children
            patch.setenv(name, "")
        patch.setenv("WANDB_DIR", str(folder))
        patch.setenv("WANDB_SWEEP_ID", "s1")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield folder


class Recorded:
    """Takes a command in the place of wandb's process, and starts nothing."""

    def __init__(self, command: list[str], env: dict[str, str], **_: Any) -> None:
        self.command, self.env = command, env


def ask(name: str, run_id: str, values: dict[str, Any]) -> Any:
    """Has wandb's agent start a trial with values that the server would have drawn; returns its process."""
    agent = wandb_agent.Agent(None, None, sweep_id="s1")
    agent._sweep_command = sweep(name)["command"]
    (Path("wandb") / "sweep-s1").mkdir(parents=True, exist_ok=True)
    args = {key: {"value": value} for key, value in values.items()}
    agent._command_run({"type": "run", "run_id": run_id, "program": None, "args": args})
    return agent._run_processes[run_id]


def corners(name: str) -> list[dict[str, Any]]:
    """Settings in which every parameter takes each end of its range, or each of its values, at least once."""
    ends = [spec.get("values") or [spec.get("min", spec.get("value")), spec.get("max", spec.get("value"))]
            for spec in sweep(name)["parameters"].values()]  # fmt: skip
    count = max(map(len, ends))
    return [
        dict(zip(sweep(name)["parameters"], row, strict=True))
        for row in itertools.islice(zip(*map(itertools.cycle, ends), strict=True), count)
    ]


def build(command: list[str], *more: str) -> SearchCLI:
    assert command[: len(PYTHON)] == PYTHON
    return main([*command[len(PYTHON) :], *more], run=False)


def setting(cli: SearchCLI, key: str) -> Any:
    return cli.config[key]


# What wandb says


def test_there_is_one_for_each_stage() -> None:
    assert sorted(path.stem for path in SWEEPS.glob("*.yaml")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_wandbs_own_schema_finds_nothing_to_complain_about(name: str, wandbs_own: ModuleType) -> None:
    assert wandbs_own.schema_violations_from_proposed_config(sweep(name)) == []
    assert isinstance(wandbs_own.SweepConfig(sweep(name)), dict)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"method": "guess"}, "'guess' is not one of"),
        ({"early_terminate": {"type": "hyperband"}}, "is not valid"),
        ({"parameters": {"lr": {"min": 1.0, "max": 0.5}}}, "not less than max"),
    ],
)
def test_wandbs_own_schema_would_have_complained(
    change: dict[str, Any], complaint: str, wandbs_own: ModuleType
) -> None:
    found = wandbs_own.schema_violations_from_proposed_config(sweep("sft") | change)
    assert any(complaint in message for message in found)


# What an agent makes of them


@pytest.mark.parametrize("name", NAMES)
def test_every_end_of_every_range_reaches_the_run_with_its_type(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_agent, "AgentProcess", Recorded)
    for number, values in enumerate(corners(name)):
        process = ask(name, f"{name}{number}", values)
        assert process.env["WANDB_RUN_ID"] == f"{name}{number}"
        cli = build(process.command, *QUIET)
        got = {key: setting(cli, key) for key in values}
        assert got == values
        assert {key: type(value) for key, value in got.items()} == {key: type(value) for key, value in values.items()}
        assert setting(cli, "data.init_args.root") == "beir"
        assert setting(cli, "model.init_args.backbone.init_args.model") == "model"


@pytest.mark.parametrize("name", NAMES)
def test_what_wandb_draws_can_be_run(
    name: str, folder: Path, wandbs_own: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_agent, "AgentProcess", Recorded)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = wandbs_own.next_run(sweep(name), []).config
    values = json.loads(json.dumps({key: spec["value"] for key, spec in drawn.items()}))
    assert set(values) == set(sweep(name)["parameters"])
    cli = build(ask(name, f"drawn-{name}", values).command, *QUIET)
    assert {key: setting(cli, key) for key in values} == values


@pytest.mark.parametrize("name", NAMES)
def test_a_variable_that_is_not_set_is_named(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb_agent, "AgentProcess", Recorded)
    (folder / "stage1.ckpt").touch()
    monkeypatch.delenv("BEIR_FOLDER")
    command = ask(name, f"unset-{name}", BRIEF).command
    with pytest.raises(SystemExit):
        main([*command[4:], *QUIET, "--trainer.logger=false"])
    assert "BEIR_FOLDER" in capsys.readouterr().err


# Trials


@pytest.mark.slow
def test_a_trial_of_each_runs_as_the_agent_starts_it(folder: Path) -> None:
    first = main(small("fit", "sft", folder / "beir", folder / "model", "--trainer.max_steps=1"))
    assert isinstance(first.model, SFTModule)
    first.trainer.save_checkpoint(folder / "stage1.ckpt")
    limits = {word[2:].partition("=")[0]: int(word.partition("=")[2]) for word in TINY}
    for name in NAMES:
        more = {"trainer.enable_progress_bar": False, "trainer.accelerator": "cpu", "trainer.log_every_n_steps": 1}
        values = corners(name)[0] | BRIEF | limits | more
        process = ask(name, f"trial-{name}", values)
        assert process.wait(timeout=120) == 0
        saved = Path("runs", "srch3", f"trial-{name}")
        assert (saved / "checkpoints" / "best.ckpt").is_file()  # chosen by the metric of the sweep
        config = yaml.safe_load((saved / "config.yaml").read_text(encoding="utf-8"))
        assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == corners(name)[0][LEARNING_RATE]
        (records,) = Path("runs", "wandb").glob(f"offline-run-*-trial-{name}/*.wandb")
        metric = re.escape(sweep(name)["metric"]["name"]).encode()
        assert re.search(metric + rb"[^ -~]{1,3}[01]\.\d+", records.read_bytes())


# What the README says


def test_the_readmes_commands_are_those_of_the_files() -> None:
    for name in NAMES:
        command = f"wandb sweep --project srch3 experiments/sweeps/{name}.yaml"
        assert command in README
        assert f"\n#   {command}\n" in (SWEEPS / f"{name}.yaml").read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{envvar:(\w+)\}", " ".join(word for name in NAMES for word in sweep(name)["command"])))
    exported = {word.partition("=")[0] for line in re.findall(r"^export (.*)$", README, re.MULTILINE)
                for word in shlex.split(line)}  # fmt: skip
    assert used == exported


def rows() -> list[tuple[str, str, str, str]]:
    """Stage, parameter, its range in the file, and that for the large experiment."""
    return re.findall(r"^\| (\w+) \| `([\w.]+)` \| (.*?) \| (.*?) \|$", README, re.MULTILINE)


def shown(spec: dict[str, Any]) -> str:
    if "values" in spec:
        return ", ".join(json.dumps(value) for value in spec["values"])
    return f"{spec['min']:g} to {spec['max']:g}" if "min" in spec else f"{spec['value']:g}"


@pytest.mark.parametrize("name", NAMES)
def test_the_readmes_table_has_every_range(name: str) -> None:
    table = {key: here for stage, key, here, _ in rows() if stage == name}
    assert table == {
        key.replace(".init_args", ""): shown(spec)
        for key, spec in sweep(name)["parameters"].items()
        if "value" not in spec
    }
