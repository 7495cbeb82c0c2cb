"""Environments: what a model searches while it trains and is evaluated, and how that keeps up with the model."""

from srch3.environments.base import BaseEnvironment, NoEnvironment
from srch3.environments.refresh import BaseRefresh, FullRefresh, NeighbourhoodRefresh, NoRefresh
from srch3.environments.search import SearchEnvironment

__all__ = [
    "BaseEnvironment",
    "BaseRefresh",
    "FullRefresh",
    "NeighbourhoodRefresh",
    "NoEnvironment",
    "NoRefresh",
    "SearchEnvironment",
]
