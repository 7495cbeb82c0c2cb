"""A reward by similarities to documents, to sibling completions and to those of other queries."""

import torch
from jaxtyping import Float
from torch import Tensor

from srch3.functional.ranking import margin
from srch3.rewards.base import RankingReward
from srch3.types import Outcome


class Contrastive(RankingReward):
    r"""A contrastive loss turned into a reward: near the positive and its siblings, far from the rest.

    .. math:: r = \frac{1}{\tau} \Big( s^+ - s^- + c \, \operatorname*{mean}_{j \in g \setminus i} \cos(q_i, q_j)
        - c \, \operatorname*{mean}_{h \ne g} \max_{j \in h} \cos(q_i, q_j) \Big)

    GRACE: Sun et al., 2025 (arXiv 2510.04506), with c = 0.2 and tau = 0.1; -1 where a completion was truncated, as any
    other has an embedding there. Its negative is a given document, and in its code that of a group's first completion,
    which no advantage feels; here it is the hardest of each completion's own first K hits (as in `Margin`). There the
    documents of other queries are what q is compared with in the last term; here it is their completions, of this
    process. Completions without the embed token are nobody's siblings, and a term without anybody to compare with is 0.

    Args:
        consistency: c, weight of the similarity to completions.
        temperature: tau, what everything is divided by, ``missing`` excepted.
        k: Hits to look for negatives in.
        missing: Reward of a completion without the embed token.
        weight: Factor of the reward.
    """

    def __init__(
        self,
        consistency: float = 0.2,
        temperature: float = 0.1,
        k: int = 100,
        missing: float = -1.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(k, missing, weight)
        self.consistency = self._at_least_zero("consistency", consistency, "0 compares with documents alone")
        self.temperature = self._positive("temperature", temperature, "0.1 is GRACE's")

    def judge(self, outcome: Outcome) -> Float[Tensor, "rollouts"]:
        """Margin and consistency, over the temperature."""
        lead = margin(outcome.positive_scores, outcome.hits.scores, outcome.grades, self.k)
        return (lead + self.consistency * consistency(outcome)) / self.temperature


def consistency(outcome: Outcome) -> Float[Tensor, "rollouts"]:
    """Mean similarity to siblings, less the mean over the other groups of the similarity to their nearest completion.

    Args:
        outcome: Of which embeddings, groups and emitted count; groups may come in any order and size.
    """
    embeddings = outcome.embeddings.float()
    similarities = embeddings @ embeddings.T
    siblings = (outcome.groups[:, None] == outcome.groups) & outcome.emitted
    siblings.fill_diagonal_(fill_value=False)
    near = similarities.where(siblings, 0.0).sum(dim=1) / siblings.sum(dim=1).clamp_min(1)

    numbers, members = outcome.groups.unique(return_inverse=True)
    nearest = similarities.new_full((len(members), len(numbers)), -torch.inf)
    counted = similarities.where(outcome.emitted, -torch.inf)
    nearest = nearest.scatter_reduce(1, members.expand_as(counted), counted, "amax")
    others = (members[:, None] != torch.arange(len(numbers), device=members.device)) & nearest.isfinite()
    far = nearest.where(others, 0.0).sum(dim=1) / others.sum(dim=1).clamp_min(1)
    difference: Tensor = near - far
    return difference
