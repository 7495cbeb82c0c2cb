"""Post-trains language models to think about a query and then to emit its search embedding.

Nothing heavy is imported here: import the part that you need, as in ``from srch3.indexes import ExactIndex``.
"""

__version__ = "0.1.0"
