import math

import pytest
import torch
from torch import Tensor, tensor
from torch.nn import functional as F

from srch3.functional.contrastive import false_negatives, info_nce, triplet_margin
from srch3.functional.similarity import normalise

BASIS = tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])


def unit(rows: int, dim: int, seed: int) -> Tensor:
    return normalise(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def slow_info_nce(
    queries: Tensor,
    documents: Tensor,
    positives: list[int],
    temperature: float,
    excluded: list[list[bool]],
    weights: list[float],
) -> float:
    total = 0.0
    for query, positive, left_out, weight in zip(queries, positives, excluded, weights, strict=True):
        denominator = 0.0
        for index, document in enumerate(documents):
            if index == positive or not left_out[index]:
                denominator += math.exp(float(query.dot(document)) / temperature)
        total -= weight * (float(query.dot(documents[positive])) / temperature - math.log(denominator))
    return total / sum(weights)


def test_info_nce_by_hand() -> None:
    loss = info_nce(BASIS[:1], BASIS, tensor([0]), temperature=0.5)
    expected = -math.log(math.exp(2) / (math.exp(2) + math.exp(0) + math.exp(1.2)))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.02, 0.3, 1.0])
def test_info_nce_agrees_with_a_loop(temperature: float) -> None:
    queries, documents = unit(6, 5, 0), unit(9, 5, 1)
    positives = [3, 3, 0, 8, 1, 0]
    excluded = torch.rand(6, 9, generator=torch.Generator().manual_seed(2)) < 0.4
    weights = [0.5, 2.0, 1.0, 0.0, 3.0, 1.0]
    loss = info_nce(queries, documents, tensor(positives), temperature, excluded, tensor(weights))
    expected = slow_info_nce(queries, documents, positives, temperature, excluded.tolist(), weights)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_info_nce_without_options_is_cross_entropy() -> None:
    queries, documents, positives = unit(4, 3, 3), unit(7, 3, 4), tensor([6, 0, 2, 2])
    expected = F.cross_entropy(queries @ documents.T / 0.05, positives)
    torch.testing.assert_close(info_nce(queries, documents, positives, 0.05), expected)


def test_info_nce_never_excludes_the_positive() -> None:
    everything = torch.ones(2, 3, dtype=torch.bool)
    loss = info_nce(BASIS[:2], BASIS, tensor([2, 0]), 0.1, excluded=everything)
    assert loss.item() == pytest.approx(0.0, abs=1e-7)


def test_info_nce_does_not_write_into_the_mask() -> None:
    excluded = torch.ones(1, 3, dtype=torch.bool)
    info_nce(BASIS[:1], BASIS, tensor([0]), 0.1, excluded)
    assert excluded.all()


def test_info_nce_of_an_excluded_document_equals_that_without_the_document() -> None:
    queries, documents = unit(3, 4, 5), unit(6, 4, 6)
    excluded = torch.zeros(3, 6, dtype=torch.bool)
    excluded[:, 4] = True
    left_out = documents[[0, 1, 2, 3, 5]]
    positives = tensor([0, 1, 2])
    torch.testing.assert_close(
        info_nce(queries, documents, positives, 0.1, excluded), info_nce(queries, left_out, positives, 0.1)
    )


def test_info_nce_is_invariant_to_the_order_of_the_batch() -> None:
    queries, documents, positives = unit(5, 4, 7), unit(8, 4, 8), tensor([7, 1, 2, 2, 0])
    excluded = torch.rand(5, 8, generator=torch.Generator().manual_seed(9)) < 0.3
    weights = tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    rows, columns = tensor([3, 0, 4, 1, 2]), tensor([5, 2, 7, 0, 1, 6, 3, 4])
    moved = info_nce(
        queries[rows], documents[columns], columns.argsort()[positives[rows]], 0.1,
        excluded[rows][:, columns], weights[rows],
    )  # fmt: skip
    torch.testing.assert_close(moved, info_nce(queries, documents, positives, 0.1, excluded, weights))


def test_info_nce_depends_on_ratios_of_weights_only() -> None:
    queries, documents, positives = unit(3, 4, 10), unit(3, 4, 11), torch.arange(3)
    weights = tensor([1.0, 2.0, 5.0])
    torch.testing.assert_close(
        info_nce(queries, documents, positives, 0.1, weights=weights),
        info_nce(queries, documents, positives, 0.1, weights=7 * weights),
    )


def test_info_nce_of_zero_weights_is_zero() -> None:
    queries = BASIS.clone().requires_grad_()
    loss = info_nce(queries, BASIS, torch.arange(3), 0.1, weights=torch.zeros(3))
    loss.backward()
    assert loss.item() == 0
    assert queries.grad is not None
    assert not queries.grad.any()


def test_info_nce_gradients() -> None:
    excluded = tensor([[False, True, False, True], [False, False, False, False]])

    def loss(queries: Tensor, documents: Tensor) -> Tensor:
        return info_nce(normalise(queries), normalise(documents), tensor([1, 1]), 0.2, excluded, tensor([1.0, 0.3]))

    queries, documents = unit(2, 3, 12).mul(2).requires_grad_(), unit(4, 3, 13).mul(0.5).requires_grad_()
    assert torch.autograd.gradcheck(loss, (queries, documents))


def test_info_nce_of_bfloat16_embeddings_is_computed_in_float32() -> None:
    assert info_nce(BASIS.bfloat16(), BASIS.bfloat16(), torch.arange(3), 0.05).dtype is torch.float32


def test_triplet_margin_by_hand() -> None:
    # Query 0: positive 1.0, hardest candidate 0.6. Query 1: positive 0.8, hardest candidate 1.0.
    candidates = torch.ones(2, 3, dtype=torch.bool)
    loss = triplet_margin(BASIS[:2], BASIS, tensor([0, 2]), candidates, margin=0.5)
    assert loss.item() == pytest.approx((0.1 + 0.7) / 2, abs=1e-6)


def test_triplet_margin_looks_at_candidates_only() -> None:
    candidates = tensor([[True, True, False]])
    assert triplet_margin(BASIS[:1], BASIS, tensor([0]), candidates, margin=0.5).item() == 0
    assert triplet_margin(BASIS[:1], BASIS, tensor([0]), candidates, margin=1.2).item() == pytest.approx(0.2)


def test_triplet_margin_averages_over_queries_with_a_candidate() -> None:
    candidates = tensor([[False, False, True], [False, False, False]])
    loss = triplet_margin(BASIS[:2], BASIS, tensor([0, 1]), candidates, margin=0.5)
    assert loss.item() == pytest.approx(0.1, abs=1e-6)


def test_triplet_margin_without_candidates_is_zero_with_finite_gradients() -> None:
    queries = BASIS.clone().requires_grad_()
    own = torch.eye(3, dtype=torch.bool)
    loss = triplet_margin(queries, BASIS, torch.arange(3), own, margin=0.5)
    loss.backward()
    assert loss.item() == 0
    assert queries.grad is not None
    assert queries.grad.abs().sum() == 0


def test_triplet_margin_agrees_with_torch_on_one_negative() -> None:
    queries, positives, negatives = unit(5, 4, 14), unit(5, 4, 15), unit(5, 4, 16)
    candidates = torch.zeros(5, 10, dtype=torch.bool)
    candidates[torch.arange(5), torch.arange(5, 10)] = True
    loss = triplet_margin(queries, torch.cat((positives, negatives)), torch.arange(5), candidates, margin=0.4)
    gap = torch.cosine_similarity(queries, positives), torch.cosine_similarity(queries, negatives)
    torch.testing.assert_close(loss, F.margin_ranking_loss(*gap, torch.ones(5), margin=0.4))


def test_triplet_margin_gradients() -> None:
    candidates = torch.rand(3, 6, generator=torch.Generator().manual_seed(17)) < 0.6

    def loss(queries: Tensor, documents: Tensor) -> Tensor:
        return triplet_margin(normalise(queries), normalise(documents), torch.arange(3), candidates, 0.7)

    assert torch.autograd.gradcheck(loss, (unit(3, 4, 18).requires_grad_(), unit(6, 4, 19).requires_grad_()))


def test_false_negatives_are_judged_documents_and_copies() -> None:
    ids = ["a", "b", "c", "d", "e"]
    texts = ["apple", "bread", "apple", "dates", "bread"]
    mask = false_negatives(tensor([0, 3]), ids, texts, [{"a", "d"}, {"d": 1, "b": 2}])
    assert mask.tolist() == [
        [False, False, True, True, False],  # c is a copy of the positive, d is judged
        [False, True, False, False, True],  # b is judged, e is a copy of b
    ]


def test_false_negatives_of_an_unjudged_batch_are_none() -> None:
    assert not false_negatives(tensor([0, 1]), ["a", "b"], ["x", "y"], [(), ()]).any()


def test_false_negatives_of_no_queries_has_a_column_per_document() -> None:
    assert false_negatives(torch.empty(0, dtype=torch.long), ["a", "b"], ["x", "y"], []).shape == (0, 2)


def test_false_negatives_refuses_lists_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="shorter"):
        false_negatives(tensor([0, 1]), ["a", "b"], ["x", "y"], [()])
