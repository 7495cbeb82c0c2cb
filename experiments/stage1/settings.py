"""What a user can choose about an experiment."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SPLITS = {"dev": "dev", "test": "test", "unseen": "test_unseen"}
"""What is measured, with the name of its judgements; those that a folder lacks are left out."""


class Settings(NamedTuple):
    """One experiment on one data set.

    Attributes:
        root: The BEIR folder.
        output: Folder that receives everything.
        seeds: Of the weights, the order of training and whatever else is random.
        jobs: Processes side by side, each of one thread.
        smoke: Whether to run a version which shows that everything works and learns nothing.
        publish: Whether to put the figures into ``results.json`` and the README.
        steps: Of each training; None for those of ``sft.yaml``.
        variants: Names, in the order of the table.
    """

    root: Path
    output: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 1
    smoke: bool = False
    publish: bool = False
    variants: tuple[str, ...] = ()
    steps: int | None = None

    @property
    def data_set(self) -> str:
        """Its name: that of the folder."""
        return self.root.resolve().name

    def splits(self) -> dict[str, str]:
        """Those of ``SPLITS`` that the folder has judgements for."""
        return {split: name for split, name in SPLITS.items() if (self.root / "qrels" / f"{name}.tsv").is_file()}


def parse(
    program: str, description: str, arguments: Sequence[str] | None, variants: Sequence[str] | None = None
) -> Settings:
    """Reads a command line.

    Args:
        program: Dotted name of the program.
        description: What it does.
        arguments: What follows the program's name; by default what the shell was given.
        variants: What ``--variants`` chooses from; there is no such option without.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description, allow_abbrev=False)
    parser.add_argument("--root", type=Path, required=True, metavar="BEIR_FOLDER", help="the data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--output", type=Path, help="receives everything (default: runs/stage1/ and the folder's name)")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side, each of one thread (default: 1)")
    parser.add_argument("--smoke", action="store_true", help="a few steps each, to see that everything works")
    parser.add_argument("--publish", action="store_true", help="put the figures into results.json and the README")
    parser.add_argument("--steps", type=int, help="of each training (default: those of sft.yaml)")
    if variants is not None:
        names = ", ".join(variants)
        parser.add_argument("--variants", nargs="+", choices=variants, metavar="NAME", help=f"default: {names}")
    given = parser.parse_args(arguments)
    if min(given.seeds) < 0 or given.jobs < 1:
        parser.error(f"expected --seeds of 0 or more and --jobs of 1 or more; got {given.seeds} and {given.jobs}")
    if given.steps is not None and given.steps < 2:
        parser.error(f"--steps: expected 2 or more; got {given.steps}")
    if given.smoke and given.publish:
        parser.error("--publish: expected a full run; --smoke learns nothing that is worth publishing")
    if not (given.root / "qrels" / "train.tsv").is_file():
        parser.error(f"--root: expected a BEIR folder with qrels/train.tsv; got {given.root}")
    chosen = [name for name in variants or () if name in (getattr(given, "variants", None) or variants or ())]
    output = given.output or Path("runs/stage1") / f"{given.root.resolve().name}{'-smoke' if given.smoke else ''}"
    seeds = tuple(dict.fromkeys(given.seeds))
    return Settings(given.root, output, seeds, given.jobs, given.smoke, given.publish, tuple(chosen), given.steps)
