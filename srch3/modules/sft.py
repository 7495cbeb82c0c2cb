"""Stage 1: the model learns to think, and to produce good embeddings."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from srch3.backbones import ReasoningEmbedder
from srch3.data.selection import stable_share
from srch3.errors import ConfigError
from srch3.functional.contrastive import Total, leave_out_lookalikes
from srch3.functional.distributed import gather_rows, mean_over_ranks
from srch3.losses import BaseKL, CrossEntropy, InfoNCE, TripletMargin
from srch3.modules.base import BaseRetrievalModule
from srch3.modules.candidates import Wanted, find_targets, list_documents, pool
from srch3.modules.optimization import Schedule
from srch3.modules.window import Overlong, refuse_overlong, within_window
from srch3.modules.writing import Writing, Written
from srch3.types import Mode, TrainBatch


class SFTModule(BaseRetrievalModule):
    """Supervised fine-tuning with four terms: cross-entropy + KL to the base + InfoNCE + triplet margin.

    The sum of Search-R3 (arXiv 2510.07048, section on supervised fine-tuning), each term with a weight and a course of
    its own; a term whose weight is and stays zero is not computed. Cross-entropy and KL are taken where the model
    writes: at the tokens of the thought and at the embed token. Each query is trained in every one of ``train_modes``
    against the same documents: its positives, its hard negatives, and those of the other queries, of all processes.
    Documents of the batch that are judged relevant for a query, or have the text of such a one, are never its
    negatives. The KL keeps the distribution of the *other* tokens near the base's: a base cannot know the embed token,
    so that column is left out.

    Every term is a mean over the whole batch, of all processes: how the batch is spread over them, and over forward
    passes (``cache_tokens``), changes nothing but time, memory and what dropout draws. Parts of
    ``trainer.accumulate_grad_batches`` are batches of their own: use ``cache_tokens`` for a large batch.

    Args:
        backbone: The reasoning embedder.
        optimizer: Made from the parameters.
        schedule: Course of the learning rate.
        warmup: Share of all steps over which the learning rate rises.
        embedding_lr_scale: Factor of the learning rate of the token embeddings; more than 1 helps small models that
            know few words yet.
        train_modes: ``thinking`` learns the data's thoughts and embeds after them; ``direct`` embeds at once.
        thought_dropout: Probability that a query of a step is trained in direct mode in place of thinking, so that one
            model serves both at no cost; ``train_modes`` with both trains each query twice instead.
        cross_entropy: Teaches the thoughts and the embed token.
        base_kl: Keeps the model near the frozen base. With ``backbone.init_args.lora`` no weights are kept twice.
        info_nce: Draws a query to its positive, away from all other documents of the batch.
        triplet_margin: Keeps the hardest of those at a distance.
        across_ranks: Whether the documents of all processes are negatives, or only those of a process' own share.
        false_negative_margin: Documents whose cosine with a query exceeds that of its best positive by more than this
            are taken for unjudged positives, and are no negatives; none by default.
        cache_tokens: Tokens, padding included, of a forward pass whose activations are kept. A larger batch is cut into
            such passes, which are computed again in the backward pass (gradient caching, arXiv 2101.06983): any batch
            then fits, with the same gradients, for a third more computation. By default everything is kept.
        overlong: What becomes of a training query with a text beyond the backbone's limits: ``truncate`` cuts the text,
            ``skip`` leaves the query out of every term and counts it (its documents, cut, are still there for the
            other queries), ``error`` stops.
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
        thought_dropout: float = 0.0,
        cross_entropy: CrossEntropy | None = None,
        base_kl: BaseKL | None = None,
        info_nce: InfoNCE | None = None,
        triplet_margin: TripletMargin | None = None,
        across_ranks: bool = True,
        false_negative_margin: float | None = None,
        cache_tokens: int | None = None,
        overlong: Overlong = "truncate",
        modes: list[Mode] | None = None,
        hits: int = 100,
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        info_nce = info_nce or InfoNCE()
        super().__init__(
            backbone, optimizer, schedule, warmup, embedding_lr_scale, modes, hits, init_from, seed, info_nce
        )
        self.train_modes: list[Mode] = train_modes or ["thinking", "direct"]
        self.thought_dropout = thought_dropout
        self.cross_entropy = cross_entropy or CrossEntropy()
        self.base_kl = base_kl or BaseKL()
        self.triplet_margin = triplet_margin or TripletMargin()
        self.across_ranks = across_ranks
        self.false_negative_margin = false_negative_margin
        self.cache_tokens = cache_tokens
        self.overlong: Overlong = overlong
        self._check_settings()
        thinks = "thinking" in self.train_modes
        self.keeps_reference = thinks and self.base_kl.used
        self.trains_writing = thinks and (self.cross_entropy.used or self.base_kl.used)

    def _check_settings(self) -> None:
        if unknown := set(self.train_modes) - {"thinking", "direct"}:
            raise ConfigError(f"model.init_args.train_modes: expected thinking and direct, got {sorted(unknown)}")
        if not 0 <= self.thought_dropout < 1:
            raise ConfigError(
                f"model.init_args.thought_dropout: expected a probability from 0 to below 1, got {self.thought_dropout}"
                "; `train_modes: [direct]` trains no thoughts at all"
            )
        if self.thought_dropout > 0 and "thinking" not in self.train_modes:
            raise ConfigError(
                f"model.init_args.thought_dropout: expected thinking among train_modes, got {self.train_modes}; leave "
                "it out where nothing thinks"
            )
        if self.cache_tokens is not None and self.cache_tokens < 1:
            raise ConfigError(f"model.init_args.cache_tokens: expected at least 1, got {self.cache_tokens}")
        margin = self.false_negative_margin
        if margin is not None and not (math.isfinite(margin) and margin >= 0):
            raise ConfigError(f"model.init_args.false_negative_margin: expected a finite number >= 0, got {margin}")

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """The weighted sum of the terms."""
        batch = self._within_window(batch)
        thinking, direct = self._rows(batch)
        embeddings: list[Tensor] = []
        totals: dict[str, Total | None] = {}
        if "thinking" in self.train_modes:
            written = self._written(batch, thinking)
            embeddings.append(written.embeddings)
            totals |= {"cross_entropy": written.cross_entropy, "base_kl": written.base_kl}
        if direct:
            prompts = self.backbone.tokenize([batch.texts[row] for row in direct], "direct")
            embeddings.append(self.backbone.embed(prompts, cache_tokens=self.cache_tokens))
        totals |= self._contrastive(batch, torch.cat(embeddings), torch.tensor([*thinking, *direct]))
        terms = {name: self._mean(total) for name, total in totals.items() if total is not None}
        weights = self.term_weights(self.cross_entropy, self.base_kl, self.info_nce, self.triplet_margin)
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        self.check_finite(loss, terms)
        terms |= {f"{name}_weight": torch.tensor(weights[name]) for name in terms if getattr(self, name).changes}
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.ids))
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, batch_size=len(batch.ids))
        return loss

    def _within_window(self, batch: TrainBatch) -> TrainBatch:
        if self.overlong == "truncate":
            return batch
        inside = within_window(self.backbone, batch)
        if self.overlong == "error":
            refuse_overlong(batch, inside)
        self.log("train/overlong", 1 - sum(inside) / len(inside), batch_size=len(inside))
        return batch._replace(weights=[w * fits for w, fits in zip(batch.weights, inside, strict=True)])

    def _rows(self, batch: TrainBatch) -> tuple[list[int], list[int]]:
        """Which queries of the batch think in this step, and which are embedded at once."""
        everything = list(range(len(batch.ids)))
        if "thinking" not in self.train_modes:
            return [], everything
        if self.thought_dropout == 0:
            return everything, everything if "direct" in self.train_modes else []
        salt = f"thought {self.seed} {self.finished_batches}"
        drawn = [stable_share(query_id, salt) < self.thought_dropout for query_id in batch.ids]
        thinking = [row for row in everything if not drawn[row]]
        return thinking, everything if "direct" in self.train_modes else sorted({*everything} - {*thinking})

    def _written(self, batch: TrainBatch, rows: list[int]) -> Written:
        writing = Writing(
            self.backbone,
            self.cross_entropy if self.cross_entropy.used else None,
            self.base_kl if self.base_kl.used else None,
            self._as_reference,
            self.cache_tokens,
        )
        prompts = self.backbone.tokenize([batch.texts[row] for row in rows], "thinking")
        thoughts = self.backbone.tokenize_thoughts([batch.thoughts[row] for row in rows])
        return writing.read(prompts, thoughts, [batch.weights[row] for row in rows])

    @contextmanager
    def _as_reference(self) -> Iterator[None]:
        with self.inference(), self.backbone.as_remembered():
            yield

    def _contrastive(
        self, batch: TrainBatch, queries: Float[Tensor, "rows dim"], owners: Int64[Tensor, "rows"]
    ) -> dict[str, Total]:
        """The two terms; ``owners`` says which query of the batch each row of ``queries`` is an embedding of."""
        if not (self.info_nce.used or self.triplet_margin.used):
            return {}
        local = list_documents([*batch.positive_ids, *batch.negative_ids], [*batch.positives, *batch.negatives])
        prompts = self.backbone.tokenize(local.texts, "document")
        candidates = pool(local, self.backbone.embed(prompts, cache_tokens=self.cache_tokens), self.across_ranks)
        wanted = Wanted(batch.texts, batch.positives, batch.relevant, batch.weights)
        with_queries = self.info_nce.query_query and self.info_nce.used
        targets = find_targets(candidates, wanted, owners, self.across_ranks, with_queries)
        if self.false_negative_margin is not None:
            targets = leave_out_lookalikes(queries, candidates.embeddings, targets, self.false_negative_margin)
        totals = {}
        if self.info_nce.used:
            others = (gather_rows(queries) if self.across_ranks else queries) if with_queries else None
            totals["info_nce"] = self.info_nce(queries, candidates.embeddings, targets, others)
        if self.triplet_margin.used:
            totals["triplet_margin"] = self.triplet_margin(queries, candidates.embeddings, targets)
        return totals

    @staticmethod
    def _mean(total: Total) -> Tensor:
        """This process' part of the mean over all of them, such that its gradients' mean is that of the whole batch."""
        return Total(total.value, mean_over_ranks(total.weight)).mean
