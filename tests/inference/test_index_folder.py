import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from srch3.errors import CheckpointError
from srch3.indexes import HnswIndex
from srch3.inference import index_folder
from srch3.inference.index_folder import MANIFEST, PLAN, open_index
from tests.inference.building import TEXTS, build, make_corpus, write_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "beir")


def index_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in {".lock", MANIFEST})


def test_every_damaged_file_is_named(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "index", index=HnswIndex(m=4))
    files = index_files(tmp_path / "index")
    assert sorted(path.name for path in files) == [
        "by_id.npy",
        "documents.arrow",
        "hnsw",
        "index.json",
        "vectors.safetensors",
    ]
    for path in files:
        content = path.read_bytes()
        for damage in (content[: len(content) // 2], content[:-1] + bytes([content[-1] ^ 1]), None):
            path.unlink() if damage is None else path.write_bytes(damage)
            with pytest.raises(CheckpointError, match=f"^{path}: expected .*the index is damaged"):
                open_index(tmp_path / "index")
            path.write_bytes(content)
    assert len(open_index(tmp_path / "index").corpus) == len(TEXTS)


def test_large_files_are_read_only_if_asked(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(corpus, tmp_path / "index")
    path = tmp_path / "index/index/vectors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(index_folder, "SMALL_FILE", 100)
    assert len(open_index(tmp_path / "index").index) == len(TEXTS)
    with pytest.raises(CheckpointError, match=r"vectors.safetensors: expected checksum"):
        open_index(tmp_path / "index", verify=True)


def test_opening_leaves_vectors_and_documents_in_their_files(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "index")
    opened = open_index(tmp_path / "index")
    mapped = Path("/proc/self/maps").read_text()
    assert all(str(tmp_path / "index" / name) in mapped for name in ("index/vectors.safetensors", "documents"))
    address = opened.index.vectors.data_ptr()
    (place,) = [line for line in mapped.splitlines() if line.endswith("index/vectors.safetensors")]
    start, end = (int(number, 16) for number in place.split()[0].split("-"))
    assert start <= address < end


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 9}, "index: expected format 1 in .*manifest.json; got 9"),
        ({"files": None}, "manifest.json: expected the entry 'files'; got none"),
        ({"index": {"class_path": "evil.Index", "dtype": "float32", "settings": {}}}, "import evil in Python before"),
        ({"index": {"class_path": "builtins.dict", "dtype": "x", "settings": {}}}, "whose class has been imported"),
        ({"index": {"class_path": "srch3.indexes.exact.ExactIndex", "dtype": "float32", "settings": {"m": 1}}}, "'m'"),
        ({"index": {"class_path": "srch3.indexes.exact.ExactIndex", "settings": {}}}, "'dtype'"),
    ],
)
def test_a_strange_manifest_is_refused(change: dict[str, Any], complaint: str, corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "index")
    path = tmp_path / "index" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=complaint):
        open_index(tmp_path / "index")


def test_documents_and_vectors_of_different_indexes_are_refused(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "index")
    write_corpus(corpus / "corpus.jsonl", TEXTS[:5])
    build(corpus, tmp_path / "short")
    shutil.rmtree(tmp_path / "index/index")
    shutil.copytree(tmp_path / "short/index", tmp_path / "index/index")
    path = tmp_path / "index" / MANIFEST
    files = index_folder.files_of(tmp_path / "index", "documents", "index")
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": files}))
    with pytest.raises(CheckpointError, match="expected as many vectors as the 11 documents; got 5"):
        open_index(tmp_path / "index")


def test_what_is_no_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="index: expected a folder that `python -m srch3 index` wrote"):
        open_index(tmp_path)
    for text in ("{", "[]"):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(CheckpointError, match=r"manifest\.json: expected"):
            open_index(tmp_path)
    assert not (tmp_path / PLAN).exists()
