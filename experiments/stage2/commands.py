"""Everything that is run, as command lines of ``python -m srch3``."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from experiments.quickstart.curves import read_curves, series
from experiments.quickstart.stages import read_config
from experiments.stage1.commands import SMOKE_BASE, SMOKE_SEARCH, Job, kept_in, logged_to, make_job, seeded
from experiments.stage2.settings import HERE, Settings, trainer_of
from experiments.stage2.smoke import SMOKE_TRAINING
from experiments.stage2.variants import ALL_MODES, Variant

CONTROL = HERE / "control.yaml"
_MODEL = "--model.init_args"
_CLOCK = ["--trainer.callbacks+=experiments.stage2.clock.TrainingTime"]


def base_job(settings: Settings) -> Job:
    """Stage 0, which all of a data set's models start from."""
    data, folder = settings.data, settings.output / "base"
    options = [*data.base_options(), f"{_MODEL}.output_dir", str(folder), *kept_in(folder), *logged_to(folder, "logs")]
    command = ["fit", "-c", str(data.base), *options, *(SMOKE_BASE if settings.smoke else [])]
    return make_job("base", command, {}, _said([data.base]), data.identity())


def stage1_job(settings: Settings, seed: int, base: Job) -> Job:
    """Stage 1 with one seed."""
    folder = settings.output / "stage1" / f"seed{seed}"
    length = _length(settings.data.sft, settings.stage1_steps)
    return _job(settings, folder, [settings.data.sft], [], length, ALL_MODES, seed, base)


def variant_job(
    settings: Settings, name: str, variant: Variant, seed: int, stage1: Job, steps: int | None = None
) -> Job:
    """What goes on from stage 1 with one seed.

    Args:
        settings: Of the experiment.
        name: Of the variant.
        variant: What it changes.
        seed: That of stage 1 too.
        stage1: The job that makes the model which it starts from.
        steps: How many, where they are not those of all variants.
    """
    start = [f"{_MODEL}.init_from", str(settings.output / stage1.name / "best.ckpt")]
    configs = [settings.data.rl, *([CONTROL] if variant.control else [])]
    length = _length(settings.data.rl, steps or settings.steps, variant.validations)
    options = [*start, *variant.options.split()]
    return _job(settings, settings.output / name / f"seed{seed}", configs, options, length, variant.modes, seed, stage1)


def _job(
    settings: Settings,
    folder: Path,
    configs: Sequence[Path],
    options: list[str],
    length: list[str],
    modes: Sequence[str],
    seed: int,
    builds_on: Job,
) -> Job:
    data, backbone = settings.data, f"{_MODEL}.backbone"
    common = [
        *[word for config in configs for word in ("-c", str(config))],
        *data.options(),
        *[backbone, str(configs[0].with_name("backbone.yaml"))],  # another class of model would have forgotten it
        *[f"{backbone}.init_args.model", str(settings.output / "base"), *seeded(seed)],
        *_CLOCK,
        *options,
        *(SMOKE_SEARCH if settings.smoke else []),
    ]
    more = [*length, *(SMOKE_TRAINING if settings.smoke else [])]
    training = ["fit", *common, *kept_in(folder), *logged_to(folder, "logs"), *more]
    measured = ["test", *common, f"{_MODEL}.modes", f"[{','.join(modes)}]", "--ckpt_path", str(folder / "best.ckpt")]
    tests = {split: [*measured, *named, *logged_to(folder, f"test-{split}")] for split, named in data.splits().items()}
    name = str(folder.relative_to(settings.output))
    return make_job(name, training, tests, _said(configs), data.identity(), builds_on)


def _said(configs: Sequence[Path]) -> str:
    """What the files say, with those that they name."""
    return str(yaml.safe_dump([read_config(config) for config in configs]))


def _length(config: Path, steps: int | None, validations: int | None = None) -> list[str]:
    """Other numbers of steps and validations than the file has."""
    if steps is None and validations is None:
        return []
    trainer = trainer_of(config)
    steps = steps or trainer["max_steps"]
    validations = validations or max(1, trainer["max_steps"] // trainer["val_check_interval"])
    return ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(max(1, steps // validations))]


def training_time(settings: Settings, job: Job) -> tuple[int, float]:
    """Steps that a finished job took, and seconds, without evaluation."""
    steps, seconds = series(read_curves(settings.output / job.name / "logs"), "train/seconds")
    return steps[-1] + 1, seconds[-1]


def steps_in_time(settings: Settings, full: Job, twin: Job) -> int:
    """How many steps of ``twin`` take as long as the training of ``full``; at least 2."""
    steps, seconds = training_time(settings, twin)
    return max(2, round(training_time(settings, full)[1] * steps / seconds))
