"""From finished jobs to results, table and plot."""

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markdown import Markdown

from experiments.stage1.commands import Job
from experiments.stage1.jobs import read_report
from experiments.stage1.settings import Settings
from experiments.stage1.variants import Variant


def conclude(
    settings: Settings,
    program: str,
    experiment: str,
    variants: Mapping[str, Variant],
    jobs: Mapping[str, Sequence[Job]],
) -> int:
    """Writes the results of the variants that are finished with every seed, and shows them.

    Args:
        settings: Of the experiment.
        program: Dotted name of what was run.
        experiment: ``stage1`` or ``negatives``.
        variants: All that were asked for.
        jobs: Of each variant, one per seed.

    Returns:
        The exit code: 1 where a variant is not finished, which also keeps the figures from being published.
    """
    from experiments.stage1.plot import plot  # these load torch and matplotlib, which is late enough now
    from experiments.stage1.publish import publish
    from experiments.stage1.results import dump, summarise
    from experiments.stage1.tables import results_table

    reports = {name: [read_report(job, settings.output) for job in some] for name, some in jobs.items()}
    finished = {name: some for name, some in reports.items() if all(one.figures is not None for one in some)}
    if finished:
        results = summarise(settings, program, variants, finished)
        path = settings.output / f"{experiment}.json"
        path.write_text(dump(results) + "\n", encoding="utf-8")
        picture = plot(results, variants, settings.output / f"{experiment}.png")
        console = Console(width=None if sys.stdout.isatty() else 200)
        console.print(Markdown(results_table(results, variants)))
        console.print(f"results: {path}   plot: {picture}", soft_wrap=True, highlight=False)
    if missing := [name for name in variants if name not in finished]:
        print(f"not finished: {', '.join(missing)}; the same command goes on with them", file=sys.stderr)
        return 1
    if settings.publish:
        publish(settings.data_set, experiment, results)
    return 0
