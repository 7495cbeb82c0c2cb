"""A reward, a pool and an algorithm from outside: one file and one line of YAML each."""

import csv
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import tensor
from torch.nn.functional import normalize

from srch3.cli import SearchCLI, main
from srch3.indexes import ExactIndex
from srch3.losses import PolicyLoss
from srch3.rewards import Asked
from tests.rewards.outcomes import outcome
from tests.runs import make_beir_folder, small

HERE = Path(__file__).parent
LINES = dict(re.findall(r"\| `(\w+): (our_search\.[\w.]+)` \|", (HERE / "README.md").read_text(encoding="utf-8")))
STEPS = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--model.init_args.hits=40"]


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.chdir(tmp_path)


def load(argument: str) -> Any:
    """The class that a line of the README names."""
    module, _, name = LINES[argument].rpartition(".")
    return getattr(importlib.import_module(module), name)


def fit(folder: Path, yaml: str, *options: str) -> tuple[SearchCLI, list[dict[str, str]]]:
    """Trains two steps with a few lines of YAML above those of the small experiment; gives what was logged."""
    lines = Path("ours.yaml")
    lines.write_text(f"model:\n  init_args:\n    {yaml}\n", encoding="utf-8")
    root = make_beir_folder(folder / "beir")
    cli = main([*small("fit", "rl", root, folder / "model"), "--config", str(lines), *STEPS, *options])
    with Path("runs/version_0/metrics.csv").open() as file:
        return cli, [row for row in csv.DictReader(file) if row.get("train/loss")]


def test_each_file_has_its_line() -> None:
    assert set(LINES) == {"reward", "pool", "policy_loss"}
    files = {path.stem for path in (HERE / "our_search").glob("*.py")} - {"__init__"}
    assert files == {path.split(".")[1] for path in LINES.values()}


@pytest.mark.parametrize("argument", LINES)
def test_one_line_trains_with_it(argument: str, tmp_path: Path) -> None:
    cli, rows = fit(tmp_path, f"{argument}: {LINES[argument]}")
    assert isinstance(getattr(cli.model, argument), load(argument))
    assert len(rows) == 2
    assert all(torch.isfinite(tensor(float(row["train/loss"]))) for row in rows)


def test_it_can_be_part_of_a_sum_and_have_arguments(tmp_path: Path) -> None:
    theirs = f"{{class_path: {LINES['reward']}, init_args: {{ceiling: 0.5, weight: 2.0}}}}"
    cli, rows = fit(tmp_path, f"reward: {{class_path: Sum, init_args: {{rewards: [ScaledDCG, {theirs}]}}}}")
    assert cli.model.reward.rewards[1].ceiling == 0.5
    parts = [[float(row[f"train/reward/{name}"]) for name in ("scaled_dcg", "new_words")] for row in rows]
    assert [float(row["train/reward"]) for row in rows] == pytest.approx([dcg + 2 * new for dcg, new in parts])


def test_arguments_that_it_does_not_have_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fit(tmp_path, f"pool: {{class_path: {LINES['pool']}, init_args: {{size: 3}}}}")
    assert "size" in capsys.readouterr().err


# What the examples compute


def test_the_reward_by_hand() -> None:
    judged = outcome(torch.zeros(3, 1), torch.zeros(3, 1))
    judged = judged._replace(queries=["a b"] * 3, thoughts=["a c d", "", "a b"])
    reward = load("reward")
    torch.testing.assert_close(reward()(judged), tensor([2 / 3, 0.0, 0.0]))
    torch.testing.assert_close(reward(ceiling=0.5, weight=2.0)(judged), tensor([1.0, 0.0, 0.0]))


def test_the_pool_has_the_judged_documents_and_as_many_others_as_wanted() -> None:
    index = ExactIndex()
    index.build(normalize(torch.randn(30, 4, generator=torch.Generator().manual_seed(0))))
    asked = Asked(index.vectors[[3, 8]], tensor([0, 1]), [{3: 1}, {8: 2}], index, 30, tensor([3]), None, seed=5)
    ranked = load("pool")(documents=6).rank(asked, 30)
    assert 6 <= ranked.hits.rows.shape[1] <= 8
    assert ranked.hits.rows[:, 0].tolist() == [3, 8]
    assert ranked.grades[:, 0].tolist() == [1, 2]


def test_the_algorithm_is_the_usual_one_until_the_clip() -> None:
    draw = torch.Generator().manual_seed(0)
    old = -torch.rand(5, 7, generator=draw)
    advantages = torch.randn(5, generator=draw)
    mask = torch.rand(5, 7, generator=draw) > 0.3
    gradients = []
    for loss in (load("policy_loss")(), PolicyLoss()):
        logp = old.clone().requires_grad_()
        loss(logp, old, advantages, mask, 7).loss.backward()
        gradients.append(logp.grad)
    torch.testing.assert_close(*gradients)
    logp = (old + 1).requires_grad_()
    terms = load("policy_loss")(clip_high=0.5)(logp, old, advantages, mask, 7)
    terms.loss.backward()
    torch.testing.assert_close(logp.grad, 1.5 * gradients[0])
    assert float(terms.clipped_share) == 1
