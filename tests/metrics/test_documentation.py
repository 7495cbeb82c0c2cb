"""The page on metrics explains what runs log: no less, and no more."""

import csv
import re
from pathlib import Path

import pytest

from srch3.cli import main
from tests.runs import make_beir_folder, small

PAGE = Path(__file__).parent.parent.parent / "srch3" / "metrics" / "README.md"
MODES = ("thinking", "direct", "empty", "shuffled", "copied", "mean-2", "budget-3")
TERMS = ("cross_entropy", "base_kl", "info_nce", "triplet_margin")
LABELS = {"epoch", "step"}
WIDTH = "8"
PARTS = ("scaled_dcg", "format")
AGES = ("0", "1")
REWARDS = "[{class_path: ScaledDCG}, {class_path: Format}]"
NOT_IN_FILES = {"train/reward_histogram", "val/thoughts", "test/thoughts"}
ONLY_IN_VALIDATION = {"test/perplexity", "test/perplexity_ratio"}
ALL_FIGURES = [
    f"--model.init_args.modes=[{','.join(MODES)}]",
    f"--model.init_args.info_nce.init_args.widths=[{WIDTH}]",
]


def explained() -> set[str]:
    """Names in the first columns of the tables, with both splits, all modes, a width, parts of the reward and ages."""
    cells = re.findall(r"^\| (`.*?`) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    names = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    filled = {name.replace("<width>", WIDTH).replace("<part>", part) for name in names for part in PARTS}
    aged = {name.replace("<age>", age) for name in filled for age in AGES}
    by_mode = {name.replace("<mode>", mode) for name in aged for mode in MODES}
    return by_mode | {f"test/{name.removeprefix('val/')}" for name in by_mode if name.startswith("val/")}


def logged(version: int) -> set[str]:
    with Path(f"runs/version_{version}/metrics.csv").open() as file:
        return set(csv.DictReader(file).fieldnames or ()) - LABELS


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What the stages log with every option that adds a metric."""
    folder = tmp_path_factory.mktemp("runs")
    root = make_beir_folder(folder / "beir")
    short = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", *ALL_FIGURES]
    summed = ["--model.init_args.reward=Sum", f"--model.init_args.reward.init_args.rewards={REWARDS}"]
    settings = ("audit_every_n_steps=1", "drift_every_n_steps=1", "index=HnswIndex")
    audit = [f"--environment.init_args.{setting}" for setting in settings]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        courses = [f"--model.init_args.{term}.init_args.final_weight=0.5" for term in TERMS]
        main(small("fit", "sft", root, folder / "model", *short, *courses, "--model.init_args.overlong=skip"))
        last = "--model.init_args.init_from=runs/version_0/checkpoints/last.ckpt"
        main(small("fit", "rl", root, folder / "model", *short, *audit, *summed, last))
        main(small("test", "rl", root, folder / "model", *ALL_FIGURES))
        return {name: logged(version) for version, name in enumerate(("sft", "rl", "test"))}


@pytest.mark.parametrize("name", ["sft", "rl", "test"])
def test_everything_that_is_logged_is_explained(runs: dict[str, set[str]], name: str) -> None:
    assert runs[name] - explained() == set()
    assert len(runs[name]) > 10


def test_everything_that_is_explained_is_logged(runs: dict[str, set[str]]) -> None:
    everything = set().union(*runs.values())
    rarely = {"env/advantage_correlation"}  # rewards of an untrained model may have no spread
    of_stage_zero = {"val/loss", "test/loss"}
    assert explained() - everything - rarely == of_stage_zero | NOT_IN_FILES | ONLY_IN_VALIDATION
