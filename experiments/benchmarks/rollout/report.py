"""From measurements to figures, and from figures to tables.

``python -m experiments.benchmarks.rollout.report`` prints those of ``results.json`` as the README has them.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks.rollout.settings import RESULTS, Settings, Shape
from experiments.surroundings import surroundings

Figures = Mapping[str, Any]

TARGETS = ((Shape(8, 8, 256, 8, 64), 2.0), (Shape(8, 8, 48, 64, 64), 1.3))
"""What the comparison is to show, as ratios of speed; and 1 everywhere."""

_PACKAGES = ("torch", "transformers")


def summarise(
    settings: Settings, measured: Mapping[str, Sequence[Figures]], seconds: float, load: Sequence[float]
) -> dict[str, Any]:
    """What the run says.

    Args:
        settings: Of the run.
        measured: By model, what each shape gave.
        seconds: What the run took.
        load: Mean numbers of processes that wanted to run, before and after.
    """
    return {
        "models": {
            model.name: [
                _line(shape, figures) for shape, figures in zip(settings.shapes, measured[model.name], strict=True)
            ]
            for model in settings.models
        },
        "rounds": settings.rounds,
        "threads": settings.threads,
        "seed": settings.seed,
        "device": settings.device,
        "seconds": round(seconds),
        "load": list(load),
        **surroundings(*_PACKAGES),
    }


def _line(shape: Shape, figures: Figures) -> dict[str, Any]:
    rates = {name: _rates(figures[name], "seconds") for name in ("ours", "theirs")}
    ratios = [mine / other for mine, other in zip(rates["ours"], rates["theirs"], strict=True)]
    cpu = zip(*(_rates(figures[name], "cpu_seconds") for name in ("ours", "theirs")), strict=True)
    stages = figures["stages"]
    bare = [least / whole for least, whole in zip(figures["bare_seconds"], figures["ours"]["seconds"], strict=True)]
    line = {
        "name": shape.name,
        "shape": figures["shape"],
        "speed_ratio": statistics.median(ratios),
        "speed_ratio_by_round": ratios,
        "cpu_speed_ratio": statistics.median(mine / other for mine, other in cpu),
        "tokens_per_second": {name: statistics.median(found) for name, found in rates.items()},
        "bare_model": statistics.median(bare),
        "computed_per_token": {name: _sum(figures[name], "computed") / _sum(figures[name], "tokens") for name in rates},
        "mean_length": {
            name: _sum(figures[name], "tokens") / (len(found) * shape.prompts * shape.samples)
            for name, found in rates.items()
        },
        "stages": {stage: spent / sum(stages.values()) for stage, spent in stages.items()},
    }
    if "bandwidth" in figures:
        line["bandwidth"] = statistics.median(figures["bandwidth"])
    return line | {name: figures[name] for name in ("same_tokens",) if name in figures}


def _rates(figures: Figures, clock: str) -> list[float]:
    return [tokens / seconds for tokens, seconds in zip(figures["tokens"], figures[clock], strict=True)]


def _sum(figures: Figures, name: str) -> float:
    return float(sum(figures[name]))


def markdown(results: Figures) -> str:
    """The tables as a README has them."""
    return "\n\n".join(
        [*(_table(name, lines) for name, lines in results["models"].items()), _stages(results), _says(results)]
    )


def _table(model: str, lines: Sequence[Figures]) -> str:
    bandwidth = any("bandwidth" in line for line in lines)
    headings = ["prompts x samples, tokens to tokens", "transformers", "srch3", "ratio", "rounds", "of the bare model"]
    headings += ["of the bandwidth"] if bandwidth else []
    rows = [f"**{model}**", "", "| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]
    for line in lines:
        speed, rounds = line["tokens_per_second"], line["speed_ratio_by_round"]
        cells = [
            line["name"],
            f"{speed['theirs']:,.0f}",
            f"{speed['ours']:,.0f}",
            f"{line['speed_ratio']:.2f}",
            f"{min(rounds):.2f} to {max(rounds):.2f}",
            f"{line['bare_model']:.0%}",
        ]
        cells += [f"{line['bandwidth']:.0%}"] if bandwidth else []
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _stages(results: Figures) -> str:
    wanted = [(model, line) for model, lines in results["models"].items() for line in lines if _is_target(line)]
    chosen = wanted or [(model, lines[0]) for model, lines in results["models"].items()]
    names = list(chosen[0][1]["stages"])
    rows = ["| where ours spends its time | " + " | ".join(names) + " |", "|---" + "|---:" * len(names) + "|"]
    for model, line in chosen:
        shares = " | ".join(f"{line['stages'][name]:.0%}" for name in names)
        rows.append(f"| {model}: {line['name']} | {shares} |")
    return "\n".join(rows)


def _says(results: Figures) -> str:
    lines = [line for some in results["models"].values() for line in some]
    least = min(lines, key=lambda line: float(line["speed_ratio"]))
    sentences = [f"The smallest ratio of all is {least['speed_ratio']:.2f} ({least['name']})."]
    for shape, target in TARGETS:
        ratios = [f"{line['speed_ratio']:.2f}" for line in lines if line["name"] == shape.name]
        if ratios:
            sentences.append(f"{shape.name}: {' and '.join(ratios)} times their speed; {target} was the aim.")
    greedy = [line["same_tokens"] for line in lines if "same_tokens" in line]
    if greedy:
        sentences.append(
            f"Greedy completions are the same, token by token, in {sum(greedy)} of {len(greedy)} comparisons."
        )
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _is_target(line: Figures) -> bool:
    return any(line["name"] == shape.name for shape, _ in TARGETS)


if __name__ == "__main__":
    print(markdown(json.loads(RESULTS.read_text(encoding="utf-8"))))
