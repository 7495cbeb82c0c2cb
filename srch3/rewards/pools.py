"""What a completion is ranked among: all documents, those of the batch, or a mixture of hard and random ones.

Bring your own: subclass `BasePool` and name it by its class path.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.errors import ConfigError
from srch3.functional.distributed import gather_rows
from srch3.functional.ranking import grade_hits
from srch3.types import Hits, Searcher


class Asked(NamedTuple):
    """The searches of one step, on one process.

    Attributes:
        embeddings: Where each completion ended, unit length.
        groups: Number of the query that each completion is about, an index into ``relevant``.
        relevant: For each query, corpus row to grade of the documents judged relevant.
        index: All documents.
        size: How many these are.
        documents: Corpus rows of the batch's documents.
        vectors: Of these, as they were encoded in this step; None where the pool has no use for them.
        seed: Seed of whatever is random, another one in each step.
        removed: Rows that hold no document.
    """

    embeddings: Float[Tensor, "rollouts dim"]
    groups: Int64[Tensor, "rollouts"]
    relevant: list[dict[int, int]]
    index: Searcher  # type: ignore[assignment]  # in place of the method of tuples
    size: int
    documents: Int64[Tensor, "docs"]
    vectors: Float[Tensor, "docs dim"] | None
    seed: int
    removed: frozenset[int] = frozenset()


class Ranked(NamedTuple):
    """What the searches found in a pool.

    Attributes:
        hits: Of each completion, best first, ties by ascending row.
        grades: Of each hit; 0 is irrelevant.
        positive_scores: Cosine with the nearest document judged relevant, found or not; -1 where there is none.
    """

    hits: Hits
    grades: Float[Tensor, "rollouts hits"]
    positive_scores: Float[Tensor, "rollouts"]


class BasePool(ABC):
    """Ranks completions among candidate documents; a pure function of what it is asked."""

    uses_batch: bool = False
    """Whether the batch's documents have to be encoded for it."""

    uses_index: bool = True
    """Whether it searches the environment's index, which must then be kept up with the model."""

    @abstractmethod
    def rank(self, asked: Asked, k: int) -> Ranked:
        """The best ``k`` candidates of each completion; fewer where there are not as many.

        Args:
            asked: The searches.
            k: Hits per completion, at least 1.
        """


class IndexPool(BasePool):
    """Ranks among all documents, by the environment's index of them."""

    def rank(self, asked: Asked, k: int) -> Ranked:
        """The best ``k`` documents of each completion."""
        hits = asked.index.search(asked.embeddings, k)
        grades = grade_hits(hits.rows, [asked.relevant[group] for group in asked.groups.tolist()])
        rows = _judged_rows(asked.relevant).to(asked.embeddings.device)
        scores = _cosines(asked.embeddings, asked.index.vectors_of(rows))
        return Ranked(hits, grades, _best(scores, _relevance(asked.relevant, rows)[asked.groups]))


class BatchPool(BasePool):
    """Ranks among the documents of the batch, encoded in the same step: no index is needed, and nothing is stale.

    LREM (arXiv 2510.14321) and UME-R1 (2511.00405) rank so; Embed-RL (2602.13823) among those of all processes.

    Args:
        across_ranks: Whether the documents of all processes count.
    """

    uses_batch = True
    uses_index = False

    def __init__(self, across_ranks: bool = True) -> None:
        self.across_ranks = across_ranks

    def rank(self, asked: Asked, k: int) -> Ranked:
        """The best ``k`` documents of each completion, each document once."""
        if asked.vectors is None:
            raise RuntimeError("BatchPool: expected vectors of the batch's documents; got None")
        device = asked.embeddings.device
        documents, vectors = asked.documents.to(device), asked.vectors.detach().to(device)
        if self.across_ranks:
            documents, vectors = gather_rows(documents), gather_rows(vectors)
        rows, places = documents.unique(return_inverse=True)
        numbers = torch.arange(len(places), device=places.device)
        first = places.new_full((len(rows),), len(places)).scatter_reduce(0, places, numbers, "amin")
        return rank_among(asked, rows, vectors[first], k)


class MixedPool(BasePool):
    """Ranks among the judged documents of a query, the hardest irrelevant ones, and some drawn at random.

    ELVA (Liu et al., 2026, arXiv 2606.20280) has 50 of either kind: among hard ones alone the rewards of a group differ
    too little. They first drop candidates above a similarity, whose value is not known to us, as possibly relevant;
    here documents that are judged relevant are. Hard are the documents nearest to any completion of the query, by the
    environment's index. As many hits are judged for all queries, as if each had one relevant document.

    Args:
        hard: Irrelevant documents that are nearest to a query's completions.
        random: Irrelevant documents drawn from all others, anew in each step.

    Raises:
        ConfigError: If a number is negative, or both are 0.
    """

    def __init__(self, hard: int = 50, random: int = 50) -> None:
        for name, value, least in (("hard", hard, 0), ("random", random, 0 if hard else 1)):
            if value < least:
                raise ConfigError(
                    f"model.init_args.pool.init_args.{name}: expected at least {least}; got {value}; a ranking needs "
                    "irrelevant documents, hard or random"
                )
        self.hard, self.random = hard, random

    def rank(self, asked: Asked, k: int) -> Ranked:
        """The best ``k`` candidates of each completion, out of its query's pool."""
        near = asked.index.search(asked.embeddings, self.hard + max(map(len, asked.relevant)))
        members = [(asked.groups == group).nonzero()[:, 0] for group in range(len(asked.relevant))]
        pools = [
            self.candidates(
                Hits(near.rows[rollouts], near.scores[rollouts]),
                judged,
                asked.size,
                f"{asked.seed} {sorted(judged)}",
                asked.removed,
            )
            for rollouts, judged in zip(members, asked.relevant, strict=True)
        ]
        k = min(k, asked.size - len(asked.removed), 1 + self.hard + self.random)
        parts = [self._rank_group(asked, *each, k) for each in zip(members, pools, asked.relevant, strict=True)]
        order = torch.cat(members).argsort()
        hits, scores, grades, best = (torch.cat(column)[order] for column in zip(*parts, strict=True))
        return Ranked(Hits(hits, scores), grades, best)

    def candidates(
        self, near: Hits, judged: Mapping[int, int], size: int, seed: str, removed: frozenset[int] = frozenset()
    ) -> list[int]:
        """Rows of a query's pool, ascending.

        Args:
            near: What its completions found among all documents.
            judged: Rows that are relevant.
            size: Number of all rows.
            seed: Of the draw.
            removed: Rows that hold no document.
        """
        found: dict[int, float] = {}
        for row, score in zip(near.rows.flatten().tolist(), near.scores.flatten().tolist(), strict=True):
            if row not in judged:
                found[row] = max(score, found.get(row, score))
        hardest = sorted(found, key=lambda row: (-found[row], row))[: self.hard]
        taken = {*judged, *hardest}
        drawn = random.Random(seed).sample(range(size), min(size, self.random + len(taken) + len(removed)))
        return sorted([*taken, *[row for row in drawn if row not in taken and row not in removed][: self.random]])

    @staticmethod
    def _rank_group(
        asked: Asked, rollouts: Int64[Tensor, "some"], pool: list[int], judged: dict[int, int], k: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = torch.tensor(pool, device=asked.embeddings.device)
        part = asked._replace(
            embeddings=asked.embeddings[rollouts], groups=torch.zeros_like(rollouts), relevant=[judged]
        )
        ranked = rank_among(part, rows, asked.index.vectors_of(rows), k)
        return ranked.hits.rows, ranked.hits.scores, ranked.grades, ranked.positive_scores


def rank_among(asked: Asked, rows: Int64[Tensor, "docs"], vectors: Float[Tensor, "docs dim"], k: int) -> Ranked:
    """Ranks all completions among the same documents.

    Args:
        asked: The searches.
        rows: Of the documents, ascending and unique.
        vectors: Of the documents, unit length.
        k: Hits per completion, at least 1.

    Returns:
        The best ``k``; all where there are fewer.
    """
    scores = _cosines(asked.embeddings, vectors)
    grades = _relevance(asked.relevant, rows).to(scores.device)[asked.groups]
    ordered, order = scores.sort(dim=1, descending=True, stable=True)
    order = order[:, :k]
    hits = Hits(rows.to(order.device)[order], ordered[:, :k])
    return Ranked(hits, grades.gather(1, order), _best(scores, grades))


def _judged_rows(relevant: Sequence[Mapping[int, int]]) -> Int64[Tensor, "judged"]:
    """Rows that are judged for any query, ascending."""
    return torch.tensor(sorted({row for judged in relevant for row in judged}), dtype=torch.int64)


def _relevance(relevant: Sequence[Mapping[int, int]], rows: Int64[Tensor, "docs"]) -> Float[Tensor, "queries docs"]:
    """The grade of each of some documents for each query; 0 where it is not judged."""
    columns = {row: column for column, row in enumerate(rows.tolist())}
    grades = torch.zeros(len(relevant), len(columns))
    for query, judged in enumerate(relevant):
        for row, grade in judged.items():
            if row in columns:
                grades[query, columns[row]] = grade
    return grades.to(rows.device)


def _cosines(
    embeddings: Float[Tensor, "rollouts dim"], vectors: Float[Tensor, "docs dim"]
) -> Float[Tensor, "rollouts docs"]:
    with torch.autocast(embeddings.device.type, enabled=False):
        return embeddings.detach().float() @ vectors.to(embeddings.device).float().T


def _best(scores: Float[Tensor, "rollouts docs"], grades: Float[Tensor, "rollouts docs"]) -> Float[Tensor, "rollouts"]:
    """The highest score of a relevant document; -1 where there is none."""
    lowest = scores.new_full((len(scores), 1), -1.0)
    return torch.cat([scores.where(grades > 0, -1.0), lowest], dim=1).amax(dim=1)
