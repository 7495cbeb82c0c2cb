"""``make quickstart``: from nothing to a model that thinks and searches, and to a report about it.

Trains a base, then stage 1, stage 2 and a control, evaluates them all, and shows what came of it. Every stage is a
command of its own, printed before it runs. What is finished is not done again, and what was interrupted goes on.
"""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.quickstart.examples import show_examples
from experiments.quickstart.process import INTERRUPTED, run
from experiments.quickstart.progress import Progress, forget, progress_of, resuming, save, write_json
from experiments.quickstart.report import build_report, show_report
from experiments.quickstart.settings import Settings, parse, python
from experiments.quickstart.stages import Stage, stages
from srch3.errors import DataError

PROGRAM = "experiments.quickstart.run"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the quickstart.

    Args:
        arguments: The command line; by default what the shell was given.

    Returns:
        The exit code: that of a stage which failed, 130 after Ctrl-C.
    """
    began = time.perf_counter()
    settings = parse(PROGRAM, "Trains and evaluates a small model from nothing, then reports.", arguments)
    console = Console(record=True, highlight=False)
    try:
        return _run(settings, console) or _conclude(settings, console, began)
    except KeyboardInterrupt:
        return _stopped(settings, "stopped", INTERRUPTED)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(settings: Settings, console: Console) -> int:
    """Runs what is not finished; returns the exit code of the stage that failed, or 0."""
    todo = stages(settings)
    ran: set[str] = set()
    for number, stage in enumerate(todo, start=1):
        if settings.fresh or not ran.isdisjoint(stage.needs):
            forget(stage, settings.output)
        progress, changed = progress_of(stage, settings.output)
        console.rule(f"{number}/{len(todo)} {stage.name}: {stage.title}", align="left")
        if changed:
            console.print("its settings, or those of a stage before it, have changed: it starts over")
        if progress.finished:
            console.print(f"finished before, in {progress.seconds:.0f} s")
            continue
        ran.add(stage.name)
        code = _attempt(stage, progress, settings.output, console)
        if code:
            reason = "stopped" if code == INTERRUPTED else f"stage {stage.name} failed ({_why(code)})"
            return _stopped(settings, reason, code)
    return 0


def _attempt(stage: Stage, progress: Progress, output: Path, console: Console) -> int:
    """Runs a stage, or the rest of it, and writes down what it took."""
    command = resuming(stage, output)
    console.print(f"$ {shlex.join(command)}", style="bold", markup=False, soft_wrap=True)
    save(progress, stage, output)
    spent = run(command)
    save(progress.after(spent), stage, output)
    if spent.code == 0:
        console.print(f"{stage.name}: {spent.seconds:.0f} s, at most {spent.peak_mib:,.0f} MiB")
    return spent.code


def _stopped(settings: Settings, reason: str, code: int) -> int:
    """Says in one line how to go on."""
    again = shlex.join([python(), "-m", PROGRAM, *settings.options()])
    print(f"{reason}; what is finished is kept, and the same command goes on from there: {again}", file=sys.stderr)
    return code if code > 0 else 1


def _why(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"killed by signal {-code}"


def _conclude(settings: Settings, console: Console, began: float) -> int:
    """Writes the report and the plot, and shows them."""
    from experiments.quickstart.plot import plot  # loads matplotlib, which takes a second of every run that fails

    output = settings.output
    took = {stage.name: progress_of(stage, output)[0] for stage in stages(settings)}
    report = build_report(output, settings.seed, took)
    write_json(report, output / "report.json")
    picture = plot(report, output)
    console.rule("five searches of stage 2, drawn from the held-out queries by a hash", align="left")
    console.print(show_examples(json.loads((output / "evaluate" / "examples.json").read_text(encoding="utf-8"))))
    console.rule("what came of it", align="left")
    console.print(show_report(report))
    total = sum(progress.seconds for progress in took.values())
    console.print(f"report: {output / 'report.json'}   plot: {picture}", soft_wrap=True)
    console.print(f"time: {time.perf_counter() - began:.0f} s, {total:.0f} s for all stages since the beginning")
    console.print(f"search it yourself: {_how_to_search(output)}", soft_wrap=True, markup=False)
    console.save_text(str(output / "report.txt"))
    return 0


def _how_to_search(output: Path) -> str:
    """The commands that index what was searched, and serve a page."""
    index = [python(), "-m", "srch3", "index", "--model", str(output / "rl" / "best.ckpt")]
    index += ["--corpus", str(output / "corpus.jsonl"), "--output", str(output / "index")]
    return f"{shlex.join(index)} && {shlex.join([python(), '-m', 'srch3', 'serve', '--index', str(output / 'index')])}"


if __name__ == "__main__":
    sys.exit(main())
