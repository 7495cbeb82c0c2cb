"""Post-trains language models to think about a query and then to emit its search embedding.

Nothing heavy is imported here: import the part that you need, as in ``from srch3.indexes import ExactIndex``.
``srch3.Searcher`` and ``srch3.Embedder``, which use a trained model, are imported when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srch3.inference.embedder import Embedder
    from srch3.inference.searcher import Searcher

__version__ = "0.1.0"
__all__ = ["Embedder", "Searcher", "__version__"]

_HOMES = {"Embedder": "srch3.inference.embedder", "Searcher": "srch3.inference.searcher"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
