import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srch3.data import Corpus
from srch3.data.changing import Changes, ChangingCorpus, fingerprint_of
from srch3.data.stored import CorpusWriter, open_corpus
from srch3.environments.state import CorpusState
from srch3.errors import CheckpointError, DataError
from srch3.indexes import ExactIndex


def base() -> Corpus:
    return Corpus(["a", "b", "c"], ["first", "second", "third"])


def content(corpus: ChangingCorpus) -> dict[str, tuple[int, str]]:
    rows = corpus.alive.nonzero()[0].tolist()
    return {corpus.ids[row]: (row, corpus.texts[row]) for row in rows}


def test_without_changes_it_is_the_corpus_below() -> None:
    corpus = ChangingCorpus(base())
    assert (list(corpus.ids), list(corpus.texts)) == (["a", "b", "c"], ["first", "second", "third"])
    assert [corpus.row(name) for name in "abc"] == [0, 1, 2]
    assert (len(corpus), corpus.live, corpus.version) == (3, 3, 0)
    assert corpus.fingerprint == fingerprint_of(base()) == CorpusState(base(), ExactIndex()).fingerprint


def test_what_is_added_comes_at_the_end() -> None:
    corpus = ChangingCorpus(base())
    assert corpus.add(["d", "e"], ["fourth", ""]) == [3, 4]
    assert list(corpus.ids) == ["a", "b", "c", "d", "e"]
    assert corpus.texts[2:5] == ["third", "fourth", ""]
    assert (corpus.texts[-2], corpus.row("d"), "e" in corpus, len(corpus), corpus.live) == ("fourth", 3, True, 5, 5)
    with pytest.raises(IndexError):
        corpus.texts[5]


def test_what_is_replaced_keeps_its_row() -> None:
    below = base()
    corpus = ChangingCorpus(below)
    corpus.add(["d"], ["fourth"])
    assert corpus.replace(["d", "a"], ["4th", "1st"]) == [3, 0]
    assert list(corpus.texts) == ["1st", "second", "third", "4th"]
    assert below.texts[0] == "first"


def test_what_is_removed_leaves_an_empty_row_and_gets_it_back() -> None:
    corpus = ChangingCorpus(base())
    corpus.add(["d"], ["fourth"])
    assert corpus.remove(["b", "d"]) == [1, 3]
    assert (len(corpus), corpus.live, corpus.alive.tolist()) == (4, 2, [True, False, True, False])
    assert list(corpus.texts) == ["first", "", "third", ""]
    assert "b" not in corpus
    with pytest.raises(DataError, match="expected the id of a document that is still there; 'b' was removed"):
        corpus.row("b")
    assert corpus.add(["d", "b", "e"], ["4th", "2nd", "5th"]) == [3, 1, 4]
    assert list(corpus.texts) == ["first", "2nd", "third", "4th", "5th"]
    assert corpus.row("b") == 1
    assert corpus.live == 5


@pytest.mark.parametrize(
    ("method", "ids", "texts", "message"),
    [
        ("add", ["x", "a"], ["", ""], "expected ids of new documents; got 'a' again; replace it instead"),
        ("add", ["x", "x"], ["", ""], "expected unique document ids; got 'x' twice"),
        ("add", ["x", "y"], [""], "expected as many texts as ids; got 1 texts for 2 ids"),
        ("add", ["x", 7], ["", ""], "expected strings as id and text; got 7 and ''"),
        ("add", ["x", "y"], ["", None], "expected strings as id and text; got 'y' and None"),
        ("replace", ["a", "x"], ["", ""], "expected the id of one of 3 documents; got 'x'"),
        ("replace", ["a", "a"], ["", ""], "expected unique document ids; got 'a' twice"),
        ("remove", ["a", "x"], None, "expected the id of one of 3 documents; got 'x'"),
        ("remove", ["a", "a"], None, "expected unique document ids; got 'a' twice"),
        (
            "remove",
            ["a", "c"],
            None,
            "expected documents that no query is judged against; got 'c'; replace it, or leave",
        ),
        ("remove", ["a", "b", "c"], None, "got 'c'"),
    ],
)
def test_a_change_that_is_refused_changes_nothing(
    method: str, ids: list[str], texts: list[str] | None, message: str
) -> None:
    corpus = ChangingCorpus(base())
    corpus.protect(["c"])
    before = corpus.fingerprint
    with pytest.raises(DataError, match=message):
        getattr(corpus, method)(*([ids] if texts is None else [ids, texts]))
    assert (corpus.version, corpus.fingerprint, content(corpus)) == (0, before, content(ChangingCorpus(base())))


def test_removed_documents_cannot_be_changed_or_all_go() -> None:
    corpus = ChangingCorpus(base())
    corpus.remove(["a"])
    for change in (lambda: corpus.remove(["a"]), lambda: corpus.replace(["a"], ["text"])):
        with pytest.raises(DataError, match="'a' was removed"):
            change()
    with pytest.raises(DataError, match="expected at least one document to stay; got all 2 to remove"):
        corpus.remove(["b", "c"])


def test_changes_are_told_from_any_version_on() -> None:
    corpus = ChangingCorpus(base())
    corpus.add(["d", "e"], ["fourth", "fifth"])
    corpus.replace(["a"], ["1st"])
    corpus.remove(["b", "d"])
    corpus.add([], [])
    assert corpus.changes_since(0) == Changes(3, [0, 4], [1, 3])
    assert corpus.changes_since(1) == Changes(3, [0], [1, 3])
    assert corpus.changes_since(2) == Changes(3, [], [1, 3])
    assert corpus.changes_since(3) == Changes(3, [], [])
    corpus.add(["b"], ["2nd"])
    assert corpus.changes_since(2) == Changes(4, [1], [3])


def test_the_fingerprint_tells_contents_apart_and_not_their_histories() -> None:
    one, other = ChangingCorpus(base()), ChangingCorpus(base())
    seen = [one.fingerprint]
    for change in (
        lambda: one.replace(["a"], [""]),
        lambda: one.remove(["a"]),
        lambda: one.add(["d"], ["fourth"]),
        lambda: one.remove(["d"]),
        lambda: one.add(["d"], ["4th"]),
    ):
        change()
        seen.append(one.fingerprint)
    assert len(set(seen)) == len(seen)
    other.add(["d"], ["4th"])
    other.remove(["a"])
    assert other.fingerprint == one.fingerprint
    assert fingerprint_of(one) == one.fingerprint


def test_changes_are_saved_and_repeated(tmp_path: Path) -> None:
    corpus = ChangingCorpus(base())
    corpus.add(["d", "\ud800", "f"], ["fourth", "line\nbreak \u2028", "sixth"])
    corpus.replace(["c"], ["3rd"])
    corpus.remove(["a", "f"])
    corpus.write(tmp_path / "changes.jsonl")
    again = ChangingCorpus(base())
    again.read(tmp_path / "changes.jsonl")
    assert content(again) == content(corpus)
    assert (list(again.ids), list(again.texts)) == (list(corpus.ids), list(corpus.texts))
    assert again.fingerprint == corpus.fingerprint
    again.read(tmp_path / "changes.jsonl")
    assert content(again) == content(corpus)
    assert again.removed == {0, 5}
    assert again.add(["f", "a", "g"], ["", "", ""]) == [5, 0, 6]
    with pytest.raises(CheckpointError, match="got other changes; make them after the run has resumed"):
        again.read(tmp_path / "changes.jsonl")


def test_changes_of_another_corpus_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "changes.jsonl"
    ChangingCorpus(base()).write(path)
    with pytest.raises(CheckpointError, match=r"\(3 documents, fingerprint .*got 1 documents, .*same data settings"):
        ChangingCorpus(Corpus(["a"], ["first"])).read(path)
    for broken in ("", "{", json.dumps({"base": "x"})):
        path.write_text(broken)
        with pytest.raises(CheckpointError, match="it is damaged, resume from another checkpoint"):
            ChangingCorpus(base()).read(path)


def test_it_goes_to_other_processes_with_its_changes() -> None:
    corpus = ChangingCorpus(base())
    corpus.add(["d"], ["fourth"])
    corpus.remove(["a"])
    copy = pickle.loads(pickle.dumps(corpus))
    assert content(copy) == content(corpus)
    copy.add(["e", "a"], ["fifth", "1st"])
    assert copy.row("e") == 4
    assert copy.texts[0] == "1st"
    assert "e" not in corpus


def test_columns_on_disk_stay_there(tmp_path: Path) -> None:
    with CorpusWriter(tmp_path) as writer:
        for name in "abc":
            writer.add(name, f"text of {name}")
    below = open_corpus(tmp_path)
    corpus = ChangingCorpus(below)
    corpus.replace(["b"], ["new"])
    assert corpus.texts[0] == "text of a"
    assert [corpus.row(name) for name in "abc"] == [0, 1, 2]
    assert sum(len(part) for part in (corpus._added, corpus._texts_of)) == 1
    assert corpus.fingerprint != fingerprint_of(below)


actions = st.lists(
    st.tuples(st.sampled_from(["add", "replace", "remove"]), st.lists(st.sampled_from("abcdefgh"), max_size=3)),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(actions)
def test_any_history_agrees_with_a_dictionary(history: list[tuple[str, list[str]]]) -> None:
    corpus, plain = ChangingCorpus(base()), dict(zip("abc", ["first", "second", "third"], strict=True))
    rows = {"a": 0, "b": 1, "c": 2}
    for number, (action, ids) in enumerate(history):
        allowed = len(set(ids)) == len(ids) and all((name in plain) != (action == "add") for name in ids)
        allowed = allowed and not (action == "remove" and ids and len(ids) == len(plain))
        texts = [f"{name} {number}" for name in ids]
        arguments = [ids] if action == "remove" else [ids, texts]
        if not allowed:
            with pytest.raises(DataError):
                getattr(corpus, action)(*arguments)
            continue
        found = getattr(corpus, action)(*arguments)
        assert found == [rows.setdefault(name, len(rows)) for name in ids]
        for name, text in zip(ids, texts, strict=True):
            if action == "remove":
                del plain[name]
            else:
                plain[name] = text
        assert content(corpus) == {name: (rows[name], text) for name, text in plain.items()}
        assert corpus.live == len(plain)
