"""The first part: stage 2 of the quickstart, watched by every line."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint

from experiments.benchmarks.environment.lines import FULL
from experiments.benchmarks.environment.settings import Settings, Training
from experiments.benchmarks.environment.shadows import Shadows
from experiments.quickstart.settings import CONFIGS
from experiments.quickstart.smoke import ROOTS, TEST_ROOTS, smoke_options
from experiments.quickstart.stages import read_config
from experiments.stage2.smoke import run_here
from srch3.cli import main as srch3

_BACKBONE = "--model.init_args.backbone.init_args"


def train(settings: Settings, training: Training) -> dict[str, Any]:
    """Trains, and gives what the lines found.

    Args:
        settings: Of the comparison.
        training: The run.
    """
    began = time.perf_counter()
    cli = srch3(configuration(settings, training), run=False)
    shadows = Shadows([line for line in training.lines if line != FULL], training.audited, clock(settings))
    trainer: Any = cli.trainer
    trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, Checkpoint)] + [shadows]
    trainer.fit(cli.model, cli.datamodule)
    return _figures(training, shadows) | {"run_seconds": time.perf_counter() - began}


def clock(settings: Settings) -> Callable[[], float]:
    """Seconds of CPU time, which other programs do not stretch; on a GPU, seconds."""
    return time.process_time if settings.device == "cpu" else time.perf_counter


def configuration(settings: Settings, training: Training) -> dict[str, Any]:
    """What the quickstart's stage 2 becomes here: another length and rate, no validation, the default environment."""
    config = read_config(CONFIGS / "rl.yaml")
    for group in ("best_checkpoint", "last_checkpoint"):
        del config[group]
    config["seed_everything"] = training.seed
    config["environment"] = {"class_path": "SearchEnvironment"}
    bar = not settings.smoke
    config["trainer"] = {
        "max_steps": training.steps,
        "gradient_clip_val": config["trainer"]["gradient_clip_val"],
        "accelerator": settings.device,
        "devices": 1,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "logger": False,
        "default_root_dir": str(settings.output),
        "log_every_n_steps": 1,
        "enable_progress_bar": bar,
        "enable_model_summary": bar,
    }
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    model["backbone"]["init_args"] |= {"model": str(settings.model), "seed": training.seed}
    model["optimizer"]["init_args"]["lr"] = training.rate
    model |= {"init_from": settings.init_from, "samples": training.samples, "seed": training.seed}
    model |= {"schedule": "constant", "warmup": 0.0, "embedding_lr_scale": training.embedding_scale}
    data |= {"batch_size": training.batch, "max_train_documents": training.documents, "seed": training.seed}
    if settings.smoke:
        data |= {"roots": ROOTS, "test_roots": TEST_ROOTS, "cache_dir": "", "train_slice": [0.0, 1.0]}
        model["backbone"]["init_args"] |= {"max_thought_tokens": 4, "max_document_tokens": 24}
    return config


def make_model(folder: Path) -> None:
    """A base model and a checkpoint of stage 1 for the minute's version, which has learnt to end its thoughts.

    Args:
        folder: Of the base model; the checkpoint is ``sft/last.ckpt`` beside it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _fit("base", folder, [f"--model.init_args.output_dir={folder}"])
    lengths = ["--trainer.max_steps=60", "--trainer.limit_val_batches=0", "--last_checkpoint.every_n_train_steps=60"]
    rates = ["--model.init_args.optimizer.init_args.lr=1e-2", "--model.init_args.cross_entropy.init_args.weight=1"]
    _fit("sft", stage1(folder).parent, [f"{_BACKBONE}.model={folder}", *lengths, *rates])


def stage1(folder: Path) -> Path:
    """Where the minute's version has the checkpoint of stage 1.

    Args:
        folder: Of the base model.
    """
    return folder.with_name("sft") / "last.ckpt"


def _fit(stage: str, folder: Path, options: list[str]) -> None:
    checkpoints = [f"--{kind}_checkpoint.dirpath={folder}" for kind in ("best", "last")]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    logger = [f"--trainer.logger.init_args.save_dir={folder.parent}"]
    command = ["-m", "srch3", "fit", "-c", str(CONFIGS / f"{stage}.yaml"), *smoke_options(stage)]
    log = folder.with_suffix(".log")
    if run_here([*command, *checkpoints, *quiet, *logger, *options], log):
        raise RuntimeError(f"{stage}: expected training to succeed; see {log}")


def _figures(training: Training, shadows: Shadows) -> dict[str, Any]:
    count = len(shadows.memo.known)
    lines = {shadow.line.name: shadow.figures() for shadow in shadows.shadows}
    if FULL in training.lines:
        perfect = {"reward_mae": 0.0, "reward_bias": 0.0, "advantage_correlation": 1.0, "drift": 0.0}
        seconds, steps = shadows.full_seconds, len(shadows.step_seconds)
        lines[FULL.name] = {"documents": [count] * (steps - 1), "seconds": seconds, "audits": [perfect] * len(seconds)}
    return {
        "documents": count,
        "exact_reward": shadows.rewards,
        "seconds_per_document": shadows.memo.seconds_per_document,
        "step_seconds": statistics.fmean(shadows.step_seconds),
        "moves": {name: statistics.fmean(move[name] for move in shadows.moves) for name in ("moved", "own")}
        if shadows.moves
        else None,
        "lines": lines,
    }
