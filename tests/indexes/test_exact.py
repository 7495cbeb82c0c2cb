import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from srch3.errors import ConfigError
from srch3.indexes import ExactIndex
from srch3.indexes.scan import exact_search, ranked, top_k
from tests.indexes.clusters import brute_force, clustered


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 70), st.integers(1, 300), st.integers(0, 99))
def test_hits_equal_brute_force_whatever_the_block(docs: int, queries: int, k: int, block: int, seed: int) -> None:
    corners = torch.eye(4)[torch.randint(4, (docs,), generator=torch.Generator().manual_seed(seed))]
    signs = torch.tensor([[0.5, 0.5, -0.5, 0.5], [0.5, -0.5, 0.5, 0.5]])[torch.arange(queries) % 2]
    hits = exact_search(corners, signs, min(k, docs), block)
    assert hits.rows.tolist() == brute_force(corners, signs, min(k, docs))
    index = ExactIndex(block)
    index.build(corners)
    assert torch.equal(index.search(signs, k).rows, hits.rows)


def test_no_more_scores_than_a_block_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def counted(scores: torch.Tensor, k: int) -> object:
        sizes.append(scores.numel())
        return top_k(scores, k)

    monkeypatch.setattr("srch3.indexes.scan.top_k", counted)
    exact_search(clustered(100), clustered(50, seed=1), 5, block=600)
    assert max(sizes) <= 600
    assert sum(sizes) == 100 * 50


def test_no_more_components_than_a_block_are_decoded_at_once() -> None:
    vectors = clustered(100)
    asked: list[int] = []

    class Coded:
        shape = vectors.shape

        def __len__(self) -> int:
            return len(vectors)

        def __getitem__(self, rows: slice | torch.Tensor) -> torch.Tensor:
            asked.append(vectors[rows].numel())
            return vectors[rows]

    hits = exact_search(Coded(), clustered(1, seed=1), 5, block=10 * vectors.shape[1])
    assert max(asked) <= 10 * vectors.shape[1]
    assert torch.equal(hits.rows, exact_search(vectors, clustered(1, seed=1), 5).rows)


def test_ties_at_the_border_of_the_best_go_to_the_lowest_rows() -> None:
    scores = torch.tensor([[0.5, 1.0] + [0.5] * 50, [0.1] * 51 + [0.2]])
    hits = top_k(scores, 4)
    assert hits.rows.tolist() == [[1, 0, 2, 3], [51, 0, 1, 2]]


def test_ranked_orders_by_score_then_row() -> None:
    hits = ranked(torch.tensor([[9, 4, 7, 1]]), torch.tensor([[0.5, 0.5, 0.9, 0.1]]), 3)
    assert hits.rows.tolist() == [[7, 4, 9]]
    torch.testing.assert_close(hits.scores, torch.tensor([[0.9, 0.5, 0.5]]))


def test_a_block_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"index.init_args.block: expected at least 1; got 0"):
        ExactIndex(block=0)
