import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from srch3.data import HubDataModule, JsonlDataModule
from srch3.data.examples import text_id
from srch3.errors import DataError

ROWS = {
    "query": ["one", "two", "one"],
    "positive": ["A", "B", "C"],
    "hard": [["D", "E"], [], None],
    "why": ["think", None, None],
}


def saved(folder: Path, **splits: dict[str, Any]) -> str:
    tables = {name: datasets.Dataset.from_dict(rows) for name, rows in splits.items()}
    datasets.DatasetDict(tables).save_to_disk(str(folder))
    return str(folder)


def test_a_saved_folder_gives_the_same_as_the_same_lines(tmp_path: Path) -> None:
    val = {"query": ["three"], "positive": ["F"], "hard": [["A"]], "why": ["v"]}
    hub = HubDataModule(
        saved(tmp_path / "set", train=ROWS, validation=val), negative_column="hard", thought_column="why"
    )
    for name, rows in (("train", ROWS), ("val", val)):
        lines = [
            {"query": query, "positives": [positive], "negatives": hard or [], "thought": why}
            for query, positive, hard, why in zip(*rows.values(), strict=True)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    jsonl = JsonlDataModule(str(tmp_path / "train.jsonl"), str(tmp_path / "val.jsonl"))
    assert hub.queries("train") == jsonl.queries("train")
    assert hub.queries("val") == jsonl.queries("val")
    assert list(hub.corpus("train").ids) == list(jsonl.corpus("train").ids)
    assert list(hub.corpus("train").texts) == list(jsonl.corpus("train").texts)


def test_lists_of_positives_and_columns_of_other_names(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", fit={"q": ["one"], "docs": [["A", "B"]]}, test={"q": ["t"], "docs": [["A"]]})
    data = HubDataModule(folder, train_split="fit", query_column="q", positive_column="docs")
    assert [query.text for query in data.queries("test")] == ["t"]
    assert len(data.load("train") + data.load("val")) == 1
    assert list(data.corpus("train").texts) == ["A", "B"]


def test_a_single_table_is_the_training_split(tmp_path: Path) -> None:
    rows = {"query": [f"q{n}" for n in range(50)], "positive": [f"p{n}" for n in range(50)]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "set"))
    data = HubDataModule(str(tmp_path / "set"))
    data.setup("fit")
    assert len(data.queries("train")) + len(data.queries("val")) == 50
    with pytest.raises(DataError, match=r"data\.init_args\.test_split: expected examples to test with"):
        data.setup("test")


def test_a_name_is_loaded_from_the_hub_without_running_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def load_dataset(*args: Any, **kwargs: Any) -> datasets.DatasetDict:
        calls.append((args, kwargs))
        return datasets.DatasetDict({"train": datasets.Dataset.from_dict({"query": ["q"], "positive": ["p"]})})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert HubDataModule("org/set", name="english").corpus("train").texts[0] == "p"
    assert calls == [(("org/set", "english"), {})]


def test_another_column_or_another_content_is_another_corpus(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", train={"query": ["q"], "positive": ["p"], "other": ["o"]})
    assert list(HubDataModule(folder).corpus("train").texts) == ["p"]
    assert list(HubDataModule(folder, negative_column="other").corpus("train").texts) == ["p", "o"]
    assert list(HubDataModule(folder, positive_column="other").corpus("train").texts) == ["o"]
    saved(tmp_path / "set", train={"query": ["q"], "positive": ["r"], "other": ["o"]})
    assert list(HubDataModule(folder).corpus("train").texts) == ["r"]


def test_a_column_of_weights(tmp_path: Path) -> None:
    rows = {"query": ["a", "b", "c"], "positive": ["A", "B", "C"], "score": [0.5, None, 3.0]}
    folder = saved(tmp_path / "set", train=rows, validation={"query": ["v"], "positive": ["A"], "score": [1.0]})
    weights = [query.weight for query in HubDataModule(folder, weight_column="score").queries("train")]
    assert weights == [0.5, 1.0, 3.0]
    assert [query.weight for query in HubDataModule(folder).queries("train")] == [1.0] * 3


def test_what_is_needed_to_train_may_be_absent_from_other_splits(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", train=ROWS | {"score": [1.0] * 3}, validation={"query": ["v"], "positive": ["A"]})
    columns: dict[str, Any] = {"negative_column": "hard", "thought_column": "why", "weight_column": "score"}
    (query,) = HubDataModule(folder, **columns).queries("val")
    assert query == (text_id("v"), "v", {text_id("A"): 1}, (), None, 1.0)
    without = saved(tmp_path / "other", train=ROWS, validation={"query": ["v"]})
    with pytest.raises(DataError, match=r"data\.init_args\.positive_column: expected one of \['query'\]"):
        HubDataModule(without).setup("fit")


def test_a_split_of_more_documents_that_keep_their_ids(tmp_path: Path) -> None:
    rows = {"query": ["q"], "positive": ["A"]}
    folder = saved(tmp_path / "set", train=rows, validation=rows, docs={"id": ["x", "y"], "text": ["B", "A"]})
    data = HubDataModule(folder, corpus_split="docs")
    assert (list(data.corpus("val").ids), list(data.corpus("val").texts)) == (["x", "y"], ["B", "A"])
    assert data.queries("val")[0].relevant == {"y": 1}


@pytest.mark.parametrize("given", [True, False], ids=["lists", "no column"])
def test_negatives_that_are_written_are_read_and_nothing_else_changes(tmp_path: Path, given: bool) -> None:
    train = ROWS | {"query": [["one"], ["two"], ["one"]], "score": [2.0, 1.0, 2.0], "note": ["x", "y", "z"]}
    other = {"query": ["three"], "positive": ["F"], "hard": ["only here"], "why": ["v"], "score": [1.0]}
    folder = saved(tmp_path / "set", train=train, validation=other, unused={"any": [1]})
    settings: dict[str, Any] = {"thought_column": "why", "weight_column": "score"} | (
        {"negative_column": "hard"} if given else {}
    )
    data = HubDataModule(folder, **settings)
    found = {text_id("one"): [text_id("F"), text_id("B")]}
    new = tmp_path / "a folder"
    options = data.write_negatives(new, found)
    named = dict(zip(*[iter(shlex.split(options))] * 2, strict=True))
    assert sorted(path.name for path in new.iterdir()) == [
        "corpus",
        "dataset_dict.json",
        "train",
        "unused",
        "validation",
    ]
    again = HubDataModule(**settings | {name.rpartition(".")[2]: value for name, value in named.items()})
    assert again.queries("val") == data.queries("val")
    assert again.queries("train") == [
        query._replace(negatives=tuple(found.get(query.id, query.negatives))) for query in data.queries("train")
    ]
    assert list(again.corpus("train").ids) == list(data.corpus("train").ids)
    assert list(again.corpus("train").texts) == list(data.corpus("train").texts)
    table = datasets.load_from_disk(str(new))["train"]
    assert (table["note"], table["hard" if given else "negatives"]) == (["x", "y", "z"], [["F", "B"], [], ["F", "B"]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_split": "fit"}, "data.init_args.train_split: expected one of ['train'], the splits of"),
        ({"query_column": "text"}, "data.init_args.query_column: expected one of ['query', 'positive', 'n', 'none']"),
        ({"negative_column": "bad"}, "data.init_args.negative_column: expected one of"),
        ({"positive_column": "n"}, "train, row 0: expected a string or a list of strings in column 'n'; got 7"),
        ({"query_column": "none"}, "train, row 0: expected a query in column 'none'; got none"),
        ({"weight_column": "query"}, "train, row 0: expected a number in column 'query'; got 'q'"),
        ({"thought_column": "bad"}, "data.init_args.thought_column: expected one of"),
        ({"corpus_split": "all"}, "data.init_args.corpus_split: expected one of ['train'], the splits of"),
        ({"corpus_split": "train"}, "with columns id and text; got 'train'"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    folder = saved(tmp_path / "set", train={"query": ["q"], "positive": ["p"], "n": [7], "none": [None]})
    with pytest.raises(DataError, match=re.escape(message)):
        HubDataModule(folder, **settings).setup("fit")


def test_a_data_set_that_cannot_be_loaded_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any) -> None:
        raise datasets.exceptions.DatasetNotFoundError("no such set\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"data\.init_args\.path: expected .*got 'org/none': no such set$"):
        HubDataModule("org/none").setup("fit")


def test_datasets_is_imported_only_when_needed() -> None:
    code = "import sys, srch3.data; sys.exit('datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
