"""What is compared: policies, budgets, corrections and indexes."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from srch3.environments.correction import BaseCorrection, NoCorrection, RidgeCorrection
from srch3.environments.refresh import (
    BaseRefresh,
    ContestedRefresh,
    DriftRefresh,
    FullRefresh,
    NeighbourhoodRefresh,
    NoRefresh,
    OldestRefresh,
    RandomRefresh,
)
from srch3.indexes import BaseIndex, ExactIndex, FaissIndex, HnswIndex


class RotationCorrection(BaseCorrection):
    """The orthogonal map of least squares (Schönemann, 1966), drawn towards no change.

    ``M = U Vᵀ`` of the singular value decomposition ``U S Vᵀ = Σ wᵢ thoughtᵢᵀ foundᵢ + prior 1``. Prior and memory are
    those of ``RidgeCorrection``, so that what differs is the kind of map alone.
    """

    prior = 10.0
    memory = 0.8

    def __init__(self) -> None:
        self._across: Tensor | None = None

    def fit(
        self, thought: Float[Tensor, "some dim"], found: Float[Tensor, "some dim"]
    ) -> Float[Tensor, "dim dim"] | None:
        """The solution, computed in float64 on the CPU."""
        across = thought.detach().double().cpu().T @ found.detach().double().cpu()
        self._across = across if self._across is None else across + self.memory * self._across
        left, _, right = torch.linalg.svd(self._across + self.prior * torch.eye(len(across), dtype=torch.float64))
        matrix: Tensor = left @ right
        return matrix


POLICIES: dict[str, Callable[[], BaseRefresh]] = {
    "never": NoRefresh,
    "random": RandomRefresh,
    "oldest": OldestRefresh,
    "neighbourhood": NeighbourhoodRefresh,
    "drift": DriftRefresh,
    "contested": ContestedRefresh,
    "full": FullRefresh,
}
CORRECTIONS: dict[str, Callable[[], BaseCorrection]] = {
    "none": NoCorrection,
    "ridge": RidgeCorrection,
    "rotation": RotationCorrection,
}
INDEXES: dict[str, Callable[[], BaseIndex]] = {"exact": ExactIndex, "hnsw": HnswIndex, "faiss": FaissIndex}


class Line(NamedTuple):
    """One way of keeping up.

    Attributes:
        policy: What is encoded again.
        share: How much of the corpus per step; 0 for what has no budget.
        correction: How the rest is moved.
        kind: Of index that is searched.
    """

    policy: str
    share: float = 0.0
    correction: str = "none"
    kind: str = "exact"

    @property
    def name(self) -> str:
        """What it is called in tables."""
        budget = f" {self.share:.0%}" if self.share else ""
        correction = f" {self.correction}" if self.correction != "none" else ""
        kind = f" {self.kind}" if self.kind != "exact" else ""
        return f"{self.policy}{budget}{correction}{kind}"


NEVER, FULL = Line("never"), Line("full")
DEFAULT = Line("contested", 0.05, "ridge")
BUDGETED = ("random", "oldest", "neighbourhood", "drift", "contested")
BUDGETS = (0.01, 0.05, 0.2)


def every_line(smallest: bool) -> list[Line]:
    """The lines of a corpus.

    Args:
        smallest: Whether it is the smallest, at which each policy has three budgets; elsewhere all have the default's,
            and the default policy has a smaller one too.
    """
    shares: dict[str, tuple[float, ...]] = dict.fromkeys(BUDGETED, BUDGETS if smallest else BUDGETS[1:2])
    shares[DEFAULT.policy] = BUDGETS if smallest else BUDGETS[:2]
    grid = [Line(policy, share, way) for policy in BUDGETED for share in shares[policy] for way in ("none", "ridge")]
    return [NEVER, *grid, DEFAULT._replace(correction="rotation"), DEFAULT._replace(kind="hnsw"), FULL]
