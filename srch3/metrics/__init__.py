"""How well searches answer their queries."""

from srch3.metrics.retrieval import DEPTH, RetrievalMetrics, query_scores

__all__ = ["DEPTH", "RetrievalMetrics", "query_scores"]
