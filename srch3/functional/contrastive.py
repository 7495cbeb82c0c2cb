"""Losses that pull a query towards its documents and away from the others of the batch."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from srch3.functional.similarity import cosine

BLOCK = 1 << 20
"""Similarities that are held at once, 4 bytes each, while a loss and its gradient are computed."""

_LOW = -1e30
"""Stands for a similarity that does not count: its exponential is zero, and so is the gradient, without any NaN."""


class Targets(NamedTuple):
    """What each query of a batch is to find, and what is no negative of it.

    Attributes:
        queries: Row of each pair's query; a query has as many pairs as positives.
        documents: Column of each pair's positive.
        weights: Importance of each pair, >= 0.
        known: True where a document must not count as a query's negative: its positives, whatever else of the batch is
            judged relevant for it, and copies of both.
        same: True where another query must not count as a query's negative: itself, and those which have a positive
            that is known for the query. Needed where queries are compared with queries.
    """

    queries: Int64[Tensor, "pairs"]
    documents: Int64[Tensor, "pairs"]
    weights: Float[Tensor, "pairs"]
    known: Bool[Tensor, "queries docs"]
    same: Bool[Tensor, "queries others"] | None = None


class Total(NamedTuple):
    """A weighted sum and the sum of its weights, so that parts of a batch add up to the mean of the whole.

    Attributes:
        value: The sum.
        weight: What to divide it by; zero where nothing counts.
    """

    value: Float[Tensor, ""]
    weight: Float[Tensor, ""]

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Zero where nothing counts."""
        return self.value / self.weight.where(self.weight > 0, 1.0)


def info_nce(
    queries: Float[Tensor, "queries dim"],
    documents: Float[Tensor, "docs dim"],
    targets: Targets,
    temperature: float,
    others: Float[Tensor, "others dim"] | None = None,
    document_document: bool = False,
) -> Total:
    r"""Cross-entropy of finding each query's document among all documents of the batch.

    .. math:: L = \frac{\sum_{(q, d^+)} w_q \ell_{q d^+}}{\sum w_q}, \quad
        \ell_{q d^+} = -\log
        \frac{e^{\cos(q, d^+)/\tau}}{e^{\cos(q, d^+)/\tau} + \sum_{d \notin K_q} e^{\cos(q, d)/\tau}}

    van den Oord et al., 2018 (arXiv 1807.03748); with in-batch negatives as in Karpukhin et al., 2020 (2004.04906).
    Each of several positives is a pair of its own, in whose denominator the query's other positives do not stand
    (Khosla et al., 2020, arXiv 2004.11362). Similarities between queries, and between documents, can join the
    denominator, as in GTE (Li et al., 2023, arXiv 2308.03281).

    Of a large batch, blocks of rows are computed one after the other, and again in the backward pass: similarities
    never need more than a few blocks' memory, and the masks of the targets a byte per query and document.

    Args:
        queries: Unit length is assumed.
        documents: Positives and negatives in any order; unit length is assumed.
        targets: What each query is to find.
        temperature: Divides the similarities; > 0.
        others: Queries to tell each query from as well, of which ``targets.same`` says which do not count; unit length.
        document_document: Whether each positive is told from the documents that are no positives of its query.

    Returns:
        Weighted sum over the pairs, in nats, and the sum of weights.
    """

    def block(rows: slice, pairs: Int64[Tensor, "some"]) -> Float[Tensor, ""]:
        query, document = targets.queries[pairs] - rows.start, targets.documents[pairs]
        known = targets.known[rows]
        scores = cosine(queries[rows], documents) / temperature
        positive = scores[query, document]
        rest = _log_sum(scores, known)[query]
        if others is not None:
            assert targets.same is not None
            among = _log_sum(cosine(queries[rows], others) / temperature, targets.same[rows])
            rest = torch.logaddexp(rest, among[query])
        if document_document:
            among = _log_sum(cosine(documents[document], documents) / temperature, known[query])
            rest = torch.logaddexp(rest, among)
        return (targets.weights[pairs] * F.softplus(rest - positive)).sum()

    return Total(_sum_of_blocks(block, targets, queries, documents), targets.weights.sum())


def triplet_margin(
    queries: Float[Tensor, "queries dim"], documents: Float[Tensor, "docs dim"], targets: Targets, margin: float
) -> Total:
    r"""How far each query's hardest negative intrudes into a margin around its document.

    .. math:: \ell_{q d^+} = \max(0, \theta - \cos(q, d^+) + \max_{d \notin K_q} \cos(q, d))

    Schroff et al., 2015 (arXiv 1503.03832), in cosines and with the hardest negative.

    Args:
        queries: Unit length is assumed.
        documents: Unit length is assumed.
        targets: What each query is to find.
        margin: Demanded difference of cosines; >= 0.

    Returns:
        Weighted sum over the pairs of queries that have a negative, and the sum of their weights.
    """

    def block(rows: slice, pairs: Int64[Tensor, "some"]) -> Float[Tensor, ""]:
        query, document = targets.queries[pairs] - rows.start, targets.documents[pairs]
        scores = cosine(queries[rows], documents)
        hardest = scores.masked_fill(targets.known[rows], -torch.inf).amax(dim=1)
        intrusion = (margin - scores[query, document] + hardest[query]).relu()
        return (targets.weights[pairs] * intrusion).sum()

    contested = (~targets.known).any(dim=1)[targets.queries]
    return Total(_sum_of_blocks(block, targets, queries, documents), (targets.weights * contested).sum())


@torch.no_grad()
def leave_out_lookalikes(
    queries: Float[Tensor, "queries dim"], documents: Float[Tensor, "docs dim"], targets: Targets, margin: float
) -> Targets:
    """Takes documents for unjudged positives that are clearly more similar to a query than its own best positive is.

    Args:
        queries: Unit length is assumed.
        documents: Unit length is assumed.
        targets: What each query is to find.
        margin: A document is left out if its cosine exceeds that of the best positive by more than this.

    Returns:
        The targets, with those documents among the known ones.
    """
    known = targets.known.clone()
    for rows, pairs in _blocks(targets, len(documents)):
        scores = cosine(queries[rows], documents)
        query = targets.queries[pairs] - rows.start
        positive = scores[query, targets.documents[pairs]]
        best = scores.new_full((len(scores),), torch.inf).scatter_reduce(0, query, positive, "amax", include_self=False)
        known[rows] |= scores > best[:, None] + margin
    return targets._replace(known=known)


def _log_sum(scores: Float[Tensor, "rows columns"], left_out: Bool[Tensor, "rows columns"]) -> Float[Tensor, "rows"]:
    return scores.masked_fill(left_out, _LOW).logsumexp(dim=1)


def _blocks(targets: Targets, columns: int) -> Iterator[tuple[slice, Int64[Tensor, "some"]]]:
    """Rows that are computed together, and the pairs of these rows."""
    rows = len(targets.known)
    widest = max(columns, 0 if targets.same is None else targets.same.shape[1], 1)
    step = max(1, BLOCK // widest)
    for start in range(0, rows, step):
        inside = (targets.queries >= start) & (targets.queries < start + step)
        yield slice(start, min(start + step, rows)), inside.nonzero()[:, 0]


def _sum_of_blocks(
    block: Callable[[slice, Tensor], Tensor], targets: Targets, queries: Tensor, documents: Tensor
) -> Float[Tensor, ""]:
    """Zero where there is no query, but with gradients: other processes may wait for them."""
    blocks = list(_blocks(targets, len(documents)))
    if not blocks:
        return 0.0 * (queries.float().sum() + documents.float().sum())
    if len(blocks) == 1:
        return block(*blocks[0])
    parts = [checkpoint(block, rows, pairs, use_reentrant=False, preserve_rng_state=False) for rows, pairs in blocks]
    return torch.stack(parts).sum()
