"""Callbacks that watch a run: guards that stop it, and figures and tables that show what it learns."""

from srch3.monitoring.collapse import CollapseGuard
from srch3.monitoring.drift import PerplexityDrift
from srch3.monitoring.histogram import RewardHistogram
from srch3.monitoring.thoughts import ThoughtTable

__all__ = ["CollapseGuard", "PerplexityDrift", "RewardHistogram", "ThoughtTable"]
