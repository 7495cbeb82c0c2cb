"""Encoding of documents against sentence-transformers."""
