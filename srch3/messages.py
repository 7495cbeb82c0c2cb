"""What users read when something goes wrong: one line that says what to do, instead of a library's traceback."""

import errno
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from srch3.errors import SearchError
from srch3.usage import UsageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_REFUSED = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
_UNUSED = "parameters that were not used in producing the loss"
_ONE_OF_OURS = re.compile(r"^srch3\.errors\.\w+: (.+)", re.MULTILINE | re.DOTALL)
_NOISE = (
    "does not have many workers",  # the mined text is tokenised in the module, workers bring nothing
    "Checkpoint directory .* exists and is not empty",  # ours are replaced on purpose, and atomically
    "LightningCLI's args parameter is intended",  # `main(args)` is meant to be called from Python
    "Couldn't infer the batch indices",  # the results of predict carry the ids of their queries
    "The dirpath has changed from",  # every run has a folder of its own, a resumed one too
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and torch
    "JSONARGPARSE_DEPRECATION_WARNINGS",  # between Lightning and jsonargparse
    r"deprecated in v4\.\d+\.\d+ and will be\s+removed in\s+v5",
)
_ADVERTISEMENT = "Tip: For seamless cloud"


@contextmanager
def exit_in_one_line() -> Iterator[None]:
    """Turns what a user can mend into one line on stderr and an exit code.

    Unforeseen exceptions pass as they are. With ``SRCH3_DEBUG=1`` in the environment all of them do.

    Raises:
        SystemExit: 2 for what cannot be parsed, 130 after Ctrl-C, 1 for the rest.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        sys.stderr.write(f"{str(error) or 'stopped'}\n")
        raise SystemExit(130) from error
    except Exception as error:
        message = in_our_words(error)
        if message is None or os.environ.get("SRCH3_DEBUG", "0") not in {"", "0"}:
            raise
        sys.stderr.write(f"error: {message}\n")
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from error


def in_our_words(error: BaseException) -> str | None:
    """Says in one line what to do about an exception, or nothing if it is not known to be the user's to mend.

    Args:
        error: An exception of ours, perhaps sent over from a worker process, or of a library.
    """
    text = str(error)
    ours = _ours_behind(error)
    if ours is not None:
        return one_line(_out_of_worker(str(ours)))
    if isinstance(error, MisconfigurationException):
        return one_line(text)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory: lower data.init_args.batch_size or turn on gradient checkpointing in the backbone"
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"cannot write {error.filename or 'a file'}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in _REFUSED and error.filename:
        return f"cannot use {error.filename}: {error.strerror}"
    if isinstance(error, RuntimeError) and _UNUSED in text:
        return (
            "trainer.strategy: some parameters had no part in the loss, which ddp does not expect; set "
            "`strategy: ddp_find_unused_parameters_true`"
        )
    if "Error(s) in loading state_dict" in text:
        return f"ckpt_path: the checkpoint's weights do not fit the configured model: {_first_misfit(text)}"
    if isinstance(error, ValueError) and text.startswith("loaded state dict"):
        return "ckpt_path: the checkpoint's optimizer has other parameters than the configured model trains"
    from_process = (
        _ONE_OF_OURS.search(text) if isinstance(error, torch.multiprocessing.ProcessRaisedException) else None
    )
    return one_line(from_process[1]) if from_process else None


def _ours_behind(error: BaseException | None) -> SearchError | None:
    """The error of ours that was raised, or that a parser says it was raised from: it wraps those of constructors."""
    while error is not None and not isinstance(error, SearchError):
        error = error.__cause__
    return error


def one_line(text: str) -> str:
    """Joins the lines of a message."""
    return " ".join(text.split())


@contextmanager
def quieten() -> Iterator[None]:
    """Silences the remarks of Lightning that are wrong for these programs, and no other."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addFilter(_no_advertisement)
    try:
        with warnings.catch_warnings():
            for pattern in _NOISE:
                warnings.filterwarnings("ignore", f"(?s).*{pattern}")
            yield
    finally:
        logger.removeFilter(_no_advertisement)


def _no_advertisement(record: logging.LogRecord) -> bool:
    return _ADVERTISEMENT not in record.getMessage()


def _out_of_worker(text: str) -> str:
    """The message alone, where a data loader's worker has wrapped it into the text of its traceback."""
    if "Original Traceback" not in text:
        return text
    return text.strip().splitlines()[-1].partition(": ")[2]


def _first_misfit(text: str) -> str:
    """The first of the differences that torch lists, one per line after its heading."""
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    return (lines[0] if len(lines[0]) < 200 else f"{lines[0][:200]} …") if lines else "unknown difference"
