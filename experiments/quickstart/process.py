"""Runs a command with its console untouched, and measures it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C stopped."""


class Spent(NamedTuple):
    """What a command took.

    Attributes:
        seconds: From start to end.
        peak_mib: The most memory it held at once; that of its largest process, where it started others. Linux counts at
            least what the process held that started it, so that one should be small.
        code: Its exit code; negative for the signal that killed it, and 130 where Ctrl-C was pressed meanwhile.
    """

    seconds: float
    peak_mib: float
    code: int


def run(command: Sequence[str]) -> Spent:
    """Runs a command to its end, on Linux or macOS.

    Ctrl-C reaches the command through the terminal, and is its own to answer: training saves before it stops.

    Args:
        command: Program and arguments.
    """
    began = time.perf_counter()
    with _ctrl_c_noted() as pressed:
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    code = INTERRUPTED if pressed and process.returncode else process.returncode
    return Spent(time.perf_counter() - began, usage.ru_maxrss / unit, code)


@contextmanager
def _ctrl_c_noted() -> Iterator[list[int]]:
    """A list that grows by one at each Ctrl-C, which does nothing else here."""
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    previous = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, previous)
