from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from srch3.data import Corpus
from srch3.data.changing import ChangingCorpus
from srch3.environments import BaseCorrection
from srch3.environments.state import CorpusState
from srch3.environments.storage import Generation, open_generation, write_generation
from srch3.errors import CheckpointError
from srch3.indexes import BaseIndex, ExactIndex, HnswIndex
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


def test_storing_a_few_most_or_all_gives_the_same_vectors() -> None:
    for count in (1, 3, 5, 6):
        state = encoded(ToyCorpus(list("abcdef")))
        before = state.revision
        rows, new = torch.arange(count), clustered(count, seed=1)
        state.store(rows, new, 2)
        torch.testing.assert_close(state.searcher.vectors_of(torch.arange(6)), torch.cat([new, clustered(6)[count:]]))
        assert state.stamps.tolist() == [2] * count + [0] * (6 - count)
        assert state.revision > before


def turn(size: float = 0.3) -> Tensor:
    noise = torch.randn(32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.eye(32, dtype=torch.float64) + size * noise / 32**0.5


class Given(BaseCorrection):
    """Has its map, and remembers what it was shown."""

    def __init__(self, matrix: Tensor | None) -> None:
        self.matrix = matrix
        self.shown: list[tuple[Tensor, Tensor]] = []

    def fit(self, thought: Tensor, found: Tensor) -> Tensor | None:
        self.shown.append((thought, found))
        return self.matrix


@pytest.mark.parametrize("index", [ExactIndex(), HnswIndex()])
def test_a_correction_moves_everything_and_leaves_what_it_does_not_explain(index: BaseIndex) -> None:
    state = CorpusState(ToyCorpus(list("abcdef")), index)
    vectors, rows, found = clustered(6), torch.tensor([1, 4]), clustered(2, seed=1)
    state.store(torch.arange(6), vectors, 0)
    revision, correction = state.revision, Given(turn())
    state.correct(correction, rows, found, 1)
    moved = normalize(vectors.double() @ turn(), dim=1).float()
    torch.testing.assert_close(state.searcher.vectors_of(torch.arange(6)), moved)
    torch.testing.assert_close(state.moved[rows], 1 - (moved[rows] * found).sum(dim=1))
    assert state.moved.isnan().tolist() == [True, False, True, True, False, True]
    assert torch.equal(correction.shown[0][0], vectors[rows])
    assert correction.shown[0][1] is found
    assert state.stamps.tolist() == [0] * 6
    assert state.revision > revision


def test_documents_that_are_up_to_date_stay_where_they_are() -> None:
    state = encoded(ToyCorpus(list("abcd")))
    state.store(torch.tensor([0, 2]), clustered(2, seed=1), 5)
    before = state.searcher.vectors_of(torch.arange(4))
    state.correct(Given(turn()), torch.tensor([1]), clustered(1, seed=2), 5)
    after = state.searcher.vectors_of(torch.arange(4))
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], atol=1e-6, rtol=0)
    torch.testing.assert_close(after[[1, 3]], normalize(before[[1, 3]].double() @ turn(), dim=1).float())


def test_without_a_map_or_with_all_documents_nothing_is_moved() -> None:
    state = encoded(ToyCorpus(list("abc")))
    revision = state.revision
    state.correct(Given(None), torch.tensor([2]), clustered(1, seed=1), 1)
    state.correct(Given(turn()), torch.arange(3), clustered(3, seed=1), 1)
    assert torch.equal(state.index.vectors, clustered(3))
    torch.testing.assert_close(state.moved, 1 - (clustered(3) * clustered(3, seed=1)).sum(dim=1))
    assert state.revision == revision


def saved(state: CorpusState, folder: Path, weights: str = "w") -> Generation:
    snapshot = state.snapshot(6, {"within": torch.eye(2)}, {"budget": {"share": 0.5}})
    return open_generation(folder, write_generation(folder, snapshot, weights))


@pytest.mark.parametrize("make", [ExactIndex, HnswIndex])
def test_a_restored_state_is_the_same(tmp_path: Path, make: Callable[[], BaseIndex]) -> None:
    state = CorpusState(ToyCorpus(list("abcde")), make())
    state.store(torch.arange(5), clustered(5), 4)
    state.correct(Given(turn()), torch.tensor([1]), clustered(1, seed=1), 6)
    state.store(torch.tensor([1]), clustered(1, seed=1), 6)
    generation = saved(state, tmp_path)
    frame = {} if make is ExactIndex else {"frame": [1.5, 1]}
    assert (generation.step, generation.values) == (6, {"device": "cpu", "budget": {"share": 0.5}, **frame})
    restored = CorpusState(ToyCorpus(list("abcde")), make())
    more = restored.restore(generation, "w")
    assert list(more) == ["within"]
    assert torch.equal(more["within"], torch.eye(2))
    assert (restored.searcher.matrix is None) == (make is ExactIndex)
    queries = clustered(4, seed=2)
    for mine, theirs in zip(restored.searcher.search(queries, 3), state.searcher.search(queries, 3), strict=True):
        assert torch.equal(mine, theirs)
    every = torch.arange(5)
    assert torch.equal(restored.searcher.vectors_of(every), state.searcher.vectors_of(every))
    assert restored.stamps.tolist() == [4, 6, 4, 4, 4]
    assert torch.equal(restored.moved.nan_to_num(-1), state.moved.nan_to_num(-1))
    for some in (state, restored):
        some.store(torch.tensor([3]), clustered(1, seed=3), 7)
    assert torch.equal(restored.searcher.vectors_of(every), state.searcher.vectors_of(every))


def test_another_corpus_index_or_model_is_refused(tmp_path: Path) -> None:
    generation = saved(encoded(ToyCorpus(["a", "b", "c"])), tmp_path)
    with pytest.raises(CheckpointError, match=r"ckpt_path: expected the corpus .* \(3 documents.*; got 2 documents"):
        CorpusState(ToyCorpus(["a", "b"]), ExactIndex()).restore(generation, "w")
    with pytest.raises(CheckpointError, match="kind='exact'; got 'hnsw'"):
        CorpusState(ToyCorpus(["a", "b", "c"]), HnswIndex()).restore(generation, "w")
    with pytest.raises(CheckpointError, match=r"expected the weights that encoded .* \(digest w\); got others \(v\)"):
        CorpusState(ToyCorpus(["a", "b", "c"]), ExactIndex()).restore(generation, "v")


def test_changes_are_followed_in_a_pause_without_gradients_and_training_goes_on() -> None:
    corpus = ChangingCorpus(Corpus(["a", "b", "c"], ["1", "2", "3"]))
    state = CorpusState(corpus, ExactIndex())
    state.store(torch.arange(3), clustered(3), 0)
    corpus.add(["d"], ["4"])
    corpus.remove(["a"])
    with torch.inference_mode():
        assert state.follow(lambda rows: clustered(len(rows), seed=7), 2) == 1
    assert state.changed
    assert state.alive.tolist() == [False, True, True, True]
    state.store(torch.tensor([3]), clustered(1, seed=8), 3)
    assert state.stamps.tolist() == [0, 0, 0, 3]
    assert 0 not in state.searcher.search(clustered(4, seed=9), 4).rows


def test_a_strategy_that_took_the_weights_out_resumes_all_the_same(tmp_path: Path) -> None:
    state = CorpusState(ToyCorpus(list("abc")), ExactIndex())
    state.store(torch.arange(3), clustered(3), 4)
    restored = CorpusState(ToyCorpus(list("abc")), ExactIndex())
    restored.restore(saved(state, tmp_path), None)
    assert torch.equal(restored.index.vectors, state.index.vectors)
