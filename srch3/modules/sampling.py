"""What a step of reinforcement learning learns from: completions of each prompt, and their rewards."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.backbones import ReasoningEmbedder, Rollouts, generate
from srch3.backbones.reasoning_embedder import Tokens
from srch3.backbones.scoring import score_completions
from srch3.functional.hashing import key
from srch3.functional.similarity import normalise
from srch3.indexes import ExactIndex
from srch3.modules.judging import Judge, Judged, Side, part_of, positive_side, query_side
from srch3.rewards import Asked, BasePool, BaseReward, IndexPool
from srch3.types import Environment, Observation, Pending, TrainBatch

RolloutsOn = Literal["queries", "positives", "both"]


class Sampled(NamedTuple):
    """What a training step learns from, in all of its updates.

    Attributes:
        sides: Completions about queries, about positives, or both.
        prompts: Of all sides, one after the other.
        owners: Prompt of each completion; the completions of one prompt are a group.
        rollouts: Of all sides.
        rewards: Of all sides.
        reference: Log-probabilities of the sampled tokens under the reference, if there is one.
    """

    sides: list[Judged]
    prompts: list[Tokens]
    owners: Int64[Tensor, "rollouts"]
    rollouts: Rollouts
    rewards: Float[Tensor, "rollouts"]
    reference: Float[Tensor, "rollouts tokens"] | None


class Sampler:
    """Samples completions and judges them; to be used without gradients, in evaluation mode.

    Args:
        backbone: The policy.
        reward: What a completion's rank is worth.
        pool: What a query's completions are ranked among.
        samples: Completions per prompt.
        temperature: Of sampling.
        hard_negatives: Wrong hits that are wanted beside those which the reward judges.
        rollouts_on: What is thought about.
        reference: Whether the log-probabilities under the remembered weights are wanted.
        frozen_embedder: Whether these weights read the embeddings too.
        cache_tokens: Tokens of a pass of theirs; by default as many as in encoding.
        encode_documents: Embeds texts as the index does.
        embed_queries: Embeds queries without a thought.
    """

    def __init__(
        self,
        backbone: ReasoningEmbedder,
        reward: BaseReward,
        pool: BasePool,
        samples: int,
        temperature: float,
        hard_negatives: int,
        rollouts_on: RolloutsOn,
        reference: bool,
        frozen_embedder: bool,
        cache_tokens: int | None,
        encode_documents: Callable[[Sequence[str]], Tensor],
        embed_queries: Callable[[Sequence[str]], Tensor],
    ) -> None:
        self.backbone = backbone
        self.reward = reward
        self.pool = pool
        self.samples = samples
        self.temperature = temperature
        self.hard_negatives = hard_negatives
        self.rollouts_on: RolloutsOn = rollouts_on
        self.reference = reference
        self.frozen_embedder = frozen_embedder
        self.cache_tokens = cache_tokens
        self.encode_documents = encode_documents
        self.embed_queries = embed_queries

    def sample(self, batch: TrainBatch, environment: Environment, salt: str) -> Sampled:
        """Completions of a batch's queries, of their positives, or both, with rewards.

        Args:
            batch: The queries of this process.
            environment: Where they are searched for; it is shown what was found.
            salt: What tells this step from others: with a text's id, it seeds the completions of the text.
        """
        sides = self._sides(batch, environment)
        prompts = [prompt for side in sides for prompt in side.prompts]
        ids = [f"{salt} {side.of} {text_id}" for side in sides for text_id in side.ids]
        owners = torch.arange(len(prompts), device=self.backbone.device).repeat_interleave(self.samples)
        rollouts, reference = self._rollouts(prompts, owners, [key(text_id) % 2**63 for text_id in ids])
        judged: list[Judged] = []
        for side in sides:
            start = sum(len(one.rewards) for one in judged)
            some = part_of(rollouts, slice(start, start + len(side.texts) * self.samples))
            if side.of == "queries":
                judged.append(self._judge_queries(side, some, batch, environment, key(salt) % 2**63))
            else:
                judged.append(self._judge_positives(side, some, batch, judged))
        rewards = torch.cat([one.rewards for one in judged])
        return Sampled(judged, prompts, owners, rollouts, rewards, reference)

    def _sides(self, batch: TrainBatch, environment: Environment) -> list[Side]:
        sides = []
        if self.rollouts_on != "positives":
            sides.append(query_side(self.backbone, batch, environment.corpus("train")))
        if self.rollouts_on != "queries":
            sides.append(positive_side(self.backbone, batch))
        return sides

    def _rollouts(
        self, prompts: list[Tokens], owners: Int64[Tensor, "rollouts"], seeds: list[int]
    ) -> tuple[Rollouts, Tensor | None]:
        rollouts = generate(self.backbone, prompts, self.samples, self.temperature, seeds=seeds)
        if not (self.reference or self.frozen_embedder):
            return rollouts, None
        with self.backbone.as_remembered():
            scores = score_completions(
                self.backbone, prompts, owners.tolist(), rollouts.completions, self.temperature, self.cache_tokens
            )
        if self.frozen_embedder:
            rollouts = rollouts._replace(embeddings=scores.embeddings)
        return rollouts, scores.logprobs if self.reference else None

    def _judge_queries(
        self, side: Side, rollouts: Rollouts, batch: TrainBatch, environment: Environment, seed: int
    ) -> Judged:
        corpus, groups = environment.corpus("train"), self._groups(side)
        texts = text_of(batch)
        vectors = self.encode_documents(list(texts.values())) if self.pool.uses_batch else None
        asked = Asked(
            rollouts.embeddings,
            groups,
            side.relevant,
            environment.searcher("train") if self.pool.uses_index else ExactIndex(),
            len(corpus),
            torch.tensor([corpus.row(document) for document in texts], device=groups.device),
            vectors,
            seed,
            frozenset(getattr(corpus, "removed", ())),
        )
        most = max(map(len, side.relevant))
        judge = Judge(self.backbone, side, rollouts, asked, self.pool, self.reward, self.hard_negatives + most)
        if self.pool.uses_index:
            environment.prepare(Pending(rollouts.embeddings, groups, side.relevant, judge.hits))
        judged = judge.judged()
        if self.pool.uses_index:
            environment.observe(Observation(rollouts.embeddings, judged.hits, groups, judge.score))
        return judged

    def _judge_positives(self, side: Side, rollouts: Rollouts, batch: TrainBatch, earlier: list[Judged]) -> Judged:
        queries = group_means(earlier[0].embeddings, earlier[0].groups) if earlier else self.embed_queries(batch.texts)
        index, groups = ExactIndex(), self._groups(side)
        index.build(queries)
        rows = torch.arange(len(queries), device=groups.device)
        asked = Asked(rollouts.embeddings, groups, side.relevant, index, len(queries), rows, queries, 0)
        return Judge(self.backbone, side, rollouts, asked, IndexPool(), self.reward, 1).judged()

    def _groups(self, side: Side) -> Int64[Tensor, "rollouts"]:
        return torch.arange(len(side.texts), device=self.backbone.device).repeat_interleave(self.samples)


def text_of(batch: TrainBatch) -> dict[str, str]:
    """The documents of a batch, by id."""
    ids = chain.from_iterable([*batch.positive_ids, *batch.negative_ids])
    return dict(zip(ids, chain.from_iterable([*batch.positives, *batch.negatives]), strict=True))


def group_means(
    embeddings: Float[Tensor, "rollouts dim"], groups: Int64[Tensor, "rollouts"]
) -> Float[Tensor, "groups dim"]:
    """The direction of each group's mean."""
    sums = embeddings.new_zeros(int(groups.max()) + 1, embeddings.shape[1])
    return normalise(sums.index_add(0, groups, embeddings))
