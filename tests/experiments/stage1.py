"""What the tests of the experiment on stage 1 share."""

from collections.abc import Sequence
from pathlib import Path

from experiments.stage1.settings import Settings, parse
from experiments.stage1.variants import VARIANTS
from tests.runs import make_beir_folder


def make_data(folder: Path) -> Path:
    """A data set whose test queries are the unseen ones too."""
    root = make_beir_folder(folder)
    (root / "qrels" / "test_unseen.tsv").write_bytes((root / "qrels" / "test.tsv").read_bytes())
    return root


def settings_for(root: Path, *arguments: str) -> Settings:
    return parse("experiments.stage1.run", "", ["--root", str(root), *arguments], list(VARIANTS))


def option(command: Sequence[str], name: str) -> str:
    """The last value of an option, which is the one that counts."""
    return command[len(command) - command[::-1].index(name)]
