import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import srch3
from srch3.backbones import ReasoningEmbedder, generate
from srch3.backbones.querying import QueryEmbedder
from srch3.errors import ConfigError, DataError
from srch3.inference import embedder as module
from srch3.inference import precision
from srch3.inference.embedder import Embedder
from tests.toy import WORDS
from tests.trained import trained_embedder, trained_folder

TEXTS = [" ".join(WORDS[start : start + 1 + start % 7]) for start in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> ReasoningEmbedder:
    return trained_embedder(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    return Embedder.load(folder, "cpu", "float32")


def consume(pieces: Any) -> tuple[list[str], Any]:
    found = []
    while True:
        try:
            found.append(next(pieces))
        except StopIteration as stop:
            return found, stop.value


def close(left: Any, right: Any) -> None:
    np.testing.assert_allclose(left, right, atol=1e-5, rtol=0)


def test_documents_are_embedded_as_in_training(embedder: Embedder, live: ReasoningEmbedder) -> None:
    with torch.no_grad():
        expected = live.embed(live.tokenize(TEXTS, "document")).numpy()
    seen: list[int] = []
    vectors = embedder.encode_documents(TEXTS, seen.append)
    assert (vectors.dtype, vectors.shape) == (np.float32, (len(TEXTS), embedder.dim))
    close(vectors, expected)
    close(np.linalg.norm(vectors, axis=1), 1)
    assert sum(seen) == len(TEXTS)


def test_thinking_documents_are_embedded_after_their_likeliest_thought(live: ReasoningEmbedder, folder: Path) -> None:
    with torch.no_grad():
        expected = generate(live, live.tokenize(TEXTS, "thinking_document"), temperature=0.0).embeddings.numpy()
    thoughtful = Embedder(Embedder.load(folder, "cpu", "float32").backbone, "thinking", "cpu", "float32")
    close(thoughtful.encode_documents(TEXTS), expected)
    assert thoughtful.settings["documents"] == "thinking"


@pytest.mark.parametrize("mode", ["thinking", "direct", "mean-2", "budget-3", "shuffled"])
def test_queries_are_embedded_as_in_training(
    mode: str, embedder: Embedder, live: ReasoningEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        expected = QueryEmbedder(live, 0).embed(TEXTS, [mode])[mode]
    monkeypatch.setattr(module, "_QUERIES_AT_ONCE", 8)
    seen: list[int] = []
    found = embedder.embed_queries(TEXTS, [mode], seen.append)[mode]
    assert seen == [8, 8, 4]
    if mode == "shuffled":
        found, expected = (
            each._replace(embeddings=each.embeddings[1:], thoughts=each.thoughts[1:]) for each in (found, expected)
        )
    close(found.embeddings, expected.embeddings)
    assert found.thoughts == expected.thoughts
    assert mode == "shuffled" or found.lengths == expected.lengths


def test_queries_come_as_arrays(embedder: Embedder) -> None:
    vectors = embedder.encode_queries(TEXTS[:3], "direct")
    assert (vectors.dtype, vectors.shape) == (np.float32, (3, embedder.dim))
    assert not np.allclose(vectors, embedder.encode_queries(TEXTS[:3]))


def test_nothing_gives_nothing(embedder: Embedder) -> None:
    assert embedder.encode_queries([]).shape == (0, embedder.dim)
    assert embedder.encode_documents([]).shape == (0, embedder.dim)


@pytest.mark.parametrize("text", ["", " ", "\ud800 half", "<|embed_token|>", "ö" * 500, "a\0b"])
def test_any_text_has_an_embedding(text: str, embedder: Embedder) -> None:
    for vectors in (embedder.encode_documents([text]), embedder.encode_queries([text])):
        close(np.linalg.norm(vectors, axis=1), 1)


@pytest.mark.parametrize("mode", ["thinking", "budget-4", "direct", "mean-2", "copied"])
def test_a_streamed_thought_is_the_thought(mode: str, embedder: Embedder) -> None:
    for text in TEXTS[:6]:
        pieces, streamed = consume(embedder.stream(text, mode))
        whole = embedder.embed_queries([text], [mode])[mode]
        assert "".join(pieces) == whole.thoughts[0] == streamed.thoughts[0]
        close(streamed.embeddings, whole.embeddings)


def test_a_thought_comes_piece_by_piece(embedder: Embedder) -> None:
    counts = {len(consume(embedder.stream(text))[0]) for text in TEXTS}
    assert max(counts) > 2


def test_a_reader_who_leaves_ends_the_writing(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    steps: list[int] = []
    original = ReasoningEmbedder.logits

    def slow(self: ReasoningEmbedder, hidden: Any) -> Any:
        steps.append(1)
        if len(steps) > 1:
            asked.wait(10)
        return original(self, hidden)

    longest = max(TEXTS, key=lambda text: len(consume(embedder.stream(text))[0]))
    monkeypatch.setattr(ReasoningEmbedder, "logits", slow)
    stream = embedder.stream(longest)
    next(stream)
    threading.Timer(0.2, asked.set).start()
    stream.close()
    while any(thread.name == "srch3-thought" for thread in threading.enumerate()):
        time.sleep(0.01)
    assert len(steps) <= 2
    assert embedder.encode_queries(["still working"]).shape == (1, embedder.dim)


def test_an_error_while_writing_reaches_the_reader(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ReasoningEmbedder, hidden: Any) -> Any:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(ReasoningEmbedder, "logits", broken)
    with pytest.raises(ZeroDivisionError, match="broken"):
        consume(embedder.stream("text"))


def test_threads_take_turns(embedder: Embedder) -> None:
    expected = {text: embedder.encode_queries([text])[0] for text in TEXTS[:8]}
    found: dict[str, Any] = {}
    running: list[int] = []
    overlaps: list[int] = []
    original = QueryEmbedder.embed

    def watched(self: QueryEmbedder, *arguments: Any, **more: Any) -> Any:
        running.append(1)
        overlaps.append(len(running))
        time.sleep(0.01)
        result = original(self, *arguments, **more)
        running.pop()
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QueryEmbedder, "embed", watched)
        threads = [
            threading.Thread(target=lambda text=text: found.update({text: embedder.encode_queries([text])[0]}))
            for text in expected
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert max(overlaps) == 1
    for text, vector in expected.items():
        close(found[text], vector)


def test_precision_changes_the_weights_and_neither_positions_nor_the_revision(folder: Path, embedder: Embedder) -> None:
    half = Embedder.load(folder, "cpu", "bfloat16")
    assert (half.precision, embedder.precision) == ("bfloat16", "float32")
    assert half.backbone.causal_lm.dtype == torch.bfloat16
    assert {buffer.dtype for buffer in half.backbone.buffers() if buffer.is_floating_point()} == {torch.float32}
    assert half.revision == embedder.revision
    cosines = (half.encode_documents(TEXTS) * embedder.encode_documents(TEXTS)).sum(1)
    assert cosines.min() > 0.99
    assert cosines.min() < 0.9999999


def test_a_stream_can_be_left_by_whoever_uses_the_model(embedder: Embedder) -> None:
    """As when the garbage collector closes it in the middle of something else."""
    longest = max(TEXTS, key=lambda text: len(consume(embedder.stream(text))[0]))
    stream = embedder.stream(longest)
    next(stream)
    with embedder._lock:
        stream.close()
    assert embedder.encode_queries(["still working"]).shape == (1, embedder.dim)


def test_by_default_documents_alone_are_embedded_in_bfloat16_on_a_cpu(
    folder: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    chosen = Embedder.load(folder, "cpu")
    assert chosen.precision == "bfloat16"
    for mode in ("thinking", "direct"):
        assert np.array_equal(chosen.encode_queries(TEXTS, mode), embedder.encode_queries(TEXTS, mode))
    half = Embedder.load(folder, "cpu", "bfloat16").encode_documents(TEXTS)
    assert np.array_equal(chosen.encode_documents(TEXTS), half)
    assert not np.array_equal(half, embedder.encode_documents(TEXTS))
    assert Embedder(chosen.backbone, "thinking", "cpu").precision == "float32"


def test_the_package_has_it_by_name(embedder: Embedder) -> None:
    assert isinstance(embedder, srch3.Embedder)
    assert "Embedder" in srch3.__all__
    with pytest.raises(AttributeError, match="'srch3' has no attribute 'Embeder'"):
        srch3.Embeder  # noqa: B018


def test_mistakes_are_named(embedder: Embedder, folder: Path) -> None:
    with pytest.raises(DataError, match="texts: expected a list of texts; got one text, 'date'"):
        embedder.encode_queries("date")
    with pytest.raises(DataError, match="texts: expected strings; got NoneType at place 1"):
        embedder.encode_documents(["a", None])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"^mode: expected one of 'thinking', .* got 'think'"):
        embedder.encode_queries(["a"], "think")
    with pytest.raises(ConfigError, match=r"^mode: expected a budget of at most 8 tokens"):
        embedder.stream("a", "budget-9")
    with pytest.raises(ConfigError, match="device: expected a name such as cpu, cuda or cuda:1; got 'gpu'"):
        Embedder.load(folder, "gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device: expected one that this machine has; got 'cuda:1'"):
            Embedder.load(folder, "cuda:1")
