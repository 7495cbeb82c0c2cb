"""Experiments with srch3: each folder is one, with its command and its numbers."""
