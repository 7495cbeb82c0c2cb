"""Corrections: where documents moved that were not encoded again, learned from those that were."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from srch3.errors import ConfigError
from srch3.functional.similarity import in_float64

ARGUMENTS = "environment.init_args.correction.init_args"
"""Where the arguments of a correction stand in YAML."""


class BaseCorrection(ABC):
    """Fits a linear map from where documents were thought to be to where encoding them again found them.

    An optimizer step moves all embeddings in much the same way. The map is applied to the documents that are still
    stale, at no encoding; since it is fitted on where they were *thought* to be, it mends what the maps of earlier
    steps got wrong.
    """

    @abstractmethod
    def fit(
        self, thought: Float[Tensor, "some dim"], found: Float[Tensor, "some dim"]
    ) -> Float[Tensor, "dim dim"] | None:
        """The map ``M`` with ``found ≈ thought @ M``, up to its length, which can be inverted; None for no change.

        Args:
            thought: Where documents were thought to be, unit length.
            found: Where the present model has them, unit length.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """What was learned."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` gave."""
        return


class NoCorrection(BaseCorrection):
    """Leaves stale documents where they were encoded."""

    def fit(
        self, thought: Float[Tensor, "some dim"], found: Float[Tensor, "some dim"]
    ) -> Float[Tensor, "dim dim"] | None:
        """None."""
        return None


class RidgeCorrection(BaseCorrection):
    """The linear map of least squares, drawn towards no change.

    ``M`` minimises ``Σ wᵢ |thoughtᵢ M − foundᵢ|² + prior |M − 1|²``, in closed form
    ``(Σ wᵢ thoughtᵢᵀ thoughtᵢ + prior 1)⁻¹ (Σ wᵢ thoughtᵢᵀ foundᵢ + prior 1)``. Documents of earlier steps still count,
    ``memory`` times as much with every step, for the model goes on moving much as it did; without them a budget of few
    documents could not tell ``dim²`` numbers.

    What it learns from must be about as stale as the rest. The oldest documents carry the errors of all maps since they
    were encoded; a map that mends these, applied to documents that have fewer of them, overshoots, and the errors grow
    from round to round. With up to half of the budget for the oldest they do not.

    Args:
        prior: How many documents' worth of evidence, in each direction, stands for no change; above 0.
        memory: Weight of a document after a step, from 0 to below 1.

    Raises:
        ConfigError: A number is out of range.
    """

    def __init__(self, prior: float = 10.0, memory: float = 0.8) -> None:
        if not prior > 0:
            raise ConfigError(f"{ARGUMENTS}.prior: expected above 0; got {prior}; large values correct less")
        if not 0 <= memory < 1:
            raise ConfigError(
                f"{ARGUMENTS}.memory: expected 0 to below 1; got {memory}; with 0 each step is on its own"
            )
        self.prior, self.memory = prior, memory
        self._within: Tensor | None = None
        self._across: Tensor | None = None

    def fit(
        self, thought: Float[Tensor, "some dim"], found: Float[Tensor, "some dim"]
    ) -> Float[Tensor, "dim dim"] | None:
        """The solution, in float64, computed where the vectors are: ``dim³`` operations take seconds on a CPU."""
        thought, found = in_float64(thought), in_float64(found)
        within, across = thought.T @ thought, thought.T @ found
        if self.memory and self._within is not None and self._across is not None:
            within = within + self.memory * self._within.to(within.device)
            across = across + self.memory * self._across.to(across.device)
        self._within, self._across = within, across
        still = self.prior * torch.eye(thought.shape[1], dtype=torch.float64, device=within.device)
        matrix: Tensor = torch.linalg.solve(within + still, across + still)
        return matrix

    def state_dict(self) -> dict[str, Tensor]:
        """The weighted sums."""
        if self._within is None or self._across is None:
            return {}
        return {"within": self._within, "across": self._across}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores the weighted sums."""
        self._within, self._across = state.get("within"), state.get("across")
