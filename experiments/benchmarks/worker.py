"""Measurements in processes of their own, so that their time and memory are theirs alone."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = Callable[[str, dict[str, Any]], dict[str, Any]]


def apart(module: str, job: str, task: dict[str, Any], threads: int) -> dict[str, Any]:
    """Has a job done by a new process.

    Args:
        module: Dotted name of a program that ends in :func:`serve`.
        job: What is to be done.
        task: What it needs to know, as JSON can hold it.
        threads: Of the process.

    Returns:
        Its figures.

    Raises:
        CalledProcessError: It failed; ``stderr`` says why.
    """
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRL_EXPERIMENTAL_SILENCE"), "1")
    environment = {**os.environ, **limits, **offline, "TOKENIZERS_PARALLELISM": "true"}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", module, job, json.dumps(task), str(result)]
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        figures: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return figures


def serve(work: Work) -> None:
    """The other side of :func:`apart`: reads job, task and the result's file from the command line.

    Args:
        work: Does a job, and gives its figures.
    """
    job, task, result = sys.argv[1:]
    Path(result).write_text(json.dumps(work(job, json.loads(task))), encoding="utf-8")


def explain(error: subprocess.CalledProcessError) -> None:
    """Says what a process of :func:`apart` died of."""
    print(error.stderr, f"error: {error.cmd[3]} failed with exit code {error.returncode}", sep="", file=sys.stderr)
