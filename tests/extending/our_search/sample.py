"""A pool that is the same for all queries of a batch."""

import random

import torch

from srch3.rewards import Asked, BasePool, Ranked, rank_among


class Sample(BasePool):
    """Ranks among the batch's judged documents and a sample of all others.

    Args:
        documents: Size of the sample.
    """

    def __init__(self, documents: int = 100) -> None:
        self.documents = documents

    def rank(self, asked: Asked, k: int) -> Ranked:
        """The best ``k`` documents of each completion."""
        drawn = random.Random(asked.seed).sample(range(asked.size), min(self.documents, asked.size))
        rows = torch.tensor(sorted({*drawn, *(row for judged in asked.relevant for row in judged)}))
        return rank_among(asked, rows, asked.index.vectors_of(rows), k)
