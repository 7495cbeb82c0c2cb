"""From measurements to figures, and from figures to tables.

``python -m experiments.benchmarks.encode.report`` prints those of ``results.json`` as the README has them.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks.encode.settings import KINDS, RESULTS, SIDES, Settings
from experiments.surroundings import surroundings

Figures = Mapping[str, Any]

THEIRS, OURS = SIDES
TARGET = 1.5
"""Ratio of the default speeds that the comparison is to show where the processor has bfloat16; else more than 1."""

HEADINGS = (
    "encoding", "documents/s", "tokens/s", "ratio", "rounds", "by CPU time", "of the bare model", "of the peak",
    "least cosine", "nDCG@10",
)  # fmt: skip
_PACKAGES = ("torch", "transformers", "sentence-transformers")


def summarise(
    settings: Settings, measured: Mapping[str, Figures], seconds: float, load: Sequence[float]
) -> dict[str, Any]:
    """What the run says.

    Args:
        settings: Of the run.
        measured: By model, what `measure` gave.
        seconds: What the run took.
        load: Mean numbers of processes that wanted to run, before and after.
    """
    return {
        "models": {model.name: {"title": model.title, **_model(measured[model.name])} for model in settings.models},
        "rounds": settings.rounds,
        "threads": settings.threads,
        "seed": settings.seed,
        "seconds": round(seconds),
        "load": list(load),
        **surroundings(*_PACKAGES),
    }


def _model(figures: Figures) -> dict[str, Any]:
    sizes = {name: figures[name] for name in ("default", "documents", "tokens", "lengths", "parameters")}
    lines = {f"{side} {kind}": _line(figures, side, kind) for kind in KINDS for side in SIDES}
    default = f"{OURS} {figures['default']}"
    return {
        **sizes,
        "lines": lines,
        "equal_precision": {kind: _ratio(figures, f"{OURS} {kind}", f"{THEIRS} {kind}") for kind in KINDS},
        "by_default": _ratio(figures, default, f"{THEIRS} float32"),
    }


def _line(figures: Figures, side: str, kind: str) -> dict[str, Any]:
    line = figures[f"{side} {kind}"]
    rates = [figures["tokens"] / seconds for seconds in line["seconds"]]
    rate, floors = statistics.median(rates), figures["floor"][kind]
    bare, peak = (statistics.median(part[name] for part in floors) for name in ("tokens", "flops"))
    found = {
        "documents_per_second": rate * figures["documents"] / figures["tokens"],
        "tokens_per_second": rate,
        "cpu_seconds": statistics.median(line["cpu_seconds"]),
        "of_bare_model": rate / bare,
        "of_peak": 2 * figures["parameters_of_layers"] * rate / peak,
        "least_cosine": line["least_cosine"],
    }
    return found | {name: line[name] for name in ("ndcg@10",) if name in line}


def _ratio(figures: Figures, ours: str, theirs: str) -> dict[str, Any]:
    by_clock = {
        clock: [slow / fast for slow, fast in zip(figures[theirs][clock], figures[ours][clock], strict=True)]
        for clock in ("seconds", "cpu_seconds")
    }
    return {
        "speed_ratio": statistics.median(by_clock["seconds"]),
        "speed_ratio_by_round": by_clock["seconds"],
        "cpu_speed_ratio": statistics.median(by_clock["cpu_seconds"]),
    }


def markdown(results: Figures) -> str:
    """The tables as a README has them."""
    return "\n\n".join([*map(_table, results["models"].values()), _says(results)])


def _table(model: Figures) -> str:
    rows = [
        f"**{model['title']}**",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|---" + "|---:" * (len(HEADINGS) - 1) + "|",
    ]
    for name, line in model["lines"].items():
        side, kind = name.split(" ")
        rows.append(f"| {_label(model, side, kind)} | {_cells(line, model['equal_precision'][kind], side)} |")
    return "\n".join(rows)


def _label(model: Figures, side: str, kind: str) -> str:
    default = kind == (model["default"] if side == OURS else "float32")
    return f"{side}, {kind}{', the default' if default else ''}"


def _cells(line: Figures, equal: Figures, side: str) -> str:
    by_round = equal["speed_ratio_by_round"]
    compared = ["1", "", "1"]
    if side == OURS:
        rounds = f"{min(by_round):.2f} to {max(by_round):.2f}"
        compared = [f"{equal['speed_ratio']:.2f}", rounds, f"{equal['cpu_speed_ratio']:.2f}"]
    return " | ".join(
        [
            f"{line['documents_per_second']:,.1f}",
            f"{line['tokens_per_second']:,.0f}",
            *compared,
            f"{line['of_bare_model']:.0%}",
            f"{line['of_peak']:.0%}",
            f"{line['least_cosine']:.5f}",
            f"{line['ndcg@10']:.4f}" if "ndcg@10" in line else "",
        ]
    )


def _says(results: Figures) -> str:
    sentences = []
    for model in results["models"].values():
        default = model["by_default"]
        by_round = default["speed_ratio_by_round"]
        aim = f"{TARGET} was the aim" if model["default"] == "bfloat16" else "more than 1 was the aim"
        sentences.append(
            f"{model['title']}: as each side comes, ours ({model['default']}) encodes {default['speed_ratio']:.2f} "
            f"times as fast as theirs (float32), {min(by_round):.2f} to {max(by_round):.2f} by round, "
            f"{default['cpu_speed_ratio']:.2f} by CPU time; {aim}."
        )
        ndcg = [line["ndcg@10"] for line in model["lines"].values() if "ndcg@10" in line]
        if ndcg:
            sentences.append(f"The four nDCG@10 are at most {max(ndcg) - min(ndcg):.4f} apart.")
    before, after = results["load"]
    sentences.append(
        f"{results['rounds']} rounds, {results['threads']} threads on {results['machine']['cpus']} processors, which "
        f"{before:.1f} programs wanted at the beginning and {after:.1f} at the end."
    )
    return "\n".join(f"- {sentence}" for sentence in sentences)


if __name__ == "__main__":
    print(markdown(json.loads(RESULTS.read_text(encoding="utf-8"))))
