"""Scores of a ranking, as continuous as a reward has to be."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.types import CorpusLike


def grade_hits(
    rows: Int64[Tensor, "queries hits"], relevant: Sequence[Mapping[str, int]], corpus: CorpusLike
) -> Float[Tensor, "queries hits"]:
    """The grade of each hit.

    Args:
        rows: Corpus rows that were found.
        relevant: Document id to grade, for each query.
        corpus: Where the rows come from.

    Returns:
        Float32 on the device of ``rows``; 0 where a hit is not judged.
    """
    grades = []
    for found, judged in zip(rows.tolist(), relevant, strict=True):
        by_row = {corpus.row(document_id): float(grade) for document_id, grade in judged.items()}
        grades.append([by_row.get(row, 0.0) for row in found])
    return torch.tensor(grades, dtype=torch.float32, device=rows.device).reshape(rows.shape)


def scaled_dcg(
    scores: Float[Tensor, "rollouts hits"], grades: Float[Tensor, "rollouts hits"], k: int
) -> Float[Tensor, "rollouts"]:
    r"""Discounted cumulative gain in which every gain is scaled by its similarity.

    .. math:: \sum_{i \le k} \mathrm{rel}_i \, \frac{\max(s_i, 0)}{\log_2(i + 1)}

    With one relevant document of grade 1 this is its cosine over the logarithm of its rank plus one, and 0 where it is
    not found. The rank sets the level, and the similarity tells completions apart that rank alike.

    Args:
        scores: Cosine similarities of the hits, best first.
        grades: Of the hits; linear gain.
        k: Hits that count.

    Returns:
        Not divided by an ideal value: above 1 where grades or the number of relevant documents are.
    """
    gains = grades[:, :k] * scores[:, :k].clamp_min(0)
    ranks = torch.arange(1, gains.shape[1] + 1, device=gains.device, dtype=gains.dtype)
    return (gains / torch.log2(ranks + 1)).sum(dim=1)


def log_rank(grades: Float[Tensor, "rollouts hits"], k: int) -> Float[Tensor, "rollouts"]:
    r"""Falls with the logarithm of the rank of the first relevant hit, from 1 at the top to 0 below rank k.

    .. math:: 1 - \frac{\log r}{\log (k + 1)}

    Args:
        grades: Of the hits, best first.
        k: Hits that count.

    Returns:
        Between 0 and 1; 0 where none of the first k hits is relevant.
    """
    relevant = grades[:, :k] > 0
    ranks = torch.arange(1, relevant.shape[1] + 1, device=grades.device, dtype=grades.dtype)
    first = ranks.where(relevant, k + 1).amin(dim=1)
    return 1 - first.log() / torch.log(grades.new_tensor(k + 1))
