"""What stage 1 teaches about writing: the thought, the embed token after it, and the language of the base."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from srch3.backbones import Completions, ReasoningEmbedder
from srch3.backbones.batching import length_batches
from srch3.backbones.caching import recomputed
from srch3.backbones.reasoning_embedder import Tokens
from srch3.functional.contrastive import Total
from srch3.losses import BaseKL, CrossEntropy


class Written(NamedTuple):
    """Target thoughts that were read by the model.

    Attributes:
        embeddings: Of each query after its thought, unit length, float32.
        cross_entropy: Sum over the tokens, if the term is wanted.
        base_kl: Sum over the tokens, if the term is wanted.
    """

    embeddings: Float[Tensor, "queries dim"]
    cross_entropy: Total | None
    base_kl: Total | None


class Writing:
    """Reads prompts with their target thoughts, in passes of like length.

    Args:
        backbone: The reasoning embedder.
        cross_entropy: The term, or none.
        base_kl: The term, or none.
        as_reference: Within what it returns the backbone is the frozen base, without gradients.
        cache_tokens: Tokens of a pass whose activations are kept; see `srch3.backbones.caching`.
    """

    def __init__(
        self,
        backbone: ReasoningEmbedder,
        cross_entropy: CrossEntropy | None,
        base_kl: BaseKL | None,
        as_reference: Callable[[], AbstractContextManager[None]],
        cache_tokens: int | None,
    ) -> None:
        self.backbone = backbone
        self.cross_entropy = cross_entropy
        self.base_kl = base_kl
        self.as_reference = as_reference
        self.cache_tokens = cache_tokens

    def read(self, prompts: list[Tokens], completions: Completions, weights: Sequence[float]) -> Written:
        """Embeddings and terms of a batch.

        Args:
            prompts: Of thinking.
            completions: The target thoughts.
            weights: Importance of each query, which its tokens share.
        """
        lengths = [len(prompt) + len(tokens) for prompt, tokens in zip(prompts, completions.inputs, strict=True)]
        if not prompts:
            return self._nothing()
        if self.cross_entropy is None and self.base_kl is None:
            sequences = [[*prompt, *tokens] for prompt, tokens in zip(prompts, completions.inputs, strict=True)]
            return Written(self.backbone.embed(sequences, cache_tokens=self.cache_tokens), None, None)
        limit = self.cache_tokens or self.backbone.tokens_per_batch
        parts, order = [], []
        for rows in length_batches(lengths, limit):
            parts.append(self._pass(prompts, completions, weights, rows))
            order.extend(rows)
        back = torch.tensor(order, device=self.backbone.device).argsort()
        embeddings = torch.cat([part.embeddings for part in parts])[back]
        return Written(embeddings, _sum([part.cross_entropy for part in parts]), _sum([part.base_kl for part in parts]))

    def _nothing(self) -> Written:
        """No query: sums of zero that reach every weight of the output, whose gradients other processes wait for."""
        output = self.backbone.causal_lm.get_output_embeddings()
        zero = 0.0 * torch.stack([weight.float().sum() for weight in output.parameters()]).sum()
        total = Total(zero, torch.zeros_like(zero, requires_grad=False))
        embeddings = torch.empty(0, self.backbone.dim, device=zero.device)
        return Written(embeddings, total if self.cross_entropy else None, total if self.base_kl else None)

    def _pass(
        self, prompts: list[Tokens], completions: Completions, weights: Sequence[float], rows: list[int]
    ) -> Written:
        asked, importance = [prompts[row] for row in rows], [weights[row] for row in rows]
        some = Completions(
            [completions.inputs[row] for row in rows],
            [completions.targets[row] for row in rows],
            [completions.counted[row] for row in rows],
        )
        return recomputed(
            lambda: self._read(asked, some, importance), self.cache_tokens is not None, self.backbone.device
        )

    def _read(self, prompts: list[Tokens], completions: Completions, weights: Sequence[float]) -> Written:
        reference = None
        if self.base_kl is not None:
            with self.as_reference():
                reference = self.backbone.score(prompts, completions).logits
        scored = self.backbone.score(prompts, completions)
        per_query = torch.tensor(weights, device=scored.logits.device)
        per_token = per_query.repeat_interleave(scored.counted.sum(dim=1))
        cross_entropy = base_kl = None
        if self.cross_entropy is not None:
            cross_entropy = self.cross_entropy(scored.logits, scored.targets, per_token)
        if self.base_kl is not None:
            base_kl = self.base_kl(scored.logits, reference, self.backbone.embed_token_id, per_token)
        return Written(scored.embeddings, cross_entropy, base_kl)


def _sum(totals: Sequence[Total | None]) -> Total | None:
    parts = [total for total in totals if total is not None]
    if not parts:
        return None
    return Total(torch.stack([part.value for part in parts]).sum(), torch.stack([part.weight for part in parts]).sum())
