"""The minute's version: two packages of the standard library, a tiny model, a few steps."""

import json
import sysconfig
from pathlib import Path

_STDLIB = Path(sysconfig.get_path("stdlib"))
ROOTS = json.dumps([str(_STDLIB / "email")])
TEST_ROOTS = json.dumps([str(_STDLIB / "asyncio")])
_DATA = "--data.init_args"
_SOURCE = f"{_DATA}.source"
_BACKBONE = "--model.init_args.backbone.init_args"

_TRAINING = [
    *["--trainer.max_steps", "4", "--trainer.val_check_interval", "2", "--trainer.num_sanity_val_steps", "0"],
    *["--trainer.log_every_n_steps", "1", "--trainer.logger.init_args.flush_logs_every_n_steps", "1"],
    *["--last_checkpoint.every_n_train_steps", "1", f"{_DATA}.batch_size", "8"],
]
_SEARCHED = [
    *[f"{_DATA}.roots", ROOTS, f"{_DATA}.test_roots", TEST_ROOTS, f"{_DATA}.cache_dir", ""],
    *[f"{_DATA}.limit_val", "16", f"{_DATA}.eval_batch_size", "32"],
    *[f"{_BACKBONE}.max_thought_tokens", "4", f"{_BACKBONE}.max_document_tokens", "24"],
]


def smoke_options(stage: str, training: bool = True) -> list[str]:
    """What a stage's command line takes on in the minute's version.

    Args:
        stage: Its name; that of the base stage differs from the others, since it reads text.
        training: Whether the command trains, rather than evaluates.
    """
    if stage != "base":
        return [*(_TRAINING if training else []), *_SEARCHED]
    return [
        *_TRAINING,
        *[_SOURCE, "PythonSourceDataModule", f"{_SOURCE}.init_args.cache_dir", ""],
        *[f"{_SOURCE}.init_args.roots", ROOTS, f"{_SOURCE}.init_args.test_roots", TEST_ROOTS],
        *[f"{_DATA}.vocab_size", "400", f"{_DATA}.sequence_length", "32", f"{_DATA}.max_val_blocks", "8"],
        *["--model.init_args.hidden_size", "32", "--model.init_args.layers", "1", "--model.init_args.heads", "2"],
    ]
