"""From measurements to figures, and from figures to tables.

``python -m experiments.benchmarks.environment.report`` prints those of ``results.json`` as the README has them.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks.environment.lines import DEFAULT
from experiments.benchmarks.environment.settings import RESULTS
from experiments.surroundings import surroundings

Figures = Mapping[str, Any]

LIMITS = {"reward_mae": 0.01, "reward_bias": 0.003, "advantage_correlation": 0.95}
"""What the default is to keep: error and distance of the bias from 0 at most, correlation at least."""

PARTS = ("search", "select", "correct", "store", "rest")

_PACKAGES = ("torch", "hnswlib", "faiss-cpu")


def summarise(trainings: Sequence[Figures], simulations: Sequence[Figures]) -> dict[str, Any]:
    """What all runs say.

    Args:
        trainings: Of the first part, each with its settings.
        simulations: Of the second part, each with its settings.
    """
    return {
        "trainings": {run["name"]: _training(run) for run in trainings},
        "simulations": {run["name"]: _simulation(run) for run in simulations},
        **surroundings(*_PACKAGES),
    }


def _training(run: Figures) -> dict[str, Any]:
    figures = run["figures"]
    lines = {name: _line(line, figures["seconds_per_document"]) for name, line in figures["lines"].items()}
    rest = {name: value for name, value in figures.items() if name not in ("lines", "exact_reward")}
    reward = {"exact_reward": statistics.fmean(figures["exact_reward"]), "audits": len(figures["exact_reward"])}
    return {"lines": lines} | reward | rest | {"settings": run["settings"]}


def _line(line: Figures, seconds_per_document: float) -> dict[str, Any]:
    audits = line["audits"]
    documents = statistics.fmean(line["documents"])
    own, encoding = statistics.fmean(line["seconds"]), documents * seconds_per_document
    found: dict[str, Any] = {
        name: statistics.fmean(audit[name] for audit in audits) for name in ("reward_mae", "reward_bias", "drift")
    }
    correlations = [audit["advantage_correlation"] for audit in audits if "advantage_correlation" in audit]
    found["advantage_correlation"] = statistics.fmean(correlations) if correlations else None
    found["bias_per_audit"] = statistics.fmean(abs(audit["reward_bias"]) for audit in audits)
    found["worst_mae"] = max(audit["reward_mae"] for audit in audits)
    if "recall" in audits[0]:
        found["recall"] = statistics.fmean(audit["recall"] for audit in audits)
        found["least_recall"] = min(audit["recall"] for audit in audits)
        found["exact_fallbacks"] = sum(audit["exact_fallback"] for audit in audits)
    cost = {"documents": documents, "encoding_seconds": encoding, "own_seconds": own, "seconds": own + encoding}
    return found | cost


def _simulation(run: Figures) -> dict[str, Any]:
    figures, steps = run["figures"], run["figures"]["steps"]
    parts = {name: statistics.fmean(step.get(name, 0.0) for step in steps) for name in PARTS}
    totals = [sum(step.get(name, 0.0) for name in PARTS) for step in steps]
    return {
        "seconds": statistics.fmean(totals),
        "median_seconds": statistics.median(totals),
        "worst_seconds": max(totals),
        "parts": parts,
        "recall": statistics.fmean(step["recall"] for step in steps),
        "least_recall": min(step["recall"] for step in steps),
        "exact_steps": sum(step.get("exact_fallback", 0.0) for step in steps),
        "drift": statistics.fmean(step["drift"] for step in steps),
        **{name: figures[name] for name in ("build_seconds", "bytes", "moves")},
        "settings": run["settings"],
    }


def markdown(results: Figures) -> str:
    """The tables as a README has them."""
    parts = [_training_table(name, figures) for name, figures in results["trainings"].items()]
    if results["trainings"]:
        parts.append(_verdict(results["trainings"]))
    if results["simulations"]:
        parts.append(_simulation_table(results["simulations"]))
    return "\n\n".join(parts)


def _training_table(name: str, run: Figures) -> str:
    settings, searches = run["settings"], run["settings"]["batch"] * run["settings"]["samples"]
    rows = [
        f"**{name}**: {settings['steps']} steps of {searches} searches, {run['audits']} audits; mean exact reward "
        f"{run['exact_reward']:.3f}; a training step without upkeep takes {run['step_seconds']:.2f} s.",
        "",
        "| line | documents | s per step | encoding, s | mae | bias | \\|bias\\| | advantages | drift | recall |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for label, line in run["lines"].items():
        cells = [f"{line['documents']:,.0f}", f"{line['seconds']:.2f}", f"{line['encoding_seconds']:.2f}"]
        cells += [f"{line['reward_mae']:.4f}", f"{line['reward_bias']:+.4f}", f"{line['bias_per_audit']:.4f}"]
        cells += [_number(line["advantage_correlation"]), f"{line['drift']:.4f}", _number(line.get("recall"))]
        shown = f"**{label}**" if label == DEFAULT.name else label
        rows.append(f"| {shown} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _verdict(trainings: Figures) -> str:
    sentences = []
    for name, run in trainings.items():
        line = run["lines"].get(DEFAULT.name)
        if line is None:
            continue
        correlation = line["advantage_correlation"]
        kept = (
            line["reward_mae"] <= LIMITS["reward_mae"]
            and abs(line["reward_bias"]) <= LIMITS["reward_bias"]
            and (math.nan if correlation is None else correlation) >= LIMITS["advantage_correlation"]
        )
        sentences.append(
            f"- {name}: the default {'keeps' if kept else 'does not keep'} the limits (mae {LIMITS['reward_mae']}, "
            f"|bias| {LIMITS['reward_bias']}, advantages {LIMITS['advantage_correlation']}); the mae is at most "
            f"{line['worst_mae']:.4f}."
        )
    return "\n".join(sentences)


def _simulation_table(simulations: Figures) -> str:
    rows = [
        "| documents | index | searches | renewed | ms per step | median | worst | "
        + " | ".join(PARTS)
        + " | recall | least | exact steps | MiB | build, s |",
        "|---:|---|---:|" + "---:|" * (9 + len(PARTS)),
    ]
    for run in simulations.values():
        settings = run["settings"]
        cells = [f"{settings['documents']:,}", settings["kind"], f"{settings['batch'] * settings['samples']}"]
        cells += [f"{settings['renewed']:,}"]
        cells += [f"{1000 * run[name]:,.0f}" for name in ("seconds", "median_seconds", "worst_seconds")]
        cells += [f"{1000 * run['parts'][name]:,.0f}" for name in PARTS]
        cells += [f"{run['recall']:.3f}", f"{run['least_recall']:.3f}", f"{run['exact_steps']:.0f}"]
        cells += [f"{run['bytes'] / 2**20:,.0f}", f"{run['build_seconds']:.0f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    print(markdown(json.loads(RESULTS.read_text(encoding="utf-8"))))
