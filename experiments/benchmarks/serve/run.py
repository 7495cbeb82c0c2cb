"""Fifty clients at ``python -m srch3 serve`` for a minute.

Every answer is compared with what its query finds when nothing else is asked. Prints a table, and writes the figures.
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from experiments.benchmarks.program import publish
from experiments.benchmarks.serve.clients import Expected, Tally, load
from srch3.inference.searcher import Searcher

RESULTS = Path(__file__).parent / "results.json"
_HITS = 10


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.serve.run", description=__doc__)
    parser.add_argument("--index", type=Path, required=True, help="a folder that `python -m srch3 index` wrote")
    parser.add_argument("--queries", type=Path, required=True, help="JSON lines with `text`")
    parser.add_argument("--number", type=int, default=500, help="how many of the queries are asked")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def expect(searcher: Searcher, queries: Sequence[str]) -> dict[tuple[str, str], Expected]:
    """What each query finds alone, in both modes."""
    found = {}
    for mode in ("direct", "thinking"):
        for query in queries:
            one = searcher.search(query, _HITS, mode)
            found[query, mode] = Expected([hit.id for hit in one.hits], [hit.score for hit in one.hits], one.thought)
    return found


@contextmanager
def server(index: Path) -> Iterator[tuple[int, int]]:
    """Serves an index in a process of its own; gives the port and the number of the process."""
    command = [sys.executable, "-m", "srch3", "serve", "--index", str(index), "--port", "0", "--precision", "float32"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r":(\d+) ", line)
        if found is None:
            raise RuntimeError(f"the server did not start: {line!r}")
        yield int(found[1]), process.pid
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
        process.stdout.close()
    if code != 130:
        raise RuntimeError(f"the server ended with code {code}")


def memory(pid: int) -> float | None:
    """Resident memory of a process in megabytes, where the system tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1000 if found else None


def summarise(
    tally: Tally, settings: argparse.Namespace, documents: int, megabytes: Sequence[float | None]
) -> dict[str, Any]:
    """What the run says."""
    kinds = {
        kind: {
            "answers": len(seconds),
            "median_seconds": round(statistics.median(seconds), 4),
            "p95_seconds": round(sorted(seconds)[int(0.95 * (len(seconds) - 1))], 4),
        }
        for kind, seconds in tally.seconds.items()
        if seconds
    }
    return {
        "clients": settings.clients,
        "seconds": settings.seconds,
        "documents": documents,
        "kinds": kinds,
        "mixed": tally.mixed,
        "lost": tally.lost,
        "otherwise": tally.otherwise,
        "left": tally.left,
        "refused": dict(sorted(tally.refused.items())),
        "complaints": tally.complaints[:20],
        "megabytes": megabytes,
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": round(os.getloadavg()[0], 2)},
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "starlette", "uvicorn")},
    }


def markdown(results: Mapping[str, Any]) -> str:
    """The table of the README."""
    lines = ["| asked | answers | per second | median | 95th percentile |", "|---|---:|---:|---:|---:|"]
    for kind, figures in results["kinds"].items():
        rate = figures["answers"] / results["seconds"]
        median, late = figures["median_seconds"], figures["p95_seconds"]
        lines.append(f"| {kind} | {figures['answers']:,} | {rate:.1f} | {median:.2f} s | {late:.2f} s |")
    refused = ", ".join(f"{count:,} with {status}" for status, count in results["refused"].items())
    sentence = (
        f"Mixed: {results['mixed']}. Lost: {results['lost']}. Thoughts that came out otherwise in a batch: "
        f"{results['otherwise']}. Clients that left: {results['left']}. Refused: {refused}."
    )
    return "\n".join([*lines, "", sentence])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the load.

    Args:
        arguments: The command line; by default what the shell was given.

    Returns:
        The exit code: 1 if an answer was lost or mixed.
    """
    settings = parse(arguments)
    with settings.queries.open(encoding="utf-8") as lines:
        texts = list(dict.fromkeys(json.loads(line)["text"] for line in islice(lines, settings.number)))
    searcher = Searcher.load(settings.index, precision="float32")
    expected = expect(searcher, texts)
    with server(settings.index) as (port, pid):
        before = memory(pid)
        tally = asyncio.run(load(port, expected, settings.clients, settings.seconds))
        results = summarise(tally, settings, len(searcher), [before, memory(pid)])
    settings.results.parent.mkdir(parents=True, exist_ok=True)
    print(markdown(results))
    publish(results, settings.results)
    return int(bool(results["mixed"] or results["lost"]))


if __name__ == "__main__":
    sys.exit(main())
