import pytest
import torch

from srch3.environments.state import CorpusState
from srch3.errors import CheckpointError
from srch3.indexes import ExactIndex, HnswIndex
from tests.environments.toy import ToyCorpus
from tests.indexes.clusters import clustered


def encoded(corpus: ToyCorpus, step: int = 0) -> CorpusState:
    state = CorpusState(corpus, ExactIndex())
    state.store(torch.arange(len(corpus)), clustered(len(corpus)), step)
    return state


def test_stamps_say_when_each_vector_was_made() -> None:
    corpus = ToyCorpus(["a", "b", "c", "d"])
    state = CorpusState(corpus, ExactIndex())
    assert not state.searchable
    assert state.missing().tolist() == state.stale(0).tolist() == [0, 1, 2, 3]
    state.store(torch.arange(4), clustered(4), 0)
    assert state.searchable
    assert state.missing().tolist() == state.stale(0).tolist() == []
    state.store(torch.tensor([2, 0]), clustered(2, seed=1), 3)
    assert state.stamps.tolist() == [3, 0, 3, 0]
    assert state.stale(3).tolist() == [1, 3]
    assert torch.equal(state.index.vectors[[2, 0]], clustered(2, seed=1))
    assert state.texts(torch.tensor([3, 1])) == ["d", "b"]


def test_an_encoder_that_loses_documents_is_refused() -> None:
    state = CorpusState(ToyCorpus(["a", "b"]), ExactIndex())
    with pytest.raises(ValueError, match="encode_documents: expected 2 embeddings, one per text; got 1"):
        state.store(torch.arange(2), clustered(1), 0)


def test_the_fingerprint_depends_on_ids_texts_and_their_order() -> None:
    corpora = [
        ToyCorpus(["a", "b"]),
        ToyCorpus(["b", "a"]),
        ToyCorpus(["a", "b "]),
        ToyCorpus(["ab", ""]),
        ToyCorpus(["a", "b"], prefix="x"),
        ToyCorpus(["a", "b", "c"]),
        ToyCorpus(["a", "\ud800"]),
    ]
    assert len({CorpusState(corpus, ExactIndex()).fingerprint for corpus in corpora}) == len(corpora)
    again = CorpusState(ToyCorpus(["a", "b"]), ExactIndex())
    assert again.fingerprint == again.fingerprint == CorpusState(corpora[0], ExactIndex()).fingerprint


def test_a_restored_state_has_the_same_vectors_and_stamps() -> None:
    state = encoded(ToyCorpus(["a", "b", "c"]), step=4)
    state.store(torch.tensor([1]), clustered(1, seed=1), 6)
    saved = state.state_dict()
    restored = CorpusState(ToyCorpus(["a", "b", "c"]), ExactIndex())
    restored.load_state_dict(saved)
    assert torch.equal(restored.index.vectors, state.index.vectors)
    assert restored.stamps.tolist() == [4, 6, 4]
    assert saved["device"] == "cpu"


def test_another_corpus_or_index_is_refused() -> None:
    saved = encoded(ToyCorpus(["a", "b", "c"])).state_dict()
    with pytest.raises(CheckpointError, match=r"ckpt_path: expected the corpus .* \(3 documents.*; got 2 documents"):
        CorpusState(ToyCorpus(["a", "b"]), ExactIndex()).load_state_dict(saved)
    with pytest.raises(CheckpointError, match="kind='exact'; got 'hnsw'"):
        CorpusState(ToyCorpus(["a", "b", "c"]), HnswIndex()).load_state_dict(saved)
