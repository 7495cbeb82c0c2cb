"""A progress bar for encoding passes that take long enough to want one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PATIENCE = 2.0
"""Seconds before a bar appears."""


@contextmanager
def encoding_bar(title: str, total: int, visible: bool = True) -> Iterator[Callable[[int], None]]:
    """Gives a function that takes the number of documents encoded since its last call.

    The bar appears only once the pass has taken a while. It shares rich's global console with the progress bar of
    Lightning, and so stands below that one while both are shown.
    """
    began = time.perf_counter()
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
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
        bar.stop()
