from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from srch3.errors import DataError, ModelError
from srch3.inference.embedder import Embedder
from srch3.inference.exporting import export_model
from srch3.inference.thinking_module import ThinkingModule
from tests.inference.runs_of_training import make_run

TEXTS = ["how to parse a date", "x", "read the numbers of a file " * 9]


@pytest.fixture(scope="module", params=["direct", "thinking"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("thinking")
    checkpoint, _ = make_run(place, documents=request.param)
    return export_model(checkpoint, place / "out").folder


def test_queries_think_and_documents_are_embedded_as_in_training(folder: Path) -> None:
    model = SentenceTransformer(str(folder / "thinking"), trust_remote_code=True, device="cpu")
    embedder = Embedder.load(folder, "cpu", "float32")
    thinking, direct = (embedder.encode_queries(TEXTS, mode) for mode in ("thinking", "direct"))
    np.testing.assert_allclose(model.encode_query(TEXTS, batch_size=2), thinking, atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS), thinking, atol=1e-5)
    np.testing.assert_allclose(model.encode_document(TEXTS), embedder.encode_documents(TEXTS), atol=1e-5)
    assert np.abs(thinking - direct).max() > 0.01
    assert model.get_embedding_dimension() == 32
    cosines = model.similarity(model.encode_query(TEXTS), model.encode_document(TEXTS))
    np.testing.assert_allclose(cosines, thinking @ embedder.encode_documents(TEXTS).T, atol=1e-5)


def test_code_of_ours_runs_only_when_it_is_trusted_or_imported(folder: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(folder / "thinking"))
    imported = SentenceTransformer(
        modules=[ThinkingModule(Embedder.load(folder, "cpu", "float32"), "direct")], device="cpu"
    )
    direct = Embedder.load(folder, "cpu", "float32").encode_queries(TEXTS, "direct")
    np.testing.assert_allclose(imported.encode_query(TEXTS), direct, atol=1e-5)


def test_what_sentence_transformers_saves_it_loads_again(folder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(modules=[ThinkingModule(Embedder.load(folder, "cpu", "float32"))], device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(again.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(again.encode_document(TEXTS), model.encode_document(TEXTS), atol=1e-5)


def test_prompts_and_other_things_than_texts_are_refused(folder: Path) -> None:
    module = ThinkingModule(Embedder.load(folder, "cpu", "float32"))
    with pytest.raises(DataError, match="prompt: expected none"):
        module.preprocess(["a"], prompt="query: ")
    with pytest.raises(DataError, match="expected texts alone"):
        module.preprocess([("a", "b")])
    with pytest.raises(ModelError, match=r"expected config\.json with `model` and `mode`.*absent"):
        ThinkingModule.load(str(folder), "absent")


def test_the_precision_is_float32_unless_asked_otherwise(folder: Path) -> None:
    assert ThinkingModule.load(str(folder), "thinking").embedder.precision == "float32"
    asked = {"precision": "bfloat16"}
    model = SentenceTransformer(str(folder / "thinking"), trust_remote_code=True, model_kwargs=asked, device="cpu")
    assert model[0].embedder.precision == "bfloat16"
    assert model.encode_query(TEXTS).dtype.name == "float32"
