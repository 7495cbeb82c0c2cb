"""How far the rewards of an aging index are from those of a fresh one."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.indexes.base import BaseIndex
from srch3.indexes.exact import ExactIndex
from srch3.indexes.scan import exact_search
from srch3.types import Observation


def reward_error(observation: Observation, index: BaseIndex, fresh: Float[Tensor, "docs dim"]) -> dict[str, float]:
    """Compares a step's rewards with what an exact index of the present model's vectors would have given.

    Args:
        observation: The step.
        index: What it searched.
        fresh: All documents, encoded by the model that made the step's searches.

    Returns:
        ``reward_bias``, the mean of actual − exact; ``reward_mae``, the mean of their distance; and
        ``advantage_correlation``, Pearson's correlation of the within-group advantages, which is what a policy gradient
        sees. It is left out where either side has no spread.
    """
    up_to_date = ExactIndex()
    up_to_date.build(fresh)
    actual = observation.score(index).cpu().double()
    exact = observation.score(up_to_date).cpu().double()
    figures = {
        "reward_bias": float((actual - exact).mean()),
        "reward_mae": float((actual - exact).abs().mean()),
    }
    groups = observation.groups.cpu()
    correlation = _correlation(_centred(actual, groups), _centred(exact, groups))
    return figures if correlation is None else figures | {"advantage_correlation": correlation}


def ann_recall(observation: Observation, index: BaseIndex) -> float:
    """Share of the nearest documents, by the vectors as the index has them, that the step's searches found."""
    queries = observation.embeddings.detach().float().to(index.vectors.device)
    found = observation.hits.rows.to(queries.device)
    nearest = exact_search(index.vectors, queries, found.shape[1]).rows
    return float((found[:, :, None] == nearest[:, None, :]).any(dim=2).float().mean())


def _centred(rewards: Float[Tensor, "rollouts"], groups: Int64[Tensor, "rollouts"]) -> Float[Tensor, "rollouts"]:
    _, members, counts = groups.unique(return_inverse=True, return_counts=True)
    sums = rewards.new_zeros(len(counts)).index_add(0, members, rewards)
    means: Tensor = (sums / counts)[members]
    return rewards - means


def _correlation(left: Float[Tensor, "rollouts"], right: Float[Tensor, "rollouts"]) -> float | None:
    scale = torch.linalg.vector_norm(left) * torch.linalg.vector_norm(right)
    return float((left @ right) / scale) if scale > 0 else None
