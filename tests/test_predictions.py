import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from srch3.errors import ConfigError, DataError
from srch3.predictions import SearchResultsWriter
from srch3.types import Hits, Searches
from tests.programs import Line, NumberData, Searcher


def searches(ids: list[str], documents: list[list[str]], scores: list[list[float]]) -> Searches:
    rows = torch.arange(len(documents[0])).expand(len(ids), -1)
    hits = Hits(rows, torch.tensor(scores))
    return Searches(ids, [f"text of {name}" for name in ids], [f"thought of {name}" for name in ids], hits, documents)


def written(folder: Path, parts: list[list[Searches]], **settings: Any) -> Path:
    """What several processes, each with its batches, write together."""
    writers = []
    for rank, batches in enumerate(parts):
        strategy = SimpleNamespace(broadcast=lambda value: value, barrier=lambda name: None)
        trainer: Any = SimpleNamespace(
            strategy=strategy, global_rank=rank, is_global_zero=rank == 0, world_size=len(parts)
        )
        writer = SearchResultsWriter(str(folder), **settings)
        writer.on_predict_start(trainer, Line())
        try:
            for number, batch in enumerate(batches):
                writer.write_on_batch_end(trainer, Line(), batch, None, None, number, 0)
        except DataError as error:
            writer.on_exception(trainer, Line(), error)
            raise
        writers.append((writer, trainer))
    for writer, trainer in reversed(writers):
        writer.on_predict_end(trainer, Line())
    return folder


def test_a_run_has_one_line_per_hit_and_one_object_per_query(tmp_path: Path) -> None:
    batch = searches(["q1", "q2"], [["a", "b"], ["b", "c"]], [[0.75, 0.5], [0.5, -0.25]])
    folder = written(tmp_path / "new", [[batch]], tag="mine")
    assert (folder / "run.trec").read_text() == (
        "q1 Q0 a 1 0.75 mine\nq1 Q0 b 2 0.5 mine\nq2 Q0 b 1 0.5 mine\nq2 Q0 c 2 -0.25 mine\n"
    )
    lines = [json.loads(line) for line in (folder / "searches.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "id": "q1",
        "text": "text of q1",
        "thought": "thought of q1",
        "hits": [{"id": "a", "score": 0.75}, {"id": "b", "score": 0.5}],
    }
    assert [line["id"] for line in lines] == ["q1", "q2"]
    assert sorted(path.name for path in folder.iterdir()) == ["run.trec", "searches.jsonl"]


def test_scores_fall_strictly_in_single_precision_as_they_are_written(tmp_path: Path) -> None:
    folder = written(tmp_path, [[searches(["q"], [list("abcd")], [[1.0, 1.0, 1.0, 0.99999994]])]])
    columns = [line.split(" ") for line in (folder / "run.trec").read_text().splitlines()]
    scores = np.array([column[4] for column in columns], dtype=np.float32)
    assert [column[2] for column in columns] == list("abcd")
    assert (np.diff(scores) < 0).all()
    assert np.abs(scores - 1).max() < 3e-7


def test_processes_together_write_what_one_writes_alone(tmp_path: Path) -> None:
    batches = [searches([f"q{number}"], [["a"]], [[0.5]]) for number in range(5)]
    alone = written(tmp_path / "one", [batches])
    together = written(tmp_path / "two", [batches[0::2], batches[1::2]])
    for name in ("run.trec", "searches.jsonl"):
        assert (alone / name).read_text() == (together / name).read_text()
    assert len(list(together.iterdir())) == 2


@pytest.mark.parametrize("name", ["a b", " a", "a\n", ""], ids=["inside", "before", "after", "empty"])
def test_ids_that_a_run_cannot_hold_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="ids without white space"):
        written(tmp_path, [[searches(["q"], [[name]], [[0.5]])]])
    with pytest.raises(DataError, match="ids without white space"):
        written(tmp_path, [[searches([name], [["a"]], [[0.5]])]])


@pytest.mark.parametrize("tag", ["", "two words"])
def test_a_tag_is_one_word(tag: str) -> None:
    with pytest.raises(ConfigError, match=r"search_results.tag: expected one word"):
        SearchResultsWriter(tag=tag)


def test_no_queries_give_empty_files(tmp_path: Path) -> None:
    folder = written(tmp_path, [[]])
    assert (folder / "run.trec").read_text() == ""


def predict(model: L.LightningModule, root: Path) -> None:
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        enable_progress_bar=False,
        callbacks=[SearchResultsWriter()],
    )
    trainer.predict(model, datamodule=NumberData())


class Half(Searcher):
    """Fails after its first batch."""

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> Searches:
        if batch_idx == 1:
            raise DataError("half-way")
        return super().predict_step(batch, batch_idx)


class Silent(Line):
    """Predicts something else."""

    def predict_step(self, batch: torch.Tensor, batch_idx: int) -> float:
        return 0.5


def test_a_trainer_writes_into_the_folder_of_the_run(tmp_path: Path) -> None:
    predict(Searcher(), tmp_path)
    first = (tmp_path / "predictions" / "run.trec").read_text().splitlines()[:3]
    assert first == ["q0 Q0 a 1 0.5 srch3", "q0 Q0 b 2 0.49999997 srch3", "q0 Q0 c 3 0.25 srch3"]


def test_a_run_that_fails_leaves_the_results_of_the_one_before(tmp_path: Path) -> None:
    predict(Searcher(), tmp_path)
    before = (tmp_path / "predictions" / "run.trec").read_text()
    with pytest.raises(DataError, match="half-way"):
        predict(Half(), tmp_path)
    assert (tmp_path / "predictions" / "run.trec").read_text() == before
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == ["run.trec", "searches.jsonl"]


def test_a_model_that_predicts_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Silent.predict_step returns float"):
        predict(Silent(), tmp_path)


def test_an_error_before_predicting_leaves_nothing(tmp_path: Path) -> None:
    writer = SearchResultsWriter(str(tmp_path / "absent"))
    trainer: Any = SimpleNamespace(global_rank=0)
    writer.on_exception(trainer, Line(), DataError("early"))
    assert not (tmp_path / "absent").exists()
