"""Losses that pull a query towards its document and away from the others of the batch."""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from srch3.functional.similarity import cosine


def info_nce(
    queries: Float[Tensor, "queries dim"],
    documents: Float[Tensor, "docs dim"],
    positives: Int64[Tensor, "queries"],
    temperature: float,
    excluded: Bool[Tensor, "queries docs"] | None = None,
    weights: Float[Tensor, "queries"] | None = None,
) -> Float[Tensor, ""]:
    r"""Cross-entropy of finding each query's document among all documents of the batch.

    .. math:: L = \frac{\sum_q w_q \ell_q}{\sum_q w_q}, \quad
        \ell_q = -\log \frac{\exp(\cos(q, d^+)/\tau)}{\sum_{d \notin E_q} \exp(\cos(q, d)/\tau)}

    van den Oord et al., 2018 (arXiv 1807.03748); with in-batch negatives as in Karpukhin et al., 2020 (2004.04906).

    Args:
        queries: Unit length is assumed.
        documents: Positives and negatives in any order; unit length is assumed.
        positives: Index of each query's document. Queries may share one, as the thinking and the direct embedding of
            the same query do.
        temperature: Divides the similarities; > 0.
        excluded: True leaves the document out of the query's denominator. The positive itself always stays in.
        weights: Importance of each query, >= 0; only their ratios matter. If all are zero, so is the loss.

    Returns:
        Weighted mean over the queries, in nats.
    """
    logits = cosine(queries, documents) / temperature
    if excluded is not None:
        logits = logits.masked_fill(excluded & ~_columns(positives, len(documents)), -torch.inf)
    losses = F.cross_entropy(logits, positives, reduction="none")
    if weights is None:
        return losses.mean()
    weights = weights.to(losses.dtype)
    return (losses * weights).sum() / weights.sum().clamp_min(torch.finfo(losses.dtype).tiny)


def triplet_margin(
    queries: Float[Tensor, "queries dim"],
    documents: Float[Tensor, "docs dim"],
    positives: Int64[Tensor, "queries"],
    candidates: Bool[Tensor, "queries docs"],
    margin: float,
) -> Float[Tensor, ""]:
    r"""How far each query's hardest negative intrudes into a margin around its document.

    .. math:: L = \operatorname{mean}_q \max(0, \theta - \cos(q, d^+) + \max_{d \in C_q} \cos(q, d))

    Schroff et al., 2015 (arXiv 1503.03832), in cosines and with the hardest candidate.

    Args:
        queries: Unit length is assumed.
        documents: Unit length is assumed.
        positives: Index of each query's document.
        candidates: True where a document may serve as the query's negative. The positive itself never does.
        margin: Demanded difference of cosines; >= 0.

    Returns:
        Mean over the queries that have a candidate; zero if none has.
    """
    similarities = cosine(queries, documents)
    candidates = candidates & ~_columns(positives, len(documents))
    positive = similarities.gather(1, positives[:, None]).squeeze(1)
    hardest = similarities.masked_fill(~candidates, -torch.inf).max(dim=1).values
    losses = (margin - positive + hardest).relu()
    return losses.sum() / candidates.any(dim=1).sum().clamp_min(1)


def false_negatives(
    positives: Int64[Tensor, "queries"],
    document_ids: Sequence[str],
    document_texts: Sequence[str],
    relevant: Sequence[Collection[str]],
) -> Bool[Tensor, "queries docs"]:
    """Which documents of the batch must not count as negatives of a query.

    Those are the documents that are judged relevant for it, and those with the same text as its positive or as one
    that is judged relevant.

    Args:
        positives: Index of each query's document.
        document_ids: Ids of the documents of the batch; ids may occur twice.
        document_texts: Their texts, in the same order.
        relevant: Ids of all the relevant documents of each query.

    Returns:
        Mask for `info_nce`'s ``excluded``, on the device of ``positives``; False at the positives themselves.
    """
    rows = []
    for positive, judged in zip(positives.tolist(), relevant, strict=True):
        batch = zip(document_ids, document_texts, strict=True)
        texts = {document_texts[positive]} | {text for key, text in batch if key in judged}
        rows.append([text in texts for text in document_texts])
    mask = torch.tensor(rows, dtype=torch.bool, device=positives.device).reshape(len(positives), len(document_ids))
    return mask & ~_columns(positives, len(document_ids))


def _columns(indices: Int64[Tensor, "queries"], count: int) -> Bool[Tensor, "queries docs"]:
    """True at each row's index."""
    return indices[:, None] == torch.arange(count, device=indices.device)
