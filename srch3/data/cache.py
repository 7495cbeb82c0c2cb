"""Folders that are made of other files once, and found again as long as those files stay as they are."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

_FORMAT = 1
"""Of everything in the cache; another number leaves old folders unread."""


def cached(kind: str, sources: Sequence[str | Path], settings: object, make: Callable[[Path], None]) -> Path:
    """The folder that was made of these sources, which is made where there is none.

    The folder appears complete or not at all. Of processes that ask at once, one makes it and the others wait. It lies
    beside what ``datasets`` keeps, moves with ``HF_HOME`` and ``HF_DATASETS_CACHE``, and may be deleted at any time
    that it is not in use.

    Args:
        kind: What the folder holds, in one word.
        sources: Files that decide over the content. Another path, size or time of change gives another folder.
        settings: What else decides over the content, as JSON.
        make: Writes the content into an empty folder.
    """
    described = json.dumps([_FORMAT, kind, [_stamp(Path(source)) for source in sources], settings])
    folder = cache_root() / f"{kind}-{hashlib.sha256(described.encode()).hexdigest()[:32]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _make(folder, make)
    return folder


def cache_root() -> Path:
    """Where the folders are; the rule for its parent is that of ``datasets``, which takes long to import."""
    home = os.environ.get("HF_HOME", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    return Path(os.environ.get("HF_DATASETS_CACHE", Path(home) / "datasets")).expanduser() / "srch3"


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        make(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _stamp(path: Path) -> tuple[str, int, int]:
    """Path, bytes and nanoseconds; zeros where there is no file, which whoever reads it will say better."""
    found = path.stat() if path.exists() else None
    return str(path.resolve()), found.st_size if found else 0, found.st_mtime_ns if found else 0
