"""Exact search: the oracle that the others are measured against, and the right choice for small corpora."""

from jaxtyping import Float
from torch import Tensor

from srch3.errors import ConfigError
from srch3.indexes.base import ARGUMENTS, BaseIndex
from srch3.indexes.scan import exact_search
from srch3.types import Hits


class ExactIndex(BaseIndex):
    """Compares every query with every document, a block of scores at a time.

    Args:
        block: Scores held in memory at once, 4 bytes each. It bounds the memory, not the results.
    """

    kind = "exact"

    def __init__(self, block: int = 1 << 24) -> None:
        super().__init__()
        if block < 1:
            raise ConfigError(f"{ARGUMENTS}.block: expected at least 1; got {block}")
        self.block = block

    def _search(self, queries: Float[Tensor, "queries dim"], k: int) -> Hits:
        return exact_search(self.vectors, queries, k, self.block)
