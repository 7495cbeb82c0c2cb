"""What all losses share: a weight that may change as training goes on, and settings that are checked when made."""

import math
from typing import ClassVar

from torch import nn

from srch3.errors import ConfigError


class BaseLoss(nn.Module):
    """A term of training. Subclasses define ``forward``, which returns the term *before* it is weighted.

    Args:
        weight: Factor of the term in the sum; 0 switches it off.
        final_weight: Factor at the end of ``ramp``; by default the weight stays as it is.
        ramp: Shares of training, such as [0.0, 0.5], between which the factor goes from ``weight`` to ``final_weight``
            in a straight line.

    Raises:
        ConfigError: If a weight is negative, NaN or infinite, or the ramp is not within 0 to 1.
    """

    argument: ClassVar[str] = "loss"
    """The module's argument that takes this loss, as error messages name it."""

    def __init__(
        self, weight: float = 1.0, final_weight: float | None = None, ramp: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__()
        self.weight = self._at_least_zero("weight", weight, "0 switches the term off")
        self.final_weight = weight
        if final_weight is not None:
            self.final_weight = self._at_least_zero("final_weight", final_weight, "0 switches the term off in the end")
        if not 0 <= ramp[0] < ramp[1] <= 1:
            self._refuse("ramp", "two numbers a, b with 0 <= a < b <= 1", list(ramp), "they are shares of training")
        if final_weight is None and tuple(ramp) != (0.0, 1.0):
            self._refuse("ramp", "final_weight beside it", list(ramp), "without one the weight does not change")
        self.ramp = (ramp[0], ramp[1])

    @property
    def changes(self) -> bool:
        """Whether the weight depends on how far training is."""
        return self.final_weight != self.weight

    @property
    def used(self) -> bool:
        """Whether the weight is ever above zero."""
        return max(self.weight, self.final_weight) > 0

    def weight_at(self, progress: float) -> float:
        """The factor of the term.

        Args:
            progress: Share of training that is over, 0 to 1.
        """
        start, end = self.ramp
        done = min(max((progress - start) / (end - start), 0.0), 1.0)
        return self.weight + done * (self.final_weight - self.weight)

    def extra_repr(self) -> str:
        """The weight, for the summary of a model."""
        course = f"->{self.final_weight} over {list(self.ramp)}" if self.changes else ""
        return f"weight={self.weight}{course}"

    def _at_least_zero(self, name: str, value: float, advice: str) -> float:
        """The value, once it is known to be finite and not negative."""
        if not (math.isfinite(value) and value >= 0):
            self._refuse(name, "a finite number >= 0", value, advice)
        return value

    def _refuse(self, name: str, expected: str, value: object, advice: str) -> None:
        """Reports a setting under the name that it has in YAML."""
        raise ConfigError(
            f"model.init_args.{self.argument}.init_args.{name}: expected {expected}; got {value}; {advice}"
        )
