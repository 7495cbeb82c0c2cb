"""Trains and measures every variant of stage 1 on a data set: ``python -m experiments.stage1.run --root BEIR_FOLDER``.

Every model is a command line of its own, on one thread. What is finished is kept, and what was interrupted goes on.
"""

import sys
from collections.abc import Callable, Sequence

from experiments.quickstart.process import INTERRUPTED
from experiments.stage1.commands import base_job, stage1_job
from experiments.stage1.conclude import conclude
from experiments.stage1.jobs import JobError, perform_all
from experiments.stage1.settings import Settings, parse
from experiments.stage1.variants import VARIANTS
from srch3.errors import SearchError

PROGRAM = "experiments.stage1.run"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment.

    Args:
        arguments: The command line; by default what the shell was given.

    Returns:
        The exit code: 1 where something failed, 130 after Ctrl-C.
    """
    description = "Trains and measures every variant of stage 1 on a BEIR folder."
    return answered(run, parse(PROGRAM, description, arguments, list(VARIANTS)))


def answered(experiment: Callable[[Settings], int], settings: Settings) -> int:
    """The exit code of an experiment, with one line about what stopped it."""
    try:
        return experiment(settings)
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    except (JobError, SearchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run(settings: Settings) -> int:
    """Trains the base, then all variants, one seed after the other, and shows what came of it."""
    base = base_job(settings)
    if perform_all([base], settings.output, 1):
        return 1
    variants = {name: VARIANTS[name] for name in settings.variants}
    jobs = {
        name: [stage1_job(settings, name, variant, seed, base) for seed in settings.seeds]
        for name, variant in variants.items()
    }
    perform_all([job for some in zip(*jobs.values(), strict=True) for job in some], settings.output, settings.jobs)
    return conclude(settings, PROGRAM, "stage1", variants, jobs)


if __name__ == "__main__":
    sys.exit(main())
