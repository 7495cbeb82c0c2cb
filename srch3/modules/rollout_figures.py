"""What is logged about the completions of a step."""

import torch
from jaxtyping import Float, Int64
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from srch3.modules.judging import lengths_of
from srch3.modules.sampling import Sampled


def rollout_figures(sampled: Sampled) -> dict[str, float]:
    """Figures of a step's completions, by the name under which they are logged.

    Args:
        sampled: Completions with their rewards.
    """
    rewards, groups = sampled.rewards.double(), sampled.owners
    parts = {name: torch.cat([side.parts[name] for side in sampled.sides]) for name in sampled.sides[0].parts}
    return {
        "reward_spread": float(_spread(rewards, groups)),
        "reward_p10": float(rewards.quantile(0.1)),
        "reward_p90": float(rewards.quantile(0.9)),
        "emitted": float(sampled.rollouts.emitted.float().mean()),
        "truncated": float(sampled.rollouts.truncated.float().mean()),
        "thought_tokens": float(lengths_of(sampled.rollouts.completions).float().mean()),
        "similarity": float(_similarity(torch.cat([side.embeddings for side in sampled.sides]), groups)),
        **({f"reward/{name}": float(values.mean()) for name, values in parts.items()} if len(parts) > 1 else {}),
    }


def warn_of_unended(emitted: float, limit: float = 0.5) -> bool:
    """Warns where thoughts hardly ever end by themselves, and says whether it did.

    Args:
        emitted: Share of the step's completions that end with the embed token.
        limit: Below it is too little.
    """
    if emitted >= limit:
        return False
    rank_zero_warn(
        f"train/emitted is {emitted:.2f}: only so many thoughts end with the embed token by themselves, and the others "
        "search nothing; train stage 1 longer, until val/emitted is near 1 (docs/stage-2.md)"
    )
    return True


def _spread(rewards: Float[Tensor, "rollouts"], groups: Int64[Tensor, "rollouts"]) -> Float[Tensor, ""]:
    """Standard deviation within a group, mean over groups."""
    return torch.stack([rewards[groups == group].std() for group in groups.unique()]).mean()


def _similarity(embeddings: Float[Tensor, "rollouts dim"], groups: Int64[Tensor, "rollouts"]) -> Float[Tensor, ""]:
    """Mean cosine of completions of different groups; 1 where all embeddings have become the same."""
    apart = groups[:, None] != groups
    if not apart.any():
        return embeddings.new_zeros(())
    return (embeddings @ embeddings.T)[apart].mean()
