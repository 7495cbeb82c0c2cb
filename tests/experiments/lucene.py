"""BM25 as Lucene computes it, slowly and from the formula."""

import math
from collections import Counter
from collections.abc import Sequence

from srch3.data.thoughts import subwords


def lucene_bm25(queries: Sequence[str], texts: Sequence[str]) -> list[list[float]]:
    documents = [Counter(subwords(text)) for text in texts]
    lengths = [sum(words.values()) for words in documents]
    frequency = Counter(word for words in documents for word in words)
    mean = sum(lengths) / len(lengths)

    def score(query: str, words: Counter[str], length: int) -> float:
        total = 0.0
        for word in subwords(query):
            count, documents_with = words[word], frequency[word]
            weight = math.log(1 + (len(texts) - documents_with + 0.5) / (documents_with + 0.5))
            total += weight * count / (count + 1.5 * (1 - 0.75 + 0.75 * length / mean))
        return total

    return [[score(query, *pair) for pair in zip(documents, lengths, strict=True)] for query in queries]
