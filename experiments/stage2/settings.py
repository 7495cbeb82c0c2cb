"""What a user can choose about the experiment, and what it is done on."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.quickstart.stages import read_config
from experiments.stage1.commands import digest
from experiments.stage1.settings import SPLITS
from experiments.stage2.smoke import STEPS, make_data
from experiments.stage2.variants import FULL, VARIANTS
from srch3.data import BeirDataModule, PythonSourceDataModule, RetrievalDataModule

HERE = Path(os.path.relpath(Path(__file__).parent))
_QUICKSTART = HERE.parent.parent / "configs" / "quickstart"


class DataSet(NamedTuple):
    """What is searched, and the settings that fit it.

    Attributes:
        name: What it is called.
        base: Settings of stage 0.
        sft: Of stage 1, on some of the training queries.
        rl: Of stage 2, on the others.
        root: The BEIR folder; None for the quickstart's data.
    """

    name: str
    base: Path
    sft: Path
    rl: Path
    root: Path | None = None

    def options(self) -> list[str]:
        """Options that name the data."""
        return ["--data.init_args.root", str(self.root)] if self.root else []

    def base_options(self) -> list[str]:
        """The same for stage 0, which reads no query that is new in stage 2."""
        source = "--data.init_args.source.init_args"
        return [f"{source}.root", str(self.root), f"{source}.train_slice", "[0.0,0.7]"] if self.root else []

    def splits(self) -> dict[str, list[str]]:
        """What is measured, with the options that name its queries; those that a folder lacks are left out."""
        if self.root is None:
            return {"test": []}
        found = {split: name for split, name in SPLITS.items() if (self.root / "qrels" / f"{name}.tsv").is_file()}
        return {split: ["--data.init_args.test_split", name] for split, name in found.items()}

    def test_data(self) -> dict[str, RetrievalDataModule]:
        """By split, a module whose test queries it is."""
        if self.root is None:
            return {"test": PythonSourceDataModule()}
        return {split: BeirDataModule(str(self.root), test_split=name) for split, (_, name) in self.splits().items()}

    def identity(self) -> str:
        """Changes with the data."""
        return digest(self.root) if self.root else ""


class Settings(NamedTuple):
    """One experiment on one data set.

    Attributes:
        data: What is searched.
        output: Folder that receives everything.
        seeds: Of the weights, the order of training and whatever else is random.
        jobs: Processes side by side, each of one thread.
        smoke: Whether this is the version which shows that everything works and learns nothing.
        publish: Whether to put the figures into ``results.json`` and the README.
        variants: Names, in the order of the tables, with whatever they need.
        steps: Of stage 2; None for those of its file.
        stage1_steps: Of stage 1; None for those of its file.
    """

    data: DataSet
    output: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 1
    smoke: bool = False
    publish: bool = False
    variants: tuple[str, ...] = tuple(VARIANTS)
    steps: int | None = None
    stage1_steps: int | None = None


def trainer_of(config: Path) -> dict[str, Any]:
    """What a file says about the trainer."""
    trainer: dict[str, Any] = read_config(config)["trainer"]
    return trainer


def parse(program: str, description: str, arguments: Sequence[str] | None) -> Settings:
    """Reads a command line.

    Args:
        program: Dotted name of the program.
        description: What it does.
        arguments: What follows the program's name; by default what the shell was given.
    """
    parser = _parser(program, description)
    given = parser.parse_args(arguments)
    if min(given.seeds) < 0 or given.jobs < 1:
        parser.error(f"expected --seeds of 0 or more and --jobs of 1 or more; got {given.seeds} and {given.jobs}")
    for name, steps in (("--steps", given.steps), ("--stage1-steps", given.stage1_steps)):
        if steps is not None and steps < 2:
            parser.error(f"{name}: expected 2 or more; got {steps}")
    if given.smoke and given.publish:
        parser.error("--publish: expected a full run; --smoke learns nothing that is worth publishing")
    if given.root is not None and not (given.root / "qrels" / "train.tsv").is_file():
        parser.error(f"--root: expected a BEIR folder with qrels/train.tsv; got {given.root}")
    name = "smoke" if given.smoke else "quickstart" if given.quickstart else given.root.resolve().name
    output = given.output or Path("runs/stage2") / name
    root = make_data(output / "data") if given.smoke else given.root
    steps, stage1_steps = (STEPS, STEPS) if given.smoke else (given.steps, given.stage1_steps)
    seeds = tuple(dict.fromkeys(given.seeds))
    chosen = with_needs(given.variants or list(VARIANTS))
    data = data_set(name, root)
    return Settings(data, output, seeds, given.jobs, given.smoke, given.publish, chosen, steps, stage1_steps)


def data_set(name: str, root: Path | None) -> DataSet:
    """The data with their settings; without a folder, those of the quickstart."""
    if root is None:
        return DataSet(name, *(_QUICKSTART / f"{stage}.yaml" for stage in ("base", "sft", "rl")))
    return DataSet(name, HERE.parent / "stage1" / "base.yaml", HERE / "sft.yaml", HERE / "rl.yaml", root)


def with_needs(names: Sequence[str]) -> tuple[str, ...]:
    """The variants of these names, and those whose training time they are given."""
    needed = {need for name in names if (twin := VARIANTS[name].in_time) for need in (twin, FULL)}
    return tuple(name for name in VARIANTS if name in {*names, *needed})


def _parser(program: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description, allow_abbrev=False)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--root", type=Path, metavar="BEIR_FOLDER", help="the data set")
    data.add_argument("--quickstart", action="store_true", help="the data and settings of the quickstart instead")
    data.add_argument("--smoke", action="store_true", help="a few steps each on made-up data, in about a minute")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--output", type=Path, help="receives everything (default: runs/stage2/ and the data's name)")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side, each of one thread (default: 1)")
    parser.add_argument("--publish", action="store_true", help="put the figures into results.json and the README")
    parser.add_argument("--steps", type=int, help="of stage 2 (default: those of its file)")
    parser.add_argument("--stage1-steps", type=int, help="of stage 1 (default: those of its file)")
    names = ", ".join(VARIANTS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, metavar="NAME", help=f"default: {names}")
    return parser
