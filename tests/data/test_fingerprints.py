import pytest

from srch3.data import Corpus
from srch3.data.fingerprints import fingerprints, is_blank
from srch3.errors import DataError

CORPUS = Corpus(["a", "b", "c", "d", "e"], ["one", "three", "one", "", " \n\t"])


def test_equal_texts_have_equal_numbers_and_others_do_not() -> None:
    numbers, _ = fingerprints(CORPUS, ["c", "b", "a", "d", "a", "e"])
    assert numbers[0] == numbers[2] == numbers[4]
    assert len(set(numbers.tolist())) == 4
    assert set(numbers.tolist()) == {0, 1, 2, 3}


def test_lengths_are_characters_and_zero_for_white_space() -> None:
    assert fingerprints(CORPUS, ["e", "b", "d", "a"]).lengths.tolist() == [0, 5, 0, 3]


def test_texts_that_are_no_unicode_count_too() -> None:
    corpus = Corpus(["a", "b"], ["\ud800", "é"])
    assert fingerprints(corpus, ["a", "b"]).lengths.tolist() == [1, 1]


def test_of_no_documents_there_is_nothing_to_say() -> None:
    assert [column.tolist() for column in fingerprints(CORPUS, [])] == [[], []]


def test_each_document_is_read_once() -> None:
    read = []

    class Watched(list[str]):
        def __getitem__(self, row: int) -> str:  # type: ignore[override]
            read.append(row)
            return super().__getitem__(row)

    fingerprints(Corpus(["a", "b", "c"], Watched(["x", "y", "z"])), ["c", "a", "c", "a", "a"])
    assert read == [0, 2]


def test_an_unknown_document_is_named() -> None:
    with pytest.raises(DataError, match="got 'f'"):
        fingerprints(CORPUS, ["a", "f"])


@pytest.mark.parametrize(("text", "blank"), [("", True), (" \n", True), ("\u3000", True), (" a ", False)])
def test_white_space_is_blank(text: str, blank: bool) -> None:
    assert is_blank(text) is blank
