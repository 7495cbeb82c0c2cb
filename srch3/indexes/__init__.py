"""Indexes of document vectors that can be overwritten in place: exact (the oracle), HNSW, and faiss beyond memory."""

from srch3.indexes.base import BaseIndex
from srch3.indexes.exact import ExactIndex
from srch3.indexes.faiss import FaissIndex
from srch3.indexes.hnsw import HnswIndex

__all__ = ["BaseIndex", "ExactIndex", "FaissIndex", "HnswIndex"]
