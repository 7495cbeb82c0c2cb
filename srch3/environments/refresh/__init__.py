"""Refresh policies: which documents to encode again after an optimizer step."""

from srch3.environments.refresh.base import BaseRefresh, View
from srch3.environments.refresh.contested import ContestedRefresh
from srch3.environments.refresh.drift import DriftRefresh
from srch3.environments.refresh.neighbourhood import NeighbourhoodRefresh
from srch3.environments.refresh.plain import FullRefresh, NoRefresh, OldestRefresh, RandomRefresh

__all__ = [
    "BaseRefresh",
    "ContestedRefresh",
    "DriftRefresh",
    "FullRefresh",
    "NeighbourhoodRefresh",
    "NoRefresh",
    "OldestRefresh",
    "RandomRefresh",
    "View",
]
