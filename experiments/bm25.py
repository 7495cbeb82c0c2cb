"""The baseline that needs no training: BM25 over the words of the whole documents."""

import bm25s
import torch

from srch3.data.thoughts import subwords
from srch3.types import CorpusLike, Hits

K1 = 1.5
B = 0.75


def bm25_hits(queries: list[str], corpus: CorpusLike, k: int = 100) -> Hits:
    """The best documents of each query by BM25 as Lucene computes it, with the usual k1 = 1.5 and b = 0.75.

    score(q, d) = Σ over the words t of q of ln(1 + (N − df + ½) / (df + ½)) · tf / (tf + k1 · (1 − b + b · |d| / mean
    |d|)). Words are lower-cased, and identifiers fall apart into theirs, without which BM25 finds far less in source
    code. Equal scores are in the order of the corpus; so are the documents that have no word of the query, at the end.

    Args:
        queries: Their texts.
        corpus: The documents.
        k: Hits per query; fewer where the corpus is smaller.
    """
    index = bm25s.BM25(method="lucene", k1=K1, b=B)
    index.index([subwords(text) for text in corpus.texts], show_progress=False)
    known = index.vocab_dict
    words = [[word for word in subwords(query) if word in known] for query in queries]
    nothing = torch.zeros(len(corpus))
    scores = torch.stack([torch.from_numpy(index.get_scores(some)) if some else nothing for some in words])
    best = scores.sort(dim=1, descending=True, stable=True)
    return Hits(best.indices[:, :k], best.values[:, :k])
