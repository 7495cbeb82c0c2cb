"""The programs of docs/other-libraries.md, as they stand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.vectorstores import InMemoryVectorStore

from srch3.inference.embedder import Embedder
from srch3.inference.exporting import export_model
from tests.inference.runs_of_training import make_run
from tests.test_readme import blocks

TEXTS = ["read a file", "parse the date string", "numbers"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("libraries")
    checkpoint, _ = make_run(place)
    export_model(checkpoint, place / "exported")
    return place


def program(name: str) -> str:
    """The one with this word in it."""
    (text,) = [block.text for block in blocks("docs/other-libraries.md") if name in block.text]
    return text


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    load = Embedder.load
    monkeypatch.setattr(Embedder, "load", lambda model, *_, precision="float32": load(model, "cpu", precision))
    names: dict[str, Any] = {"__name__": "program"}
    exec(program(name), names)  # our own text
    return names


def test_sentence_transformers_thinks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("SentenceTransformer", folder, monkeypatch)
    expected = Embedder.load("exported", "cpu", "float32").encode_queries(["parse a date"])
    np.testing.assert_allclose(names["queries"], expected, atol=1e-5)
    assert names["cosines"].shape == (1, 1)


def test_mteb_takes_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("MtebEncoder", folder, monkeypatch)
    assert names["encoder"].mteb_model_meta.name == "us/our-model"
    assert (names["encoder"].mode, names["search"].mode) == ("thinking", "direct")
    assert type(names["search"].searched).__name__ == "HnswIndex"


def test_langchain_searches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = run("langchain_core", folder, monkeypatch)["ReasoningEmbeddings"]("exported")
    embedder = Embedder.load("exported", "cpu", "float32")
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), embedder.encode_documents(TEXTS), atol=1e-6)
    expected = embedder.encode_queries(["a date"])
    np.testing.assert_allclose([embeddings.embed_query("a date")], expected, atol=1e-6)
    store = InMemoryVectorStore(embeddings)
    store.add_texts(TEXTS)
    (found,) = store.similarity_search("a date", k=1)
    assert found.page_content == TEXTS[int((expected @ embedder.encode_documents(TEXTS).T).argmax())]


def test_llama_index_embeds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llama_index.core", reason="llama-index-core is not installed")
    embedding = run("llama_index", folder, monkeypatch)["ReasoningEmbedding"]("exported")
    embedder = Embedder.load("exported", "cpu", "float32")
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), embedder.encode_documents(TEXTS), atol=1e-6)
    np.testing.assert_allclose([embedding.get_text_embedding("x")], embedder.encode_documents(["x"]), atol=1e-6)
    np.testing.assert_allclose([embedding.get_query_embedding("x")], embedder.encode_queries(["x"]), atol=1e-6)
