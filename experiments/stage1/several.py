"""Runs several commands of ``python -m srch3`` one after the other in one process, which saves their start-up.

Each argument is one command, in one piece: ``python -m experiments.stage1.several "test -c …" "test -c …"``.
"""

import shlex
import sys
from collections.abc import Sequence

from srch3.cli import main as srch3


def main(commands: Sequence[str]) -> None:
    """Runs the commands; the first that fails ends the process, with its exit code."""
    for command in commands:
        print(f"$ python -m srch3 {command}", flush=True)
        srch3(shlex.split(command))


if __name__ == "__main__":
    main(sys.argv[1:])
