"""Losses that teach the form of an answer, and that keep the language the model came with."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.functional.contrastive import Total
from srch3.functional.language import Direction, categorical_kl, token_cross_entropy
from srch3.losses.base import BaseLoss


class CrossEntropy(BaseLoss):
    r"""Writes the target thought and the embed token after it.

    .. math:: -\frac{1}{T} \sum_t \log p(y_t \mid y_{<t}, x)

    The mean over all response tokens of a batch. Without it the model does not learn when to end its thought.

    Args:
        weight: Factor of the term.
        final_weight: Factor at the end of ``ramp``.
        ramp: Shares of training between which the factor changes; see `srch3.losses.base.BaseLoss`.

    Raises:
        ConfigError: If an argument is out of range.
    """

    argument: ClassVar[str] = "cross_entropy"

    def forward(
        self,
        logits: Float[Tensor, "tokens vocab"],
        targets: Int64[Tensor, "tokens"],
        importance: Float[Tensor, "tokens"] | None = None,
    ) -> Total:
        """The sum over the tokens, each times its example's importance (1 if none is given)."""
        losses = token_cross_entropy(logits, targets)
        importance = torch.ones_like(losses) if importance is None else importance
        return Total((losses * importance).sum(), importance.sum())


class BaseKL(BaseLoss):
    r"""Keeps the distribution over the next token near that of the frozen base model.

    .. math:: \frac{1}{T} \sum_t \mathrm{KL}(p^\mathrm{base}_t \,\|\, p_t)

    Exact, over the whole vocabulary but the added embed token, which the base has never learned. The Search-R3 paper's
    direction is not known to us. Use it where the model's general ability must outlive training; it costs a forward
    pass of the base model.

    Args:
        weight: Factor of the term.
        direction: ``forward`` as in the formula, or ``reverse``; see `srch3.functional.language.categorical_kl`.
        final_weight: Factor at the end of ``ramp``.
        ramp: Shares of training between which the factor changes; see `srch3.losses.base.BaseLoss`.

    Raises:
        ConfigError: If an argument is out of range.
    """

    argument: ClassVar[str] = "base_kl"

    def __init__(
        self,
        weight: float = 1.0,
        direction: Direction = "forward",
        final_weight: float | None = None,
        ramp: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(weight, final_weight, ramp)
        if direction not in ("forward", "reverse"):
            self._refuse("direction", "forward or reverse", direction, "forward is KL(base || model)")
        self.direction: Direction = direction

    def forward(
        self,
        logits: Float[Tensor, "tokens vocab"],
        reference_logits: Float[Tensor, "tokens vocab"],
        excluded_id: int | None = None,
        importance: Float[Tensor, "tokens"] | None = None,
    ) -> Total:
        """The sum over the tokens, each times its example's importance (1 if none is given)."""
        divergences = categorical_kl(logits, reference_logits, excluded_id, self.direction)
        importance = torch.ones_like(divergences) if importance is None else importance
        return Total((divergences * importance).sum(), importance.sum())
