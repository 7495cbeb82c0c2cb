"""The contrastive gradient through sampled thoughts, which teaches the embedding to make the best of them."""

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from srch3.backbones import ReasoningEmbedder
from srch3.backbones.reasoning_embedder import Tokens
from srch3.functional.contrastive import Total
from srch3.functional.distributed import gather_rows, mean_over_ranks
from srch3.losses import InfoNCE
from srch3.modules.candidates import Documents, Wanted, find_targets, list_documents, pool
from srch3.modules.judging import Judged
from srch3.modules.sampling import group_means
from srch3.types import CorpusLike, Environment, Pending, TrainBatch


class JointTerm:
    """InfoNCE through the embeddings of all sampled completions (LREM, arXiv 2510.14321).

    Completions about queries are told from the batch's documents; those about positives, from its queries. What they
    are compared with is embedded in the same step, with gradients; fixed documents are taken from the index.

    Args:
        backbone: The reasoning embedder.
        info_nce: The term.
        document_sequences: Documents as tokens up to where their embedding is read; none where they are fixed.
        hard_negatives: Documents per query, taken from the hits of its first completion, that join the others.
        across_ranks: Whether the documents of the other processes join too; their queries do not.
        cache_tokens: Tokens of a pass whose activations are kept; see `srch3.backbones.caching`.
    """

    def __init__(
        self,
        backbone: ReasoningEmbedder,
        info_nce: InfoNCE,
        document_sequences: Callable[[Sequence[str]], list[Tokens]] | None,
        hard_negatives: int,
        across_ranks: bool,
        cache_tokens: int | None,
    ) -> None:
        self.backbone = backbone
        self.info_nce = info_nce
        self.document_sequences = document_sequences
        self.hard_negatives = hard_negatives
        self.across_ranks = across_ranks
        self.cache_tokens = cache_tokens

    def __call__(
        self,
        batch: TrainBatch,
        sides: list[Judged],
        embeddings: Float[Tensor, "rollouts dim"],
        environment: Environment,
    ) -> Float[Tensor, ""]:
        """This process' part of the mean over all of them.

        Args:
            batch: The queries of this process.
            sides: Completions about them.
            embeddings: Of the completions of all sides, one after the other, with gradients.
            environment: Where the hits come from.
        """
        rows = list(embeddings.split([len(side.rewards) for side in sides]))
        totals = []
        for judged, own in zip(sides, rows, strict=True):
            if judged.side.of == "queries":
                totals.append(self._queries(batch, judged, own, environment))
            else:
                means = group_means(rows[0], sides[0].groups) if len(sides) > 1 else None
                totals.append(self._positives(batch, judged, own, means))
        return torch.stack([Total(total.value, mean_over_ranks(total.weight)).mean for total in totals]).mean()

    def _queries(self, batch: TrainBatch, judged: Judged, rows: Tensor, environment: Environment) -> Total:
        corpus = environment.corpus("train")
        wrong = self._hardest(batch, judged, corpus)
        ids = [*batch.positive_ids, *batch.negative_ids, *([corpus.ids[row] for row in found] for found in wrong)]
        texts = [*batch.positives, *batch.negatives, *([corpus.texts[row] for row in found] for found in wrong)]
        local = list_documents(ids, texts)
        if self.document_sequences is not None:
            embeddings = self._embed(self.document_sequences(local.texts))
        else:
            row_of = {text: corpus.row(text_id) for text_id, text in zip(chain(*ids), chain(*texts), strict=True)}
            environment.prepare(Pending(rows.detach(), judged.groups, judged.side.relevant, hits=1))
            places = torch.tensor([row_of[text] for text in local.texts], device=rows.device)
            embeddings = environment.searcher("train").vectors_of(places)
        wanted = Wanted(batch.texts, batch.positives, batch.relevant, batch.weights)
        return self._term(local, embeddings, wanted, judged, rows, self.across_ranks)

    def _hardest(self, batch: TrainBatch, judged: Judged, corpus: CorpusLike) -> list[list[int]]:
        groups = judged.groups.tolist()
        firsts = judged.hits.rows[[groups.index(group) for group in range(len(batch.ids))]].tolist()
        return [
            [row for row in found if corpus.ids[row] not in relevant][: self.hard_negatives]
            for found, relevant in zip(firsts, batch.relevant, strict=True)
        ]

    def _positives(self, batch: TrainBatch, judged: Judged, rows: Tensor, means: Tensor | None) -> Total:
        local = list_documents([[text_id] for text_id in batch.ids], [[text] for text in batch.texts])
        if means is None:
            embeddings = self._embed(self.backbone.tokenize(local.texts, "direct"))
        else:
            embeddings = means[[batch.texts.index(text) for text in local.texts]]
        found = judged.side.relevant
        wanted = Wanted(
            judged.side.texts,
            [[batch.texts[number] for number in relevant] for relevant in found],
            [[batch.ids[number] for number in relevant] for relevant in found],
            [1.0] * len(found),
        )
        return self._term(local, embeddings, wanted, judged, rows, across_ranks=False)

    def _embed(self, sequences: list[Tokens]) -> Float[Tensor, "texts dim"]:
        return self.backbone.embed(sequences, cache_tokens=self.cache_tokens)

    def _term(
        self, local: Documents, embeddings: Tensor, wanted: Wanted, judged: Judged, rows: Tensor, across_ranks: bool
    ) -> Total:
        compared = self.info_nce.query_query
        candidates = pool(local, embeddings, across_ranks)
        targets = find_targets(candidates, wanted, judged.groups, across_ranks, compared)
        others = (gather_rows(rows) if across_ranks else rows) if compared else None
        total: Total = self.info_nce(rows, candidates.embeddings, targets, others)
        return total
