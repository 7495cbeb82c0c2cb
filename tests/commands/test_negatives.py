import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from srch3.commands.mine import TrainingQueries
from srch3.commands.negatives import Miner, Mining, summary
from srch3.data import Corpus
from srch3.environments import SearchEnvironment
from srch3.errors import ConfigError
from srch3.indexes import HnswIndex
from srch3.modules import SFTModule
from srch3.types import Query, Split
from tests.toy import ToyDataModule, quiet_trainer, toy_embedder


class CopiesDataModule(ToyDataModule):
    """Queries with two relevant documents each, in a corpus with copies of documents and of a query."""

    def __init__(self) -> None:
        super().__init__(eval_batch_size=7)
        self.asked = {split: super(CopiesDataModule, self).load(split) for split in ("train", "val", "test")}
        texts = list(self.documents.texts)
        texts += [texts[0], texts[0], f" {texts[1]}", self.asked["train"][2].text, "", texts[20]]
        self.documents = Corpus([f"d{row}" for row in range(len(texts))], texts)

    def load(self, split: Split) -> list[Query]:
        return [
            query._replace(relevant={**query.relevant, f"d{(row + 1) % 40}": 2})
            for row, query in enumerate(self.asked[split])
        ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


class Ran:
    """Negatives found by a Trainer, and the slow way to find them."""

    def __init__(self, folder: Path, index: Any = None, **settings: Any) -> None:
        self.data, self.mining = CopiesDataModule(), Mining(**settings)
        self.model = SFTModule(toy_embedder(folder), optimizer=torch.optim.AdamW, modes=["direct"])
        environment = SearchEnvironment(index)
        miner = Miner(self.model, environment, self.mining)
        self.model.predict_step = miner.predict_step  # type: ignore[method-assign]
        trainer = quiet_trainer(folder, callbacks=[environment])
        batches: Any = trainer.predict(self.model, datamodule=TrainingQueries(self.data))
        self.found: dict[str, list[str]] = {name: row for batch in batches for name, row in batch.items()}
        self.vectors = self.model.encode_documents(self.data.documents.texts)

    def candidates(self, query: Query) -> tuple[list[tuple[float, str]], float]:
        """Scores and ids in the order of their ranks, and the best score of a relevant document."""
        corpus = self.data.documents
        embedding = self.model([query.text], self.mining.mode or "direct")[0]
        scores = (self.vectors @ embedding).tolist()
        banned = {"", query.text} | {corpus.texts[corpus.row(name)] for name in query.relevant}
        ranked: list[tuple[float, str]] = []
        for row in sorted(range(len(corpus)), key=lambda row: (-scores[row], row)):
            if corpus.texts[row].strip() not in banned:
                ranked.append((scores[row], corpus.ids[row]))
                banned.add(corpus.texts[row].strip())
        return ranked, max(scores[corpus.row(name)] for name in query.relevant)

    def queries(self) -> Iterator[Query]:
        queries = self.data.queries("train")
        assert list(self.found) == [query.id for query in queries]
        yield from queries[::6]


@pytest.mark.parametrize("mode", ["direct", "thinking", None])
def test_the_best_within_the_ranks_are_those_of_a_slow_search(folder: Path, mode: Any) -> None:
    ran = Ran(folder, negatives=4, ranks=(3, 30), mode=mode)
    for query in ran.queries():
        ranked, _ = ran.candidates(query)
        assert ran.found[query.id] == [name for _, name in ranked[2:6]]


def test_margin_and_share_look_at_the_exact_score_of_the_best_relevant_document(folder: Path) -> None:
    ran = Ran(folder, negatives=5, ranks=(1, 10), margin=0.02, relative=0.9)
    lengths = set()
    for query in ran.queries():
        ranked, positive = ran.candidates(query)
        most = min(positive - 0.02, positive - 0.1 * abs(positive))
        assert ran.found[query.id] == [name for score, name in ranked[:10] if score <= most][:5]
        lengths.add(len(ran.found[query.id]))
    assert len(lengths) > 1, "the filters should matter, and not always"


def test_relevant_documents_copies_and_the_query_itself_are_never_negatives(folder: Path) -> None:
    ran = Ran(folder, negatives=46, ranks=(1, 46))
    corpus = ran.data.documents
    for query in ran.data.queries("train"):
        texts = [corpus.texts[corpus.row(name)].strip() for name in ran.found[query.id]]
        relevant = {corpus.texts[corpus.row(name)].strip() for name in query.relevant}
        assert len(texts) == len(set(texts))
        assert not relevant & set(texts)
        assert {"", query.text}.isdisjoint(texts)
    assert ran.data.queries("train")[2].text in corpus.texts
    everything = {text.strip() for text in corpus.texts} - {""}
    assert len(ran.found["train10"]) == len(everything) - 2


def test_the_last_rank_is_reached_past_any_number_of_copies(folder: Path) -> None:
    ran = Ran(folder, negatives=41, ranks=(1, 41))
    ranked, _ = ran.candidates(ran.data.queries("train")[0])
    assert ran.found["train0"] == [name for _, name in ranked[:41]]


def test_what_is_drawn_depends_on_seed_and_query_alone(folder: Path) -> None:
    first = Ran(folder, negatives=3, ranks=(2, 20), sampled=True)
    again = Ran(folder, negatives=3, ranks=(2, 20), sampled=True)
    other = Ran(folder, negatives=3, ranks=(2, 20), sampled=True, seed=1)
    assert first.found == again.found != other.found
    query = first.data.queries("train")[12]
    names = [name for _, name in first.candidates(query)[0][1:20]]
    drawn = sorted(random.Random(f"0 {query.id}").sample(range(19), 3))
    assert first.found[query.id] == [names[place] for place in drawn]


def test_another_index_finds_the_same(folder: Path) -> None:
    assert Ran(folder, ranks=(1, 20)).found == Ran(folder, HnswIndex(), ranks=(1, 20)).found


def test_fewer_negatives_are_counted() -> None:
    found = {"a": ["x", "y"], "b": ["x"], "c": [], "d": []}
    assert summary(found, 2) == "3 hard negatives for 4 training queries; 3 of them have fewer than 2, 2 none"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"ranks": (0, 5)}, "mining.ranks: expected a first rank from 1 on and a last one; got [0, 5]"),
        ({"ranks": (6, 5)}, "mining.ranks: expected a first rank from 1 on and a last one; got [6, 5]"),
        ({"negatives": 0}, "mining.negatives: expected 1 to 91, which mining.ranks leave; got 0"),
        ({"ranks": (1, 7)}, "mining.negatives: expected 1 to 7, which mining.ranks leave; got 8"),
        ({"margin": -0.1}, "mining.margin: expected a difference of cosines, from 0 to 2; got -0.1"),
        ({"margin": float("nan")}, "mining.margin: expected a difference of cosines, from 0 to 2; got nan"),
        ({"relative": 0.0}, "mining.relative: expected a share above 0 and at most 1; got 0.0"),
        ({"relative": 1.5}, "mining.relative: expected a share above 0 and at most 1; got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Mining(**settings)
    assert str(refused.value) == expected
