"""The stages as command lines, which anybody can type."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from experiments.quickstart.settings import CONFIGS, Settings, python
from experiments.quickstart.smoke import smoke_options

BACKBONE = "model.init_args.backbone.init_args.model"
INIT_FROM = "model.init_args.init_from"
ALL_MODES = "[thinking, direct, empty, shuffled]"


class Stage(NamedTuple):
    """One step of the quickstart, run as a process of its own.

    Attributes:
        name: Its folder below the output folder.
        title: What it does.
        command: How to run it from the beginning.
        needs: Names of the stages that it builds on.
        resumable: Whether ``--ckpt_path`` goes on where an earlier attempt stopped.
        fingerprint: Changes whenever its settings do, or those of a stage that it builds on.
    """

    name: str
    title: str
    command: list[str]
    needs: tuple[str, ...]
    resumable: bool
    fingerprint: str


class System(NamedTuple):
    """What is evaluated: a model as one of the stages left it.

    Attributes:
        name: What it is called in the report.
        command: Arguments of ``python -m srch3`` that evaluate it on the test queries.
    """

    name: str
    command: list[str]


def stages(settings: Settings) -> list[Stage]:
    """All stages in their order."""
    base = _fit("base", "a small language model from nothing", settings, ())
    sft = _fit("sft", "stage 1, supervised: to think, then to embed", settings, (base,))
    rl = _fit("rl", "stage 2, reinforced: what finds more becomes likelier", settings, (base, sft))
    direct = _fit("direct", "control: the same new queries, without thinking", settings, (base, sft))
    trained = (base, sft, rl, direct)
    command = [python(), "-m", "experiments.quickstart.evaluate", *settings.options()]
    title = "every system and control on the held-out queries"
    return [*trained, _stage("evaluate", title, command, {}, trained, resumable=False)]


def _fit(name: str, title: str, settings: Settings, needs: tuple[Stage, ...]) -> Stage:
    config = read_config(CONFIGS / f"{name}.yaml")
    options = _unsaid(_training_settings(name, settings), config)
    extra = smoke_options(name) if settings.smoke else []
    command = [python(), "-m", "srch3", "fit", "-c", str(CONFIGS / f"{name}.yaml"), *options, *extra]
    return _stage(name, title, command, config, needs, resumable=True)


def _stage(
    name: str, title: str, command: list[str], config: Mapping[str, Any], needs: tuple[Stage, ...], resumable: bool
) -> Stage:
    parts = [*command[1:], yaml.safe_dump(dict(config)), *(stage.fingerprint for stage in needs)]
    fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return Stage(name, title, command, tuple(stage.name for stage in needs), resumable, fingerprint)


def _training_settings(name: str, settings: Settings) -> dict[str, Any]:
    """What the output folder and the seed decide."""
    folder = settings.output / name
    chosen: dict[str, Any] = {
        "seed_everything": settings.seed,
        "model.init_args.seed": settings.seed,
        "data.init_args.seed": settings.seed,
        "trainer.logger.init_args.save_dir": str(settings.output),
        "trainer.logger.init_args.name": name,
        "best_checkpoint.dirpath": str(folder),
        "last_checkpoint.dirpath": str(folder),
    }
    if name == "base":
        return chosen | {"model.init_args.output_dir": str(folder)}
    chosen |= {"model.init_args.backbone.init_args.seed": settings.seed, BACKBONE: str(settings.output / "base")}
    return chosen if name == "sft" else chosen | {INIT_FROM: str(settings.output / "sft" / "best.ckpt")}


def systems(settings: Settings) -> list[System]:
    """The models that are compared, each with the modes in which it is.

    The data's seed is not passed on, so that all seeds are tested on the same queries.
    """
    return [
        _test("untrained", "sft", None, "[thinking, direct]", settings),
        _test("sft", "sft", "sft", ALL_MODES, settings),
        _test("rl", "rl", "rl", ALL_MODES, settings),
        _test("control", "direct", "direct", "[direct]", settings),
    ]


def _test(name: str, config: str, stage: str | None, modes: str, settings: Settings) -> System:
    return System(name, ["test", *_evaluation(name, config, stage, settings), "--model.init_args.modes", modes])


def prediction(settings: Settings, count: int) -> list[str]:
    """Arguments of ``python -m srch3`` that write down some searches of the final model.

    Args:
        settings: Of the run.
        count: How many; which ones is decided by a hash of the queries' ids.
    """
    folder = str(settings.output / "evaluate" / "examples")
    more = ["--data.init_args.limit_test", str(count), "--search_results.output_dir", folder]
    return ["predict", *_evaluation("examples", "rl", "rl", settings), *more]


def _evaluation(name: str, config: str, stage: str | None, settings: Settings) -> list[str]:
    path = CONFIGS / f"{config}.yaml"
    chosen = {
        "trainer.logger.init_args.save_dir": str(settings.output / "evaluate"),
        "trainer.logger.init_args.name": name,
        "model.init_args.backbone.init_args.seed": settings.seed,
        BACKBONE: str(settings.output / "base"),
        INIT_FROM: None,
    }
    options = _unsaid(chosen, read_config(path))
    weights = ["--ckpt_path", str(settings.output / stage / "best.ckpt")] if stage else []
    extra = smoke_options(config, training=False) if settings.smoke else []
    return ["-c", str(path), *options, *extra, *weights]


def read_config(path: Path) -> dict[str, Any]:
    """A YAML file, with the files that it names in their places."""
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {key: _resolved(value, path.parent) for key, value in content.items()}


def _resolved(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(part, folder) for key, part in value.items()}
    return read_config(folder / value) if isinstance(value, str) and value.endswith(".yaml") else value


def _unsaid(settings: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Options for the settings that a file does not already say; an unsaid seed is 0, anything else null."""
    options = []
    for key, value in settings.items():
        said: Any = config
        for part in key.split("."):
            said = said.get(part) if isinstance(said, dict) else None
        if (0 if said is None and key.endswith("seed") else said) != value:
            options += [f"--{key}", "null" if value is None else str(value)]
    return options
