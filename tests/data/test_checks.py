import logging
import math
import re

import pytest

from srch3.data import Corpus
from srch3.data.checks import check_texts, fit_to_train_on
from srch3.errors import DataError
from srch3.types import Query

CORPUS = Corpus(
    ["p", "twin", "n", "m", "void", "blank"],
    ["the positive", "the positive", "a negative", "another", "", " \t"],
)
GOOD = Query("good", "what?", {"p": 1}, ("n", "m"))
WEIGHT = "a weight that is not a finite number of at least 0"

CASES = [
    (Query("q", "what?", {}), "no relevant document", []),
    (Query("q", "", {"p": 1}), "an empty text ''", []),
    (Query("q", " \n", {"p": 1}), "an empty text ' \\n'", []),
    (Query("q", "what?", {"p": 1}, weight=math.nan), f"{WEIGHT}, nan", []),
    (Query("q", "what?", {"p": 1}, weight=math.inf), f"{WEIGHT}, inf", []),
    (Query("q", "what?", {"p": 1}, weight=-0.5), f"{WEIGHT}, -0.5", []),
    (Query("q", "what?", {"void": 1}), "an empty positive, 'void'", []),
    (Query("q", "what?", {"blank": 1, "p": 2}), "an empty positive, 'blank'", [Query("q", "what?", {"p": 2})]),
    (
        Query("q", "what?", {"p": 1}, ("n", "blank")),
        "an empty negative, 'blank'",
        [Query("q", "what?", {"p": 1}, ("n",))],
    ),
    (
        Query("q", "what?", {"p": 1}, ("n", "p", "m")),
        "a negative that is relevant, 'p'",
        [Query("q", "what?", {"p": 1}, ("n", "m"))],
    ),
    (
        Query("q", "what?", {"n": 1, "p": 1}, ("twin", "m"), "thought", 2.0),
        "a negative that has the text of a positive, 'twin'",
        [Query("q", "what?", {"n": 1, "p": 1}, ("m",), "thought", 2.0)],
    ),
]
NAMES = [reason for _, reason, _ in CASES]


@pytest.mark.parametrize(("query", "reason", "_left"), CASES, ids=NAMES)
def test_the_first_flaw_is_named_with_the_way_out(query: Query, reason: str, _left: list[Query]) -> None:
    message = f"got query 'q' with {reason}; mend the data, or leave such out with data.init_args.invalid: skip"
    with pytest.raises(DataError, match=re.escape(message)):
        fit_to_train_on([GOOD, query], CORPUS, "error")


@pytest.mark.parametrize(("query", "reason", "left"), CASES, ids=NAMES)
def test_only_what_is_wrong_is_left_out(
    query: Query, reason: str, left: list[Query], caplog: pytest.LogCaptureFixture
) -> None:
    assert fit_to_train_on([GOOD, query, GOOD], CORPUS, "skip") == [GOOD, *left, GOOD]
    (record,) = caplog.records
    assert re.fullmatch(r"train: left out as invalid: 1 with (.*)", record.message)
    assert reason.startswith(record.message.partition("1 with ")[2])


def test_flaws_are_counted_by_reason_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    queries = [
        Query("a", "", {"p": 1}),
        Query("b", "what?", {"p": 1}, ("p", "twin", "blank", "n", "p")),
        Query("c", "\t", {"p": 1}),
        Query("d", "what?", {"p": 1}, weight=math.nan),
        Query("e", "what?", {"void": 1, "blank": 1}, ("n",)),
    ]
    assert fit_to_train_on(queries, CORPUS, "skip") == [Query("b", "what?", {"p": 1}, ("n",))]
    assert [record.message for record in caplog.records] == [
        f"train: left out as invalid: 2 with an empty text, 1 with {WEIGHT}, 2 with an empty positive, 2 with"
        " a negative that is relevant, 1 with a negative that has the text of a positive, 1 with an empty negative"
    ]
    with pytest.raises(DataError, match=r"query 'a' with an empty text '' \(and 8 more\); "):
        fit_to_train_on(queries, CORPUS, "error")


def test_a_negative_may_have_the_text_of_another_querys_positive(caplog: pytest.LogCaptureFixture) -> None:
    queries = [Query("a", "what?", {"p": 1}, ("n",)), Query("b", "which?", {"n": 1}, ("p", "twin"), weight=0)]
    with caplog.at_level(logging.INFO):
        assert fit_to_train_on(queries, CORPUS, "error") == queries
    assert not caplog.records
    assert fit_to_train_on([], CORPUS, "error") == []


def test_a_query_to_measure_with_must_have_a_text() -> None:
    check_texts([GOOD], "val")
    with pytest.raises(DataError, match=r"a text for every query in val; got '  ' for query 'q'; give it a text or"):
        check_texts([GOOD, Query("q", "  ", {"p": 1})], "val")
