import math
from typing import Any

import pytest
import torch
from torch import Tensor, tensor
from torch.nn import functional as F

import srch3.functional.contrastive as contrastive
from srch3.functional.contrastive import Targets, Total, info_nce, leave_out_lookalikes, triplet_margin
from srch3.functional.similarity import normalise

BASIS = tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])


def unit(rows: int, dim: int, seed: int) -> Tensor:
    return normalise(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def chance(rows: int, columns: int, share: float, seed: int) -> Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < share


def targets(
    positives: list[list[int]], docs: int, known: Tensor | None = None, weights: list[float] | None = None,
    same: Tensor | None = None,
) -> Targets:  # fmt: skip
    pairs = [(query, column) for query, columns in enumerate(positives) for column in columns]
    left_out = torch.zeros(len(positives), docs, dtype=torch.bool) if known is None else known.clone()
    for query, column in pairs:
        left_out[query, column] = True
    rows, columns = tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    shares = [(weights or [1.0] * len(positives))[query] / len(positives[query]) for query, _ in pairs]
    return Targets(rows, columns, tensor(shares), left_out, same)


def slow_info_nce(
    queries: Tensor, documents: Tensor, wanted: Targets, temperature: float, others: Tensor | None = None,
    document_document: bool = False,
) -> float:  # fmt: skip
    def similar(left: Tensor, right: Tensor) -> float:
        return math.exp(float(left.double().dot(right.double())) / temperature)

    total = 0.0
    for query, document, weight in zip(wanted.queries, wanted.documents, wanted.weights.tolist(), strict=True):
        positive = denominator = similar(queries[query], documents[document])
        for column, other in enumerate(documents):
            if not wanted.known[query, column]:
                denominator += similar(queries[query], other)
                denominator += similar(documents[document], other) if document_document else 0
        for row, other in enumerate([] if others is None else others):
            assert wanted.same is not None
            denominator += 0 if wanted.same[query, row] else similar(queries[query], other)
        total -= weight * math.log(positive / denominator)
    return total / float(wanted.weights.sum())


def test_info_nce_by_hand() -> None:
    loss = info_nce(BASIS[:1], BASIS, targets([[0]], 3), temperature=0.5).mean
    expected = -math.log(math.exp(2) / (math.exp(2) + math.exp(0) + math.exp(1.2)))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_info_nce_of_two_positives_by_hand() -> None:
    # Each positive is told from the only negative, cosine 0; the other positive is in no denominator.
    loss = info_nce(BASIS[:1], BASIS, targets([[0, 2]], 3), temperature=0.5).mean
    first = math.log(1 + math.exp(0 - 2))
    second = math.log(1 + math.exp(0 - 1.2))
    assert loss.item() == pytest.approx((first + second) / 2, abs=1e-6)


@pytest.mark.parametrize("block", [1, 20, 1 << 20])
@pytest.mark.parametrize(
    "options", [{}, {"queries": True}, {"document_document": True}, {"queries": True, "document_document": True}]
)
@pytest.mark.parametrize("temperature", [0.02, 0.3])
def test_info_nce_agrees_with_a_loop_whatever_its_blocks(
    temperature: float, options: dict[str, bool], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrastive, "BLOCK", block)
    queries, documents, others = unit(6, 5, 0), unit(9, 5, 1), unit(7, 5, 2)
    wanted = targets(
        [[3], [3, 4, 8], [0], [8, 2], [1], [0]], 9, chance(6, 9, 0.4, 2), [0.5, 2, 1, 0, 3, 1], chance(6, 7, 0.3, 3)
    )
    settings: dict[str, Any] = {"document_document": options.get("document_document", False)}
    settings["others"] = others if options.get("queries") else None
    loss = info_nce(queries, documents, wanted, temperature, **settings).mean
    assert loss.item() == pytest.approx(slow_info_nce(queries, documents, wanted, temperature, **settings), rel=1e-6)


def test_blocks_change_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = targets([[3], [3, 4], [0], [8], [1], [0]], 9, chance(6, 9, 0.4, 2), same=chance(6, 6, 0.3, 3))
    gradients = []
    for block in (10, 1 << 20):
        monkeypatch.setattr(contrastive, "BLOCK", block)
        queries, documents = unit(6, 5, 0).requires_grad_(), unit(9, 5, 1).requires_grad_()
        loss = info_nce(queries, documents, wanted, 0.1, queries, document_document=True)
        (loss.mean + triplet_margin(queries, documents, wanted, 0.9).mean).backward()
        gradients.append((queries.grad, documents.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-9)


def test_info_nce_without_options_is_cross_entropy() -> None:
    queries, documents, positives = unit(4, 3, 3), unit(7, 3, 4), [6, 0, 2, 2]
    expected = F.cross_entropy(queries @ documents.T / 0.05, tensor(positives))
    loss = info_nce(queries, documents, targets([[column] for column in positives], 7), 0.05).mean
    torch.testing.assert_close(loss, expected)


def test_info_nce_without_a_negative_is_zero_with_finite_gradients() -> None:
    queries = BASIS[:2].clone().requires_grad_()
    loss = info_nce(queries, BASIS, targets([[2], [0]], 3, torch.ones(2, 3, dtype=torch.bool)), 0.1).mean
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-7)
    assert queries.grad is not None
    assert not queries.grad.any()


def test_info_nce_of_an_excluded_document_equals_that_without_the_document() -> None:
    queries, documents = unit(3, 4, 5), unit(6, 4, 6)
    known = torch.zeros(3, 6, dtype=torch.bool)
    known[:, 4] = True
    left_out = documents[[0, 1, 2, 3, 5]]
    positives = [[0], [1], [2]]
    torch.testing.assert_close(
        info_nce(queries, documents, targets(positives, 6, known), 0.1).mean,
        info_nce(queries, left_out, targets(positives, 5), 0.1).mean,
    )


def test_info_nce_is_invariant_to_the_order_of_the_batch() -> None:
    queries, documents, positives = unit(5, 4, 7), unit(8, 4, 8), [7, 1, 2, 2, 0]
    known, weights = chance(5, 8, 0.3, 9), [1.0, 2.0, 3.0, 4.0, 5.0]
    rows, columns = [3, 0, 4, 1, 2], [5, 2, 7, 0, 1, 6, 3, 4]
    moved = targets(
        [[columns.index(positives[row])] for row in rows], 8, known[rows][:, columns], [weights[row] for row in rows]
    )
    torch.testing.assert_close(
        info_nce(queries[rows], documents[columns], moved, 0.1).mean,
        info_nce(queries, documents, targets([[column] for column in positives], 8, known, weights), 0.1).mean,
    )


def test_info_nce_depends_on_ratios_of_weights_only() -> None:
    queries, documents, positives = unit(3, 4, 10), unit(3, 4, 11), [[0], [1], [2]]
    first, second = targets(positives, 3, weights=[1.0, 2.0, 5.0]), targets(positives, 3, weights=[7.0, 14.0, 35.0])
    torch.testing.assert_close(
        info_nce(queries, documents, first, 0.1).mean, info_nce(queries, documents, second, 0.1).mean
    )


def test_totals_of_parts_add_up_to_the_mean_of_the_whole() -> None:
    queries, documents = unit(5, 4, 20), unit(5, 4, 21)
    whole = targets([[0], [1], [2], [3], [4]], 5, weights=[1.0, 2.0, 0.0, 3.0, 1.0])
    parts = []
    for rows in (slice(0, 2), slice(2, 5)):
        inside = Targets(
            torch.arange(5)[rows] - rows.start, whole.documents[rows], whole.weights[rows], whole.known[rows]
        )
        parts.append(info_nce(queries[rows], documents, inside, 0.1))
    together = Total(parts[0].value + parts[1].value, parts[0].weight + parts[1].weight)
    torch.testing.assert_close(together.mean, info_nce(queries, documents, whole, 0.1).mean)


def test_losses_of_zero_weights_are_zero() -> None:
    queries = BASIS.clone().requires_grad_()
    nothing = targets([[0], [1], [2]], 3, weights=[0.0, 0.0, 0.0])
    loss = info_nce(queries, BASIS, nothing, 0.1).mean + triplet_margin(queries, BASIS, nothing, 0.5).mean
    loss.backward()
    assert loss.item() == 0
    assert queries.grad is not None
    assert not queries.grad.any()


def test_a_mean_over_nothing_has_finite_gradients_whatever_its_factor() -> None:
    queries = BASIS.clone().requires_grad_()
    nothing = targets([[0], [1], [2]], 3, weights=[0.0, 0.0, 0.0])
    (65536.0 * info_nce(queries, BASIS, nothing, 0.1).mean).backward()
    assert queries.grad is not None
    assert not queries.grad.any()


def test_info_nce_gradients() -> None:
    wanted = targets([[1], [1, 3]], 4, tensor([[0, 1, 0, 1], [0, 0, 0, 0]]).bool(), [1.0, 0.3], chance(2, 2, 0.5, 1))
    wanted = wanted._replace(weights=wanted.weights.double())

    def loss(queries: Tensor, documents: Tensor) -> Tensor:
        asked, found = normalise(queries), normalise(documents)
        return info_nce(asked, found, wanted, 0.2, asked, document_document=True).mean

    queries, documents = unit(2, 3, 12).mul(2).requires_grad_(), unit(4, 3, 13).mul(0.5).requires_grad_()
    assert torch.autograd.gradcheck(loss, (queries, documents))


def test_info_nce_of_bfloat16_embeddings_is_computed_in_float32() -> None:
    wanted = targets([[0], [1], [2]], 3)
    assert info_nce(BASIS.bfloat16(), BASIS.bfloat16(), wanted, 0.05).value.dtype is torch.float32


def test_triplet_margin_by_hand() -> None:
    # Query 0: positive 1.0, hardest negative 0.6. Query 1: positive 0.8, hardest negative 1.0.
    loss = triplet_margin(BASIS[:2], BASIS, targets([[0], [2]], 3), margin=0.5).mean
    assert loss.item() == pytest.approx((0.1 + 0.7) / 2, abs=1e-6)


def test_triplet_margin_weighs_every_positive() -> None:
    # Query 0 has positives 1.0 and 0.6 against 0.0; query 1, of weight 3, has 0.8 against 1.0.
    loss = triplet_margin(BASIS[:2], BASIS, targets([[0, 2], [2]], 3, weights=[1.0, 3.0]), margin=0.7).mean
    assert loss.item() == pytest.approx((0.5 * 0.0 + 0.5 * 0.1 + 3 * 0.9) / 4, abs=1e-6)


def test_triplet_margin_looks_at_negatives_only() -> None:
    wanted = targets([[0]], 3, tensor([[False, False, True]]))
    assert triplet_margin(BASIS[:1], BASIS, wanted, margin=0.5).mean.item() == 0
    assert triplet_margin(BASIS[:1], BASIS, wanted, margin=1.2).mean.item() == pytest.approx(0.2)


def test_triplet_margin_averages_over_queries_with_a_negative() -> None:
    wanted = targets([[0], [1]], 3, tensor([[True, True, False], [True, True, True]]))
    assert triplet_margin(BASIS[:2], BASIS, wanted, margin=0.5).mean.item() == pytest.approx(0.1, abs=1e-6)


def test_triplet_margin_without_negatives_is_zero_with_finite_gradients() -> None:
    queries = BASIS.clone().requires_grad_()
    wanted = targets([[0], [1], [2]], 3, torch.ones(3, 3, dtype=torch.bool))
    loss = triplet_margin(queries, BASIS, wanted, margin=0.5).mean
    loss.backward()
    assert loss.item() == 0
    assert queries.grad is not None
    assert queries.grad.abs().sum() == 0


def test_triplet_margin_agrees_with_torch_on_one_negative() -> None:
    queries, positives, negatives = unit(5, 4, 14), unit(5, 4, 15), unit(5, 4, 16)
    known = torch.ones(5, 10, dtype=torch.bool)
    known[torch.arange(5), torch.arange(5, 10)] = False
    wanted = targets([[row] for row in range(5)], 10, known)
    loss = triplet_margin(queries, torch.cat((positives, negatives)), wanted, margin=0.4).mean
    gap = torch.cosine_similarity(queries, positives), torch.cosine_similarity(queries, negatives)
    torch.testing.assert_close(loss, F.margin_ranking_loss(*gap, torch.ones(5), margin=0.4))


def test_triplet_margin_gradients() -> None:
    wanted = targets([[0], [1, 4], [2]], 6, chance(3, 6, 0.4, 17))
    wanted = wanted._replace(weights=wanted.weights.double())

    def loss(queries: Tensor, documents: Tensor) -> Tensor:
        return triplet_margin(normalise(queries), normalise(documents), wanted, 0.7).mean

    assert torch.autograd.gradcheck(loss, (unit(3, 4, 18).requires_grad_(), unit(6, 4, 19).requires_grad_()))


@pytest.mark.parametrize("block", [1, 1 << 20])
def test_lookalikes_are_what_exceeds_the_best_positive_by_the_margin(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrastive, "BLOCK", block)
    # Query 0: cosines 1, 0, .6, .8; its positives are .6 and 0. Query 1: 0, 1, .8, .6; its positive is .6.
    documents = torch.cat((BASIS, tensor([[0.8, 0.6]])))
    wanted = targets([[2, 1], [3]], 4, tensor([[False] * 4, [True, False, False, False]]))
    found = leave_out_lookalikes(BASIS[:2], documents, wanted, margin=0.3)
    assert found.known.tolist() == [[True, True, True, False], [True, True, False, True]]
    assert leave_out_lookalikes(BASIS[:2], documents, wanted, margin=0.1).known.tolist() == [[True] * 4] * 2
    assert wanted.known.sum() == 4
