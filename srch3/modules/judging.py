"""What is thought about in a step, and what thoughts earn: from completions to rewards, with any index."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.backbones import Completions, ReasoningEmbedder, Rollouts
from srch3.backbones.reasoning_embedder import Tokens
from srch3.rewards import Asked, BasePool, BaseReward
from srch3.types import CorpusLike, Hits, Outcome, Searcher, TrainBatch


class Side(NamedTuple):
    """Texts that are thought about in one step, a group of completions each.

    Attributes:
        of: Queries, which search among documents; or positives, documents which search among the batch's queries.
        ids: What tells the texts apart.
        texts: As they are.
        prompts: Of thinking.
        relevant: Row to grade, for each text, of what it should find.
    """

    of: Literal["queries", "positives"]
    ids: Sequence[str]
    texts: Sequence[str]
    prompts: list[Tokens]
    relevant: list[dict[int, int]]


class Judged(NamedTuple):
    """The completions of one side with their rewards.

    Attributes:
        side: What they are about.
        embeddings: Where they end, unit length.
        groups: Number of the text that each completion is about.
        hits: What its embedding found.
        rewards: How good that was.
        parts: The same of each reward that the whole is made of, by name and unweighted.
    """

    side: Side
    embeddings: Float[Tensor, "rollouts dim"]
    groups: Int64[Tensor, "rollouts"]
    hits: Hits
    rewards: Float[Tensor, "rollouts"]
    parts: dict[str, Float[Tensor, "rollouts"]]


def query_side(backbone: ReasoningEmbedder, batch: TrainBatch, corpus: CorpusLike) -> Side:
    """The queries of a batch, which should find their judged documents in the corpus."""
    relevant = [{corpus.row(document): grade for document, grade in judged.items()} for judged in batch.relevant]
    return Side("queries", batch.ids, batch.texts, backbone.tokenize(batch.texts, "thinking"), relevant)


def positive_side(backbone: ReasoningEmbedder, batch: TrainBatch) -> Side:
    """The first positive of each query, each document once, which should find its queries among those of the batch."""
    texts = {ids[0]: found[0] for ids, found in zip(batch.positive_ids, batch.positives, strict=True)}
    relevant = [
        {number: judged[document] for number, judged in enumerate(batch.relevant) if document in judged}
        for document in texts
    ]
    documents = list(texts.values())
    return Side("positives", list(texts), documents, backbone.tokenize(documents, "thinking_document"), relevant)


class Judge:
    """Computes the rewards of one side's completions, with any index.

    Args:
        backbone: Reads thoughts back into text.
        side: What the completions are about.
        rollouts: The completions.
        asked: What the pool needs.
        pool: What each completion is ranked among.
        reward: What its rank is worth.
        least: Hits that are wanted even if the reward judges fewer.
    """

    def __init__(
        self,
        backbone: ReasoningEmbedder,
        side: Side,
        rollouts: Rollouts,
        asked: Asked,
        pool: BasePool,
        reward: BaseReward,
        least: int,
    ) -> None:
        self.side, self.rollouts, self.asked = side, rollouts, asked
        self.pool, self.reward, self.hits = pool, reward, max(least, reward.k)
        self.lengths = lengths_of(rollouts.completions).to(asked.groups.device)
        self.thoughts = [backbone.decode_thought(tokens) for tokens in rollouts.completions.inputs]

    def score(self, index: Searcher) -> Float[Tensor, "rollouts"]:
        """The rewards with an index."""
        rewards: Tensor = self.reward(self._outcome(index))
        return rewards

    def judged(self) -> Judged:
        """The rewards with the index that was given, and what they are made of."""
        outcome = self._outcome(self.asked.index)
        rewards, parts = self.reward.with_parts(outcome)
        return Judged(self.side, self.asked.embeddings, self.asked.groups, outcome.hits, rewards, parts)

    def _outcome(self, index: Searcher) -> Outcome:
        ranked = self.pool.rank(self.asked._replace(index=index), self.hits)
        return Outcome(
            hits=ranked.hits,
            grades=ranked.grades,
            positive_scores=ranked.positive_scores,
            embeddings=self.asked.embeddings,
            emitted=self.rollouts.emitted,
            truncated=self.rollouts.truncated,
            lengths=self.lengths,
            groups=self.asked.groups,
            queries=[self.side.texts[group] for group in self.asked.groups.tolist()],
            thoughts=self.thoughts,
        )


def lengths_of(completions: Completions) -> Int64[Tensor, "rollouts"]:
    """Sampled tokens of each completion."""
    return torch.tensor([sum(counted) for counted in completions.counted])


def part_of(rollouts: Rollouts, place: slice) -> Rollouts:
    """Some of the rollouts."""
    whole = rollouts.completions
    return Rollouts(
        Completions(whole.inputs[place], whole.targets[place], whole.counted[place]),
        rollouts.logprobs[place],
        rollouts.embeddings[place],
        rollouts.emitted[place],
        rollouts.truncated[place],
    )
