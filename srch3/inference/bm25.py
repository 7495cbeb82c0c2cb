"""BM25, the baseline that needs no training."""

import importlib
from collections.abc import Sequence
from typing import Any

import bm25s
import numpy as np

from srch3.errors import ConfigError
from srch3.types import CorpusLike

K1 = 1.2
B = 0.75


class BM25:
    """Ranks documents by the words that they share with the query.

    score(q, d) = Σ over the words t of q of ln(1 + (N − df + ½) / (df + ½)) · tf / (tf + k1 · (1 − b + b · |d| / mean
    |d|)), as Lucene computes it, with its k1 and b. Words are two or more letters or digits, in lower case, without the
    most frequent ones of the language. A document is title and text as one.

    Args:
        corpus: The documents; their texts are read into memory.
        language: Whose stop words are left out, and whose endings are with ``stemming``, such as ``english``.
        stemming: Whether words are cut down to their stems, by PyStemmer. It makes the baseline better: .679 in place
            of .663 on SciFact, for which BEIR publishes .665.
        k1: How slowly a repeated word loses its weight.
        b: How much long documents are held back, 0 to 1.

    Raises:
        ConfigError: There are no stop words, or no stemmer, for the language.
    """

    def __init__(
        self, corpus: CorpusLike, language: str = "english", stemming: bool = False, k1: float = K1, b: float = B
    ) -> None:
        self._ids = corpus.ids
        _check_language(language)
        self._settings = {"stopwords": language, "stemmer": _stemmer(language) if stemming else None}
        words = self._words(list(corpus.texts))
        self._index = None
        if any(words):
            self._index = bm25s.BM25(method="lucene", k1=k1, b=b)
            self._index.index(words, show_progress=False)

    def search(self, query: str, k: int) -> dict[str, float]:
        """The best ``k`` documents by id, best first, equal ones in the order of the corpus.

        There are fewer where fewer have any word of the query.
        """
        words = self._words([query])[0]
        if self._index is None or not words:
            return {}
        scores = self._index.get_scores(words)
        least = np.partition(scores, -k)[-k] if k < len(scores) else 0.0
        rows = np.flatnonzero((scores >= least) & (scores > 0))
        best = rows[np.argsort(-scores[rows], kind="stable")][:k]
        return {self._ids[row]: float(scores[row]) for row in best.tolist()}

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        found: list[list[str]] = bm25s.tokenize(texts, **self._settings, return_ids=False, show_progress=False)
        return found


def _check_language(language: str) -> None:
    try:
        bm25s.tokenize([""], stopwords=language, show_progress=False)
    except ValueError:
        raise ConfigError(
            f"bm25_language: expected one that bm25s has stop words of, such as english or german; got {language!r}"
        ) from None


def _stemmer(language: str) -> Any:
    try:
        stemmer = importlib.import_module("Stemmer")
    except ImportError:
        raise ConfigError("bm25_stemming: expected PyStemmer; it is not installed; pip install PyStemmer") from None
    if language not in stemmer.algorithms():
        known = ", ".join(stemmer.algorithms())
        raise ConfigError(f"bm25_language: expected one that PyStemmer knows ({known}); got {language!r}")
    return stemmer.Stemmer(language)
