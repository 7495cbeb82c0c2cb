"""Exact search: the oracle that the others are measured against, and the right choice for small corpora."""

from jaxtyping import Float
from torch import Tensor

from srch3.errors import ConfigError
from srch3.indexes.base import ARGUMENTS, BaseIndex
from srch3.indexes.scan import BLOCK, exact_search
from srch3.indexes.store import Dtype
from srch3.types import Hits


class ExactIndex(BaseIndex):
    """Compares every query with every document, a block of scores at a time.

    Args:
        block: Scores held in memory at once, 4 bytes each. It bounds the memory, not the results.
        dtype: How vectors are stored. Cosines move by up to about 0.0005 in float16, and 0.01 in int8.
    """

    kind = "exact"

    def __init__(self, block: int = BLOCK, dtype: Dtype = "float32") -> None:
        super().__init__(dtype)
        if block < 1:
            raise ConfigError(f"{ARGUMENTS}.block: expected at least 1; got {block}")
        self.block = block

    @property
    def maps_in_place(self) -> bool:
        """If vectors are stored as float32."""
        return self.dtype == "float32"

    def _search(self, queries: Float[Tensor, "queries dim"], k: int) -> Hits:
        return exact_search(self._store, queries, k, self.block, self._alive)
