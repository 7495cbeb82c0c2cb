"""From measurements to figures, and from figures to tables.

``python -m experiments.benchmarks.index.report`` prints those of ``results.json`` as the README has them.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks.index.settings import RESULTS, Settings
from experiments.surroundings import surroundings

Figures = Mapping[str, Any]

_PACKAGES = ("torch", "hnswlib", "faiss-cpu")


def summarise(
    settings: Settings, measured: Mapping[str, Sequence[Figures]], life: Sequence[Figures], seconds: float
) -> dict[str, Any]:
    """What the run says.

    Args:
        settings: Of the run.
        measured: By size, what each way gave.
        life: By step, the recall of an index whose embeddings move.
        seconds: What the run took.
    """
    return {
        "sizes": {name: list(lines) for name, lines in measured.items()},
        "life": list(life),
        "k": settings.k,
        "seed": settings.seed,
        "seconds": round(seconds),
        "load": list(os.getloadavg()),
        **surroundings(*_PACKAGES),
    }


def markdown(results: Figures) -> str:
    """The tables as a README has them."""
    return "\n\n".join([*(_built(results), _changed(results), _life(results))])


def _built(results: Figures) -> str:
    rows = [
        "| documents | index | build, s | write, s | structure, bytes per document | search, ms | recall | effort |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for size, lines in results["sizes"].items():
        for line in lines:
            if line["share"] is None:
                effort = line["health"].get("ann_effort")
                cells = [f"{line['change_seconds']:.1f}", f"{line['write_seconds']:.2f}"]
                cells += [f"{line['structure_bytes_per_document']:,.0f}", _search(line), f"{line['recall']:.3f}"]
                cells += [f"{effort:.0f}" if effort else "-"]
                rows.append(f"| {size} | {line['way']} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _changed(results: Figures) -> str:
    rows = ["| documents | changed | way | change, ms | search, ms | recall |", "|---|---:|---|---:|---:|---:|"]
    for size, lines in results["sizes"].items():
        for line in lines:
            if line["share"] is not None:
                cells = [f"{line['share']:.0%}", line["way"], f"{1000 * line['change_seconds']:,.0f}"]
                rows.append(f"| {size} | " + " | ".join([*cells, _search(line), f"{line['recall']:.3f}"]) + " |")
    return "\n".join(rows)


def _search(line: Figures) -> str:
    return " / ".join(f"{1000 * seconds:,.0f}" for seconds in line["search_seconds"].values())


def _life(results: Figures) -> str:
    rows = [
        "| embeddings | steps | least recall | mean recall | effort | exact steps |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for phase in dict.fromkeys(line["phase"] for line in results["life"]):
        lines = [line for line in results["life"] if line["phase"] == phase]
        found = [line["recall"] for line in lines]
        efforts = [line["ann_effort"] for line in lines]
        cells = [phase, f"{len(lines)}", f"{min(found):.3f}", f"{sum(found) / len(found):.3f}"]
        cells += [f"{min(efforts):.0f} to {max(efforts):.0f}", f"{sum(line['exact_fallback'] for line in lines):.0f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown(json.loads(RESULTS.read_text(encoding="utf-8"))))
