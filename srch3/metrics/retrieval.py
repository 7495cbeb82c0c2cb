"""nDCG@10, MRR@10 and recall@100 over all judged queries, equal to trec_eval's."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.functional.retrieval import (
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from srch3.types import CorpusLike, Hits

NAMES = ("ndcg@10", "mrr@10", "recall@100")
DEPTH = 100
"""Hits that the deepest metric looks at."""


def query_scores(
    hits: Hits, relevant: Sequence[Mapping[str, int]], corpus: CorpusLike
) -> dict[str, Float[Tensor, "queries"]]:
    """The metrics of each query by itself, as a paired test of two systems needs them.

    nDCG has linear gain. Its ideal and recall's denominator count all relevant documents, also those not found. The
    order of the hits is taken as it is, whatever their scores, so that nothing depends on how ties are broken.

    Args:
        hits: At least 100 per query, or the whole corpus where it is smaller.
        relevant: Document id to grade of each query, grades above zero only. A query without any scores 0.
        corpus: What was searched.

    Returns:
        Float32 on the CPU, by name.

    Raises:
        ValueError: If there are fewer hits than the metrics look at.
    """
    found = hits.rows.shape[1]
    if found < min(DEPTH, len(corpus)):
        raise ValueError(f"hits: expected {min(DEPTH, len(corpus))} per query; got {found}; search with k={DEPTH}")
    with _default_float32():
        scores = [
            _score(_grades(rows, judged, corpus)) for rows, judged in zip(hits.rows.tolist(), relevant, strict=True)
        ]
    columns = torch.stack(scores).T if scores else torch.empty(len(NAMES), 0)
    return dict(zip(NAMES, columns, strict=True))


class RetrievalMetrics(nn.Module):
    """Means over queries, kept by torchmetrics, which adds them up over ranks.

    Each rank passes queries of its own; a query that is passed twice counts twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.ModuleDict({name: MeanMetric().set_dtype(torch.float32) for name in NAMES})

    def update(self, hits: Hits, relevant: Sequence[Mapping[str, int]], corpus: CorpusLike) -> None:
        """Takes in the searches of a batch of queries.

        Args:
            hits: At least 100 per query, or the whole corpus where it is smaller.
            relevant: Document id to grade of each query. Queries without any are not judged, and are left out.
            corpus: What was searched.
        """
        judged = torch.tensor([bool(grades) for grades in relevant], dtype=torch.bool)
        for name, values in query_scores(hits, relevant, corpus).items():
            mean = self._means()[name]
            mean.update(values[judged].to(mean.device))

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """The mean of each metric over the queries of all ranks."""
        return {name: metric.compute() for name, metric in self._means().items()}

    def reset(self) -> None:
        """Forgets all queries, as before each evaluation."""
        for metric in self._means().values():
            metric.reset()

    def _means(self) -> Mapping[str, MeanMetric]:
        """The means by name, with the type that a module's dictionary forgets."""
        return cast(Mapping[str, MeanMetric], self.means)


def _grades(rows: Sequence[int], judged: Mapping[str, int], corpus: CorpusLike) -> Int64[Tensor, "places"]:
    """The grade of each hit, then those of the relevant documents that were not found, below the depth."""
    missing = {corpus.row(document_id): grade for document_id, grade in judged.items()}
    found = [missing.pop(row, 0) for row in rows]
    return torch.tensor(found + list(missing.values()))


def _score(grades: Int64[Tensor, "places"]) -> Float[Tensor, "metrics"]:
    """The metrics of one ranking, whose order is given to torchmetrics as strictly falling scores."""
    order = torch.arange(len(grades), 0, -1, dtype=torch.float32)
    binary = grades > 0
    return torch.stack(
        [
            retrieval_normalized_dcg(order, grades, top_k=10),
            retrieval_reciprocal_rank(order, binary, top_k=10),
            retrieval_recall(order, binary, top_k=DEPTH),
        ]
    )


@contextmanager
def _default_float32() -> Iterator[None]:
    """Keeps torchmetrics' discounts precise while training in bfloat16 has made that the type of new tensors."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
