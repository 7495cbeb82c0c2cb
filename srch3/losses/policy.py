"""Losses of reinforcement learning."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from srch3.functional.language import k3, token_mean
from srch3.functional.policy import PolicyTerms, clipped_policy_loss
from srch3.losses.base import BaseLoss


class PolicyLoss(BaseLoss):
    r"""Makes the tokens of rewarded completions more likely, within a clip.

    .. math:: -\frac{1}{N} \sum_{i,t} \min(\rho_{it} A_i,
        \operatorname{clip}(\rho_{it}, 1 - \epsilon_\mathrm{low}, 1 + \epsilon_\mathrm{high}) A_i)

    GRPO: Shao et al., 2024 (arXiv 2402.03300), with the mean over tokens and the two clips of DAPO: Yu et al., 2025
    (2503.14476). While each batch of samples gets a single update all ratios are 1 and the clip is at rest.

    Args:
        weight: Factor of the term.
        clip_low: How far a token's probability ratio may fall below 1.
        clip_high: How far it may rise above 1; a value above ``clip_low`` (DAPO: 0.28) leaves room to explore.

    Raises:
        ConfigError: If an argument is out of range.
    """

    argument: ClassVar[str] = "policy_loss"

    def __init__(self, weight: float = 1.0, clip_low: float = 0.2, clip_high: float = 0.2) -> None:
        super().__init__(weight)
        self.clip_low = self._at_least_zero("clip_low", clip_low, "0.2 is usual")
        self.clip_high = self._at_least_zero("clip_high", clip_high, "0.2 is usual")

    def forward(
        self,
        logp: Float[Tensor, "rollouts seq"],
        old_logp: Float[Tensor, "rollouts seq"],
        advantages: Float[Tensor, "rollouts"],
        mask: Bool[Tensor, "rollouts seq"],
        divisor: Tensor | float | None = None,
    ) -> PolicyTerms:
        """The loss of a batch, unweighted; see `srch3.functional.policy.clipped_policy_loss`."""
        return clipped_policy_loss(logp, old_logp, advantages, mask, self.clip_low, self.clip_high, divisor)


class ReferenceKL(BaseLoss):
    r"""Keeps the policy near the model that reinforcement learning began with.

    .. math:: \frac{1}{N} \sum_{i,t} \left( e^{d_{it}} - d_{it} - 1 \right), \quad
        d_{it} = \log p^\mathrm{ref}_{it} - \log p_{it}

    Estimated on the sampled tokens (k3: Schulman, 2020). DeepSeekMath has 0.04 as its weight (arXiv 2402.03300); LREM
    and GRACE do without; the Search-R3 paper's weight is not known to us.

    Args:
        weight: Factor of the term.

    Raises:
        ConfigError: If the weight is out of range.
    """

    argument: ClassVar[str] = "reference_kl"

    def __init__(self, weight: float = 0.04) -> None:
        super().__init__(weight)

    def forward(
        self,
        logp: Float[Tensor, "rollouts seq"],
        reference_logp: Float[Tensor, "rollouts seq"],
        mask: Bool[Tensor, "rollouts seq"],
        divisor: Tensor | float | None = None,
    ) -> Float[Tensor, ""]:
        """The mean over the counted tokens, unweighted; see `srch3.functional.language.token_mean`."""
        return token_mean(k3(logp, reference_logp), mask, divisor)
