"""Stage 2: reasoning and embedding improve together under a ranking reward."""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int64
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from srch3.backbones import ReasoningEmbedder, Rollouts, Scored, generate
from srch3.backbones.reasoning_embedder import Tokens
from srch3.errors import ConfigError
from srch3.functional.advantages import group_advantages
from srch3.functional.contrastive import Total
from srch3.functional.language import token_log_probs
from srch3.functional.ranking import grade_hits
from srch3.losses import InfoNCE, PolicyLoss, ReferenceKL
from srch3.modules.base import BaseRetrievalModule
from srch3.modules.candidates import Wanted, find_targets, list_documents, pool
from srch3.modules.optimization import Schedule
from srch3.rewards import BaseReward, ScaledDCG
from srch3.types import CorpusLike, Environment, Hits, Mode, Observation, Outcome, TrainBatch


class Judged(NamedTuple):
    """Rollouts with their rewards.

    Attributes:
        rollouts: The completions of all groups.
        groups: Number of the query that each completion answers.
        hits: What its embedding found.
        rewards: How good that was.
    """

    rollouts: Rollouts
    groups: Int64[Tensor, "rollouts"]
    hits: Hits
    rewards: Float[Tensor, "rollouts"]


class RLModule(BaseRetrievalModule):
    """Group-relative policy optimisation (GRPO, arXiv 2402.03300) with a reward from the environment's index.

    Each step samples a group of thoughts per query, searches the environment's index of the whole corpus with the
    embedding that each one ends in, and rewards what was found. The policy gradient makes good thoughts likelier. Two
    terms stand beside it: a KL to the model as it was before this stage, and an InfoNCE through the embeddings of the
    sampled completions, which teaches the embedding to make the best of thoughts that the model really has.

    Completions are used for one update, so the old log-probabilities are those of the update's own forward pass and
    the ratio is one; the clip takes effect in subclasses which take several. The policy loss divides by all sampled
    tokens of the batch (DAPO, arXiv 2503.14476), which no longer favours short completions. Groups in which all
    rewards are equal teach nothing and are left out of the divisor.

    Args:
        backbone: The reasoning embedder.
        optimizer: Made from the parameters.
        schedule: Course of the learning rate.
        warmup: Share of all steps over which the learning rate rises.
        embedding_lr_scale: Factor of the learning rate of the token embeddings; more than 1 helps small models that
            know few words yet.
        reward: What to make of the hits.
        samples: Completions per query, G.
        temperature: Of sampling.
        scale_by_std: Whether advantages are divided by their group's standard deviation.
        policy_loss: The clipped policy loss.
        reference_kl: Keeps the policy near the model that this stage started from.
        info_nce: Trains the embeddings of the sampled completions against documents encoded in the same step.
        hard_negatives: Documents per query, taken from its hits, that join the InfoNCE's negatives.
        modes: How queries are embedded in evaluation.
        hits: Results per query in evaluation; in training the reward says how many it judges.
        init_from: The checkpoint of stage 1.
        seed: Seed of everything random within a step.
    """

    searches_while_training = True

    def __init__(
        self,
        backbone: ReasoningEmbedder,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-6),
        schedule: Schedule = "constant",
        warmup: float = 0.0,
        embedding_lr_scale: float = 1.0,
        reward: BaseReward | None = None,
        samples: int = 8,
        temperature: float = 1.0,
        scale_by_std: bool = True,
        policy_loss: PolicyLoss | None = None,
        reference_kl: ReferenceKL | None = None,
        info_nce: InfoNCE | None = None,
        hard_negatives: int = 0,
        modes: list[Mode] | None = None,
        hits: int = 100,
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        info_nce = info_nce or InfoNCE(weight=0.1)
        super().__init__(
            backbone, optimizer, schedule, warmup, embedding_lr_scale, modes, hits, init_from, seed, info_nce
        )
        if samples < 2:
            raise ConfigError(f"model.init_args.samples: expected at least 2 completions per query, got {samples}")
        if temperature <= 0:
            raise ConfigError(f"model.init_args.temperature: expected more than 0, got {temperature}")
        self.reward = reward or ScaledDCG()
        self.samples = samples
        self.temperature = temperature
        self.scale_by_std = scale_by_std
        self.policy_loss = policy_loss or PolicyLoss()
        self.reference_kl = reference_kl or ReferenceKL()
        self.hard_negatives = hard_negatives
        self.keeps_reference = self.reference_kl.used
        self.trains_writing = self.keeps_reference or self.policy_loss.used

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """Rollouts, rewards, and the weighted sum of the terms."""
        environment = self.required_environment()
        prompts = self.backbone.tokenize(batch.texts, "thinking")
        judged = self._judge(batch, prompts, environment)
        repeated = [prompt for prompt in prompts for _ in range(self.samples)]
        reference = self._reference_logprobs(repeated, judged.rollouts)
        scored = self.backbone.score(repeated, judged.rollouts.completions)
        terms = self._policy_terms(scored, judged, reference)
        if self.info_nce.used:
            terms["info_nce"] = self._info_nce(batch, scored, judged, environment.corpus("train"))
        weights = self.term_weights(self.policy_loss, self.reference_kl, self.info_nce)
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        self.check_finite(loss, terms)
        self._log_step(loss, terms, judged)
        return loss

    def _judge(self, batch: TrainBatch, prompts: list[Tokens], environment: Environment) -> Judged:
        generator = torch.Generator(self.device).manual_seed(self.step_seed)
        with self.inference():
            rollouts = generate(self.backbone, prompts, self.samples, self.temperature, generator=generator)
        groups = torch.arange(len(prompts), device=self.device).repeat_interleave(self.samples)
        hits = environment.search(rollouts.embeddings, self.reward.k, "train")
        corpus = environment.corpus("train")
        lengths = torch.tensor([sum(counted) for counted in rollouts.completions.counted], device=self.device)

        relevant = [batch.relevant[group] for group in groups.tolist()]

        def score(hits: Hits) -> Float[Tensor, "rollouts"]:
            grades = grade_hits(hits.rows, relevant, corpus)
            return self.reward(Outcome(hits, grades, rollouts.emitted, lengths, groups))  # type: ignore[no-any-return]

        judged_rows = {corpus.row(document) for relevant in batch.relevant for document in relevant}
        positives = torch.tensor(sorted(judged_rows), dtype=torch.int64)
        environment.observe(Observation(rollouts.embeddings, positives, hits, groups, score))
        return Judged(rollouts, groups, hits, score(hits))

    def _logprobs(self, scored: Scored) -> Float[Tensor, "rollouts seq"]:
        """Of the sampled tokens where they stand; zero elsewhere."""
        flat = token_log_probs(scored.logits, scored.targets, self.temperature)
        return flat.new_zeros(scored.counted.shape).masked_scatter(scored.counted, flat)

    def _reference_logprobs(self, prompts: list[Tokens], rollouts: Rollouts) -> Float[Tensor, "rollouts seq"] | None:
        if not self.reference_kl.used:
            return None
        with self.inference(), self.backbone.as_remembered():
            return self._logprobs(self.backbone.score(prompts, rollouts.completions))

    def _policy_terms(self, scored: Scored, judged: Judged, reference: Tensor | None) -> dict[str, Tensor]:
        logprobs = self._logprobs(scored)
        advantages, active = group_advantages(judged.rewards, judged.groups, self.scale_by_std)
        self.log("train/active_groups", active.float().mean())
        terms = {}
        if self.policy_loss.used:
            mask = scored.counted & active[:, None]
            divisor = self._tokens_per_rank(mask)
            terms["policy_loss"] = self.policy_loss(logprobs, logprobs.detach(), advantages, mask, divisor).loss
        if reference is not None:
            divisor = self._tokens_per_rank(scored.counted)
            terms["reference_kl"] = self.reference_kl(logprobs, reference, scored.counted, divisor)
        return terms

    def _tokens_per_rank(self, mask: Tensor) -> Tensor:
        """Dividing by the ranks' mean count makes the mean of their gradients the one of all tokens together."""
        counts = cast(Tensor, self.all_gather(mask.sum().float()))
        return counts.mean().clamp(min=1)

    def _info_nce(self, batch: TrainBatch, scored: Scored, judged: Judged, corpus: CorpusLike) -> Tensor:
        rows = judged.hits.rows[:: self.samples].tolist()
        wrong = [
            [row for row in found if corpus.ids[row] not in relevant][: self.hard_negatives]
            for found, relevant in zip(rows, batch.relevant, strict=True)
        ]
        local = list_documents(
            [*batch.positive_ids, *([corpus.ids[row] for row in found] for found in wrong)],
            [*batch.positives, *([corpus.texts[row] for row in found] for found in wrong)],
        )
        embeddings = self.backbone.embed(self.backbone.tokenize(local.texts, "document"))
        candidates = pool(local, embeddings, across_ranks=False)
        wanted = Wanted(batch.texts, batch.positives, batch.relevant, batch.weights)
        compared = self.info_nce.query_query
        targets = find_targets(candidates, wanted, judged.groups, across_ranks=False, with_queries=compared)
        others = scored.embeddings if compared else None
        total: Total = self.info_nce(scored.embeddings, candidates.embeddings, targets, others)
        return total.mean

    def _log_step(self, loss: Tensor, terms: dict[str, Tensor], judged: Judged) -> None:
        by_group = judged.rewards.view(-1, self.samples)
        lengths = torch.tensor([float(sum(counted)) for counted in judged.rollouts.completions.counted])
        figures = {
            **{f"train/{name}": value for name, value in terms.items()},
            "train/reward_spread": by_group.std(dim=1).mean(),
            "train/emitted": judged.rollouts.emitted.float().mean(),
            "train/thought_tokens": lengths.mean(),
        }
        self.log_dict(figures, batch_size=len(by_group))
        self.log("train/loss", loss, batch_size=len(by_group))
        self.log("train/reward", judged.rewards.mean(), prog_bar=True, batch_size=len(by_group))
