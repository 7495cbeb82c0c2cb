"""Losses that pull a query towards its documents and away from the others of the batch."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from srch3.functional.contrastive import Targets, Total, info_nce, triplet_margin
from srch3.functional.similarity import truncated
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
        query_query: Whether a query is told from the other queries of the batch as well, but for those which share a
            relevant document (GTE, arXiv 2308.03281).
        document_document: Whether a positive is told from the other documents of the batch as well (the same paper).
        widths: Matryoshka (arXiv 2205.13147): the first so many components of an embedding are trained to be an
            embedding too. The term is the mean over these widths and the full one; evaluation reports each.
        final_weight: Factor at the end of ``ramp``.
        ramp: Shares of training between which the factor changes; see `srch3.losses.base.BaseLoss`.

    Raises:
        ConfigError: If an argument is out of range.
    """

    argument: ClassVar[str] = "info_nce"

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 0.05,
        query_query: bool = False,
        document_document: bool = False,
        widths: list[int] | None = None,
        final_weight: float | None = None,
        ramp: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(weight, final_weight, ramp)
        if not (math.isfinite(temperature) and temperature > 0):
            self._refuse("temperature", "a finite number > 0", temperature, "0.05 is a good start")
        if widths is not None and (not widths or min(widths) < 1):
            self._refuse("widths", "numbers of components, such as [64, 128]", widths, "leave it out for the full one")
        self.temperature = temperature
        self.query_query = query_query
        self.document_document = document_document
        self.widths = sorted(set(widths or []))

    def widths_below(self, dim: int) -> list[int]:
        """The truncated widths.

        Raises:
            ConfigError: If one of them is not below the full width.
        """
        if self.widths and self.widths[-1] >= dim:
            self._refuse(
                "widths", f"widths below the model's own, {dim}", self.widths, "the full one is always trained"
            )
        return self.widths

    def forward(
        self,
        queries: Float[Tensor, "queries dim"],
        documents: Float[Tensor, "docs dim"],
        targets: Targets,
        others: Float[Tensor, "others dim"] | None = None,
    ) -> Total:
        """The loss of a batch, unweighted; see `srch3.functional.contrastive.info_nce`."""
        full = queries.shape[1]
        values = []
        for width in [*self.widths_below(full), full]:
            asked, found = truncated(queries, width), truncated(documents, width)
            among = truncated(others, width) if others is not None else None
            values.append(info_nce(asked, found, targets, self.temperature, among, self.document_document))
        return Total(torch.stack([total.value for total in values]).mean(), values[0].weight)


class TripletMargin(BaseLoss):
    r"""Demands a gap between each query's document and its hardest negative, and is silent once it is there.

    .. math:: \max(0, \theta - \cos(q, d^+) + \cos(q, d^-))

    Schroff et al., 2015 (arXiv 1503.03832). Use it beside `InfoNCE` where the data has mined hard negatives: it spends
    nothing on negatives that are far away already. That the Search-R3 paper means cosines here is our reading, and its
    margin is not known to us.

    Args:
        weight: Factor of the term.
        margin: Demanded difference of cosines.
        final_weight: Factor at the end of ``ramp``.
        ramp: Shares of training between which the factor changes; see `srch3.losses.base.BaseLoss`.

    Raises:
        ConfigError: If an argument is out of range.
    """

    argument: ClassVar[str] = "triplet_margin"

    def __init__(
        self,
        weight: float = 1.0,
        margin: float = 0.2,
        final_weight: float | None = None,
        ramp: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(weight, final_weight, ramp)
        self.margin = self._at_least_zero("margin", margin, "cosines differ by at most 2, and 0.2 is a good start")

    def forward(
        self, queries: Float[Tensor, "queries dim"], documents: Float[Tensor, "docs dim"], targets: Targets
    ) -> Total:
        """The loss of a batch, unweighted; see `srch3.functional.contrastive.triplet_margin`."""
        return triplet_margin(queries, documents, targets, self.margin)
