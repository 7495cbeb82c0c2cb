import pytest

from srch3.data import ColumnThoughts, Corpus, KeywordThoughts, NoThoughts
from srch3.data.thoughts import subwords
from srch3.errors import ConfigError
from srch3.types import Query

QUERY = Query("q", "Open the file", {"d": 1}, thought="look it up")


def corpus_of(*texts: str) -> Corpus:
    return Corpus([str(number) for number in range(len(texts))], texts)


def test_the_data_sets_own_thought_or_none() -> None:
    assert ColumnThoughts()(QUERY, "text") == "look it up"
    assert ColumnThoughts()(QUERY._replace(thought=None), "text") == ""
    assert NoThoughts()(QUERY, "text") == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("parseHTTPHeader_v2", ["parse", "http", "header", "v", "2"]),
        ("snake_case and camelCase", ["snake", "case", "and", "camel", "case"]),
        ("A URL's über-Größe", ["a", "url", "s", "über", "größe"]),
        ("utf8.decode(b'x')", ["utf", "8", "decode", "b", "x"]),
        ("", []),
    ],
)
def test_identifiers_fall_apart_into_words(text: str, words: list[str]) -> None:
    assert subwords(text) == words


def test_keywords_are_ordered_by_weight_then_alphabetically() -> None:
    thoughts = KeywordThoughts(max_document_frequency=1.0)
    thoughts.fit(corpus_of("zip zip path read", "path", "read buffer", "path"))
    # of 4 documents: zip in 1 (twice: 1.69 ln 4), buffer in 1 (ln 4), read in 2 (ln 2), path in 3 (ln 4/3)
    assert thoughts(QUERY, "path read zip zip buffer file") == "zip buffer read path"
    assert thoughts(QUERY, "zip buffer") == "buffer zip"


def test_keywords_leave_out_what_the_query_says_and_what_is_common_short_numeric_or_unknown() -> None:
    thoughts = KeywordThoughts(max_document_frequency=0.5)
    thoughts.fit(corpus_of("open x gzip", "common gzip 42", "common file", "common tar"))
    assert thoughts(QUERY, "openFile x common gzip tar 42 neverSeen") == "tar gzip"


def test_keywords_of_one_document_are_never_too_common() -> None:
    thoughts = KeywordThoughts(max_document_frequency=0.1)
    thoughts.fit(corpus_of("alpha shared", "beta shared"))
    assert thoughts(QUERY, "alpha shared") == "alpha"


def test_keywords_may_be_limited_in_number_rarity_and_length() -> None:
    documents = corpus_of("alpha beta pi", "alpha beta pi", "gamma", "delta")
    thoughts = KeywordThoughts(terms=1, max_document_frequency=1.0, min_document_frequency=2, min_length=3)
    thoughts.fit(documents)
    assert thoughts(QUERY, "pi pi gamma beta alpha") == "alpha"


def test_keywords_without_documents_are_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"fit\(corpus\)"):
        KeywordThoughts()(QUERY, "text")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"terms": 0}, r"init_args\.terms: expected at least 1"),
        ({"min_document_frequency": 0}, r"init_args\.min_document_frequency"),
        ({"min_length": 0}, r"init_args\.min_length"),
        ({"max_document_frequency": 0.0}, "max_document_frequency: expected a share"),
        ({"max_document_frequency": 1.5}, "max_document_frequency: expected a share"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KeywordThoughts(**settings)  # type: ignore[arg-type]
