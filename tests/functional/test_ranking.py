import math
from collections.abc import Sequence

import pytest
import torch
from torch import tensor

from srch3.functional.ranking import grade_hits, log_rank, scaled_dcg


class Letters:
    ids: Sequence[str] = ["a", "b", "c", "d"]
    texts: Sequence[str] = ["A", "B", "C", "D"]

    def __len__(self) -> int:
        return 4

    def row(self, document_id: str) -> int:
        return self.ids.index(document_id)


def test_grades_of_hits() -> None:
    rows = tensor([[2, 0, 3], [1, 3, 0]])
    grades = grade_hits(rows, [{"a": 2, "c": 1, "b": 1}, {"c": 3}], Letters())
    assert grades.tolist() == [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
    assert grades.dtype is torch.float32


def test_grades_refuse_a_query_without_judgements() -> None:
    with pytest.raises(ValueError, match="shorter"):
        grade_hits(tensor([[0], [1]]), [{"a": 1}], Letters())


def test_grades_of_no_queries() -> None:
    assert grade_hits(torch.empty(0, 3, dtype=torch.long), [], Letters()).shape == (0, 3)


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
    grades = tensor([[0.0, 0.0, 1.0]])
    assert log_rank(grades, k=1).item() == 0
    assert log_rank(grades, k=2).item() == 0
    assert log_rank(grades, k=8).item() == pytest.approx(0.5)
