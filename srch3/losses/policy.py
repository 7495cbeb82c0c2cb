"""Losses of reinforcement learning."""

from typing import ClassVar, get_args

from jaxtyping import Bool, Float
from torch import Tensor

from srch3.functional.language import k3
from srch3.functional.policy import Normaliser, PolicyTerms, Ratio, clipped_policy_loss, count, normalised
from srch3.losses.base import BaseLoss


class PolicyLoss(BaseLoss):
    r"""Makes the tokens of rewarded completions more likely, within a clip.

    .. math:: -\frac{1}{N} \sum_i w_i \sum_t \min(\rho_{it} A_i,
        \operatorname{clip}(\rho_{it}, 1 - \epsilon_\mathrm{low}, 1 + \epsilon_\mathrm{high}) A_i)

    GRPO: Shao et al., 2024 (arXiv 2402.03300). While each batch of samples gets a single update all ratios are 1 and
    the clip is at rest. Published algorithms as settings:

    - GRPO: ``normaliser: grpo``
    - DAPO (2503.14476): ``normaliser: dapo``, ``clip_high: 0.28``
    - Dr. GRPO (2503.20783): ``normaliser: dr_grpo``, with the module's ``scale_by_std: false``
    - GSPO (2507.18071): ``normaliser: grpo``, ``ratio: sequence``, ``clip_low: 3.0e-4``, ``clip_high: 4.0e-4``

    Args:
        weight: Factor of the term.
        clip_low: How far a probability ratio may fall below 1.
        clip_high: How far it may rise above 1; a value above ``clip_low`` leaves room to explore.
        ratio: ``token``: every token has its own ratio; ``sequence``: a completion has one, the geometric mean.
        normaliser: What tokens are averaged over. ``grpo``: those of a completion, then completions; ``dapo``: all
            tokens; ``dr_grpo``: as many as the completions could have had.

    Raises:
        ConfigError: If an argument is out of range.
    """

    argument: ClassVar[str] = "policy_loss"

    def __init__(
        self,
        weight: float = 1.0,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        ratio: Ratio = "token",
        normaliser: Normaliser = "dapo",
    ) -> None:
        super().__init__(weight)
        self.clip_low = self._at_least_zero("clip_low", clip_low, "0.2 is usual")
        self.clip_high = self._at_least_zero("clip_high", clip_high, "0.2 is usual")
        for name, value, known in (("ratio", ratio, Ratio), ("normaliser", normaliser, Normaliser)):
            if value not in get_args(known):
                self._refuse(name, f"one of {', '.join(get_args(known))}", value, "choose one")
        self.ratio: Ratio = ratio
        self.normaliser: Normaliser = normaliser

    def count(self, mask: Bool[Tensor, "rollouts tokens"]) -> Float[Tensor, ""]:
        """What this part of a batch contributes to the divisor; see `srch3.functional.policy.count`."""
        return count(mask, self.normaliser)

    def forward(
        self,
        logp: Float[Tensor, "rollouts tokens"],
        old_logp: Float[Tensor, "rollouts tokens"],
        advantages: Float[Tensor, "rollouts"],
        mask: Bool[Tensor, "rollouts tokens"],
        max_tokens: int,
        count: Tensor | None = None,
    ) -> PolicyTerms:
        """The loss of a batch, unweighted; see `srch3.functional.policy.clipped_policy_loss`.

        Args:
            logp: Of the sampled tokens under the model that is trained.
            old_logp: The same under the model that sampled them.
            advantages: Of each completion.
            mask: True where a token counts.
            max_tokens: Most tokens that a completion may have.
            count: The mean over all processes of what :meth:`count` gives them; by default that of this mask.
        """
        return clipped_policy_loss(
            logp,
            old_logp,
            advantages,
            mask,
            max_tokens,
            count,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            ratio=self.ratio,
            normaliser=self.normaliser,
        )


class ReferenceKL(BaseLoss):
    r"""Keeps the policy near the model that reinforcement learning began with.

    .. math:: \frac{1}{N} \sum_i w_i \sum_t \left( e^{d_{it}} - d_{it} - 1 \right), \quad
        d_{it} = \log p^\mathrm{ref}_{it} - \log p_{it}

    Estimated on the sampled tokens (k3: Schulman, 2020), and averaged as the policy loss is. DeepSeekMath has 0.04 as
    its weight (arXiv 2402.03300); LREM and GRACE do without; the Search-R3 paper's weight is not known to us.

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
        logp: Float[Tensor, "rollouts tokens"],
        reference_logp: Float[Tensor, "rollouts tokens"],
        mask: Bool[Tensor, "rollouts tokens"],
        normaliser: Normaliser,
        max_tokens: int,
        count: Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """The divergence, unweighted.

        Args:
            logp: Of the sampled tokens under the model that is trained.
            reference_logp: The same under the reference, without gradient.
            mask: True where a token counts.
            normaliser: That of the policy loss.
            max_tokens: Most tokens that a completion may have.
            count: The mean over all processes of what `srch3.functional.policy.count` gives them; by default that of
                this mask.
        """
        return normalised(k3(logp, reference_logp), mask, normaliser, max_tokens, count)
