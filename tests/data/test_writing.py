from pathlib import Path

import pytest

from srch3.data import Corpus
from srch3.data.writing import begin
from srch3.errors import ConfigError, DataError

CORPUS = Corpus(["a", "b"], ["one", "two"])


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    begin(tmp_path / "new" / "one", {"q": ["a", "b"], "r": []}, {"q", "r", "s"}, CORPUS)
    assert (tmp_path / "new" / "one").is_dir()
    begin(tmp_path / "new" / "one", {}, {"q"}, CORPUS)


@pytest.mark.parametrize(
    ("negatives", "message"),
    [({"q": ["a", "c"]}, "got 'c'"), ({"x": ["a"]}, "hard negatives for training queries; got some for 'x', which")],
)
def test_unknown_ids_are_named_before_anything_is_written(
    tmp_path: Path, negatives: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        begin(tmp_path / "new", negatives, {"q"}, CORPUS)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match=r"expected a new or empty folder to write to; got .*, which holds"):
            begin(taken, {}, {"q"}, CORPUS)
