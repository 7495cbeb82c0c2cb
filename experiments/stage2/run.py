"""Stage 2, its ablations and its controls on a data set: ``python -m experiments.stage2.run --root BEIR_FOLDER``.

Every model is a command line of its own, on one thread. What is finished is kept, and what was interrupted goes on.
"""

import sys
from collections.abc import Mapping, Sequence

from experiments.quickstart.process import INTERRUPTED
from experiments.stage1.commands import Job
from experiments.stage1.jobs import JobError, perform, perform_all, read_report, told
from experiments.stage2.commands import base_job, stage1_job, steps_in_time, variant_job
from experiments.stage2.settings import Settings, parse
from experiments.stage2.smoke import run_here
from experiments.stage2.variants import FULL, STAGE_1, VARIANTS
from srch3.errors import SearchError

PROGRAM = "experiments.stage2.run"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment.

    Args:
        arguments: The command line; by default what the shell was given.

    Returns:
        The exit code: 1 where something failed, 130 after Ctrl-C.
    """
    settings = parse(PROGRAM, "Trains and measures stage 2, its ablations and its controls.", arguments)
    try:
        return run(settings)
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    except (JobError, SearchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run(settings: Settings) -> int:
    """Trains base, stage 1 and all variants, one seed after the other, and shows what came of it."""
    from experiments.stage2.conclude import conclude  # loads torch and matplotlib, which is late enough then

    base = base_job(settings)
    stage1 = {seed: stage1_job(settings, seed, base) for seed in settings.seeds}
    if _do([base], settings) or _do([*stage1.values()], settings):
        return 1
    jobs: dict[str, list[Job]] = {}
    for name in settings.variants:
        if VARIANTS[name].in_time is None:
            jobs[name] = [variant_job(settings, name, VARIANTS[name], seed, stage1[seed]) for seed in settings.seeds]
    _do([job for some in zip(*jobs.values(), strict=True) for job in some], settings)
    timed = _timed(settings, jobs, stage1)
    _do([job for some in timed.values() for job in some], settings)
    everything = {STAGE_1: [*stage1.values()], **jobs, **timed}
    return conclude(settings, PROGRAM, {name: everything[name] for name in (STAGE_1, *settings.variants)})


def _timed(settings: Settings, jobs: Mapping[str, Sequence[Job]], stage1: Mapping[int, Job]) -> dict[str, list[Job]]:
    """The controls that are given as much time as the full recipe, as far as that is known yet."""
    timed: dict[str, list[Job]] = {}
    for name in settings.variants:
        variant = VARIANTS[name]
        if variant.in_time is not None:
            timed[name] = []
            for seed, full, twin in zip(settings.seeds, jobs[FULL], jobs[variant.in_time], strict=True):
                if all(read_report(job, settings.output).trained for job in (full, twin)):
                    steps = steps_in_time(settings, full, twin)
                    timed[name].append(variant_job(settings, name, variant, seed, stage1[seed], steps))
    return timed


def _do(jobs: Sequence[Job], settings: Settings) -> list[Job]:
    """Does what is not finished, and gives those that failed; the smoke version stops at the first."""
    if not settings.smoke:
        return perform_all(jobs, settings.output, settings.jobs)
    for job in jobs:
        if read_report(job, settings.output).figures is None:
            print(f"{job.name}: {told(perform(job, settings.output, run_here))}", flush=True)
    return []


if __name__ == "__main__":
    sys.exit(main())
