import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor
from torch.utils.data import DataLoader

from srch3.data import Corpus
from srch3.environments import SearchEnvironment
from srch3.errors import ConfigError
from srch3.modules import SFTModule
from srch3.monitoring import ThoughtTable
from srch3.monitoring.thoughts import ThoughtRow, thought_rows
from srch3.types import Hits, QueryBatch, Searches
from tests.programs import Line, NumberData
from tests.toy import ToyDataModule, quiet_trainer, toy_embedder

CORPUS = Corpus(["a", "b", "c"], ["first  [bold]\ntext", "second " * 20, "third"])


class Counting(SearchEnvironment):
    """Counts its searches."""

    searches = 0

    def search(self, queries: Tensor, k: int, split: Any, width: int | None = None) -> Hits:
        self.searches += 1
        return super().search(queries, k, split, width)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    toy_embedder(path)
    return path


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


def validate(folder: Path, table: ThoughtTable, size: int = 4, **settings: Any) -> Counting:
    environment = Counting(show_progress=False)
    trainer = quiet_trainer(folder, callbacks=[table, environment], **settings)
    model = SFTModule(toy_embedder(folder), modes=["thinking", "direct"])
    trainer.validate(model, ToyDataModule(eval_batch_size=size), verbose=False)
    return environment


def test_a_row_tells_what_a_query_found() -> None:
    hits = Hits(torch.tensor([[1, 0, 2], [2, 1, 0]]), torch.tensor([[0.75, 0.5, -0.25], [1.0, 0.5, 0.25]]))
    ids = [["b", "a", "c"], ["c", "b", "a"]]
    searches = Searches(["q1", "q2"], ["one", "two"], ["thought", ""], hits, ids)
    rows = thought_rows(searches, [{"a": 1, "c": 1}, {}], CORPUS, 2)
    assert rows[0] == ThoughtRow(
        "one",
        "thought",
        f"  0.75 b: {('second ' * 20)[:59]}…\n* 0.50 a: first [bold] text",
        2,
        pytest.approx((0.63092975 + 0.5) / 1.63092975, abs=1e-6),  # type: ignore[arg-type]
    )
    assert rows[1][:2] == ("two", "")
    assert rows[1].first_relevant is None
    assert rows[1].ndcg == 0


def test_the_first_queries_are_shown_without_another_search(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = ThoughtTable(rows=6, hits=2)
    assert validate(folder, table).searches == 10 * 2
    shown = capsys.readouterr().out
    assert "Thoughts after 0 steps" in shown
    queries = [query.text for query in ToyDataModule().queries("val")]
    assert [text in shown for text in queries] == [True] * 6 + [False] * 34
    first = next(line for line in shown.splitlines() if queries[0] in line)
    assert shown.count(" d") >= 12
    assert len(first.split("│")) == 7


def test_the_same_queries_are_shown_every_time_and_none_in_the_sanity_check(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = quiet_trainer(
        tmp_path,
        max_steps=4,
        val_check_interval=2,
        num_sanity_val_steps=2,
        callbacks=[ThoughtTable(rows=1), Counting()],
    )
    trainer.fit(SFTModule(toy_embedder(folder), optimizer=torch.optim.AdamW), ToyDataModule(batch_size=6))
    shown = capsys.readouterr().out
    assert [f"Thoughts after {step} steps" in shown for step in range(5)] == [False, False, True, False, True]
    assert shown.count(ToyDataModule().queries("val")[0].text) == 2


def test_text_is_not_taken_for_markup(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    class Fixed(Line):
        def validation_step(self, batch: Tensor, batch_idx: int) -> Any:
            hits = Hits(torch.tensor([[0, 1, 2]]), torch.tensor([[0.9, 0.5, 0.1]]))
            return Searches(["q"], ["[red]query[/red]"], ["[/]"], hits, [["a", "b", "c"]])

        def required_environment(self) -> Any:
            return self

        def corpus(self, split: str) -> Corpus:
            return CORPUS

    class Judged(NumberData):
        def val_dataloader(self) -> Any:
            return DataLoader(self.numbers, batch_size=8, collate_fn=lambda _: QueryBatch(["q"], [""], [{"c": 1}]))

    quiet_trainer(tmp_path, callbacks=[ThoughtTable()]).validate(Fixed(), Judged(), verbose=False)
    shown = capsys.readouterr().out
    assert "[red]query[/red]" in shown
    assert "[/]" in shown
    assert "first [bold] text" in shown


def test_weights_and_biases_gets_the_table_offline(folder: Path, tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    logger = WandbLogger(offline=True, project="p", save_dir=tmp_path)
    validate(folder, ThoughtTable(rows=3), logger=logger)
    wandb.finish()
    (path,) = tmp_path.rglob("*.table.json")
    content = json.loads(path.read_text())
    assert path.parent.parent.name == "table"
    assert content["columns"] == ["query", "thought", "hits", "first_relevant", "ndcg"]
    assert [row[0] for row in content["data"]] == [query.text for query in ToyDataModule().queries("val")[:3]]
    assert all(len(row[2].splitlines()) == 3 for row in content["data"])


def test_models_that_do_not_search_are_refused(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, callbacks=[ThoughtTable()])
    with pytest.raises(ConfigError, match="ThoughtTable expects a model whose validation_step returns Searches"):
        trainer.validate(Line(), NumberData(), verbose=False)
    for name in ("rows", "hits"):
        with pytest.raises(ConfigError, match=rf"ThoughtTable\.{name}: expected at least 1, got 0"):
            ThoughtTable(**{name: 0})
