"""What a function takes, measured in a process of its own. Linux only: it reads ``/proc``."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MIB = 1024


class Meter:
    """Time and memory since it was made.

    Time is that of this process' threads on the processor, so that other work on the machine does not count.
    """

    def __init__(self) -> None:
        self._memory = _memory()
        self._began = time.process_time()

    def seconds(self) -> float:
        """Processor seconds."""
        return time.process_time() - self._began

    def own_mib(self) -> float:
        """Growth of what only this process holds, and nothing can take from it: its objects."""
        return (_memory()["RssAnon"] - self._memory["RssAnon"]) / MIB

    def mapped_mib(self) -> float:
        """Growth of what it has read of files: shared by all processes, and given back when memory is short."""
        return (_memory()["RssFile"] - self._memory["RssFile"]) / MIB

    def peak_mib(self) -> float:
        """The most that it held at once beyond what it began with."""
        return (_memory()["VmHWM"] - self._memory["VmRSS"]) / MIB


def apart(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a function returns in a forked process.

    Raises:
        RuntimeError: Where it fails; its traceback is on the console.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        return dict(receiver.recv())
    except EOFError:
        raise RuntimeError(f"{function.__name__} failed in its process") from None
    finally:
        process.join()


def _send(sender: Connection, function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    sender.send(function(*arguments))


def _memory() -> dict[str, int]:
    """KiB by name."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1] == "kB"}
