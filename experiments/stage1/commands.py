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
_SMOKE_BASE = [
    *_SMOKE_TRAINING,
    *[f"{_DATA}.vocab_size", "400", f"{_DATA}.sequence_length", "16", f"{_DATA}.max_val_blocks", "8"],
    *["--model.init_args.layers", "1"],
]
_SMOKE_SEARCH = [
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
    smoke = _SMOKE_BASE if settings.smoke else []
    command = ["fit", "-c", str(config), *options, *_kept_in(folder), *_logged_to(folder, "logs"), *smoke]
    return _job("base", command, {}, config, settings.root)


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
        *["-c", str(config), f"{_DATA}.root", str(root or settings.root), *_seeded(seed)],
        *[f"{_BACKBONE}.model", str(settings.output / base.name), *variant.options.split()],
    ]
    smoke = _SMOKE_SEARCH if settings.smoke else []
    more = _SMOKE_TRAINING if settings.smoke else _length(settings.steps)
    training = ["fit", *common, *_kept_in(folder), *_logged_to(folder, "logs"), *smoke, *more]
    weights = ["--ckpt_path", str(folder / "best.ckpt")] if variant.trained else []
    measured = ["test", *common, "--model.init_args.modes", ALL_MODES, *smoke, *weights]
    tests = {
        split: [*measured, f"{_DATA}.test_split", judgements, *_logged_to(folder, f"test-{split}")]
        for split, judgements in settings.splits().items()
    }
    return _job(str(Path(name, f"seed{seed}")), training if variant.trained else [], tests, config, root, base)


def other_job(name: str, command: list[str], builds_on: Job) -> Job:
    """Any other command that makes something out of a trained model."""
    return _job(name, command, {}, None, None, builds_on)


def _job(
    name: str,
    training: list[str],
    tests: dict[str, list[str]],
    config: Path | None,
    root: Path | None,
    builds_on: Job | None = None,
) -> Job:
    parts = [*training, *(word for command in tests.values() for word in command)]
    parts += [config.read_text(encoding="utf-8") if config else "", digest(root) if root else ""]
    parts += [builds_on.fingerprint if builds_on else ""]
    return Job(name, training, tests, hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16])


def _seeded(seed: int) -> list[str]:
    keys = ("--seed_everything", "--model.init_args.seed", f"{_BACKBONE}.seed", f"{_DATA}.seed")
    return [word for key in keys for word in (key, str(seed))]


def _length(steps: int | None) -> list[str]:
    if steps is None:
        return []
    return ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(steps // 2)]


def _kept_in(folder: Path) -> list[str]:
    return ["--best_checkpoint.dirpath", str(folder), "--last_checkpoint.dirpath", str(folder)]


def _logged_to(folder: Path, name: str) -> list[str]:
    return ["--trainer.logger.init_args.save_dir", str(folder), "--trainer.logger.init_args.name", name]


@cache
def digest(root: Path) -> str:
    """A hash of all that a BEIR folder holds."""
    whole = hashlib.sha256()
    for path in sorted(path for pattern in ("*.jsonl", "*/*.tsv") for path in root.glob(pattern)):
        whole.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return whole.hexdigest()
