import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import srch3
from srch3.data import Corpus
from srch3.errors import CheckpointError, ConfigError, DataError
from srch3.indexes import ExactIndex
from srch3.inference.corpus_index import build_index
from srch3.inference.embedder import Embedder
from srch3.inference.searcher import Found, Hit, Searcher
from tests.inference.building import write_corpus
from tests.toy import WORDS
from tests.trained import trained_folder

TEXTS = [" ".join(WORDS[start : start + 4]) for start in range(0, 40, 2)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    model = trained_folder(home / "model")
    write_corpus(home / "corpus.jsonl", TEXTS)
    build_index(Embedder.load(model, "cpu", "float32"), model, home / "corpus.jsonl", home / "index")
    return home


@pytest.fixture(scope="module")
def searcher(home: Path) -> Searcher:
    return Searcher.load(home / "index", device="cpu")


@pytest.mark.parametrize("mode", ["thinking", "direct", "mean-2"])
def test_hits_are_the_nearest_documents(mode: str, searcher: Searcher) -> None:
    vectors = searcher.embedder.encode_documents(TEXTS)
    for query in ("parse date", "node"):
        cosines = vectors @ searcher.embedder.encode_queries([query], mode)[0]
        best = np.argsort(-cosines)[:3]
        found = searcher.search(query, 3, mode)
        assert [hit.id for hit in found.hits] == [f"d{row}" for row in best]
        assert [hit.text for hit in found.hits] == [TEXTS[row] for row in best]
        np.testing.assert_allclose([hit.score for hit in found.hits], cosines[best], atol=1e-5)


def test_what_was_thought_is_told(searcher: Searcher) -> None:
    embedded = searcher.embedder.embed_queries(["parse date"], ["thinking"])["thinking"]
    found = searcher.search("parse date")
    assert (found.query, found.thought, found.tokens) == ("parse date", embedded.thoughts[0], embedded.lengths[0])
    assert found.thought
    assert found.seconds > 0
    assert len(found.hits) == 10
    direct = searcher.search("parse date", mode="direct")
    assert (direct.thought, direct.tokens) == ("", 0)


def test_many_queries_keep_their_order(searcher: Searcher) -> None:
    queries = WORDS[:9]
    together = searcher.search_many(queries, 2)
    for query, found in zip(queries, together, strict=True):
        alone = searcher.search(query, 2)
        assert (found.query, found.thought) == (query, alone.thought)
        assert [hit.id for hit in found.hits] == [hit.id for hit in alone.hits]
    assert searcher.search_many([], 2) == []


@pytest.mark.parametrize("mode", ["thinking", "direct", "mean-2"])
def test_a_streamed_search_ends_with_what_was_found(mode: str, searcher: Searcher) -> None:
    *pieces, (last, found) = searcher.stream("parse date", 4, mode)
    expected = searcher.search("parse date", 4, mode)
    assert (last, {kind for kind, _ in pieces} <= {"thought"}) == ("found", True)
    assert "".join(str(piece) for _, piece in pieces) == expected.thought
    assert isinstance(found, Found)
    assert (found.query, found.thought, found.tokens) == ("parse date", expected.thought, expected.tokens)
    assert [hit.id for hit in found.hits] == [hit.id for hit in expected.hits]
    assert len(found.hits) == 4


def test_a_streamed_search_can_be_left(searcher: Searcher) -> None:
    stream: Any = searcher.stream("parse date")
    assert next(stream)[0] == "thought"
    stream.close()
    assert searcher.search("parse date").hits


def test_more_hits_than_documents_are_all_documents(searcher: Searcher) -> None:
    assert len(searcher) == len(TEXTS)
    assert {hit.id for hit in searcher.search("a", 1000, "direct").hits} == {f"d{row}" for row in range(len(TEXTS))}


def test_other_weights_are_refused(home: Path) -> None:
    other = trained_folder(home / "other", seed=1)
    with pytest.raises(
        CheckpointError, match=r"model: .* was built with the weights [0-9a-f]{12} \(.*model\); got [0-9a-f]"
    ):
        Searcher.load(home / "index", other)


def test_the_model_may_have_moved(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "index", tmp_path / "index")
    shutil.copytree(home / "model", tmp_path / "moved")
    manifest = tmp_path / "index/manifest.json"
    manifest.write_text(manifest.read_text().replace(str(home / "model"), str(home / "gone")))
    with pytest.raises(CheckpointError, match="got nothing there; give their present place as model"):
        Searcher.load(tmp_path / "index")
    assert Searcher.load(tmp_path / "index", tmp_path / "moved").search("date").hits


def test_queries_are_as_precise_as_documents_unless_asked_otherwise(home: Path, tmp_path: Path) -> None:
    half = Embedder.load(home / "model", "cpu", "bfloat16")
    build_index(half, home / "model", home / "corpus.jsonl", tmp_path / "half")
    assert Searcher.load(tmp_path / "half").embedder.precision == "bfloat16"
    assert Searcher.load(tmp_path / "half", precision="float32").embedder.precision == "float32"


def test_one_can_be_made_of_parts(searcher: Searcher) -> None:
    index = ExactIndex()
    index.build(searcher.index.vectors[:2])
    made = srch3.Searcher(searcher.embedder, Corpus(["a", "b"], ["x", "y"]), index)
    assert {hit[::2] for hit in made.search("date", 5, "direct").hits} == {("a", "x"), ("b", "y")}
    assert isinstance(made.search("date", 1, "direct").hits[0], Hit)
    with pytest.raises(ConfigError, match="index: expected as many vectors as the 3 documents; got 2"):
        Searcher(searcher.embedder, Corpus(["a", "b", "c"], ["x", "y", "z"]), index)


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_blank_queries_are_refused(blank: str, searcher: Searcher) -> None:
    complaint = re.escape(f"query: expected a text that is not blank; got {blank!r}")
    with pytest.raises(DataError, match=f"{complaint}$"):
        searcher.search(blank)
    with pytest.raises(DataError, match=f"{complaint}$"):
        next(iter(searcher.stream(blank)))
    with pytest.raises(DataError, match=f"{complaint} at place 1$"):
        searcher.search_many(["date", blank])


def test_mistakes_are_named(searcher: Searcher) -> None:
    with pytest.raises(ConfigError, match="k: expected at least 1; got 0"):
        searcher.search("a", 0)
    with pytest.raises(ConfigError, match="k: expected at least 1; got -1"):
        next(iter(searcher.stream("a", -1)))
    with pytest.raises(ConfigError, match="mode: expected one of"):
        searcher.search("a", mode="thoughtful")
    with pytest.raises(DataError, match="texts: expected a list of texts; got one text, ' a'"):
        searcher.search_many(" a")
    with pytest.raises(DataError, match="texts: expected strings; got int"):
        searcher.search(3)  # type: ignore[arg-type]
