"""``results.json`` and the README, which shows nothing but what stands there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.stage1.results import dump
from experiments.stage1.tables import CONTROLS, MODES, modes_table, results_table, variants_table
from experiments.stage1.variants import FULL, MATRYOSHKA, NEGATIVES, VARIANTS, Variant

RESULTS = Path(__file__).parent / "results.json"
README = Path(__file__).parent / "README.md"
EXPERIMENTS: dict[str, Mapping[str, Variant]] = {"stage1": VARIANTS, "negatives": NEGATIVES}


def publish(data_set: str, experiment: str, results: Mapping[str, Any]) -> None:
    """Puts an experiment's results in the place of what was there for this data set, and writes the README's tables.

    Args:
        data_set: Its name.
        experiment: A key of ``EXPERIMENTS``.
        results: As ``results.summarise`` gives them.
    """
    everything = json.loads(RESULTS.read_text(encoding="utf-8"))
    everything.setdefault(data_set, {})[experiment] = results
    RESULTS.write_text(dump(everything) + "\n", encoding="utf-8")
    README.write_text(filled(README.read_text(encoding="utf-8"), everything), encoding="utf-8")


def filled(readme: str, everything: Mapping[str, Any]) -> str:
    """The README with the tables between its markers made anew.

    Args:
        readme: As it is.
        everything: The content of ``results.json``.
    """
    blocks = {"variants": variants_table()}
    for experiment in EXPERIMENTS:
        parts = [section(name, experiment, some[experiment]) for name, some in everything.items() if experiment in some]
        blocks[experiment] = "\n\n".join(parts) or "(not run yet)"
    return with_blocks(readme, blocks)


def with_blocks(readme: str, blocks: Mapping[str, str]) -> str:
    """A README with other text between its markers ``<!-- name -->`` and ``<!-- /name -->``.

    Args:
        readme: As it is.
        blocks: The text, by name.
    """
    for name, block in blocks.items():
        before, begin, rest = readme.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{name} -->")
        readme = f"{before}{begin}\n{block}\n{end}{after}"
    return readme


def section(data_set: str, experiment: str, results: Mapping[str, Any]) -> str:
    """What the README shows of one data set: sizes, the command and the tables."""
    queries = ", ".join(f"{count:,} {split}" for split, count in results["queries"].items())
    sizes = f"{results['documents']:,} documents; queries: {queries}."
    parts = [f"### {data_set}", sizes, f"```bash\n{results['command']}\n```"]
    parts.append(results_table(results, EXPERIMENTS[experiment]))
    if experiment == "stage1" and FULL in results["figures"]:
        parts.append(modes_table(results, FULL, CONTROLS))
    if MATRYOSHKA in results["figures"]:
        modes = next(iter(results["figures"][MATRYOSHKA].values()))
        widths = {mode: mode.replace("@", ", width ") for mode in modes if mode.partition("@")[0] in MODES}
        parts.append(modes_table(results, MATRYOSHKA, widths))
    return "\n\n".join(parts)
