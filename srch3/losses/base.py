"""What all losses share: a weight, and settings that are checked when they are made."""

import math
from typing import ClassVar

from torch import nn

from srch3.errors import ConfigError


class BaseLoss(nn.Module):
    """A term of training. Subclasses define ``forward``, which returns the term *before* it is weighted.

    Args:
        weight: Factor of the term in the sum; 0 switches it off.

    Raises:
        ConfigError: If the weight is negative, NaN or infinite.
    """

    argument: ClassVar[str] = "loss"
    """The module's argument that takes this loss, as error messages name it."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = self._at_least_zero("weight", weight, "0 switches the term off")

    def extra_repr(self) -> str:
        """The weight, for the summary of a model."""
        return f"weight={self.weight}"

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
