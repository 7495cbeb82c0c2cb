import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from srch3.errors import CheckpointError
from srch3.indexes import BaseIndex, ExactIndex, FaissIndex, HnswIndex
from tests.indexes.clusters import clustered

Make = Callable[[], BaseIndex]
MAKES: list[Make] = [
    ExactIndex, partial(ExactIndex, dtype="float16"), partial(ExactIndex, dtype="int8"), HnswIndex,
    partial(HnswIndex, dtype="int8"), FaissIndex,
]  # fmt: skip
IDS = ["exact", "exact-float16", "exact-int8", "hnsw", "hnsw-int8", "faiss"]
every_index = pytest.mark.parametrize("make", MAKES, ids=IDS)


def changed(make: Make, count: int = 300) -> BaseIndex:
    index = make()
    index.build(clustered(count))
    index.append(clustered(9, seed=1))
    index.remove(torch.arange(0, 40, 4))
    index.search(clustered(30, seed=4), 25)
    index.update(torch.arange(20), clustered(20, seed=3))
    return index


def saved(index: BaseIndex, folder: Path) -> Path:
    folder.mkdir()
    index.write(folder)
    return folder


@every_index
def test_an_index_that_was_read_searches_and_changes_just_as_the_one_that_was_written(
    make: Make, tmp_path: Path
) -> None:
    index, restored = changed(make), make()
    restored.read(saved(index, tmp_path / "index"))
    assert restored.health() == index.health()
    assert torch.equal(restored.alive, index.alive)
    queries = clustered(50, seed=1)
    for round_ in range(4):
        before, after = index.search(queries, 20), restored.search(queries, 20)
        assert torch.equal(before.rows, after.rows)
        assert torch.equal(before.scores, after.scores)
        rows = torch.arange(round_, 300, 13)
        for one in (index, restored):
            one.update(rows, clustered(len(rows), seed=round_ + 20))
            one.append(clustered(2, seed=round_))
    assert torch.equal(index.vectors, restored.vectors)


@every_index
def test_what_was_read_does_not_depend_on_its_files(make: Make, tmp_path: Path) -> None:
    index, restored = changed(make), make()
    folder = saved(index, tmp_path / "index")
    restored.read(folder)
    for path in folder.iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(restored.search(clustered(5), 9).scores, index.search(clustered(5), 9).scores)
    assert torch.equal(restored.vectors, index.vectors)


@every_index
def test_files_that_are_missing_cut_or_changed_are_named(make: Make, tmp_path: Path) -> None:
    folder = saved(changed(make), tmp_path / "index")
    names = {path.name for path in folder.iterdir()}
    assert {"index.json", "vectors.safetensors"} <= names
    for name in names:
        path = folder / name
        whole = path.read_bytes()
        middle = len(whole) // 2
        for broken in (None, whole[:-7], b"", whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :]):
            path.unlink(missing_ok=True)
            if broken is not None:
                path.write_bytes(broken)
            if name == "index.json" and broken is not None and len(broken) == len(whole):
                continue
            with pytest.raises(CheckpointError, match=f"/{name}: expected .*; got .*; the saved index is damaged"):
                make().read(folder)
        path.write_bytes(whole)
    make().read(folder)


def test_the_vectors_are_a_plain_file_and_the_manifest_says_what_they_are(tmp_path: Path) -> None:
    index = changed(partial(ExactIndex, dtype="float16"))
    folder = saved(index, tmp_path / "index")
    tensors = load_file(folder / "vectors.safetensors")
    assert torch.equal(tensors["vectors"].float(), index.vectors)
    assert torch.equal(tensors["alive"], index.alive)
    manifest = json.loads((folder / "index.json").read_text())
    expected = {"kind": "exact", "dtype": "float16", "space": "cosine", "dim": 32, "count": 309, "live": index.live}
    assert {name: manifest[name] for name in expected} == expected
    assert manifest["files"]["vectors.safetensors"]["bytes"] == (folder / "vectors.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("written", "reader", "message"),
    [
        (HnswIndex(), ExactIndex(), "kind='hnsw'; got 'exact'"),
        (ExactIndex(), HnswIndex(), "kind='exact'; got 'hnsw'"),
        (ExactIndex(), ExactIndex(dtype="int8"), "dtype='float32'; got 'int8'"),
        (HnswIndex(), HnswIndex(ef=64), "ef=128; got 64"),
        (HnswIndex(), HnswIndex(m=8), "m=16; got 8"),
        (FaissIndex(), FaissIndex(codes="SQ4"), "codes='SQ8'; got 'SQ4'"),
    ],
)
def test_an_index_of_another_kind_or_with_other_settings_is_refused(
    written: BaseIndex, reader: BaseIndex, message: str, tmp_path: Path
) -> None:
    written.build(clustered(10))
    with pytest.raises(CheckpointError, match=f"index: the saved one has {message}; resume with the index settings"):
        reader.read(saved(written, tmp_path / "index"))


@pytest.mark.parametrize(
    ("name", "value"), [("space", "l2"), ("dim", 31), ("count", 9), ("live", 3), ("settings", {"novel": 1})]
)
def test_a_manifest_that_does_not_fit_its_vectors_is_refused(name: str, value: object, tmp_path: Path) -> None:
    index = ExactIndex()
    index.build(clustered(10))
    path = saved(index, tmp_path / "index") / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(CheckpointError, match=r"index: the saved one has (novel=1|space='l2'|dim=31|count=9|live=3)"):
        ExactIndex().read(path.parent)


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"index.json: expected a manifest with the names of its files"):
        ExactIndex().read(tmp_path)


@pytest.mark.parametrize("make", [HnswIndex, FaissIndex])
def test_a_structure_of_other_documents_is_refused(make: Make, tmp_path: Path) -> None:
    index, smaller = make(), make()
    index.build(clustered(30))
    smaller.build(clustered(20))
    folder, other = saved(index, tmp_path / "index"), saved(smaller, tmp_path / "other")
    name = index.kind
    (folder / name).write_bytes((other / name).read_bytes())
    manifest = json.loads((folder / "index.json").read_text())
    manifest["files"][name] = json.loads((other / "index.json").read_text())["files"][name]
    (folder / "index.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=f"/{name}: expected a structure of 30 documents or more; got 20"):
        make().read(folder)


def test_a_hundred_thousand_documents_are_written_within_a_second(tmp_path: Path) -> None:
    index = ExactIndex()
    index.build(clustered(100_000, dim=256))
    began = time.process_time()
    saved(index, tmp_path / "index")
    assert time.process_time() - began < 1
