"""How well searches answer their queries."""

from srch3.metrics.retrieval import RetrievalMetrics, query_scores

__all__ = ["RetrievalMetrics", "query_scores"]
