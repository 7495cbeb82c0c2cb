import copy
import gc
import hashlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from srch3.errors import CheckpointError, ConfigError, DataError
from srch3.indexes import BaseIndex, ExactIndex, HnswIndex
from srch3.inference import index_parts
from srch3.inference.corpus_index import Shard, build_index
from srch3.inference.index_folder import open_index
from tests.inference.building import TEXTS, assert_right, build, builder, make_corpus, write_corpus
from tests.inference.fake_embedder import FakeEmbedder, vectors_of


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "beir")


def test_a_corpus_becomes_an_index(corpus: Path, tmp_path: Path) -> None:
    assert build(corpus, tmp_path / "index") == TEXTS
    assert_right(tmp_path / "index")
    hits = open_index(tmp_path / "index").index.search(torch.from_numpy(vectors_of(["text 7"])), 1)
    assert (hits.rows.item(), round(hits.scores.item(), 5)) == (7, 1.0)


def test_the_shortest_way_does_the_same(corpus: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    build_index(FakeEmbedder(), "a model", corpus / "corpus.jsonl", tmp_path / "index", None, seen.append)  # type: ignore[arg-type]
    assert sum(seen) == len(TEXTS)
    assert_right(tmp_path / "index")


def test_a_finished_index_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "index")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*") if path.name != ".lock"}
    assert build(corpus, tmp_path / "index") == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "index").rglob("*") if path.name != ".lock"} == before
    assert builder(corpus, tmp_path / "index").remaining() == 0


@pytest.mark.parametrize("index", [ExactIndex(dtype="int8"), ExactIndex(dtype="float16"), HnswIndex(m=4, ef=32)])
def test_other_indexes_are_built_and_opened(index: BaseIndex, corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "index", index=index)
    opened = open_index(tmp_path / "index").index
    assert (type(opened), opened.dtype) == (type(index), index.dtype)
    queries = torch.from_numpy(vectors_of(["text 3", "x"]))
    for left, right in zip(opened.search(queries, 5), index.search(queries, 5), strict=True):
        torch.testing.assert_close(left, right, atol=0, rtol=0)


def count_events(run: Callable[[], None], folder: Path, last: int | None) -> int:
    """Runs in another process, which is killed when it changes the folder for the last time that it may."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            seen = pipe.read()
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) == (last is not None)
        return len(seen)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "open"}
        if changes and str(folder) in str(arguments):
            os.write(writing, b".")
            watch.seen += 1  # type: ignore[attr-defined]
            if watch.seen == last:  # type: ignore[attr-defined]
                os.kill(os.getpid(), signal.SIGKILL)

    watch.seen = 0  # type: ignore[attr-defined]
    sys.addaudithook(watch)
    try:
        run()
    finally:
        os._exit(0)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_build_that_is_killed_anywhere_goes_on(corpus: Path, tmp_path: Path) -> None:
    gc.collect()
    events = count_events(lambda: build(corpus, tmp_path / "whole"), tmp_path / "whole", None) and (tmp_path / "whole")
    assert_right(events)
    total = count_events(lambda: build(corpus, tmp_path / "again"), tmp_path / "again", None)
    assert total > 40
    encoded = []
    for last in range(1, total + 1):
        output = tmp_path / f"killed{last}"
        count_events(lambda output=output: build(corpus, output), output, last)  # type: ignore[misc]
        encoded.append(len(build(corpus, output)))
        assert_right(output)
        shutil.rmtree(output)
    assert encoded == sorted(encoded, reverse=True)
    assert (encoded[0], encoded[-1]) == (len(TEXTS), 0)
    assert set(encoded) == {11, 7, 3, 0}


def test_shards_write_one_index(corpus: Path, tmp_path: Path) -> None:
    embedders = [FakeEmbedder(), FakeEmbedder()]
    first, second = (builder(corpus, tmp_path / "index", embedders[n], shard=Shard(n, 2)) for n in range(2))
    first.begin()
    second.begin()
    assert (first.remaining(), second.remaining()) == (7, 4)
    first.encode()
    assert not first.finish()
    with pytest.raises(CheckpointError, match="which is not finished; the `index` command"):
        open_index(tmp_path / "index")
    second.encode()
    assert second.finish()
    assert first.finish()
    assert_right(tmp_path / "index")
    assert [embedder.encoded for embedder in embedders] == [[*TEXTS[:4], *TEXTS[8:]], TEXTS[4:8]]


def test_shards_may_run_at_the_same_time(corpus: Path, tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=lambda n=n: run_shard(corpus, tmp_path / "index", Shard(n, 3))) for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_right(tmp_path / "index")


def run_shard(corpus: Path, output: Path, shard: Shard) -> None:
    work = builder(corpus, output, shard=shard, documents_per_part=2)
    work.begin()
    work.encode()
    work.finish()


def test_a_run_without_shards_finishes_what_shards_began(corpus: Path, tmp_path: Path) -> None:
    work = builder(corpus, tmp_path / "index", shard=Shard(1, 2), documents_per_part=3)
    work.begin()
    work.encode()
    assert len(build(corpus, tmp_path / "index")) == 6
    assert_right(tmp_path / "index")


def test_a_shard_that_comes_too_late_changes_nothing(corpus: Path, tmp_path: Path) -> None:
    class Overtaken(FakeEmbedder):
        def encode_documents(self, texts: Any, on_progress: Any = None) -> Any:
            build(corpus, tmp_path / "index")
            return super().encode_documents(texts, on_progress)

    assert build(corpus, tmp_path / "index", Overtaken()) == TEXTS[:4]
    assert_right(tmp_path / "index")


def begun(corpus: Path, output: Path) -> None:
    work = builder(corpus, output)
    work.begin()
    work.encode(lambda count: None)


@pytest.mark.parametrize("prepare", [begun, build])
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"embedder": FakeEmbedder("b" * 40)},
            r"model: .* was (begun|built) with the weights aaaaaaaaaaaa \(a model\); got bbb",
        ),
        (
            {"embedder": FakeEmbedder(precision="bfloat16")},
            "precision: .* was (begun|built) with float32; got bfloat16",
        ),
        ({"texts": [*TEXTS, "more"]}, r"corpus: .* was (begun|built) from .*corpus.jsonl \(digest \w{12}\); got"),
    ],
)
def test_what_was_begun_is_not_mixed_with_anything_else(
    prepare: Callable[..., Any], change: dict[str, Any], complaint: str, corpus: Path, tmp_path: Path
) -> None:
    prepare(corpus, tmp_path / "index")
    change = dict(change)
    if "texts" in change:
        write_corpus(corpus / "corpus.jsonl", change.pop("texts"))
    with pytest.raises(CheckpointError, match=complaint):
        builder(corpus, tmp_path / "index", **change).begin()


@pytest.mark.parametrize(
    ("index", "complaint"),
    [
        (ExactIndex(dtype="int8"), "index.dtype: .* was built with float32; got int8"),
        (HnswIndex(), r"index.class_path: .* was built with srch3\.indexes\.exact\.ExactIndex; got srch3"),
    ],
)
def test_another_index_is_refused_once_one_is_built_and_not_before(
    index: BaseIndex, complaint: str, corpus: Path, tmp_path: Path
) -> None:
    build(corpus, tmp_path / "index")
    with pytest.raises(CheckpointError, match=complaint):
        builder(corpus, tmp_path / "index", index=index).begin()
    begun(corpus, tmp_path / "other")
    again = FakeEmbedder()
    build(corpus, tmp_path / "other", again, index=copy.deepcopy(index))
    assert again.encoded == []
    assert type(open_index(tmp_path / "other").index) is type(index)


def test_a_corpus_that_changes_while_it_is_read_is_refused(corpus: Path, tmp_path: Path) -> None:
    work = builder(corpus, tmp_path / "index")
    write_corpus(corpus / "corpus.jsonl", ["something else"])
    with pytest.raises(DataError, match="to stay as it is while it is read"):
        work.begin()
    assert not (tmp_path / "index").exists()


def test_a_full_disk_is_told_in_one_line(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(index_parts, "save_file", refuse)
    work = builder(corpus, tmp_path / "index")
    work.begin()
    with pytest.raises(CheckpointError, match=r"output: cannot write .*No space left on device; .* same command again"):
        work.encode()
    monkeypatch.undo()
    build(corpus, tmp_path / "index")
    assert_right(tmp_path / "index")


def test_another_setting_of_the_index_is_named(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "index", index=HnswIndex(m=4))
    with pytest.raises(CheckpointError, match=r"index\.init_args\.m: .* was built with 4; got 8"):
        builder(corpus, tmp_path / "index", index=HnswIndex(m=8)).begin()


def test_another_corpus_is_named_beside_the_one_that_was_indexed(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "index")
    other = tmp_path / "other.jsonl"
    write_corpus(other, TEXTS[:3])
    with pytest.raises(CheckpointError) as refused:
        builder(other, tmp_path / "index").begin()
    contents = ((corpus / "corpus.jsonl").read_bytes(), other.read_bytes())
    digests = [hashlib.blake2b(content, digest_size=20).hexdigest() for content in contents]
    assert str(refused.value) == (
        f"corpus: '{tmp_path / 'index'}' was built from {corpus / 'corpus.jsonl'} (digest {digests[0][:12]}); got "
        f"{other} (digest {digests[1][:12]}), whose content differs; give another output, or remove that folder to "
        "begin anew"
    )


@pytest.mark.parametrize("there", [False, True])
def test_what_cannot_be_indexed_leaves_the_folder_as_it_was(there: bool, corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "index"
    (corpus / "corpus.jsonl").write_text('{"_id": "a", "title": "", "text": "x"}\nbroken')
    if there:
        output.mkdir()
    with pytest.raises(DataError, match=r"corpus.jsonl:2: expected one JSON object per line"):
        build(corpus, output)
    assert output.exists() == there
    assert not there or not list(output.iterdir())


def test_a_shard_that_cannot_be_indexed_keeps_the_lock_for_the_others(corpus: Path, tmp_path: Path) -> None:
    (corpus / "corpus.jsonl").write_text("broken")
    with pytest.raises(DataError):
        build(corpus, tmp_path / "index", shard=Shard(0, 2))
    assert [path.name for path in (tmp_path / "index").iterdir()] == [".lock"]


def test_a_corpus_that_could_not_be_read_binds_nothing(corpus: Path, tmp_path: Path) -> None:
    good = (corpus / "corpus.jsonl").read_text()
    (corpus / "corpus.jsonl").write_text(good + "\nbroken")
    with pytest.raises(DataError, match=r"corpus.jsonl:12: expected one JSON object per line"):
        build(corpus, tmp_path / "index")
    (corpus / "corpus.jsonl").write_text(good)
    build(corpus, tmp_path / "index")
    assert_right(tmp_path / "index")


def test_a_folder_of_something_else_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/documents").write_text("precious")
    with pytest.raises(ConfigError, match=r"output: expected a new or empty folder.* which holds 'documents'"):
        build(corpus, tmp_path / "mine")
    assert (tmp_path / "mine/documents").read_text() == "precious"
    assert len(list((tmp_path / "mine").iterdir())) == 1


def test_a_damaged_part_is_named_and_encoded_again(corpus: Path, tmp_path: Path) -> None:
    begun(corpus, tmp_path / "index")
    part = tmp_path / "index/parts/000001.safetensors"
    content = part.read_bytes()
    for damage in (content[:-5], content[:-1] + bytes([content[-1] ^ 1]), b""):
        part.write_bytes(damage)
        work = builder(corpus, tmp_path / "index")
        work.begin()
        with pytest.raises(CheckpointError, match=r"000001.safetensors: expected 4 embeddings as they were written"):
            work.finish()
        assert not part.exists()
        part.write_bytes(content)
    part.unlink()
    assert build(corpus, tmp_path / "index") == TEXTS[4:8]
    assert_right(tmp_path / "index")


def test_mistakes_are_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shard: expected 0 to 1 of 2 shards; got 2"):
        builder(corpus, tmp_path / "index", shard=Shard(2, 2))
    with pytest.raises(ConfigError, match="documents_per_part: expected at least 1; got 0"):
        builder(corpus, tmp_path / "index", documents_per_part=0)
    with pytest.raises(DataError, match=r"corpus: expected corpus.jsonl, or a folder that has one; got .*nowhere"):
        builder(tmp_path / "nowhere", tmp_path / "index")
    assert not (tmp_path / "index").exists()
