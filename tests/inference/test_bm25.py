import math
import random
import sys

import pytest

from srch3.data import Corpus
from srch3.errors import ConfigError
from srch3.inference.bm25 import BM25, K1, B
from tests.toy import WORDS

TEXTS = [
    "Parse a date, parse it!",
    "date of the files",
    "socket server of socket servers",
    "the",
    "",
    "date of the files",
]


def corpus(texts: list[str]) -> Corpus:
    return Corpus([f"d{row}" for row in range(len(texts))], texts)


def by_hand(query: list[str], documents: list[list[str]]) -> list[float]:
    """Lucene's formula, word by word."""
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        score = 0.0
        for word in query:
            frequency, holders = words.count(word), sum(word in other for other in documents)
            weight = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
            score += weight * frequency / (frequency + K1 * (1 - B + B * len(words) / mean))
        scores.append(score)
    return scores


def test_scores_by_hand() -> None:
    draw = random.Random(0)
    documents = [draw.choices(WORDS, k=draw.randint(3, 12)) for _ in range(30)]
    query = ["date", "time", "server"]
    found = BM25(corpus([" ".join(words) for words in documents])).search("date of time; Server", k=30)
    expected = {f"d{row}": score for row, score in enumerate(by_hand(query, documents)) if score > 0}
    assert found == pytest.approx(expected, rel=1e-5)
    assert list(found.values()) == pytest.approx(sorted(expected.values(), reverse=True), rel=1e-5)


def test_documents_without_a_word_of_the_query_are_not_found() -> None:
    assert list(BM25(corpus(TEXTS)).search("socket", k=6)) == ["d2"]


def test_equal_documents_are_in_the_order_of_the_corpus_however_many_are_asked_for() -> None:
    bm25 = BM25(corpus(["other", *["some words"] * 50]))
    everything = list(bm25.search("words", k=50))
    assert everything == [f"d{row}" for row in range(1, 51)]
    for k in (1, 7, 49, 51, 1000):
        assert list(bm25.search("words", k=k)) == everything[:k]


@pytest.mark.parametrize("query", ["", "the", "?", "x", "unheard words", "搜"])
def test_queries_without_a_word_that_is_known_find_nothing(query: str) -> None:
    assert BM25(corpus(TEXTS)).search(query, k=3) == {}


def test_a_repeated_word_weighs_more() -> None:
    bm25 = BM25(corpus(["date socket", "socket date"]))
    assert bm25.search("date date", k=2)["d0"] == pytest.approx(2 * bm25.search("date", k=2)["d0"])


def test_a_corpus_without_words_is_searched_in_vain() -> None:
    assert BM25(corpus(["", "...", "a"])).search("date", k=3) == {}


def test_stemming_finds_other_forms_in_its_language() -> None:
    assert list(BM25(corpus(TEXTS)).search("parsing", k=6)) == []
    assert list(BM25(corpus(TEXTS), stemming=True).search("parsing", k=6)) == ["d0"]
    german = BM25(corpus(["die Häuser und Gärten", "und die Haustür"]), language="german", stemming=True)
    assert list(german.search("die Häusern und", k=2)) == ["d0"]


def test_unknown_languages_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"bm25_language: expected one that bm25s has stop words of, .* 'klingon'"):
        BM25(corpus(TEXTS), language="klingon")
    with pytest.raises(ConfigError, match=r"bm25_language: expected one that PyStemmer knows .*english.* got 'zh'"):
        BM25(corpus(TEXTS), language="zh", stemming=True)


def test_a_missing_stemmer_is_named_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    assert list(BM25(corpus(TEXTS)).search("parse", k=1)) == ["d0"]
    with pytest.raises(ConfigError, match=r"bm25_stemming: expected PyStemmer; .* pip install PyStemmer"):
        BM25(corpus(TEXTS), stemming=True)
