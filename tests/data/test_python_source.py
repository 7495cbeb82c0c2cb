import json
import logging
from pathlib import Path

import jsonargparse
import lightning as L
import pytest

from srch3.data import ColumnThoughts, KeywordThoughts, NoThoughts, PythonSourceDataModule
from srch3.data.mining import query_key
from srch3.data.python_source import PACKAGES
from srch3.data.roots import resolve
from srch3.errors import ConfigError, DataError
from srch3.types import Query, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
VERBS = "Adds Builds Counts Draws Edits Finds Gives Hides Joins Keeps Lists Makes Names Opens Prints Reads"


def write_modules(folder: Path, prefix: str, count: int, start: int = 0) -> None:
    """Modules with four functions each, no two of which share query or document."""
    folder.mkdir(parents=True, exist_ok=True)
    for module in range(count):
        functions = []
        for number in range(4):
            unique = start + 4 * module + number
            verb = VERBS.split()[unique % 16]
            functions.append(
                f'def function_{unique}(first, second):\n    """{verb} a thing in way {unique}."""\n'
                f"    total = first * {unique}\n    return (total - second, 'long enough')\n"
            )
        (folder / f"{prefix}{module}.py").write_text("\n\n".join(functions))


@pytest.fixture
def train_code(tmp_path: Path) -> Path:
    write_modules(tmp_path / "train", "t", 20)
    return tmp_path / "train"


@pytest.fixture
def held_code(tmp_path: Path) -> Path:
    write_modules(tmp_path / "test", "e", 20, start=1000)
    return tmp_path / "test"


def modules(data: PythonSourceDataModule, split: Split) -> set[str]:
    return {pair.module for pair in data.pairs(split)}


def ids(queries: list[Query]) -> set[str]:
    return {query.id for query in queries}


def test_default_roots_are_the_pins_and_the_standard_library() -> None:
    data = PythonSourceDataModule()
    assert data.roots == [str(PACKAGES)]
    assert data.test_roots == ["stdlib"]
    assert {"torch", "transformers"} <= {root.key.split()[0] for root in resolve(data.roots, "roots")}
    assert isinstance(data.thoughts, KeywordThoughts)


def test_own_code_is_divided_by_module_and_searched_as_a_whole(train_code: Path) -> None:
    data = PythonSourceDataModule([str(train_code)], cache_dir="")
    divided = [modules(data, split) for split in SPLITS]
    assert set.union(*divided) == {f"t{number}" for number in range(20)}
    assert sum(len(part) for part in divided) == 20
    assert len(divided[0]) > 10
    assert all(divided)
    assert data.corpus("train") is data.corpus("val") is data.corpus("test") is data.corpus("predict")
    assert len(data.corpus("train")) == 80
    assert ids(data.queries("predict")) == ids(data.queries("test"))


def test_a_query_and_its_function(train_code: Path) -> None:
    data = PythonSourceDataModule([str(train_code)], cache_dir="")
    query = next(query for split in SPLITS for query in data.queries(split) if query.id == "t3.function_14")
    assert query == Query("t3.function_14", "Prints a thing in way 14.", {"t3.function_14": 1}, thought="function 14")
    corpus = data.corpus("val")
    assert corpus.texts[corpus.row(query.id)] == (
        "def function_14(first, second):\n    total = first * 14\n    return (total - second, 'long enough')"
    )


def test_separate_roots_have_separate_corpora(train_code: Path, held_code: Path) -> None:
    data = PythonSourceDataModule([str(train_code)], [str(held_code)], cache_dir="")
    assert modules(data, "train") == {f"t{number}" for number in range(20)}
    assert modules(data, "val") | modules(data, "test") == {f"e{number}" for number in range(20)}
    assert not modules(data, "val") & modules(data, "test")
    assert 0 < len(modules(data, "val")) < len(modules(data, "test"))
    assert len(data.corpus("train")) == len(data.corpus("test")) == 80
    assert data.corpus("val") is data.corpus("test") is not data.corpus("train")
    assert all(document_id.startswith("e") for document_id in data.corpus("test").ids)


def test_splits_depend_on_module_names_alone(train_code: Path) -> None:
    before = PythonSourceDataModule([str(train_code)], cache_dir="")
    expected = {split: modules(before, split) for split in SPLITS}
    write_modules(train_code, "u", 10, start=5000)
    after = PythonSourceDataModule([str(train_code)], cache_dir="", seed=7)
    assert {split: {name for name in modules(after, split) if name[0] == "t"} for split in SPLITS} == expected


def test_nothing_of_the_test_code_is_trained_on(
    train_code: Path, held_code: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (train_code / "same_query.py").write_text(
        'def other(a):\n    """adds a thing in way 1008"""\n    b = "completely different code"\n    return b, a, b\n'
    )
    (train_code / "same_code.py").write_text(
        (held_code / "e3.py").read_text().replace("in way", "by other words of way")
    )
    (train_code / "e5.py").write_text(
        'def own(a):\n    """Has the name of a test module."""\n    b = "and nothing else of it"\n    return b, a, b\n'
    )
    data = PythonSourceDataModule([str(train_code)], [str(held_code)], cache_dir="")
    assert modules(data, "train") == {f"t{number}" for number in range(20)}
    assert "left out 6 functions" in caplog.text
    trained = {query_key(query.text) for query in data.queries("train")} | set(data.corpus("train").texts)
    held = data.queries("val") + data.queries("test")
    assert not trained & ({query_key(query.text) for query in held} | set(data.corpus("test").texts))


def test_training_on_the_test_code_itself_leaves_nothing(held_code: Path) -> None:
    data = PythonSourceDataModule([str(held_code)], [str(held_code)], cache_dir="")
    with pytest.raises(DataError, match="expected functions with docstrings in modules of every split; train has none"):
        data.queries("train")


def test_limits_of_the_training_functions_nest(train_code: Path, held_code: Path) -> None:
    def limited(limit: int | None, **kwargs: int) -> PythonSourceDataModule:
        return PythonSourceDataModule([str(train_code)], [str(held_code)], limit, cache_dir="", **kwargs)

    small, large, everything = limited(10), limited(30, seed=5, batch_size=3), limited(None)
    assert len(small.corpus("train")) == 10
    assert len(large.corpus("train")) == 30
    assert set(small.corpus("train").ids) < set(large.corpus("train").ids) < set(everything.corpus("train").ids)
    assert ids(small.queries("train")) == set(small.corpus("train").ids)
    assert list(small.corpus("train").ids) == sorted(small.corpus("train").ids)
    assert len(small.corpus("test")) == 80
    assert list(limited(1000).corpus("train").ids) == list(everything.corpus("train").ids)


def test_a_limit_on_own_code_only_touches_training(train_code: Path) -> None:
    data = PythonSourceDataModule([str(train_code)], max_train_documents=5, cache_dir="")
    assert len(data.corpus("train")) == len(data.queries("train")) == 5
    assert len(data.corpus("val")) == 80


def test_long_functions_are_cut(train_code: Path) -> None:
    data = PythonSourceDataModule([str(train_code)], max_document_characters=20, cache_dir="")
    assert {len(text) for text in data.corpus("train").texts} == {20}


def test_mined_once_for_all_processes(
    train_code: Path, held_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def separate() -> PythonSourceDataModule:
        return PythonSourceDataModule([str(train_code)], [str(held_code)], cache_dir=str(tmp_path / "cache"))

    separate().prepare_data()
    PythonSourceDataModule([str(train_code)], cache_dir=str(tmp_path / "cache")).prepare_data()
    assert len(list((tmp_path / "cache").iterdir())) == 2
    monkeypatch.setattr("srch3.data.mining.mine_files", lambda *_: pytest.fail("mined again"))
    other = separate()
    other.setup("fit")
    assert len(other.corpus("train")) == len(other.corpus("val")) == 80


@pytest.mark.parametrize("count", [3, 4, 7])
def test_every_split_of_a_small_code_base_has_a_module(tmp_path: Path, count: int) -> None:
    write_modules(tmp_path / "small", "t", count)
    data = PythonSourceDataModule([str(tmp_path / "small")], cache_dir="")
    sizes = [len(modules(data, split)) for split in SPLITS]
    assert min(sizes) == 1
    assert sum(sizes) == count


def test_a_split_without_a_module_is_refused(tmp_path: Path) -> None:
    write_modules(tmp_path / "tiny", "t", 2)
    data = PythonSourceDataModule([str(tmp_path / "tiny")], cache_dir="")
    with pytest.raises(DataError, match=r"data\.init_args\.roots: .* has none; mine more modules"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("roots", "test_roots", "message"),
    [
        (["./absent"], None, r"data\.init_args\.roots: .*'\./absent'"),
        (["iniconfig"], ["./absent"], r"data\.init_args\.test_roots: .*'\./absent'"),
        ([], None, r"data\.init_args\.roots: expected at least one root"),
        (["iniconfig"], [], r"data\.init_args\.test_roots: expected at least one root"),
    ],
)
def test_roots_that_are_not_there_are_named(roots: list[str], test_roots: list[str] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        PythonSourceDataModule(roots, test_roots, cache_dir="").setup("fit")


@pytest.mark.parametrize("name", ["max_train_documents", "max_document_characters"])
def test_numbers_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.init_args\.{name}: expected at least 1; got 0$"):
        PythonSourceDataModule(**{name: 0})


def test_settings_from_the_command_line(train_code: Path) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningDataModule, "data")
    config = parser.parse_args(
        [
            "--data=srch3.data.PythonSourceDataModule",
            f"--data.roots=[{train_code}]",
            "--data.cache_dir=",
            "--data.batch_size=8",
            "--data.thoughts=srch3.data.NoThoughts",
        ]
    )
    data = parser.instantiate(config).data
    assert isinstance(data.thoughts, NoThoughts)
    assert len(next(iter(data.train_dataloader())).ids) == 8


def test_thoughts_by_default_are_terms_of_the_function(train_code: Path) -> None:
    data = PythonSourceDataModule([str(train_code)], cache_dir="", thoughts=KeywordThoughts(max_document_frequency=1.0))
    batch = next(iter(data.train_dataloader()))
    assert all("function" in thought.split() for thought in batch.thoughts)
    assert not any("way" in thought.split() for thought in batch.thoughts)


def test_thoughts_of_the_data_are_the_words_of_the_functions_names(train_code: Path) -> None:
    twin = train_code / "t0.py"
    again = 'def function_0():\n    """Adds it all again."""\n    return 1 + 1 + 1 + 1\n'
    twin.write_text(f"{twin.read_text()}\n\n{again}")
    data = PythonSourceDataModule([str(train_code)], cache_dir="", thoughts=ColumnThoughts(), batch_size=200)
    named = {query.id: query.thought for query in data.queries("train")}
    assert all(thought == f"function {name.split('_')[1].split('~')[0]}" for name, thought in named.items())
    batch = next(iter(data.train_dataloader()))
    assert batch.thoughts == [named[name] for name in batch.ids]


def test_a_real_package() -> None:
    folder = Path(json.__file__).parent
    data = PythonSourceDataModule(["iniconfig"], [str(folder)], cache_dir="")
    assert all(pair.module.startswith("iniconfig") for pair in data.pairs("train"))
    assert "json.loads" in data.corpus("test").ids
