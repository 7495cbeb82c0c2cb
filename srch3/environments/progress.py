"""A progress bar for encoding passes that take long enough to want one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import get_console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

PATIENCE = 2.0
"""Seconds before a bar appears."""


class _Rate(ProgressColumn):
    """How many per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")


@contextmanager
def encoding_bar(title: str, total: int, visible: bool = True) -> Iterator[Callable[[int], None]]:
    """Gives a function that takes the number of documents encoded since its last call.

    The bar appears only once the pass has taken a while. It shares rich's global console with the progress bar of
    Lightning, and so stands below that one while both are shown.
    """
    began = time.perf_counter()
    amounts = (TextColumn(title), BarColumn(), MofNCompleteColumn(), _Rate())
    columns = (*amounts, TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=get_console(), transient=True)
    task = bar.add_task(title, total=total)

    def advance(count: int) -> None:
        bar.advance(task, count)
        if visible and not bar.live.is_started and time.perf_counter() - began >= PATIENCE:
            bar.start()
        bar.refresh()

    try:
        yield advance
    finally:
        if bar.live.is_started:  # where it is not, stopping prints an empty line into files
            bar.stop()
