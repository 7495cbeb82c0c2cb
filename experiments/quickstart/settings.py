"""What a user can choose about the quickstart, and where everything lies."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CONFIGS = Path("configs/quickstart")
"""The stages' YAML files, as seen from the folder that holds the repository."""


class Settings(NamedTuple):
    """One run of the quickstart.

    Attributes:
        output: Folder that receives everything.
        seed: Of weights, order of training and sampling. The test queries do not depend on it.
        smoke: Whether to run a version of a minute, which shows that everything works and learns nothing.
        fresh: Whether to forget what an earlier run finished.
    """

    output: Path
    seed: int = 0
    smoke: bool = False
    fresh: bool = False

    def options(self) -> list[str]:
        """The command line that gives these settings, but for ``fresh``."""
        seed = ["--seed", str(self.seed)] if self.seed else []
        smoke = ["--smoke"] if self.smoke else []
        output = [] if self.output == _default_output(self.seed, self.smoke) else ["--output", str(self.output)]
        return [*seed, *smoke, *output]


def parse(program: str, description: str, arguments: Sequence[str] | None) -> Settings:
    """Reads a command line; refuses to run where the YAML files are not to be found.

    Args:
        program: Dotted name of the program.
        description: What it does.
        arguments: What follows the program's name; by default what the shell was given.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description, allow_abbrev=False)
    parser.add_argument("--output", type=Path, help="folder that receives everything (default: runs/quickstart)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, the order of training and sampling")
    parser.add_argument("--smoke", action="store_true", help="a minute's version, to see that everything works")
    parser.add_argument("--fresh", action="store_true", help="start over, whatever was finished before")
    given = parser.parse_args(arguments)
    if given.seed < 0:
        parser.error(f"--seed: expected 0 or more; got {given.seed}")
    if not CONFIGS.is_dir():
        parser.error(f"expected {CONFIGS} below the working folder; run this in the root of the repository")
    output = given.output or _default_output(given.seed, given.smoke)
    return Settings(output, given.seed, given.smoke, given.fresh)


def _default_output(seed: int, smoke: bool) -> Path:
    return Path(f"runs/quickstart{'-smoke' if smoke else ''}{f'-seed{seed}' if seed else ''}")


def python() -> str:
    """This interpreter, as short as it can be typed in the working folder."""
    place = os.path.relpath(sys.executable)
    return sys.executable if place.startswith(os.pardir) else place
