"""What the command lines of all comparisons have in common."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def make_parser(program: str, description: str | None, seed: str) -> argparse.ArgumentParser:
    """A parser of ``--smoke``, ``--output``, ``--results`` and ``--seed``.

    Args:
        program: Dotted name of the program; what it writes goes to a folder named after its package.
        description: What it does.
        seed: What the seed decides.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description, allow_abbrev=False)
    output = Path("runs/benchmarks") / program.split(".")[-2]
    add = parser.add_argument
    add("--smoke", action="store_true", help="seconds instead of minutes, to see that everything works")
    add("--output", type=Path, default=output, help="folder for what is prepared and kept (%(default)s)")
    add("--results", type=Path, help="receives the figures (default: beside this program; with --smoke in the output)")
    add("--seed", type=int, default=0, help=f"seed of {seed} (%(default)s)")
    return parser


def destinations(given: argparse.Namespace, results: Path) -> tuple[Path, Path]:
    """The folder that the program may write to, and the file of its figures; the minute's version has others.

    Args:
        given: What the parser read.
        results: The file beside the program.
    """
    if not given.smoke:
        return given.output, given.results or results
    output = given.output.with_name(f"{given.output.name}-smoke")
    return output, given.results or output / "results.json"


def publish(results: Mapping[str, Any], path: Path) -> None:
    """Writes figures to a file, and says where it is.

    Args:
        results: The figures.
        path: The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"figures: {path}")
