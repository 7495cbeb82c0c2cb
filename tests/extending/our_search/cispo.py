"""CISPO: MiniMax, 2025 (arXiv 2506.13585)."""

from jaxtyping import Bool, Float
from torch import Tensor

from srch3.functional.language import token_mean
from srch3.functional.policy import PolicyTerms, normalised
from srch3.losses import PolicyLoss


class CISPO(PolicyLoss):
    """Weights the gradient of every token by its ratio, clipped from above, in place of dropping clipped tokens."""

    def forward(
        self,
        logp: Float[Tensor, "rollouts tokens"],
        old_logp: Float[Tensor, "rollouts tokens"],
        advantages: Float[Tensor, "rollouts"],
        mask: Bool[Tensor, "rollouts tokens"],
        max_tokens: int,
        count: Tensor | None = None,
    ) -> PolicyTerms:
        """The loss of a batch, unweighted."""
        ratios = (logp - old_logp).where(mask, 0.0).exp().detach()
        high = 1 + self.clip_high
        values = -ratios.clamp_max(high) * advantages[:, None] * logp
        loss = normalised(values, mask, self.normaliser, max_tokens, count)
        clipped = token_mean((ratios > high).float(), mask)
        return PolicyTerms(loss, clipped.new_zeros(()), clipped, token_mean(ratios, mask))
