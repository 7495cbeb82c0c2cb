"""``python -m srch3 search``: one query, a file of them, or as many as somebody types."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import get_console
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from srch3.commands.calling import call
from srch3.commands.console import result_console
from srch3.environments.progress import encoding_bar
from srch3.errors import ConfigError
from srch3.inference.precision import Precision
from srch3.inference.searcher import Found, Searcher, check_query
from srch3.inference.texts_file import read_query_file
from srch3.metrics.trec_files import check_ids, write_run
from srch3.types import Mode

EPILOG = """\
examples:
  python -m srch3 search --index INDEX                                  (asks for queries until Ctrl-D)
  python -m srch3 search --index INDEX --query "parse a date" --k 5
  python -m srch3 search --index INDEX --query "parse a date" --direct
  python -m srch3 search --index INDEX --queries BEIR_FOLDER --k 100 --output run.trec
  python -m srch3 search --index INDEX --queries questions.txt --thoughts 4 --output found.jsonl
"""

_TAG = "srch3"
_SNIPPET = 160
_LEAST_OF_TEXT = 10


def run(args: Sequence[str]) -> Any:
    """Searches.

    Args:
        args: The words after ``search``.
    """
    return call(search, args, EPILOG)


def search(
    index: str,
    query: str | None = None,
    queries: str | None = None,
    k: int = 10,
    think: bool | None = None,
    direct: bool = False,
    thoughts: int | None = None,
    mode: Mode | None = None,
    output: str | None = None,
    model: str | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    verify: bool = False,
) -> None:
    """Searches an index, and shows the thought, the hits and their scores.

    Without ``query`` and ``queries`` it asks for queries until the input ends.

    Args:
        index: A folder that ``index`` wrote.
        query: What is searched for.
        queries: A file of queries: JSON lines with ``_id`` and ``text``, a folder with ``queries.jsonl``, or plain
            lines.
        k: Hits per query.
        think: Whether a thought is written first, as by default; ``false`` is ``direct``.
        direct: Whether queries are embedded at once, without a thought.
        thoughts: How many thoughts to write for a query, whose embeddings are averaged.
        mode: Any of ``thinking``, ``direct``, ``mean-N``, ``budget-N``, ``empty``, ``copied``, in place of the three
            options above.
        output: Writes hits to this file instead of showing them: a TREC run (``*.trec``), or JSON lines with thoughts
            and texts (``*.jsonl``).
        model: Where the weights are that the index was built with; by default where they were then.
        device: Where queries are embedded; by default on a GPU, where there is one.
        precision: In which they are; by default float32 if documents are, otherwise auto.
        verify: Whether to compare the checksums of files beyond a gigabyte too.
    """
    asked = chosen_mode(think, direct, thoughts, mode)
    if query is not None and queries is not None:
        raise ConfigError("query: expected either a query or a file of queries; got both; leave one out")
    if output is not None and (queries is None or Path(output).suffix not in {".trec", ".jsonl"}):
        expected = "expected a file called *.trec or *.jsonl, together with queries"
        raise ConfigError(f"output: {expected}; got {output!r}{' without queries' if queries is None else ''}")
    if k < 1:
        raise ConfigError(f"k: expected at least 1; got {k}")
    if query is not None:
        check_query(query)
    found = None if queries is None else read_query_file(queries, "queries")
    for name, text in zip(found.ids, found.texts, strict=True) if found else ():
        check_query(text, f" for {name!r} in {queries}")
    if found and output and output.endswith(".trec"):
        check_ids(found.ids, "queries")
    searcher = Searcher.load(index, model, device, precision, verify)
    if found is None:
        _answer(searcher, [query] if query is not None else _typed(len(searcher)), k, asked)
        return
    with encoding_bar("Searching", len(found.ids)) as advance:
        results = searcher.search_many(found.texts, k, asked, advance)
    if output is None:
        for result in results:
            _show(result)
    else:
        _write(Path(output), found.ids, results)
        sys.stdout.write(f"{len(results)} queries in {output}\n")


def chosen_mode(think: bool | None, direct: bool, thoughts: int | None, mode: Mode | None) -> Mode:
    """The one mode that several options ask for.

    Raises:
        ConfigError: They ask for different ones.
    """
    wanted = {
        "think": None if think is None else ("thinking" if think else "direct"),
        "direct": "direct" if direct else None,
        "thoughts": None if thoughts is None else f"mean-{thoughts}",
        "mode": mode,
    }
    if thoughts is not None and thoughts < 1:
        raise ConfigError(f"thoughts: expected at least 1; got {thoughts}; --direct does without")
    given = {name: value for name, value in wanted.items() if value is not None}
    if thoughts is not None and given.get("think") == "thinking":
        del given["think"]
    if len(set(given.values())) > 1:
        got = " and ".join(f"{name} ({value})" for name, value in given.items())
        raise ConfigError(f"mode: expected options that agree; got {got}; leave one out")
    return next(iter(given.values()), "thinking")


def _typed(documents: int) -> Iterator[str]:
    """Queries from the standard input until it ends."""
    console = get_console()
    console.print(f"{documents} documents; an empty line or Ctrl-D ends.")
    while True:
        try:
            line = console.input("[bold]query>[/bold] ") if sys.stdin.isatty() else sys.stdin.readline()
        except EOFError:
            return
        if not line or (sys.stdin.isatty() and not line.strip()):
            return
        if line.strip():
            yield line.strip()


def _answer(searcher: Searcher, queries: Iterator[str] | list[str], k: int, mode: Mode) -> None:
    for query in queries:
        _show(searcher.search(query, k, mode))


def _show(found: Found) -> None:
    console = result_console()
    console.print(Text(found.query, "bold"))
    if found.tokens:
        console.print(Text(f"thought ({found.tokens} tokens): {found.thought or '(empty)'}", "italic"))
    _print_hits(found, console)


def _print_hits(found: Found, console: Console) -> None:
    """A narrow console cuts texts, never anything else; where that is not enough, lines are longer than it is wide."""
    took = f"{found.seconds * 1000:.0f} ms"
    table = Table(caption=took, caption_justify="left", box=None, pad_edge=False)
    cells = {
        "rank": [str(rank) for rank in range(1, len(found.hits) + 1)],
        "id": [hit.id for hit in found.hits],
        "cosine": [f"{hit.score:.3f}" for hit in found.hits],
    }
    widths = {name: max(map(cell_len, [name, *column])) for name, column in cells.items()}
    for name, width in widths.items():
        table.add_column(name, justify="left" if name == "id" else "right", no_wrap=True, min_width=width)
    table.add_column("text", min_width=_LEAST_OF_TEXT)
    for hit, *row in zip(found.hits, *cells.values(), strict=True):
        text = " ".join(hit.text[: 4 * _SNIPPET].split())[:_SNIPPET]
        table.add_row(*map(Text, row), Text(text, no_wrap=True, overflow="ellipsis"))
    console.width = max(console.width, sum(widths.values()) + 2 * len(widths) + _LEAST_OF_TEXT)
    console.print(table)


def _write(path: Path, ids: list[str], results: list[Found]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".trec":
        pairs = zip(ids, results, strict=True)
        write_run(path, {name: {hit.id: hit.score for hit in found.hits} for name, found in pairs}, _TAG)
        return
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        for name, found in zip(ids, results, strict=True):
            hits = [hit._asdict() for hit in found.hits]
            record = {"id": name, "query": found.query, "thought": found.thought, "tokens": found.tokens, "hits": hits}
            file.write(json.dumps(record) + "\n")
    partial.replace(path)
