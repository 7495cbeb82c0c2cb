"""Losses that shape the embedding space."""

import math
from typing import ClassVar

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from srch3.functional.contrastive import info_nce, triplet_margin
from srch3.losses.base import BaseLoss


class InfoNCE(BaseLoss):
    r"""Finds each query's document among all documents of the batch.

    .. math:: -\log \frac{\exp(\cos(q, d^+)/\tau)}{\sum_i \exp(\cos(q, d_i)/\tau)}

    van den Oord et al., 2018 (arXiv 1807.03748). The main signal of stage 1: it uses every negative at once, and gains
    from large batches. In stage 2 it keeps the space in shape while rewards shape the thoughts (LREM, 2510.14321, gives
    it a tenth of the weight there).

    Args:
        weight: Factor of the term.
        temperature: Lower ones look at the hardest negatives only; 0.01 to 0.1 is usual, and the Search-R3 paper's
            value is not known to us.

    Raises:
        ConfigError: If an argument is out of range.
    """

    argument: ClassVar[str] = "info_nce"

    def __init__(self, weight: float = 1.0, temperature: float = 0.05) -> None:
        super().__init__(weight)
        if not (math.isfinite(temperature) and temperature > 0):
            self._refuse("temperature", "a finite number > 0", temperature, "0.05 is a good start")
        self.temperature = temperature

    def forward(
        self,
        queries: Float[Tensor, "queries dim"],
        documents: Float[Tensor, "docs dim"],
        positives: Int64[Tensor, "queries"],
        excluded: Bool[Tensor, "queries docs"] | None = None,
        weights: Float[Tensor, "queries"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of a batch, unweighted; see `srch3.functional.contrastive.info_nce`."""
        return info_nce(queries, documents, positives, self.temperature, excluded, weights)


class TripletMargin(BaseLoss):
    r"""Demands a gap between each query's document and its hardest negative, and is silent once it is there.

    .. math:: \max(0, \theta - \cos(q, d^+) + \cos(q, d^-))

    Schroff et al., 2015 (arXiv 1503.03832). Use it beside `InfoNCE` where the data has mined hard negatives: it spends
    nothing on negatives that are far away already. That the Search-R3 paper means cosines here is our reading, and its
    margin is not known to us.

    Args:
        weight: Factor of the term.
        margin: Demanded difference of cosines.

    Raises:
        ConfigError: If an argument is out of range.
    """

    argument: ClassVar[str] = "triplet_margin"

    def __init__(self, weight: float = 1.0, margin: float = 0.2) -> None:
        super().__init__(weight)
        self.margin = self._at_least_zero("margin", margin, "cosines differ by at most 2, and 0.2 is a good start")

    def forward(
        self,
        queries: Float[Tensor, "queries dim"],
        documents: Float[Tensor, "docs dim"],
        positives: Int64[Tensor, "queries"],
        candidates: Bool[Tensor, "queries docs"],
    ) -> Float[Tensor, ""]:
        """The loss of a batch, unweighted; see `srch3.functional.contrastive.triplet_margin`."""
        return triplet_margin(queries, documents, positives, candidates, self.margin)
