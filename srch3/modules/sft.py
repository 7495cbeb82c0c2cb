"""Stage 1: the model learns to think, and to produce good embeddings."""

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from srch3.backbones import Completions, ReasoningEmbedder
from srch3.backbones.reasoning_embedder import Scored, Tokens
from srch3.errors import ConfigError
from srch3.functional.contrastive import false_negatives
from srch3.losses import BaseKL, CrossEntropy, InfoNCE, TripletMargin
from srch3.modules.base import BaseRetrievalModule
from srch3.modules.optimization import Schedule
from srch3.types import Mode, TrainBatch


class SFTModule(BaseRetrievalModule):
    """Supervised fine-tuning with four terms: cross-entropy + KL to the base + InfoNCE + triplet margin.

    The sum of Search-R3 (arXiv 2510.07048, section on supervised fine-tuning), each term with a weight of its own; a
    term of weight zero is not computed. Cross-entropy and KL are taken where the model writes: at the tokens of the
    thought and at the embed token. Each query is trained in every one of ``train_modes`` against the same documents:
    its positive, its hard negatives, and those of the other queries. The KL keeps the distribution of the *other*
    tokens near the base's: a base cannot know the embed token, so that column is left out.

    Args:
        backbone: The reasoning embedder.
        optimizer: Made from the parameters.
        schedule: Course of the learning rate.
        warmup: Share of all steps over which the learning rate rises.
        embedding_lr_scale: Factor of the learning rate of the token embeddings; more than 1 helps small models that
            know few words yet.
        train_modes: ``thinking`` learns the data's thoughts and embeds after them; ``direct`` embeds at once.
        cross_entropy: Teaches the thoughts and the embed token.
        base_kl: Keeps the model near the frozen base.
        info_nce: Draws a query to its positive, away from all other documents of the batch.
        triplet_margin: Keeps the hardest of those at a distance.
        modes: How queries are embedded in evaluation.
        hits: Results per query in evaluation.
        init_from: A checkpoint of another stage to start from.
        seed: Seed of everything random within a step.
    """

    def __init__(
        self,
        backbone: ReasoningEmbedder,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-5),
        schedule: Schedule = "linear",
        warmup: float = 0.05,
        embedding_lr_scale: float = 1.0,
        train_modes: list[Mode] | None = None,
        cross_entropy: CrossEntropy | None = None,
        base_kl: BaseKL | None = None,
        info_nce: InfoNCE | None = None,
        triplet_margin: TripletMargin | None = None,
        modes: list[Mode] | None = None,
        hits: int = 100,
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, optimizer, schedule, warmup, embedding_lr_scale, modes, hits, init_from, seed)
        self.train_modes: list[Mode] = train_modes or ["thinking", "direct"]
        if unknown := set(self.train_modes) - {"thinking", "direct"}:
            raise ConfigError(f"model.init_args.train_modes: expected thinking and direct, got {sorted(unknown)}")
        self.cross_entropy = cross_entropy or CrossEntropy()
        self.base_kl = base_kl or BaseKL()
        self.info_nce = info_nce or InfoNCE()
        self.triplet_margin = triplet_margin or TripletMargin()
        thinks = "thinking" in self.train_modes
        self.keeps_reference = thinks and self.base_kl.weight > 0
        self.trains_writing = thinks and (self.cross_entropy.weight > 0 or self.base_kl.weight > 0)

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """The weighted sum of the terms."""
        terms: dict[str, Tensor] = {}
        embeddings = []
        if "thinking" in self.train_modes:
            thinking, terms = self._language_terms(batch)
            embeddings.append(thinking)
        if "direct" in self.train_modes:
            embeddings.append(self.backbone.embed(self.backbone.tokenize(batch.texts, "direct")))
        terms |= self._contrastive_terms(batch, torch.cat(embeddings))
        weights = {name: getattr(self, name).weight for name in terms}
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        self.check_finite(loss, terms)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.ids))
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, batch_size=len(batch.ids))
        return loss

    def _language_terms(self, batch: TrainBatch) -> tuple[Tensor, dict[str, Tensor]]:
        prompts = self.backbone.tokenize(batch.texts, "thinking")
        completions = self.backbone.tokenize_thoughts(batch.thoughts)
        reference = self._reference_logits(prompts, completions)
        scored = self.backbone.score(prompts, completions)
        terms = {}
        if self.cross_entropy.weight > 0:
            terms["cross_entropy"] = self.cross_entropy(scored.logits, scored.targets)
        if reference is not None:
            terms["base_kl"] = self._base_kl(scored, reference)
        return scored.embeddings, terms

    def _reference_logits(self, prompts: list[Tokens], completions: Completions) -> Tensor | None:
        if self.base_kl.weight == 0:
            return None
        with self.inference(), self.backbone.as_remembered():
            return self.backbone.score(prompts, completions).logits

    def _base_kl(self, scored: Scored, reference: Tensor) -> Tensor:
        value: Tensor = self.base_kl(scored.logits, reference, excluded_id=self.backbone.embed_token_id)
        return value

    def _contrastive_terms(self, batch: TrainBatch, queries: Tensor) -> dict[str, Tensor]:
        """``queries`` holds the whole batch once per training mode, one mode after the other."""
        if self.info_nce.weight == 0 and self.triplet_margin.weight == 0:
            return {}
        repeats = len(queries) // len(batch.ids)
        texts = [*batch.positives, *(text for texts in batch.negatives for text in texts)]
        ids = [*batch.positive_ids, *(id_ for ids in batch.negative_ids for id_ in ids)]
        documents = self.backbone.embed(self.backbone.tokenize(texts, "document"))
        positives = torch.arange(len(batch.ids), device=documents.device).repeat(repeats)
        excluded = false_negatives(positives, ids, texts, [*batch.relevant] * repeats)
        terms = {}
        if self.info_nce.weight > 0:
            terms["info_nce"] = self.info_nce(queries, documents, positives, excluded)
        if self.triplet_margin.weight > 0:
            terms["triplet_margin"] = self.triplet_margin(queries, documents, positives, ~excluded)
        return terms
