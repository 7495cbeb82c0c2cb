"""Losses that teach the form of an answer, and that keep the language the model came with."""

from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor

from srch3.functional.language import Direction, categorical_kl, token_cross_entropy
from srch3.losses.base import BaseLoss


class CrossEntropy(BaseLoss):
    r"""Writes the target thought and the embed token after it.

    .. math:: -\frac{1}{T} \sum_t \log p(y_t \mid y_{<t}, x)

    The mean over all response tokens of a batch. Without it the model does not learn when to end its thought.

    Args:
        weight: Factor of the term.

    Raises:
        ConfigError: If the weight is out of range.
    """

    argument: ClassVar[str] = "cross_entropy"

    def forward(self, logits: Float[Tensor, "tokens vocab"], targets: Int64[Tensor, "tokens"]) -> Float[Tensor, ""]:
        """The mean over the tokens, unweighted; zero where there are none."""
        return token_cross_entropy(logits, targets).sum() / max(len(targets), 1)


class BaseKL(BaseLoss):
    r"""Keeps the distribution over the next token near that of the frozen base model.

    .. math:: \frac{1}{T} \sum_t \mathrm{KL}(p^\mathrm{base}_t \,\|\, p_t)

    Exact, over the whole vocabulary but the added embed token, which the base has never learned. The Search-R3 paper's
    direction is not known to us. Use it where the model's general ability must outlive training; it costs a forward
    pass of the base model.

    Args:
        weight: Factor of the term.
        direction: ``forward`` as in the formula, or ``reverse``; see `srch3.functional.language.categorical_kl`.

    Raises:
        ConfigError: If an argument is out of range.
    """

    argument: ClassVar[str] = "base_kl"

    def __init__(self, weight: float = 1.0, direction: Direction = "forward") -> None:
        super().__init__(weight)
        if direction not in ("forward", "reverse"):
            self._refuse("direction", "forward or reverse", direction, "forward is KL(base || model)")
        self.direction: Direction = direction

    def forward(
        self,
        logits: Float[Tensor, "tokens vocab"],
        reference_logits: Float[Tensor, "tokens vocab"],
        excluded_id: int | None = None,
    ) -> Float[Tensor, ""]:
        """The mean over the tokens, unweighted; zero where there are none."""
        divergences = categorical_kl(logits, reference_logits, excluded_id, self.direction)
        return divergences.sum() / max(len(divergences), 1)
