"""What a completion earns by the search that it makes.

Bring your own: subclass `BaseReward` and name it by its class path.
"""

from srch3.rewards.base import BaseReward
from srch3.rewards.dcg import ScaledDCG
from srch3.rewards.log_rank import LogRank

__all__ = ["BaseReward", "LogRank", "ScaledDCG"]
