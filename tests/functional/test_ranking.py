import math

import pytest
import torch
from torch import tensor

from srch3.functional.ranking import (
    first_rank,
    grade_hits,
    log_rank,
    margin,
    negatives,
    rank_margin,
    scaled_dcg,
    similarity_rank,
)


def test_grades_of_hits() -> None:
    rows = tensor([[2, 0, 3], [1, 3, 0]])
    grades = grade_hits(rows, [{0: 2, 2: 1, 1: 1}, {2: 3}])
    assert grades.tolist() == [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
    assert grades.dtype is torch.float32


def test_grades_refuse_a_query_without_judgements() -> None:
    with pytest.raises(ValueError, match="shorter"):
        grade_hits(tensor([[0], [1]]), [{0: 1}])


def test_grades_of_no_queries() -> None:
    assert grade_hits(torch.empty(0, 3, dtype=torch.long), []).shape == (0, 3)


def test_scaled_dcg_by_hand() -> None:
    scores = tensor([[0.9, 0.8, 0.5], [0.9, 0.6, -0.2]])
    grades = tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0]])
    expected = tensor([0.8 / math.log2(3) + 2 * 0.5 / 2, 0.9])
    torch.testing.assert_close(scaled_dcg(scores, grades, k=3), expected)


def test_scaled_dcg_counts_the_first_k_only() -> None:
    scores, grades = tensor([[0.9, 0.8]]), tensor([[0.0, 1.0]])
    assert scaled_dcg(scores, grades, k=1).item() == 0
    assert scaled_dcg(scores, grades, k=50).item() == pytest.approx(0.8 / math.log2(3))


def test_scaled_dcg_rises_with_rank_and_with_similarity() -> None:
    grades = tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    scores = tensor([[0.7, 0.6], [0.8, 0.7], [0.8, 0.6]])
    first, second, third = scaled_dcg(scores, grades, k=2).tolist()
    assert first > second > third > 0


def test_log_rank_by_hand() -> None:
    grades = tensor([[1.0, 0, 0], [0, 0, 2], [0, 0, 0], [0, 1, 1]])
    expected = tensor([1.0, 1 - math.log(3) / math.log(4), 0.0, 0.5])
    torch.testing.assert_close(log_rank(grades, k=3), expected)


def test_log_rank_counts_the_first_k_only() -> None:
    grades = tensor([[0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    assert log_rank(grades, k=1).item() == 0
    assert log_rank(grades, k=2).item() == 0
    assert log_rank(grades, k=8).item() == pytest.approx(0.5)


def test_log_rank_ends_at_the_last_of_few_documents() -> None:
    grades = torch.eye(3)
    expected = tensor([1.0, 1 - math.log(2) / math.log(3), 0.0])
    torch.testing.assert_close(log_rank(grades, k=100), expected)
    assert log_rank(tensor([[1.0], [0.0]]), k=100).tolist() == [1.0, 0.0]


def test_the_first_rank_by_hand() -> None:
    grades = tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert first_rank(grades, k=3).tolist() == [2, 4, 1]
    assert first_rank(grades, k=1).tolist() == [2, 2, 1]


def test_there_is_always_a_negative() -> None:
    grades = tensor([[1.0, 0.0, 2.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert negatives(grades).tolist() == [[False, True, False], [False, False, True], [True, True, True]]
    assert grades[1].tolist() == [1, 1, 1]


def test_margin_by_hand() -> None:
    scores, grades = tensor([[0.9, 0.8, 0.5], [0.9, 0.8, 0.5]]), tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(margin(tensor([0.9, 0.3]), scores, grades, k=3), tensor([0.1, -0.6]))


def test_rank_margin_by_hand() -> None:
    scores, grades = tensor([[0.9, 0.7, 0.5, 0.1]]), tensor([[0.0, 3.0, 1.0, 0.0]])
    assert rank_margin(scores, grades, k=4, top=2).item() == pytest.approx(0.5 * (0.6 - 0.5))
    weight = math.exp(0.9 / 0.2) / (math.exp(0.9 / 0.2) + math.exp(0.1 / 0.2))
    softmax = rank_margin(scores, grades, k=4, top=3, temperature=0.2).item()
    assert softmax == pytest.approx(0.6 - weight * 0.9 - (1 - weight) * 0.1)
    assert rank_margin(scores, grades, k=4, top=1).item() == 0


def test_similarity_rank_by_hand() -> None:
    scores, grades = tensor([[0.9, 0.7, 0.5]]), tensor([[0.0, 1.0, 0.0]])
    expected = 0.7 / (1 + math.log(2)) - 0.2 * (-0.9 + 0.5 * (math.log(3) - 1))
    assert similarity_rank(tensor([0.7]), scores, grades, k=3, gamma=0.2).item() == pytest.approx(expected)


def test_similarity_rank_pays_for_order_among_negatives() -> None:
    grades = tensor([[1.0, 0.0, 0.0, 0.0]] * 2)
    steep, flat = tensor([[0.9, 0.6, 0.3, 0.0], [0.9, 0.3, 0.3, 0.3]])
    rewards = similarity_rank(tensor([0.9, 0.9]), torch.stack([steep, flat]), grades, k=4, gamma=0.1)
    assert rewards[0] > rewards[1]
