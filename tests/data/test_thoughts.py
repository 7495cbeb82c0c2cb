import json
from pathlib import Path

import pytest

from srch3.data import ColumnThoughts, Corpus, FileThoughts, KeywordThoughts, NoThoughts
from srch3.data.thoughts import subwords
from srch3.errors import ConfigError, DataError
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


def written(path: Path, *lines: dict[str, str]) -> FileThoughts:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return FileThoughts(str(path))


def test_thoughts_from_a_file_or_else_the_querys_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [{"id": "q1", "thought": "first"}, {"id": "other", "thought": "x"}, {"id": "q2", "thought": ""}]
    thoughts = written(tmp_path / "thoughts.jsonl", *lines)
    queries = [QUERY._replace(id=f"q{n}") for n in (1, 2, 3)] + [QUERY._replace(id="q4", thought=None)]
    thoughts.fit(corpus_of("text"), queries)
    assert [thoughts(query, "text") for query in queries] == ["first", "", "look it up", ""]
    assert f"2 of 4 queries have no thought in {tmp_path / 'thoughts.jsonl'}" in caplog.text


def test_a_file_with_a_thought_for_each_query_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "thoughts.jsonl", {"id": "q", "thought": "t"}).fit(corpus_of("text"), [QUERY])
    assert not caplog.records


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"id": "other", "thought": "x"}], "expected thoughts for training queries in .* got none for any of 1"),
        ([], "got none for any of 1"),
        ([{"id": "q"}], r"thoughts\.jsonl:1: expected a field 'thought'"),
        ([{"id": "q", "thought": "x"}] * 2, r"thoughts\.jsonl:2: expected one thought per query id; .* for 'q'"),
    ],
)
def test_a_file_without_use_is_named(tmp_path: Path, lines: list[dict[str, str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        written(tmp_path / "thoughts.jsonl", *lines).fit(corpus_of("text"), [QUERY])


def test_an_absent_file_of_thoughts_is_named_with_its_setting() -> None:
    with pytest.raises(DataError, match=r"data\.init_args\.thoughts\.init_args\.path: expected a file at nowhere"):
        FileThoughts("nowhere").fit(corpus_of("text"), [QUERY])


def test_thoughts_of_a_file_that_was_not_read_are_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"fit\(corpus, queries\)"):
        FileThoughts("nowhere")(QUERY, "text")
