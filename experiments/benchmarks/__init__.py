"""Comparisons with other programs that do the same, each in a folder of its own."""
