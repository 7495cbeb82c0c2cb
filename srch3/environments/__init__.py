"""Environments: what a model searches while it trains and is evaluated, and how that keeps up with the model."""

from srch3.environments.base import BaseEnvironment, NoEnvironment
from srch3.environments.budget import BaseBudget, DocumentBudget, ErrorBudget, ShareBudget, TimeBudget
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
    View,
)
from srch3.environments.search import SearchEnvironment

__all__ = [
    "BaseBudget",
    "BaseCorrection",
    "BaseEnvironment",
    "BaseRefresh",
    "ContestedRefresh",
    "DocumentBudget",
    "DriftRefresh",
    "ErrorBudget",
    "FullRefresh",
    "NeighbourhoodRefresh",
    "NoCorrection",
    "NoEnvironment",
    "NoRefresh",
    "OldestRefresh",
    "RandomRefresh",
    "RidgeCorrection",
    "SearchEnvironment",
    "ShareBudget",
    "TimeBudget",
    "View",
]
