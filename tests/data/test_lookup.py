import pickle
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from srch3.data.lookup import Lookup, Seen, digest_of, write_lookup


def lookup_of(texts: Sequence[str], path: Path) -> Lookup:
    write_lookup(path, b"".join(map(digest_of, texts)))
    return Lookup(path, texts)


def colliding(text: str) -> bytes:
    """The same first eight bytes for all texts of the same length."""
    return len(text).to_bytes(8, "little") + text.encode()[:4].ljust(4, b"\0")


@pytest.fixture(params=[False, True], ids=["hashes", "colliding hashes"])
def collide(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr("srch3.data.lookup.digest_of", colliding)
        monkeypatch.setitem(globals(), "digest_of", colliding)


def test_a_digest_is_the_same_everywhere() -> None:
    assert digest_of("").hex() == "b8e1dda3ac0aa3820ad2990b"
    assert digest_of("a").hex() == "1ba3c523e770f3313cc91ab1"
    assert len({digest_of(text) for text in ("", "a", "b", "\ud800")}) == 4


@pytest.mark.usefixtures("collide")
def test_finds_the_row_of_every_text(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in random.Random(0).sample(range(1000), 300)]
    lookup = lookup_of(texts, tmp_path / "lookup.npy")
    assert [lookup.get(text) for text in texts] == list(range(300))
    assert all(lookup.get(text) is None for text in ("text 1000", "text 9999", "", "other"))
    assert lookup.repeated() is None
    again = pickle.loads(pickle.dumps(lookup))
    assert [again.get(text) for text in texts] == list(range(300))


@pytest.mark.usefixtures("collide")
def test_of_equal_texts_the_first_row_is_found(tmp_path: Path) -> None:
    lookup = lookup_of(["b", "a", "c", "a", "b", "a"], tmp_path / "lookup.npy")
    assert [lookup.get(text) for text in "abc"] == [1, 0, 2]
    assert lookup.repeated() in {"a", "b"}
    assert lookup_of(["b", "a", "c", "d", "c"], tmp_path / "other.npy").repeated() == "c"


def test_what_is_seen_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srch3.data.lookup._LATEST", 7)
    draw = np.random.default_rng(0).integers(0, 50, 500)
    # zeros at either end, which fixed-width strings of numpy leave out
    digests = [bytes(8) + int(number).to_bytes(1, "big") + bytes(3) for number in draw]
    seen, known = Seen(), set()
    for digest in digests:
        assert seen.add(digest) == (digest not in known)
        known.add(digest)
    assert len(known) == 50
    assert len(seen._sorted) == 49
