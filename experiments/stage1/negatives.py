"""Whether mined hard negatives beat random ones: ``python -m experiments.stage1.negatives --root BEIR_FOLDER``.

For each seed, the full recipe is trained without hard negatives, which is also the first run of the other experiment;
``python -m srch3 mine`` mines negatives with it; and the recipe is trained anew, as long as before, with these, and
with as many random ones.
"""

import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.stage1.commands import Job, base_job, other_job, stage1_job
from experiments.stage1.conclude import conclude
from experiments.stage1.jobs import perform_all
from experiments.stage1.run import answered
from experiments.stage1.settings import Settings, parse
from experiments.stage1.variants import FULL, NEGATIVES, VARIANTS
from srch3.data import BeirDataModule
from srch3.types import Query

PROGRAM = "experiments.stage1.negatives"
MINING = ["--mining.negatives", "4", "--mining.ranks", "[5,50]", "--mining.relative", "0.95", "--mining.mode", "direct"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment.

    Args:
        arguments: The command line; by default what the shell was given.

    Returns:
        The exit code: 1 where something failed, 130 after Ctrl-C.
    """
    description = "Trains stage 1 with mined, with random and without hard negatives on a BEIR folder."
    return answered(run, parse(PROGRAM, description, arguments))


def run(settings: Settings) -> int:
    """Trains, mines, trains again, and shows what came of it."""
    base = base_job(settings)
    if perform_all([base], settings.output, 1):
        return 1
    before = [stage1_job(settings, FULL, VARIANTS[FULL], seed, base) for seed in settings.seeds]
    if perform_all(before, settings.output, settings.jobs):
        return 1
    mining = [mining_job(settings, job, seed) for job, seed in zip(before, settings.seeds, strict=True)]
    if perform_all(mining, settings.output, settings.jobs):
        return 1
    jobs: dict[str, list[Job]] = {"random": [], "mined": [], "none": before}
    for job, seed in zip(mining, settings.seeds, strict=True):
        mined = settings.output / job.name / "data"
        for name, root in (("random", write_random(settings, mined, seed)), ("mined", mined)):
            jobs[name].append(stage1_job(settings, f"negatives-{name}", NEGATIVES[name], seed, base, root))
    perform_all([*jobs["random"], *jobs["mined"]], settings.output, settings.jobs)
    return conclude(settings, PROGRAM, "negatives", NEGATIVES, jobs)


def mining_job(settings: Settings, trained: Job, seed: int) -> Job:
    """Mines with a trained model; the data are in ``data`` of the job's folder."""
    folder, name = settings.output / trained.name, f"mining/seed{seed}"
    versions = sorted(folder.glob("logs/version_*/config.yaml"), key=lambda path: int(path.parent.name.split("_")[1]))
    command = ["mine", "--config", str(versions[-1]), "--ckpt_path", str(folder / "best.ckpt")]
    return other_job(name, [*command, "--output", str(settings.output / name / "data"), *MINING], trained)


def write_random(settings: Settings, mined: Path, seed: int) -> Path:
    """Writes the data with as many random negatives of each query as were mined for it.

    Returns:
        The folder.
    """
    folder = settings.output / "random" / f"seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    data = BeirDataModule(str(settings.root))
    data.write_negatives(folder, random_negatives(BeirDataModule(str(mined)).queries("train"), data, seed))
    return folder


def random_negatives(queries: Sequence[Query], data: BeirDataModule, seed: int) -> dict[str, list[str]]:
    """As many documents for each query as it has negatives, none of them relevant; the same for the same seed."""
    ids = data.corpus("train").ids
    drawn = {}
    for query in queries:
        count = min(len(ids), len(query.negatives) + len(query.relevant))
        some = random.Random(f"{seed} {query.id}").sample(ids, count)
        drawn[query.id] = [document for document in some if document not in query.relevant][: len(query.negatives)]
    return drawn


if __name__ == "__main__":
    sys.exit(main())
