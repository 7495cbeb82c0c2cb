"""What stage 1 and stage 2 share: the backbone, encoding, and evaluation through the environment."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product
from typing import Any, cast

import torch
from jaxtyping import Float
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import MeanMetric

from srch3.backbones import ReasoningEmbedder
from srch3.backbones.embed_token import trained_embedding
from srch3.backbones.encoding import embed
from srch3.backbones.querying import EmbeddedQueries, QueryEmbedder, parse_mode
from srch3.backbones.reasoning_embedder import Tokens
from srch3.backbones.sharding import whole_weights
from srch3.errors import CheckpointError, ConfigError
from srch3.losses import InfoNCE
from srch3.metrics import DEPTH, RetrievalMetrics
from srch3.modules.initialization import load_backbone
from srch3.modules.optimization import OptimizedModule, Schedule
from srch3.types import CorpusLike, Environment, Hits, Mode, QueryBatch, Searches, Split


class BaseRetrievalModule(OptimizedModule):
    """Validates, tests and predicts by searching the environment with the queries' embeddings.

    Every mode is measured in every evaluation: ``val/<mode>/ndcg@10`` and so on. The first mode's figures also stand
    under ``val/ndcg@10``, for checkpoints and sweeps to monitor, and it is the one that ``predict`` uses.

    Args:
        backbone: The reasoning embedder.
        optimizer: Made from the parameters.
        schedule: Course of the learning rate.
        warmup: Share of all steps over which the learning rate rises.
        embedding_lr_scale: Factor of the learning rate of the token embeddings.
        modes: How queries are embedded in evaluation; see ``srch3.types.Mode``.
        hits: Results per query in evaluation.
        init_from: A checkpoint of another stage whose backbone weights this one starts from.
        seed: Seed of everything random within a step.
        info_nce: The contrastive term, whose truncated widths are measured too, as ``val/<mode>@<width>/ndcg@10``.
    """

    searches_while_training = False
    """Whether training steps search the environment, so that the training corpus must be encoded before the first."""

    keeps_reference = False
    """Whether a loss needs the backbone as it was before training."""

    trains_writing = True
    """Whether a loss is about what the model writes; where none is, an output matrix of its own is not trained."""

    fixed_documents = False
    """Whether documents are embedded by the backbone as it was before training, so that no index of them ages."""

    frozen_embedder = False
    """Whether queries are too, and thoughts alone are learned; documents are then fixed."""

    environment: Environment | None = None

    def __init__(
        self,
        backbone: ReasoningEmbedder,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        warmup: float,
        embedding_lr_scale: float,
        modes: list[Mode] | None,
        hits: int,
        init_from: str | None,
        seed: int,
        info_nce: InfoNCE,
    ) -> None:
        super().__init__(optimizer, schedule, warmup, embedding_lr_scale, seed)
        self.info_nce = info_nce
        self.backbone = backbone
        self.modes: list[Mode] = modes or ["thinking", "direct"]
        for mode in self.modes:
            parse_mode(mode, backbone.max_thought_tokens)
        self.hits = hits
        self.init_from = init_from
        self.metrics = nn.ModuleDict({mode: RetrievalMetrics() for mode in self.modes})
        for mode, width in product(self.modes, info_nce.widths):
            self.metrics[_at_width(mode, width)] = RetrievalMetrics()
        self.thought_metrics = nn.ModuleDict({"emitted": MeanMetric(), "thought_tokens": MeanMetric()})
        self._queries = QueryEmbedder(backbone, seed)
        self._configured = False

    def configure_model(self) -> None:
        """Loads the backbone and the weights of the stage before, once, and keeps what a fit is to stay near."""
        if not self._configured:
            self.backbone.build()
            self.info_nce.widths_below(self.backbone.dim)
            if self.init_from:
                load_backbone(self.backbone, self.init_from)
            if not self.trains_writing:
                self.backbone.freeze_output()
            self._configured = True
        fits = self._trainer is not None and self.trainer.state.fn == "fit"
        if (self.keeps_reference and fits) or (self.fixed_documents and not self.backbone.remembers):
            self.backbone.remember()

    def token_embeddings(self) -> Tensor:
        """The backbone's input embedding, or what is trained of it."""
        return trained_embedding(self.backbone.causal_lm)

    def on_fit_start(self) -> None:
        """Puts everything into training mode, which models do not load in.

        Raises:
            ConfigError: The strategy shards layers one by one.
        """
        if isinstance(self.trainer.strategy, FSDPStrategy) and "auto_wrap_policy" in self.trainer.strategy.kwargs:
            raise ConfigError(
                "trainer.strategy.init_args.auto_wrap_policy: expected none, since processes embed different numbers "
                "of batches; remove it"
            )
        if self.backbone.dtype != "float32" and self.backbone.lora is None:
            rank_zero_warn(
                "model.init_args.backbone.init_args.dtype: weights in half precision lose small updates; set float32 "
                "with `trainer: {precision: bf16-mixed}`, or lora"
            )
        self.train()

    def required_environment(self) -> Environment:
        """The environment.

        Raises:
            ConfigError: There is none.
        """
        if self.environment is None:
            raise ConfigError(
                f"environment: {type(self).__name__} searches one while it trains or is evaluated, got none; set "
                "`environment: SearchEnvironment` (in Python: Trainer(callbacks=[SearchEnvironment()]))"
            )
        return self.environment

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode, no gradients, and the trainer's precision, wherever it is called from.

        Weights that autocast made half-precision copies of without gradients are not used beyond it.
        """
        was_training = self.backbone.training
        precision = self.trainer.precision_plugin.forward_context() if self._trainer is not None else nullcontext()
        self.backbone.eval()
        try:
            with torch.no_grad(), precision, whole_weights(self.trainer.model if self._trainer is not None else None):
                yield
        finally:
            torch.clear_autocast_cache()
            self.backbone.train(was_training)

    def document_sequences(self, texts: Sequence[str]) -> list[Tokens]:
        """Documents as tokens up to where their embedding is read."""
        return self.backbone.tokenize(texts, "document")

    def encode_documents(
        self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None
    ) -> Float[Tensor, "docs dim"]:
        """Unit-length float32 embeddings in the order of ``texts``; calls ``on_progress`` with counts as it goes."""
        with self.inference(), self.backbone.as_remembered() if self.fixed_documents else nullcontext():
            return embed(self.backbone, self.document_sequences(texts), on_progress)

    def embed_queries(self, texts: Sequence[str], modes: Sequence[Mode]) -> dict[Mode, EmbeddedQueries]:
        """Embeds queries in each of the modes, each thought written once for all of them."""
        with self.inference():
            return self._queries.embed(texts, modes, self.backbone.as_remembered if self.frozen_embedder else None)

    def on_validation_epoch_start(self) -> None:
        """Begins an evaluation."""
        super().on_validation_epoch_start()
        self._queries.begin()

    def on_predict_epoch_start(self) -> None:
        """Begins with the first query."""
        self._queries.begin()

    def validation_step(self, batch: QueryBatch, batch_idx: int) -> Searches:  # type: ignore[override]
        """Searches with a batch of queries, and returns what the first mode thought and found."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: QueryBatch, batch_idx: int) -> Searches:  # type: ignore[override]
        """Searches with a batch of queries, and returns what the first mode thought and found."""
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: QueryBatch, split: Split) -> Searches:
        environment = self.required_environment()
        corpus = environment.corpus(split)
        self._check_hits(len(corpus))
        embedded = self.embed_queries(batch.texts, self.modes)
        found: dict[str, Hits] = {}
        for mode, width in product(self.modes, (None, *self.info_nce.widths)):
            name = mode if width is None else _at_width(mode, width)
            found[name] = environment.search(embedded[mode].embeddings, self.hits, split, width)
            self.metrics[name].update(found[name], batch.relevant, corpus)  # type: ignore[operator]
        if "thinking" in embedded:
            self._log_thoughts(embedded["thinking"], split)
        first = self.modes[0]
        return _searches(batch, embedded[first], found[first], corpus)

    def _check_hits(self, documents: int) -> None:
        if self.hits < min(DEPTH, documents):
            raise ConfigError(
                f"model.init_args.hits: expected at least {min(DEPTH, documents)}, which the metrics look at, got "
                f"{self.hits}"
            )

    def _log_thoughts(self, embedded: EmbeddedQueries, split: Split) -> None:
        for name, figures in (("emitted", embedded.emitted), ("thought_tokens", embedded.lengths)):
            mean = cast(MeanMetric, self.thought_metrics[name])
            mean.update(torch.tensor(figures, dtype=torch.float32, device=self.device))
            self.log(f"{split}/{name}", mean)

    def on_validation_epoch_end(self) -> None:
        """Logs the figures of every mode."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Logs the figures of every mode."""
        self._log_metrics("test")

    def _log_metrics(self, split: Split) -> None:
        for number, (mode, metrics) in enumerate(self.metrics.items()):
            figures = metrics.compute()  # type: ignore[operator]
            metrics.reset()  # type: ignore[operator]
            self.log_dict({f"{split}/{mode}/{name}": value for name, value in figures.items()}, sync_dist=True)
            if number == 0:
                first = {f"{split}/{name}": value for name, value in figures.items()}
                self.log_dict(first, prog_bar=True, sync_dist=True)

    def predict_step(self, batch: QueryBatch, batch_idx: int) -> Searches:
        """Searches with a batch of queries and returns what was thought and found."""
        environment = self.required_environment()
        embedded = self.embed_queries(batch.texts, self.modes[:1])[self.modes[0]]
        hits = environment.search(embedded.embeddings, self.hits, "predict")
        return _searches(batch, embedded, hits, environment.corpus("predict"))

    def forward(self, texts: list[str], mode: Mode = "thinking") -> Float[Tensor, "queries dim"]:
        """Embeddings of queries."""
        return self.embed_queries(texts, [mode])[mode].embeddings

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what identifies the frozen reference."""
        super().on_save_checkpoint(checkpoint)
        if self.keeps_reference:
            checkpoint["srch3"]["reference"] = self.backbone.remembered_fingerprint()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to go on with another frozen reference than the run began with.

        Raises:
            CheckpointError: The model that this stage starts from is not what it was.
        """
        saved = checkpoint.get("srch3", {}).get("reference")
        if not self.keeps_reference or saved is None or not self.backbone.remembers:
            return
        if not math.isclose(saved, self.backbone.remembered_fingerprint(), rel_tol=1e-9):
            raise CheckpointError(
                "model.init_args.init_from: expected the weights that the resumed run started from, which its KL term "
                f"stays near; got others ({self.init_from or self.backbone.name}); give the same ones, or start anew "
                "without ckpt_path"
            )


def _searches(batch: QueryBatch, embedded: EmbeddedQueries, hits: Hits, corpus: CorpusLike) -> Searches:
    ids = [[corpus.ids[row] for row in rows] for rows in hits.rows.tolist()]
    return Searches(batch.ids, batch.texts, embedded.thoughts, hits, ids)


def _at_width(mode: str, width: int) -> str:
    """Name of the figures of truncated embeddings."""
    return f"{mode}@{width}"
