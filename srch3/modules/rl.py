"""Stage 2: reasoning and embedding improve together under a ranking reward."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, get_args

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from srch3.backbones import ReasoningEmbedder
from srch3.backbones.documents import document_sequences
from srch3.backbones.reasoning_embedder import Tokens
from srch3.backbones.scoring import Scores, score_completions
from srch3.backbones.settings import Documents
from srch3.errors import ConfigError
from srch3.functional.advantages import group_advantages
from srch3.functional.contrastive import Total
from srch3.functional.distributed import mean_over_ranks
from srch3.losses import CrossEntropy, InfoNCE, PolicyLoss, ReferenceKL
from srch3.modules.base import BaseRetrievalModule
from srch3.modules.joint import JointTerm
from srch3.modules.optimization import Schedule
from srch3.modules.rollout_figures import rollout_figures, warn_of_unended
from srch3.modules.sampling import RolloutsOn, Sampled, Sampler
from srch3.modules.writing import Writing
from srch3.rewards import BasePool, BaseReward, IndexPool, ScaledDCG
from srch3.types import Mode, TrainBatch

Frozen = Literal["nothing", "documents", "embedder"]


class RLModule(BaseRetrievalModule):
    """Group-relative policy optimisation (GRPO, arXiv 2402.03300) with a reward from the environment's index.

    Each step samples a group of thoughts per query, searches with the embedding that each one ends in, and rewards what
    was found. The policy gradient makes good thoughts likelier. Two terms stand beside it: a KL to the model as it was
    before this stage, and an InfoNCE through the embeddings of the sampled completions, which teaches the embedding to
    make the best of thoughts that the model really has.

    What a query's completions are depends on the seed, the step, the query and the weights alone: not on the order of
    the batch, nor on how it is spread over processes. Every term is a mean over the whole batch, of all processes, that
    one optimizer step sees: a batch is cut into forward passes by ``cache_tokens``, and
    ``trainer.accumulate_grad_batches`` is refused. Groups in which all rewards are equal teach nothing and are left out
    of policy loss and KL, and of their divisor.

    Args:
        backbone: The reasoning embedder.
        optimizer: Made from the parameters.
        schedule: Course of the learning rate.
        warmup: Share of all steps over which the learning rate rises.
        embedding_lr_scale: Factor of the learning rate of the token embeddings; more than 1 helps small models that
            know few words yet.
        reward: What to make of the hits; `srch3.rewards.Sum` adds several.
        pool: What a completion is ranked among: the index of the whole corpus by default.
        samples: Completions per query, G.
        temperature: Of sampling.
        scale_by_std: Whether advantages are divided by their group's standard deviation.
        mask_truncated: Whether completions that used up their tokens are left out of policy loss and KL (DAPO, arXiv
            2503.14476); they still count for the mean of their group.
        updates: Optimizer steps with the same completions. Beyond the first, the ratio to the probabilities before the
            first is no longer one, and the clip takes effect. The trainer counts them as one step.
        policy_loss: The clipped policy loss.
        reference_kl: Keeps the policy near the model that this stage started from.
        info_nce: Trains the embeddings of the sampled completions against documents encoded in the same step.
        cross_entropy: Goes on teaching the thoughts that the data gives, as stage 1 does, so that sampled ones do not
            drift away from them (the mixed objective of InstructGPT, arXiv 2203.02155). Queries without one are left
            out. Off by default.
        hard_negatives: Documents per query, taken from its hits, that join the InfoNCE's negatives.
        rollouts_on: What is thought about: ``queries``, which search among documents; ``positives``, their relevant
            documents, which search among the queries of the process' batch; or ``both``.
        documents: How the index embeds documents: ``direct``, or after the likeliest thought about them (``thinking``),
            which costs the writing of one for each document that is encoded.
        frozen: What the model as it was before this stage goes on doing. ``documents``: it embeds them, so that the
            index never ages, and the InfoNCE takes its documents from there at no cost. ``embedder``: it reads all
            embeddings, so that thoughts alone are learned (Embed-RL, arXiv 2602.13823); the InfoNCE has to be off.
            Such a model needs its checkpoint and that of ``init_from``: a saved model folder has the trained half only.
        across_ranks: Whether the documents of all processes are negatives of the InfoNCE.
        cache_tokens: Tokens, padding included, of a forward pass whose activations are kept, as in stage 1.
        modes: How queries are embedded in evaluation.
        hits: Results per query in evaluation; in training the reward says how many it judges.
        init_from: The checkpoint of stage 1.
        seed: Seed of everything random within a step.
    """

    def __init__(
        self,
        backbone: ReasoningEmbedder,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-6),
        schedule: Schedule = "constant",
        warmup: float = 0.0,
        embedding_lr_scale: float = 1.0,
        reward: BaseReward | None = None,
        pool: BasePool | None = None,
        samples: int = 8,
        temperature: float = 1.0,
        scale_by_std: bool = True,
        mask_truncated: bool = False,
        updates: int = 1,
        policy_loss: PolicyLoss | None = None,
        reference_kl: ReferenceKL | None = None,
        info_nce: InfoNCE | None = None,
        cross_entropy: CrossEntropy | None = None,
        hard_negatives: int = 0,
        rollouts_on: RolloutsOn = "queries",
        documents: Documents = "direct",
        frozen: Frozen = "nothing",
        across_ranks: bool = True,
        cache_tokens: int | None = None,
        modes: list[Mode] | None = None,
        hits: int = 100,
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        info_nce = info_nce or InfoNCE(weight=0.0 if frozen == "embedder" else 0.1)
        super().__init__(
            backbone, optimizer, schedule, warmup, embedding_lr_scale, modes, hits, init_from, seed, info_nce
        )
        self.reward, self.pool = reward or ScaledDCG(), pool or IndexPool()
        self.samples, self.temperature, self.updates = samples, temperature, updates
        self.scale_by_std, self.mask_truncated = scale_by_std, mask_truncated
        self.policy_loss, self.reference_kl = policy_loss or PolicyLoss(), reference_kl or ReferenceKL()
        self.cross_entropy = cross_entropy or CrossEntropy(weight=0.0)
        self.hard_negatives, self.across_ranks, self.cache_tokens = hard_negatives, across_ranks, cache_tokens
        self.rollouts_on: RolloutsOn = rollouts_on
        self.documents, self.frozen = documents, frozen
        self.fixed_documents, self.frozen_embedder = frozen != "nothing", frozen == "embedder"
        self._check_settings()
        self.keeps_reference = self.reference_kl.used or self.fixed_documents
        self.trains_writing = self.reference_kl.used or self.policy_loss.used or self.cross_entropy.used
        self._sampled: Sampled | None = None
        self._old_logprobs: Tensor | None = None
        self.last_rewards: Tensor | None = None
        self._warned_of_unended = False

    @property
    def searches_while_training(self) -> bool:  # type: ignore[override]
        """Whether training steps need an index of the corpus."""
        ranks = self.pool.uses_index and self.rollouts_on != "positives"
        return ranks or (self.fixed_documents and self.info_nce.used)

    def _check_settings(self) -> None:
        chosen = {"rollouts_on": self.rollouts_on, "documents": self.documents, "frozen": self.frozen}
        for argument, known in zip(chosen, (RolloutsOn, Documents, Frozen), strict=True):
            if chosen[argument] not in get_args(known):
                raise ConfigError(
                    f"model.init_args.{argument}: expected one of {', '.join(get_args(known))}, got "
                    f"{chosen[argument]!r}"
                )
        for name, value, least in (("samples", self.samples, 2), ("updates", self.updates, 1)):
            if value < least:
                raise ConfigError(f"model.init_args.{name}: expected at least {least}, got {value}")
        if self.temperature <= 0:
            raise ConfigError(f"model.init_args.temperature: expected more than 0, got {self.temperature}")
        if self.cache_tokens is not None and self.cache_tokens < 1:
            raise ConfigError(f"model.init_args.cache_tokens: expected at least 1, got {self.cache_tokens}")
        self._check_together()

    def _check_together(self) -> None:
        terms = (self.policy_loss, self.reference_kl, self.info_nce, self.cross_entropy)
        if not any(term.used for term in terms):
            names = ", ".join(term.argument for term in terms)
            raise ConfigError(f"model.init_args: expected a weight above 0 for one of {names}, got 0 for all")
        if self.rollouts_on != "queries" and self.documents == "direct":
            raise ConfigError(
                f"model.init_args.documents: expected thinking beside `rollouts_on: {self.rollouts_on}`, since the "
                "index would never use what is learnt about documents, got direct"
            )
        if self.hard_negatives and not (self.pool.uses_index and self.rollouts_on != "positives"):
            raise ConfigError(
                "model.init_args.hard_negatives: expected 0 where queries do not search the index, got "
                f"{self.hard_negatives}; leave it out, or use `pool: IndexPool` and rollouts on queries"
            )
        if self.frozen_embedder and self.info_nce.used:
            raise ConfigError(
                "model.init_args.info_nce.init_args.weight: expected 0 beside `frozen: embedder`, since nothing that "
                f"it would train is read, got {self.info_nce.weight}"
            )

    def configure_model(self) -> None:
        """Loads the backbone, and makes what a step consists of: sampling, and the contrastive term."""
        super().configure_model()
        backbone = self.backbone
        if self.documents == "thinking" or self.rollouts_on != "queries":
            backbone.prompt_tokenizer.check_window(backbone.window, backbone.max_thought_tokens, ["thinking_document"])
        self.sampler = Sampler(
            backbone,
            self.reward,
            self.pool,
            self.samples,
            self.temperature,
            self.hard_negatives,
            self.rollouts_on,
            self.reference_kl.used,
            self.frozen_embedder,
            self.cache_tokens,
            self.encode_documents,
            lambda texts: self.embed_queries(texts, ["direct"])["direct"].embeddings,
        )
        self.joint = JointTerm(
            backbone,
            self.info_nce,
            None if self.fixed_documents else self.document_sequences,
            self.hard_negatives,
            self.across_ranks,
            self.cache_tokens,
        )

    def document_sequences(self, texts: Sequence[str]) -> list[Tokens]:
        """Documents as tokens up to where their embedding is read, with a thought if ``documents`` says so."""
        if self.documents == "direct":
            return super().document_sequences(texts)
        with self.inference():
            return document_sequences(self.backbone, texts, self.documents)

    def on_fit_start(self) -> None:
        """Refuses, before anything is encoded, what :meth:`on_train_batch_start` would."""
        super().on_fit_start()
        self._check_accumulation()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """New completions for a new batch.

        Raises:
            ConfigError: Gradients are to be accumulated over several batches, each of which would count by itself.
        """
        super().on_train_batch_start(batch, batch_idx)
        self._check_accumulation()
        self._sampled = self._old_logprobs = None

    def _check_accumulation(self) -> None:
        if self.trainer.accumulate_grad_batches > 1:
            raise ConfigError(
                "trainer.accumulate_grad_batches: expected 1 in stage 2, whose terms are means over a whole batch, got "
                f"{self.trainer.accumulate_grad_batches}; multiply data.init_args.batch_size by it instead, and set "
                "model.init_args.cache_tokens for memory"
            )

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """As many updates as are wanted; each runs ``training_step`` again, with the same completions."""
        for _ in range(self.updates):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """Rollouts and rewards, once per batch, and the weighted sum of the terms."""
        environment = self.required_environment()
        if self._sampled is None:
            with self.inference():
                self._sampled = self.sampler.sample(batch, environment, f"{self.seed} {self.finished_batches}")
            self._log_samples(self._sampled)
        sampled = self._sampled
        owners, completions = sampled.owners.tolist(), sampled.rollouts.completions
        scores = score_completions(
            self.backbone, sampled.prompts, owners, completions, self.temperature, self.cache_tokens
        )
        terms = self._policy_terms(scores, sampled)
        if self.info_nce.used:
            terms["info_nce"] = self.joint(batch, sampled.sides, scores.embeddings, environment)
        if self.cross_entropy.used:
            terms["cross_entropy"] = self._given_thoughts(batch)
        weights = self.term_weights(self.policy_loss, self.reference_kl, self.info_nce, self.cross_entropy)
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        self.check_finite(loss, terms)
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, batch_size=len(batch.ids))
        self.log("train/loss", loss, batch_size=len(batch.ids))
        return loss

    def _policy_terms(self, scores: Scores, sampled: Sampled) -> dict[str, Tensor]:
        if self._old_logprobs is None:
            self._old_logprobs = scores.logprobs.detach()
        advantages, active = group_advantages(sampled.rewards, sampled.owners, self.scale_by_std)
        learning = active & ~sampled.rollouts.truncated if self.mask_truncated else active
        mask, longest = scores.counted & learning[:, None], self.backbone.max_thought_tokens
        count = mean_over_ranks(self.policy_loss.count(mask))
        terms = {}
        if self.policy_loss.used:
            policy = self.policy_loss(scores.logprobs, self._old_logprobs, advantages, mask, longest, count)
            terms["policy_loss"] = policy.loss
            self.log("train/clipped", policy.clipped_share)
        if sampled.reference is not None:
            terms["reference_kl"] = self.reference_kl(
                scores.logprobs, sampled.reference, mask, self.policy_loss.normaliser, longest, count
            )
        self.log("train/entropy", scores.entropy.sum() / scores.counted.sum().clamp_min(1))
        self.log("train/active_groups", active.float().mean())
        return terms

    def _given_thoughts(self, batch: TrainBatch) -> Tensor:
        writing = Writing(self.backbone, self.cross_entropy, None, nullcontext, self.cache_tokens)
        prompts = self.backbone.tokenize(batch.texts, "thinking")
        weights = [weight * bool(thought) for weight, thought in zip(batch.weights, batch.thoughts, strict=True)]
        total = writing.read(prompts, self.backbone.tokenize_thoughts(batch.thoughts), weights).cross_entropy
        assert total is not None
        return Total(total.value, mean_over_ranks(total.weight)).mean

    def _log_samples(self, sampled: Sampled) -> None:
        self.last_rewards = sampled.rewards.float().cpu()
        figures = rollout_figures(sampled)
        self._warned_of_unended = self._warned_of_unended or warn_of_unended(figures["emitted"])
        self.log_dict({f"train/{name}": value for name, value in figures.items()}, batch_size=len(sampled.prompts))
        self.log("train/reward", sampled.rewards.mean(), prog_bar=True, batch_size=len(sampled.prompts))
