"""Does jobs side by side, keeps what is finished, and goes on with what was interrupted."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from experiments.quickstart.curves import read_curves
from experiments.quickstart.progress import write_json
from experiments.stage1.commands import Job

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
Figures = dict[str, dict[str, dict[str, float]]]
"""By split, mode and metric; what the thoughts were like is in the mode ``thoughts``."""
Run = Callable[[list[str], Path], int]


class JobError(Exception):
    """A command of a job failed; says which and why."""


class Report(NamedTuple):
    """How far a job got.

    Attributes:
        fingerprint: That of the job.
        attempts: How often training was started.
        seconds: What it took, over all attempts.
        trained: Whether it came to its end.
        figures: What was measured; None until everything is.
    """

    fingerprint: str
    attempts: int = 0
    seconds: float = 0.0
    trained: bool = False
    figures: Figures | None = None


def read_report(job: Job, output: Path) -> Report:
    """How far a job with these very settings got."""
    try:
        report = Report(**json.loads((output / job.name / "report.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Report(job.fingerprint)
    return report if report.fingerprint == job.fingerprint else Report(job.fingerprint)


def perform_all(jobs: Sequence[Job], output: Path, count: int) -> list[Job]:
    """Does what is not finished; one that fails does not keep the others from being done.

    Ctrl-C reaches the running commands through the terminal: they save and stop, and no other is started.

    Args:
        jobs: None needs another.
        output: Folder of the experiment.
        count: So many at once.

    Returns:
        Those that failed.
    """
    todo = [job for job in jobs if read_report(job, output).figures is None]
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} were finished before", flush=True)
    failed = []
    with ThreadPoolExecutor(count) as pool:
        running = {pool.submit(perform, job, output): job for job in todo}
        try:
            for number, future in enumerate(as_completed(running), start=1):
                job = running[future]
                error = future.exception()
                print(f"[{number}/{len(todo)}] {job.name}: {error or told(future.result())}", flush=True)
                if error is not None:
                    failed.append(job)
        except KeyboardInterrupt:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return failed


def told(report: Report) -> str:
    """A finished job in one line."""
    figures = (report.figures or {}).get("dev", {})
    scores = [f"{mode} {figures[mode]['ndcg@10']:.3f}" for mode in ("thinking", "direct") if mode in figures]
    return ", ".join([f"{report.seconds:.0f} s", *(["dev nDCG@10"] if scores else []), *scores])


def perform(job: Job, output: Path, run: Run | None = None) -> Report:
    """Trains and measures, or what is left of it.

    Args:
        job: What to do.
        output: Folder of the experiment.
        run: How Python is run, with arguments and a log; by default in a process of its own.

    Raises:
        JobError: A command failed.
    """
    folder = output / job.name
    report = read_report(job, output)
    if not report.trained:
        report = _trained(job, report, folder, run)
    if job.tests:
        commands = [shlex.join(command) for command in job.tests.values()]
        _run(["-m", "experiments.stage1.several", *commands], folder, "test", run)
    return _saved(
        report._replace(figures={split: read_figures(folder / f"test-{split}") for split in job.tests}), folder
    )


def _trained(job: Job, report: Report, folder: Path, run: Run | None) -> Report:
    """Trains; notes what it took, however it ends."""
    last = folder / "last.ckpt"
    resumes = report.attempts > 0 and job.training[:1] == ["fit"] and last.is_file()
    if not resumes:
        _clear(folder)
    if not job.training:
        return _saved(report._replace(trained=True), folder)
    resume = ["--ckpt_path", str(last)] if resumes else []
    began = time.perf_counter()
    report = _saved(report._replace(attempts=report.attempts + 1), folder)
    trained = False
    try:
        _run(["-m", "srch3", *job.training, *resume], folder, job.training[0], run)
        trained = True
    finally:
        seconds = round(report.seconds + time.perf_counter() - began, 1)
        report = _saved(report._replace(seconds=seconds, trained=trained), folder)
    return report


def _run(arguments: list[str], folder: Path, what: str, run: Run | None) -> None:
    """Runs Python with all that it says in ``log.txt``."""
    log = folder / "log.txt"
    code = (run or execute)(arguments, log)
    if code:
        lines = log.read_text(encoding="utf-8").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        raise JobError(f"{what} ended with exit code {code}; {log} ends in: {last}")


def execute(arguments: list[str], log: Path) -> int:
    """Runs Python, on one thread, and returns its exit code."""
    with log.open("a", encoding="utf-8") as file:
        command = [sys.executable, *arguments]
        print(f"$ {shlex.join(command)}", file=file, flush=True)
        environment = os.environ | ONE_THREAD
        return subprocess.run(command, check=False, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode


def read_figures(folder: Path) -> dict[str, dict[str, float]]:
    """What the last test logged, by mode and metric."""
    figures: dict[str, dict[str, float]] = {}
    for name, value in read_curves(folder)[-1].items():
        parts = name.split("/")
        if parts[0] == "test" and len(parts) == 3:
            figures.setdefault(parts[1], {})[parts[2]] = round(value, 6)
        elif name in ("test/emitted", "test/thought_tokens"):
            figures.setdefault("thoughts", {})[parts[1]] = round(value, 6)
    return figures


def _clear(folder: Path) -> None:
    """An empty folder; what other settings left in it goes, and never what is not a job's."""
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / "report.json").is_file():
            raise JobError(f"{folder}: expected the folder of an earlier run, or none; got other files; move them")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _saved(report: Report, folder: Path) -> Report:
    content: dict[str, Any] = report._asdict()
    write_json(content, folder / "report.json")
    return report
