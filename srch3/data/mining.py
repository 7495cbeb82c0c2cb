"""Mines docstring → function pairs from Python files: in parallel, once, without duplicates."""

import hashlib
import json
import logging
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from srch3.data import extraction, roots
from srch3.data.extraction import Pair, extract
from srch3.data.roots import Root, SourceFile, left_out, resolve
from srch3.errors import DataError

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 1_000_000
_PARALLEL_FROM = 400
_FILES_PER_TASK = 16


class Mined(NamedTuple):
    """What mining found.

    Attributes:
        pairs: Ordered by id; no query and no document comes twice.
        counts: Files and functions seen, pairs kept, and for each reason how many were left out.
    """

    pairs: list[Pair]
    counts: dict[str, int]


def mine(names: Sequence[str], cache_dir: str | Path | None, argument: str = "data.init_args.roots") -> Mined:
    """Mines roots, or reads what was mined from them before.

    Args:
        names: See ``roots.resolve``.
        cache_dir: Folder for what was mined; None keeps nothing. A file in it is used again only where roots, their
            versions (for folders: every file's size and time of change), Python and the rules of mining are the same.
        argument: The setting that gave the names, as it stands in YAML.

    Raises:
        DataError: Where a root stands for nothing, or no pair was found.
    """
    found = resolve(names, argument)
    cached = None if cache_dir is None else Path(cache_dir).expanduser() / f"mined-{_key(found)}.jsonl"
    mined = _read(cached) if cached else None
    if mined is None:
        mined = mine_files(file for root in found for file in root.files())
        if cached:
            _write(cached, mined)
    log.info("mined %s: %s", ", ".join(names), _summary(mined.counts))
    if not mined.pairs:
        raise DataError(
            f"{argument}: expected functions with a docstring; got none from {', '.join(names)}"
            f" ({_summary(mined.counts)}); name a folder or distribution with documented functions"
        )
    return mined


def mine_files(files: Iterable[SourceFile]) -> Mined:
    """Mines files, those of tests, vendored packages and generated code left out.

    Args:
        files: In any order; a module that comes twice is read twice, and gives its pairs once.
    """
    counts: Counter[str] = Counter(files=0, functions=0)
    chosen = []
    for file in sorted(set(files), key=lambda file: (file.module, file.path)):
        counts["files"] += 1
        if reason := left_out(file.module):
            counts[f"{reason} files"] += 1
        else:
            chosen.append(file)
    pairs: list[Pair] = []
    for some, seen in _extracted(chosen):
        pairs += some
        counts.update(seen)
    unique = _without_duplicates(_with_unique_ids(pairs))
    counts["duplicates"] = len(pairs) - len(unique)
    counts["pairs"] = len(unique)
    return Mined(unique, dict(counts))


def query_key(query: str) -> str:
    """What two queries share that count as the same: letter case and the full stop do not matter."""
    return query.casefold().rstrip(".!: ")


def _with_unique_ids(pairs: Sequence[Pair]) -> list[Pair]:
    seen: Counter[str] = Counter()
    unique = []
    for pair in pairs:
        seen[pair.id] += 1
        unique.append(pair if seen[pair.id] == 1 else pair._replace(id=f"{pair.id}~{seen[pair.id]}"))
    return unique


def _without_duplicates(pairs: Sequence[Pair]) -> list[Pair]:
    queries: set[str] = set()
    documents: set[str] = set()
    kept = []
    for pair in sorted(pairs):
        query = query_key(pair.query)
        if query not in queries and pair.document not in documents:
            kept.append(pair)
            queries.add(query)
            documents.add(pair.document)
    return kept


def _mine_file(file: SourceFile) -> tuple[list[Pair], Counter[str]]:
    counts: Counter[str] = Counter()
    try:
        if Path(file.path).stat().st_size > MAX_FILE_BYTES:
            return [], Counter({"huge files": 1})
        with tokenize.open(file.path) as stream:
            return extract(stream.read(), file.module, counts), counts
    except OSError:
        return [], Counter({"unreadable files": 1})
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [], Counter({"unparsable files": 1})


def _extracted(files: Sequence[SourceFile]) -> Iterator[tuple[list[Pair], Counter[str]]]:
    """Pairs and counts of each file in order; in several processes where that pays and forking is possible."""
    columns = TextColumn("Mining Python files"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=len(files) < _PARALLEL_FROM)
    processes = min(os.cpu_count() or 1, 8) if len(files) >= _PARALLEL_FROM and sys.platform == "linux" else 1
    with _pool(processes) as pool, bar as progress:
        results = pool.map(_mine_file, files, chunksize=_FILES_PER_TASK) if pool else map(_mine_file, files)
        yield from progress.track(results, total=len(files))


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes that are forked, since they need nothing but this module, and starting them afresh takes seconds."""
    if processes == 1:
        yield None
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(processes, context, initializer=_leave_interrupts_to_parent)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)  # the children start no threads
            pool.submit(os.getpid).result()
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _key(found: Sequence[Root]) -> str:
    rules = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (extraction, roots)]
    rules.append(Path(__file__).read_text(encoding="utf-8"))
    parts = [platform.python_version(), *rules, *sorted(root.key for root in found)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _read(path: Path) -> Mined | None:
    try:
        with path.open(encoding="utf-8") as stream:
            counts = json.loads(stream.readline())
            return Mined([Pair(*json.loads(line)) for line in stream], counts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        log.warning("cannot use %s (%s): mining again", path, error)
        return None


def _write(path: Path, mined: Mined) -> None:
    """Writes beside the target and renames, so that no reader ever meets half a file; a failure costs only time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.writelines(f"{json.dumps(line)}\n" for line in (mined.counts, *mined.pairs))
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        log.warning("cannot keep what was mined in %s (%s): it will be mined again next time", path, error)


def _summary(counts: dict[str, int]) -> str:
    return ", ".join(f"{counts[name]:,} {name}" for name in sorted(counts, key=lambda name: (-counts[name], name)))
