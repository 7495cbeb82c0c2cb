"""Training texts that are longer than the model reads."""

from typing import Literal

from srch3.backbones import ReasoningEmbedder
from srch3.errors import DataError
from srch3.types import TrainBatch

Overlong = Literal["truncate", "skip", "error"]
"""What becomes of a training query with a text beyond the limits: it is cut, left out and counted, or refused."""


def within_window(backbone: ReasoningEmbedder, batch: TrainBatch) -> list[bool]:
    """Which queries of a batch are within the limits, with all their positives and negatives."""
    long_queries = backbone.overlong(batch.texts, "direct")
    documents = [
        [*positives, *negatives] for positives, negatives in zip(batch.positives, batch.negatives, strict=True)
    ]
    long_documents = iter(backbone.overlong([text for texts in documents for text in texts], "document"))
    return [
        not (query + sum(next(long_documents) for _ in texts))
        for query, texts in zip(long_queries, documents, strict=True)
    ]


def refuse_overlong(batch: TrainBatch, inside: list[bool]) -> None:
    """Stops at the first query that is not within the limits.

    Raises:
        DataError: Names it.
    """
    for query_id, text, fits in zip(batch.ids, batch.texts, inside, strict=True):
        if not fits:
            raise DataError(
                "model.init_args.overlong: expected texts within max_query_tokens and max_document_tokens of "
                f"model.init_args.backbone; got a longer one in training query {query_id!r} ({text[:60]!r}) or one of "
                "its documents; raise the limits, or say `overlong: truncate` or `overlong: skip`"
            )
