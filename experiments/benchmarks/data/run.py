"""Measures documents on disk against documents in lists, and prints the README's table.

Run as ``python -m experiments.benchmarks.data.run``; ``--smoke`` takes seconds.
"""

import argparse
import gc
import json
import os
import pickle
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.data.measure import Meter, apart
from srch3.data import BeirDataModule, Corpus
from srch3.data.examples import DocumentPool, write_pool
from srch3.data.lines import read_lines

RESULTS = Path(__file__).parent / "results.json"
KINDS = {"disk": "on disk", "lists": "in lists"}
COLUMNS = {
    "prepare_s": "prepare, s",
    "prepare_peak_mib": "peak, MiB",
    "open_s": "open, s",
    "own_mib": "own memory, MiB",
    "text_us": "a text, µs",
    "row_us": "a row, µs",
    "pickle_bytes": "pickled, bytes",
    "worker_mib": "forked worker, MiB",
}
_WORDS = 12
_BLOCK = 50_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures every size, writes the figures and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--smoke", action="store_true", help="2,000 documents, to see that everything runs")
    parser.add_argument("--output", type=Path, help="where the figures go; with --smoke, by default nowhere")
    chosen = parser.parse_args(arguments)
    counts = [2_000] if chosen.smoke else chosen.documents
    with tempfile.TemporaryDirectory() as folder:
        figures = {str(count): measure(Path(folder) / str(count), count) for count in counts}
    results = {"documents": figures, "machine": _machine()}
    output = chosen.output or (None if chosen.smoke else RESULTS)
    if output:
        output.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def measure(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """The figures of one size, by kind.

    Args:
        folder: Where documents and cache go; it does not exist.
        count: Documents.
    """
    folder.mkdir()
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
    apart(write_corpus, folder / "corpus.jsonl", count)
    prepared = apart(prepare, folder)
    return {
        "disk": prepared | apart(use, "disk", folder, count),
        "lists": apart(use, "lists", folder, count),
        "pairs": apart(gather, folder / "pairs", count),
    }


def write_corpus(path: Path, count: int) -> dict[str, float]:
    """Documents of twelve words each."""
    with path.open("w") as file:
        for number, text in enumerate(texts(count)):
            file.write(json.dumps({"_id": f"document-{number}", "text": text}) + "\n")
    return {}


def texts(count: int, seed: int = 0) -> Iterator[str]:
    """Words of a made-up language, no two texts the same; the same for the same seed."""
    random = np.random.default_rng(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = [first + second for first in syllables for second in syllables]
    for start in range(0, count, _BLOCK):
        block = random.integers(len(words), size=(min(_BLOCK, count - start), _WORDS)).tolist()
        for number, row in enumerate(block, start):
            yield f"{' '.join([words[word] for word in row])} {number}"


def prepare(folder: Path) -> dict[str, float]:
    """Reads the file for the first time, which writes the cache."""
    meter = Meter()
    BeirDataModule(str(folder)).load_corpus("train")
    return {"prepare_s": meter.seconds(), "prepare_peak_mib": meter.peak_mib()}


def use(kind: str, folder: Path, count: int) -> dict[str, float]:
    """Opens a corpus, and does with it what training does."""
    meter = Meter()
    corpus = _listed(folder) if kind == "lists" else BeirDataModule(str(folder)).load_corpus("train")
    figures = {"open_s": meter.seconds(), "own_mib": meter.own_mib()}
    drawn = np.random.default_rng(1).integers(count, size=100_000).tolist()
    meter_texts = Meter()
    for row in drawn:
        corpus.texts[row]
    figures["text_us"] = meter_texts.seconds() * 1e6 / len(drawn)
    ids = [f"document-{row}" for row in drawn]
    meter_rows = Meter()
    for document_id in ids:
        corpus.row(document_id)
    figures["row_us"] = meter_rows.seconds() * 1e6 / len(drawn)
    figures["used_own_mib"], figures["used_mapped_mib"] = meter.own_mib(), meter.mapped_mib()
    return figures | {"pickle_bytes": _pickled(corpus)} | apart(_read_all, corpus)


def gather(folder: Path, count: int) -> dict[str, float]:
    """Finds the distinct texts of training pairs in which every text stands twice."""
    folder.mkdir()
    meter = Meter()
    write_pool(folder, [], (text for seed in (0, 0) for text in texts(count, seed)))
    figures = {"prepare_s": meter.seconds(), "prepare_peak_mib": meter.peak_mib()}
    return figures | {"documents": len(DocumentPool(folder).corpus)}


def table(results: Mapping[str, Any]) -> str:
    """The figures in Markdown."""
    lines = [f"| documents | kept | {' | '.join(COLUMNS.values())} |", "|---|---|" + "---:|" * len(COLUMNS)]
    for count, kinds in results["documents"].items():
        for kind, label in KINDS.items():
            cells = [_shown(name, kinds[kind].get(name)) for name in COLUMNS]
            lines.append(f"| {int(count):,} | {label} | {' | '.join(cells)} |")
    for count, kinds in results["documents"].items():
        pairs = kinds["pairs"]
        lines.append(
            f"\n{int(count):,} distinct texts among {2 * int(count):,} of training pairs:"
            f" {pairs['prepare_s']:.0f} s, {pairs['prepare_peak_mib']:.0f} MiB at most."
        )
    return "\n".join(lines)


def _listed(folder: Path) -> Corpus:
    ids, documents = [], []
    for line in read_lines(folder / "corpus.jsonl", "root"):
        ids.append(line.text("_id"))
        documents.append(f"{line.optional_text('title') or ''} {line.text('text')}".strip())
    return Corpus(ids, documents)


class _Counter:
    """A file that only counts."""

    size = 0

    def write(self, data: Any) -> int:
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes


def _pickled(corpus: Corpus) -> int:
    counter = _Counter()
    pickle.Pickler(counter).dump(corpus)
    return counter.size


def _read_all(corpus: Corpus) -> dict[str, float]:
    """What a forked worker comes to hold for itself when it has looked at every document."""
    gc.disable()
    meter = Meter()
    private = _private_kib()
    sum(len(document_id) + len(text) for document_id, text in zip(corpus.ids, corpus.texts, strict=True))
    return {"worker_mib": (_private_kib() - private) / 1024, "worker_s": meter.seconds()}


def _private_kib() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if name.endswith(("mib", "bytes")) else f"{value:.2f}"


def _machine() -> dict[str, Any]:
    names = ("datasets", "numpy", "pyarrow")
    return {"cores": os.cpu_count(), "python": platform.python_version(), **{name: version(name) for name in names}}


if __name__ == "__main__":
    main()
