import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from srch3.data import HubDataModule, JsonlDataModule
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_split": "fit"}, "data.init_args.train_split: expected one of ['train'], the splits of"),
        ({"query_column": "text"}, "data.init_args.query_column: expected one of ['query', 'positive', 'n', 'none']"),
        ({"negative_column": "bad"}, "data.init_args.negative_column: expected one of"),
        ({"positive_column": "n"}, "train, row 0: expected a string or a list of strings in column 'n'; got 7"),
        ({"query_column": "none"}, "train, row 0: expected a query in column 'none'; got none"),
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
