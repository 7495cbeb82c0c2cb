"""Everything that is run, as command lines of ``python -m srch3``."""

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from experiments.stage1.settings import Settings
from experiments.stage1.variants import Variant

CONFIGS = Path(os.path.relpath(Path(__file__).parent))
ALL_MODES = "[thinking,direct,empty,shuffled]"
_DATA = "--data.init_args"
_BACKBONE = "--model.init_args.backbone.init_args"
_SMOKE_TRAINING = [
    *["--trainer.max_steps", "4", "--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1"],
    *[f"{_DATA}.batch_size", "8"],
]
SMOKE_BASE = [
    *_SMOKE_TRAINING,
    *[f"{_DATA}.vocab_size", "400", f"{_DATA}.sequence_length", "16", f"{_DATA}.max_val_blocks", "8"],
    *["--model.init_args.layers", "1"],
]
SMOKE_SEARCH = [
    *[f"{_DATA}.limit_val", "16", f"{_DATA}.limit_test", "16", f"{_DATA}.eval_batch_size", "16"],
    *[f"{_BACKBONE}.max_thought_tokens", "4", f"{_BACKBONE}.max_document_tokens", "16"],
]


class Job(NamedTuple):
    """A model that is trained and measured, in processes of its own.

    Attributes:
        name: Its folder below the output folder.
        training: Arguments of ``python -m srch3`` that train it; none for what is measured as it is.
        tests: Those that measure it, by split.
        fingerprint: Changes with the settings, the data, and whatever it builds on.
    """

    name: str
    training: list[str]
    tests: dict[str, list[str]]
    fingerprint: str


def base_job(settings: Settings) -> Job:
    """Stage 0, which all of a data set's models start from."""
    folder = settings.output / "base"
    config = CONFIGS / "base.yaml"
    options = [f"{_DATA}.source.init_args.root", str(settings.root), "--model.init_args.output_dir", str(folder)]
    smoke = SMOKE_BASE if settings.smoke else []
    command = ["fit", "-c", str(config), *options, *kept_in(folder), *logged_to(folder, "logs"), *smoke]
    return make_job("base", command, {}, config.read_text(encoding="utf-8"), digest(settings.root))


def stage1_job(settings: Settings, name: str, variant: Variant, seed: int, base: Job, root: Path | None = None) -> Job:
    """Stage 1 with one variant and seed.

    Args:
        settings: Of the experiment.
        name: Of the variant.
        variant: What it changes.
        seed: Of the weights, the order of training and whatever else is random.
        base: The job that makes the model which it starts from.
        root: The data to train on, where that is not the experiment's.
    """
    folder = settings.output / name / f"seed{seed}"
    config = CONFIGS / "sft.yaml"
    common = [
        *["-c", str(config), f"{_DATA}.root", str(root or settings.root), *seeded(seed)],
        *[f"{_BACKBONE}.model", str(settings.output / base.name), *variant.options.split()],
    ]
    smoke = SMOKE_SEARCH if settings.smoke else []
    more = _SMOKE_TRAINING if settings.smoke else _length(settings.steps)
    training = ["fit", *common, *kept_in(folder), *logged_to(folder, "logs"), *smoke, *more]
    weights = ["--ckpt_path", str(folder / "best.ckpt")] if variant.trained else []
    measured = ["test", *common, "--model.init_args.modes", ALL_MODES, *smoke, *weights]
    tests = {
        split: [*measured, f"{_DATA}.test_split", judgements, *logged_to(folder, f"test-{split}")]
        for split, judgements in settings.splits().items()
    }
    text, data = config.read_text(encoding="utf-8"), digest(root) if root else ""  # else the base's, which has it
    return make_job(str(Path(name, f"seed{seed}")), training if variant.trained else [], tests, text, data, base)


def other_job(name: str, command: list[str], builds_on: Job) -> Job:
    """Any other command that makes something out of a trained model."""
    return make_job(name, command, {}, builds_on=builds_on)


def make_job(
    name: str,
    training: list[str],
    tests: dict[str, list[str]],
    config: str = "",
    data: str = "",
    builds_on: Job | None = None,
) -> Job:
    """A job with its fingerprint.

    Args:
        name: Its folder below the output folder.
        training: Arguments of ``python -m srch3`` that train it.
        tests: Those that measure it, by split.
        config: What the files say that the arguments name.
        data: What identifies the data.
        builds_on: The job whose model it starts from.
    """
    parts = [*training, *(word for command in tests.values() for word in command)]
    parts += [config, data, builds_on.fingerprint if builds_on else ""]
    return Job(name, training, tests, hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16])


def seeded(seed: int) -> list[str]:
    """Options that make everything random depend on a seed."""
    keys = ("--seed_everything", "--model.init_args.seed", f"{_BACKBONE}.seed", f"{_DATA}.seed")
    return [word for key in keys for word in (key, str(seed))]


def _length(steps: int | None) -> list[str]:
    if steps is None:
        return []
    return ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(steps // 2)]


def kept_in(folder: Path) -> list[str]:
    """Options that say where checkpoints go."""
    return ["--best_checkpoint.dirpath", str(folder), "--last_checkpoint.dirpath", str(folder)]


def logged_to(folder: Path, name: str) -> list[str]:
    """Options that say where figures go."""
    return ["--trainer.logger.init_args.save_dir", str(folder), "--trainer.logger.init_args.name", name]


@cache
def digest(root: Path) -> str:
    """A hash of all that a BEIR folder holds."""
    whole = hashlib.sha256()
    for path in sorted(path for pattern in ("*.jsonl", "*/*.tsv") for path in root.glob(pattern)):
        whole.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return whole.hexdigest()
