import re

import pytest

from srch3.data import Corpus
from srch3.errors import DataError


def test_keeps_the_order_and_finds_rows() -> None:
    ids, texts = ["b", "a"], ["second letter", ""]
    corpus = Corpus(ids, texts)
    assert len(corpus) == 2
    assert corpus.ids is ids
    assert corpus.texts is texts
    assert [corpus.row("b"), corpus.row("a")] == [0, 1]
    assert "a" in corpus
    assert "c" not in corpus


@pytest.mark.parametrize(
    ("ids", "texts", "message"),
    [
        ([], [], "at least one document"),
        (["a"], ["x", "y"], "got 2 texts for 1 ids"),
        (["a", "b", "a"], ["x", "y", "z"], "got 'a' twice"),
        (["a", 2], ["x", "y"], "ids that are strings; got 2"),
        (["a"], [None], "the text of document 'a'; got None"),
    ],
)
def test_refuses_what_cannot_be_searched(ids: list[str], texts: list[str], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        Corpus(ids, texts)


def test_an_unknown_id_is_a_clear_error() -> None:
    with pytest.raises(DataError, match="one of 1 documents; got 'z'"):
        Corpus(["a"], ["x"]).row("z")
