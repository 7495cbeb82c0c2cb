import time

import numpy as np
import pytest
import torch

from srch3.data import Corpus
from srch3.indexes import ExactIndex
from srch3.inference.bm25 import BM25
from srch3.inference.embedder import Embedder
from srch3.inference.evaluation import (
    Depth,
    search_with_model,
    search_with_words,
    time_queries,
    without_same_ids,
)
from tests.toy import ToyDataModule, toy_embedder

MODES = ["thinking", "direct", "mean-2", "budget-2", "empty", "shuffled", "copied"]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    backbone = toy_embedder(tmp_path_factory.mktemp("model"))
    backbone.build()
    return Embedder(backbone, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return ToyDataModule().documents


@pytest.fixture(scope="module")
def index(embedder: Embedder, corpus: Corpus) -> ExactIndex:
    index = ExactIndex()
    index.build(torch.from_numpy(embedder.encode_documents(corpus.texts)))
    return index


@pytest.fixture(scope="module")
def queries() -> dict[str, str]:
    return {query.id: query.text for query in ToyDataModule().load("test")[:9]}


def test_each_mode_finds_what_its_embeddings_are_nearest_to(
    embedder: Embedder, corpus: Corpus, index: ExactIndex, queries: dict[str, str]
) -> None:
    seen: list[int] = []
    systems = search_with_model(embedder, corpus, index, queries, MODES, Depth(5), 0, seen.append)
    assert [system.name for system in systems] == MODES
    assert sum(seen) == 9
    embedded, texts = embedder.embed_queries(list(queries.values()), MODES), embedder.encode_documents(corpus.texts)
    for system in systems:
        cosines = embedded[system.name].embeddings.numpy() @ texts.T
        for query, row in zip(queries, cosines, strict=True):
            best = np.argsort(-row, kind="stable")[:5]
            assert list(system.run[query]) == [corpus.ids[place] for place in best]
            assert list(system.run[query].values()) == pytest.approx(row[best], abs=1e-5)
            assert (np.diff(np.array(list(system.run[query].values()), np.float32)) < 0).all()


def test_tokens_are_counted_in_modes_that_write(
    embedder: Embedder, corpus: Corpus, index: ExactIndex, queries: dict[str, str]
) -> None:
    systems = {s.name: s for s in search_with_model(embedder, corpus, index, queries, MODES, Depth(3), 0)}
    assert {name: len(system.tokens) for name, system in systems.items()} == {
        "thinking": 9, "direct": 0, "mean-2": 9, "budget-2": 9, "empty": 0, "shuffled": 9, "copied": 0,
    }  # fmt: skip
    assert systems["thinking"].tokens == tuple(
        embedder.embed_queries(list(queries.values()), ["thinking"])["thinking"].lengths
    )
    assert not any(system.seconds for system in systems.values())


def test_some_queries_are_timed_one_at_a_time(
    embedder: Embedder, corpus: Corpus, index: ExactIndex, queries: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    search = index.search
    monkeypatch.setattr(index, "search", lambda vectors, k: asked.append(len(vectors)) or search(vectors, k))
    (system,) = search_with_model(embedder, corpus, index, queries, ["direct"], Depth(3), timed=4)
    assert asked == [9, 1, 1, 1, 1, 1]
    assert len(system.seconds) == 4
    assert min(system.seconds) > 0


def test_the_first_query_warms_up_uncounted() -> None:
    asked: list[str] = []

    def search(text: str) -> None:
        asked.append(text)
        time.sleep(0.05 if len(asked) == 1 else 0.002)

    seconds = time_queries(search, ["a", "b"])
    assert asked == ["a", "a", "b"]
    assert len(seconds) == 2
    assert min(seconds) >= 0.002
    assert time_queries(search, []) == ()


def test_words_find_and_are_timed(corpus: Corpus, queries: dict[str, str]) -> None:
    system = search_with_words(BM25(corpus), queries, Depth(100))
    assert (system.name, len(system.seconds), system.tokens) == ("bm25", 9, ())
    best = [next(iter(found)) for found in system.run.values()]
    assert best == [f"d{query.removeprefix('test')}" for query in queries]
    for found in system.run.values():
        assert (np.diff(np.array(list(found.values()), np.float32)) < 0).all()


def test_a_document_that_is_the_query_drops_out_and_another_takes_its_place(
    embedder: Embedder, corpus: Corpus, index: ExactIndex
) -> None:
    own = {f"d{row}": corpus.texts[row] for row in range(4)}
    kept = [
        *search_with_model(embedder, corpus, index, own, ["direct"], Depth(4), 0),
        search_with_words(BM25(corpus), own, Depth(4)),
    ]
    dropped = [
        *search_with_model(embedder, corpus, index, own, ["direct"], Depth(3, drop_same_ids=True), 0),
        search_with_words(BM25(corpus), own, Depth(3, drop_same_ids=True)),
    ]
    assert all(next(iter(found)) == query for query, found in kept[1].run.items())
    for before, after in zip(kept, dropped, strict=True):
        for query in own:
            assert list(after.run[query]) == [name for name in before.run[query] if name != query][:3]


def test_only_documents_with_the_id_of_their_own_query_drop_out() -> None:
    assert without_same_ids({"a": {"a": 1.0, "b": 0.5}, "b": {"a": 1.0}}) == {"a": {"b": 0.5}, "b": {"a": 1.0}}
