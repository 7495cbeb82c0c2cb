"""Scores of a ranking, as continuous as a reward has to be.

Every function takes hits that are best first, and looks at the first ``k``. Where there are fewer than that, they are
all the documents there are.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def grade_hits(
    rows: Int64[Tensor, "queries hits"], relevant: Sequence[Mapping[int, int]]
) -> Float[Tensor, "queries hits"]:
    """The grade of each hit.

    Args:
        rows: Corpus rows that were found.
        relevant: Corpus row to grade, for each query.

    Returns:
        Float32 on the device of ``rows``; 0 where a hit is not judged.
    """
    grades = [
        [float(judged.get(row, 0)) for row in found] for found, judged in zip(rows.tolist(), relevant, strict=True)
    ]
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
    return (gains / torch.log2(_ranks(gains) + 1)).sum(dim=1)


def log_rank(grades: Float[Tensor, "rollouts hits"], k: int) -> Float[Tensor, "rollouts"]:
    r"""Falls with the logarithm of the rank of the first relevant hit, from 1 at the top to 0 at the last rank.

    .. math:: 1 - \frac{\log r}{\log n}

    The last rank n is k + 1, which stands for whatever is not among the first k; or the number of documents, where
    they are fewer than k.

    Args:
        grades: Of the hits, best first.
        k: Hits that count.

    Returns:
        Between 0 and 1; 0 where none of the first k hits is relevant.
    """
    last = k + 1 if grades.shape[1] >= k else max(grades.shape[1], 2)
    first = first_rank(grades, k).clamp_max(last)
    return 1 - first.log() / torch.log(first.new_tensor(last))


def first_rank(grades: Float[Tensor, "rollouts hits"], k: int) -> Float[Tensor, "rollouts"]:
    """The rank of the first relevant hit, counted from 1; one more than the hits where none is relevant."""
    relevant = grades[:, :k] > 0
    return _ranks(relevant).where(relevant, relevant.shape[1] + 1.0).amin(dim=1)


def negatives(grades: Float[Tensor, "rollouts hits"]) -> Bool[Tensor, "rollouts hits"]:
    """Which hits are irrelevant, at least one per row: where all are relevant, the last one stands in.

    No document that was not found is more similar than the last hit, so its similarity bounds that of every negative.
    """
    irrelevant = grades <= 0
    irrelevant[:, -1] |= ~irrelevant.any(dim=1)
    return irrelevant


def margin(
    positives: Float[Tensor, "rollouts"],
    scores: Float[Tensor, "rollouts hits"],
    grades: Float[Tensor, "rollouts hits"],
    k: int,
) -> Float[Tensor, "rollouts"]:
    """How much more similar the positive is than the most similar of the irrelevant hits.

    Args:
        positives: Cosine similarities of the positives, found or not.
        scores: Cosine similarities of the hits, best first.
        grades: Of the hits.
        k: Hits that count.

    Returns:
        -2 to 2; above 0 where the positive comes first.
    """
    return positives - scores[:, :k].where(negatives(grades[:, :k]), -torch.inf).amax(dim=1)


def rank_margin(
    scores: Float[Tensor, "rollouts hits"],
    grades: Float[Tensor, "rollouts hits"],
    k: int,
    top: int,
    temperature: float | None = None,
) -> Float[Tensor, "rollouts"]:
    r"""The share of relevant documents that come early, times how much more similar they are than the others.

    .. math:: \frac{|\mathrm{relevant} \cap \mathrm{first}_n|}{\min(n, |\mathrm{relevant}|)} \cdot
        \left( \overline{s^+} - \sum_j w_j s^-_j \right), \quad
        w_j = \frac{e^{s^-_j / \tau}}{\sum_i e^{s^-_i / \tau}}

    Args:
        scores: Cosine similarities of the hits, best first.
        grades: Of the hits. Relevant are the documents graded above 0 among the first k.
        k: Hits that count.
        top: n, what is early.
        temperature: Of the softmax that weights the irrelevant hits; without one they weigh alike.

    Returns:
        0 where none of the first n hits is relevant.
    """
    scores, relevant = scores[:, :k], grades[:, :k] > 0
    found = relevant.sum(dim=1)
    share = relevant[:, :top].sum(dim=1) / found.clamp(1, top)
    logits = scores.new_zeros(scores.shape) if temperature is None else scores / temperature
    weights = logits.where(negatives(grades[:, :k]), -torch.inf).softmax(dim=1)
    mean = scores.where(relevant, 0.0).sum(dim=1) / found.clamp_min(1)
    return share * (mean - (weights * scores).sum(dim=1))


def similarity_rank(
    positives: Float[Tensor, "rollouts"],
    scores: Float[Tensor, "rollouts hits"],
    grades: Float[Tensor, "rollouts hits"],
    k: int,
    gamma: float,
) -> Float[Tensor, "rollouts"]:
    r"""The positive's similarity, discounted by its rank r, less the irrelevant hits' similarities, weighted by theirs.

    .. math:: \frac{s_r}{1 + \log r} - \gamma \sum_{j} s_j (\log j - 1)

    The weight of an irrelevant hit is negative at the ranks 1 and 2 and grows with its rank.

    Args:
        positives: Cosine similarities of the positives, found or not; one that was not found has the rank after the
            last one that counts.
        scores: Cosine similarities of the hits, best first.
        grades: Of the hits.
        k: Hits that count.
        gamma: Weight of the second term.
    """
    counted = scores[:, :k].where(grades[:, :k] <= 0, 0.0)
    penalty = (counted * (_ranks(counted).log() - 1)).sum(dim=1)
    return positives / (1 + first_rank(grades, k).log()) - gamma * penalty


def _ranks(hits: Tensor) -> Float[Tensor, "hits"]:
    return torch.arange(1, hits.shape[1] + 1, device=hits.device, dtype=torch.float32)
