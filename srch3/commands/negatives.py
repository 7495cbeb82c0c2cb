"""Hard negatives: which ones are wanted, and a predicting step that finds them."""

import random
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from srch3.environments import SearchEnvironment
from srch3.errors import ConfigError
from srch3.functional.mining import choose_hits, eligible_hits, forbidden_hits
from srch3.functional.similarity import cosine
from srch3.modules.base import BaseRetrievalModule
from srch3.types import QueryBatch


class Mining:
    """Which of a training query's hits become its hard negatives.

    Never a document with the text of a relevant one, or of the query itself, or no text, and no text twice; ranks are
    counted over the others, so that rank 1 is the best hit that could be a negative. Where a query has several relevant
    documents, ``margin`` and ``relative`` look at the one that scores best.

    Args:
        negatives: Negatives per query; a query with fewer eligible hits gets fewer, and is counted.
        ranks: First and last rank considered. The first ranks are skipped because many of them are relevant documents
            that nobody judged.
        margin: A negative scores below the positive by at least this much cosine; no such filter by default.
        relative: A negative scores at most this share of the positive's cosine, such as 0.95, the positive-aware
            filter of NV-Retriever (arXiv 2407.15831); no such filter by default.
        mode: How queries become embeddings; by default the first of the model's modes.
        sampled: Draw from all eligible hits in place of taking the best ones.
        seed: Decides what is drawn for each query.

    Raises:
        ConfigError: A number is out of range.
    """

    def __init__(
        self,
        negatives: int = 8,
        ranks: tuple[int, int] = (10, 100),
        margin: float | None = None,
        relative: float | None = None,
        mode: Literal["direct", "thinking"] | None = None,
        sampled: bool = False,
        seed: int = 0,
    ) -> None:
        first, last = ranks
        if not 1 <= first <= last:
            raise ConfigError(f"mining.ranks: expected a first rank from 1 on and a last one; got {list(ranks)}")
        if not 1 <= negatives <= last - first + 1:
            raise ConfigError(
                f"mining.negatives: expected 1 to {last - first + 1}, which mining.ranks leave; got {negatives}"
            )
        if margin is not None and not 0 <= margin <= 2:
            raise ConfigError(f"mining.margin: expected a difference of cosines, from 0 to 2; got {margin}")
        if relative is not None and not 0 < relative <= 1:
            raise ConfigError(f"mining.relative: expected a share above 0 and at most 1; got {relative}")
        self.negatives = negatives
        self.ranks = ranks
        self.margin = margin
        self.relative = relative
        self.mode = mode
        self.sampled = sampled
        self.seed = seed


class Miner:
    """Finds the hard negatives of batches of queries, with the encoder and the index of evaluation.

    Args:
        model: Embeds the queries.
        environment: Searches; its documents of ``predict`` are those to mine in.
        mining: What is wanted.
    """

    def __init__(self, model: BaseRetrievalModule, environment: SearchEnvironment, mining: Mining) -> None:
        self._model = model
        self._environment = environment
        self._mining = mining

    def predict_step(self, batch: QueryBatch, batch_idx: int) -> dict[str, list[str]]:
        """Ids of each query's hard negatives, best first."""
        mining, corpus = self._mining, self._environment.corpus("predict")
        mode = mining.mode or self._model.modes[0]
        embeddings = self._model.embed_queries(batch.texts, [mode])[mode].embeddings
        relevant = [[corpus.row(name) for name in judged] for judged in batch.relevant]
        texts = [{text, *(corpus.texts[row] for row in rows)} for text, rows in zip(batch.texts, relevant, strict=True)]
        rows, scores, forbidden = self._search(embeddings, texts, max(map(len, relevant)))
        positives = self._positives(embeddings, relevant)
        eligible = eligible_hits(scores, forbidden, positives, mining.ranks, mining.margin, mining.relative)
        draws = [random.Random(f"{mining.seed} {name}") for name in batch.ids] if mining.sampled else None
        chosen = choose_hits(eligible, mining.negatives, draws)
        return {
            name: [corpus.ids[found[column]] for column in columns]
            for name, found, columns in zip(batch.ids, rows, chosen, strict=True)
        }

    def _search(
        self, embeddings: Float[Tensor, "queries dim"], texts: Sequence[set[str]], relevant: int
    ) -> tuple[list[list[int]], Tensor, Tensor]:
        """Rows, scores and marks of hits, deep enough for the last rank of every query."""
        corpus, last = self._environment.corpus("predict"), self._mining.ranks[1]
        depth = last + relevant
        while True:
            hits = self._environment.search(embeddings, depth, "predict")
            rows = hits.rows.tolist()
            forbidden = forbidden_hits([[corpus.texts[row] for row in found] for found in rows], texts)
            if depth >= len(corpus) or (~forbidden).sum(dim=1).min() >= last:
                return rows, hits.scores.cpu(), forbidden
            depth *= 2

    def _positives(self, embeddings: Float[Tensor, "queries dim"], relevant: Sequence[list[int]]) -> Tensor:
        """The score of the relevant document that scores best, found or not: from the vectors themselves."""
        vectors = self._environment.state("predict").index.vectors
        queries = embeddings.to(vectors.device)
        scores = [cosine(query[None], vectors[rows]).max() for query, rows in zip(queries, relevant, strict=True)]
        return torch.stack(scores).cpu()


def summary(negatives: Mapping[str, Sequence[str]], wanted: int) -> str:
    """How many queries got how many negatives."""
    counts = [len(found) for found in negatives.values()]
    fewer, none = sum(count < wanted for count in counts), counts.count(0)
    total = f"{sum(counts)} hard negatives for {len(counts)} training queries"
    return f"{total}; {fewer} of them have fewer than {wanted}, {none} none"
