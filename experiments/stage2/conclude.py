"""From finished jobs to results, tables, plot and README."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from experiments.stage1.commands import Job
from experiments.stage1.jobs import read_report
from experiments.stage1.publish import with_blocks
from experiments.stage1.results import dump
from experiments.stage2.plot import plot
from experiments.stage2.results import summarise
from experiments.stage2.settings import Settings
from experiments.stage2.tables import comparisons_table, results_table, rewards_table, thoughts_table, variants_table

RESULTS = Path(__file__).parent / "results.json"
README = Path(__file__).parent / "README.md"


def conclude(settings: Settings, program: str, jobs: Mapping[str, Sequence[Job]]) -> int:
    """Writes the results of the variants that are finished with every seed, and shows them.

    Args:
        settings: Of the experiment.
        program: Dotted name of what was run.
        jobs: Of stage 1 and each variant, one per seed; fewer where others that they need are not finished.

    Returns:
        The exit code: 1 where a variant is not finished, which also keeps the figures from being published.
    """
    finished = {name: some for name, some in jobs.items() if _finished(settings, some)}
    results = summarise(settings, program, finished)
    path = settings.output / "results.json"
    path.write_text(dump(results) + "\n", encoding="utf-8")
    picture = plot(results, settings.output / "plot.png")
    console = Console(width=None if sys.stdout.isatty() else 240)
    for table in (*(results_table(results, split) for split in results["bm25"]), comparisons_table(results)):
        console.print(Markdown(table))
    console.print(f"results: {path}   plot: {picture}", soft_wrap=True, highlight=False)
    if missing := [name for name in jobs if name not in finished]:
        print(f"not finished: {', '.join(missing)}; the same command goes on with them", file=sys.stderr)
        return 1
    if settings.publish:
        publish(settings.data.name, results)
    return 0


def publish(data_set: str, results: Mapping[str, Any]) -> None:
    """Puts results in the place of what was there for this data set, and writes the README's tables.

    Args:
        data_set: Its name.
        results: As ``results.summarise`` gives them.
    """
    everything = json.loads(RESULTS.read_text(encoding="utf-8")) | {data_set: results}
    RESULTS.write_text(dump(everything) + "\n", encoding="utf-8")
    README.write_text(filled(README.read_text(encoding="utf-8"), everything), encoding="utf-8")


def filled(readme: str, everything: Mapping[str, Any]) -> str:
    """The README with the tables between its markers made anew.

    Args:
        readme: As it is.
        everything: The content of ``results.json``.
    """
    sections = [section(name, results) for name, results in everything.items()]
    return with_blocks(readme, {"variants": variants_table(), "results": "\n\n".join(sections) or "(not run yet)"})


def section(data_set: str, results: Mapping[str, Any]) -> str:
    """What the README shows of one data set: sizes, the command and the tables."""
    queries = ", ".join(f"{count:,} {split}" for split, count in results["queries"].items())
    parts = [f"### {data_set}", f"{results['documents']:,} documents; queries: {queries}."]
    parts += [f"```bash\n{results['command']}\n```", comparisons_table(results), rewards_table(results)]
    for split in results["bm25"]:
        parts += [f"**{split}**", results_table(results, split), thoughts_table(results, split)]
    return "\n\n".join(part for part in parts if part)


def _finished(settings: Settings, jobs: Sequence[Job]) -> bool:
    reports = [read_report(job, settings.output) for job in jobs]
    return len(reports) == len(settings.seeds) and all(report.figures is not None for report in reports)
