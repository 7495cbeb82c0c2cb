"""Where commands print tables."""

import sys

from rich.console import Console

_WIDTH_OF_FILES = 200


def result_console() -> Console:
    """The terminal, as wide as it is; a pipe or a file, with wide lines that no other program has to put together."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)
