"""What a completion earns by the search that it makes, and what it is ranked among.

Bring your own: subclass `BaseReward`, `RankingReward` or `BasePool`, and name it by its class path.
"""

from srch3.rewards.base import BaseReward, RankingReward
from srch3.rewards.contrastive import Contrastive
from srch3.rewards.dcg import ScaledDCG
from srch3.rewards.format import Format
from srch3.rewards.length import Length
from srch3.rewards.log_rank import LogRank
from srch3.rewards.margin import Margin
from srch3.rewards.pools import Asked, BasePool, BatchPool, IndexPool, MixedPool, Ranked, rank_among
from srch3.rewards.rank_margin import RankMargin
from srch3.rewards.similarity_rank import SimilarityRank
from srch3.rewards.sum import Sum
from srch3.rewards.truncation import Truncation

__all__ = [
    "Asked",
    "BasePool",
    "BaseReward",
    "BatchPool",
    "Contrastive",
    "Format",
    "IndexPool",
    "Length",
    "LogRank",
    "Margin",
    "MixedPool",
    "RankMargin",
    "Ranked",
    "RankingReward",
    "ScaledDCG",
    "SimilarityRank",
    "Sum",
    "Truncation",
    "rank_among",
]
