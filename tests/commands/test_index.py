import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from srch3.cli import main
from srch3.commands import search
from srch3.commands.search import chosen_mode
from srch3.errors import ConfigError
from srch3.inference import corpus_index
from srch3.inference.embedder import Embedder
from srch3.inference.index_folder import open_index
from srch3.inference.searcher import Found, Hit, Searcher
from srch3.metrics.trec_files import read_run
from tests.runs import make_beir_folder
from tests.trained import trained_folder

INDEX = ["index", "--model=model", "--corpus=beir", "--output=index", "--device=cpu", "--precision=float32"]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    make_beir_folder(folder / "beir", documents=20)
    trained_folder(folder / "model")
    return folder


@pytest.fixture(autouse=True)
def folder(templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(templates, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def refused(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(words))
        assert stop.value.code in {1, 2, 130}
        return capfd.readouterr().err.splitlines()[-1].removeprefix("error: ")

    return refused


def test_index_and_search(capsys: pytest.CaptureFixture[str]) -> None:
    main(INDEX)
    out = capsys.readouterr().out
    assert (
        "20 documents (20 embedded now, in float32) in index; search them: python -m srch3 search --index index" in out
    )
    expected = Searcher.load("index", device="cpu").search("date", 3)
    main(["search", "--index=index", "--query=date", "--k=3", "--device=cpu"])
    shown = capsys.readouterr().out
    for hit in expected.hits:
        assert f"{hit.score:.3f}" in shown
        assert hit.id in shown
        assert hit.text in shown
    assert f"thought ({expected.tokens} tokens): " in shown
    main(["search", "--index=index", "--query=date", "--direct", "--k=3"])
    assert "thought" not in capsys.readouterr().out
    main(INDEX)
    assert "(0 embedded now, in float32)" in capsys.readouterr().out


LONG = [f"{place:x}".rjust(20, "f") for place in range(12)]


def show(hits: list[Hit], capsys: pytest.CaptureFixture[str]) -> list[str]:
    search._show(Found("date", "", hits, 0, 0.1))
    return capsys.readouterr().out.splitlines()[2:-1]


@pytest.mark.parametrize("columns", [30, 80, None])
def test_only_texts_are_cut(
    columns: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns or 80))
    if columns:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = show([Hit(name, 0.5 + place / 1000, "text " * 60) for place, name in enumerate(LONG)], capsys)
    rows = [re.sub(r"\x1b\[\d*m", "", line).split() for line in lines]
    assert [row[:3] for row in rows] == [
        [str(place + 1), name, f"{0.5 + place / 1000:.3f}"] for place, name in enumerate(LONG)
    ]
    assert {row[-1][-1] for row in rows} == {"…" if columns else "t"}
    assert {len(line.rstrip()) for line in lines} == {{30: 46, 80: 80, None: 195}[columns]}


def test_ids_wider_than_the_console_are_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = show([Hit("x" * 300, 0.25, "text")], capsys)
    assert line.split() == ["1", "x" * 300, "0.250", "text"]


def test_queries_are_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    main(INDEX)
    Path("typed").write_text("parse date\n\nnode [bold]\n")
    with Path("typed").open() as typed:
        monkeypatch.setattr(sys, "stdin", typed)
        main(["search", "--index=index", "--mode=direct", "--k=2"])
    out = capsys.readouterr().out
    assert "parse date" in out
    assert "node [bold]" in out
    assert out.count("cosine") == 2


def test_a_file_of_queries_is_searched(capsys: pytest.CaptureFixture[str]) -> None:
    main(INDEX)
    searcher = Searcher.load("index", device="cpu")
    queries = [json.loads(line) for line in Path("beir/queries.jsonl").read_text().splitlines()]
    found = searcher.search_many([query["text"] for query in queries], 5, "mean-2")
    words = ["search", "--index=index", "--queries=beir", "--k=5", "--thoughts=2", "--device=cpu"]
    main([*words, "--output=found/run.trec"])
    run = read_run(Path("found/run.trec"))
    assert list(run) == [query["_id"] for query in queries]
    assert [list(hits) for hits in run.values()] == [[hit.id for hit in each.hits] for each in found]
    main([*words, "--output=found/all.jsonl"])
    records = [json.loads(line) for line in Path("found/all.jsonl").read_text().splitlines()]
    assert [record["thought"] for record in records] == [each.thought for each in found]
    assert records[3]["hits"][0] == pytest.approx(found[3].hits[0]._asdict(), abs=1e-5)
    main([*words[:3], "--k=1", "--direct"])
    assert capsys.readouterr().out.count("cosine") == len(queries)


def test_embeddings_are_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedder = Embedder.load("model", "cpu", "float32")
    encode = ["encode", "--model=model", "--input=beir", "--device=cpu", "--precision=float32"]
    main([*encode, "--role=document", "--output=new/documents.npy"])
    assert "20 embeddings of width 32, computed in float32, in new/documents.npy" in capsys.readouterr().out
    texts = list(open_texts(folder / "beir/corpus.jsonl"))
    np.testing.assert_allclose(np.load("new/documents.npy"), embedder.encode_documents(texts), atol=1e-5)
    assert Path("new/documents.ids.txt").read_text().split() == [f"d{row}" for row in range(20)]
    main([*encode, "--role=query", "--direct", "--output=queries.safetensors"])
    queries = [json.loads(line)["text"] for line in Path("beir/queries.jsonl").read_text().splitlines()]
    written = load_file("queries.safetensors")["embeddings"]
    np.testing.assert_allclose(written, embedder.encode_queries(queries, "direct"), atol=1e-5)


def open_texts(path: Path) -> list[str]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [f"{record['title']} {record['text']}" for record in records]


def test_shards_and_kinds_of_indexes(capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--index=HnswIndex", "--index.m=4", "--shards=2"]
    main([*INDEX, *more, "--shard=1"])
    assert "0 documents embedded in float32; index is finished once the other shards are" in capsys.readouterr().out
    main([*INDEX, *more, "--shard=0"])
    assert "20 documents (20 embedded now, in float32)" in capsys.readouterr().out
    assert open_index("index").manifest["index"]["settings"]["m"] == 4


def test_mistakes_are_told_in_one_line(refusal: Callable[..., str]) -> None:
    assert refusal(*INDEX, "--shards=2").startswith("shard: expected which of the 2 shards to embed, 0 to 1; got none")
    assert refusal(*INDEX, "--model=beir").startswith("model: expected a folder with srch3.json")
    main(INDEX)
    assert refusal(*INDEX, "--precision=bfloat16").startswith("precision: 'index' was built with float32; got bfloat16")
    asked = ["search", "--index=index"]
    assert refusal(*asked, "--query=a", "--queries=beir").startswith("query: expected either a query or a file")
    assert refusal(*asked, "--query", "") == "query: expected a text that is not blank; got ''"
    Path("blank.jsonl").write_text('{"_id": "q1", "text": "x"}\n{"_id": "q2", "text": " "}\n')
    blank = "query: expected a text that is not blank; got ' ' for 'q2' in blank.jsonl"
    assert refusal(*asked, "--queries=blank.jsonl") == blank
    assert refusal(*asked, "--output=a.txt").startswith("output: expected a file called *.trec or *.jsonl")
    assert refusal(*asked, "--query=a", "--k=0") == "k: expected at least 1; got 0"
    assert refusal(*asked, "--query=a", "--mode=deep").startswith("mode: expected one of 'thinking'")
    assert refusal(*asked, "--direct", "--thoughts=2").startswith("mode: expected options that agree; got direct")
    assert refusal("search", "--index=beir", "--query=a").startswith("index: expected a folder that `python -m srch3")
    Path("spaced.jsonl").write_text('{"_id": "a b", "text": "x"}\n')
    assert "expected ids without white space" in refusal(*asked, "--queries=spaced.jsonl", "--output=a.trec")
    encode = ["encode", "--model=model", "--input=beir"]
    assert refusal(*encode, "--role=query", "--output=a.csv").startswith("output: expected a file called *.npy")
    assert refusal(*encode, "--role=document", "--direct", "--output=a.npy").startswith("role: expected query beside")


def test_options_agree_on_a_mode() -> None:
    assert chosen_mode(None, False, None, None) == "thinking"
    assert chosen_mode(True, False, None, None) == "thinking"
    assert chosen_mode(False, False, None, None) == "direct"
    assert chosen_mode(None, True, None, "direct") == "direct"
    assert chosen_mode(True, False, 4, None) == "mean-4"
    assert chosen_mode(None, False, None, "budget-3") == "budget-3"
    with pytest.raises(ConfigError, match="thoughts: expected at least 1; got 0"):
        chosen_mode(None, False, 0, None)
    with pytest.raises(ConfigError, match=r"got think \(thinking\) and direct \(direct\)"):
        chosen_mode(True, True, None, None)


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    encode = Embedder.encode_documents
    parts: list[int] = []

    def interrupted(self: Embedder, texts: list[str], on_progress: object = None) -> object:
        parts.append(len(texts))
        if len(parts) == 2:
            raise KeyboardInterrupt
        return encode(self, texts)

    monkeypatch.setattr(corpus_index.IndexBuilder.__init__, "__defaults__", (None, None, 8))
    monkeypatch.setattr(Embedder, "encode_documents", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(INDEX)
    assert stop.value.code == 130
    assert "stopped; the same command goes on from there" in capsys.readouterr().err
    monkeypatch.setattr(Embedder, "encode_documents", encode)
    main(INDEX)
    assert "20 documents (12 embedded now, in float32)" in capsys.readouterr().out


def test_a_killed_command_goes_on_where_it_was(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (folder / "beir/corpus.jsonl").read_text().splitlines()
    many = [json.dumps(json.loads(lines[row % 20]) | {"_id": f"d{row}"}) for row in range(6000)]
    (folder / "beir/corpus.jsonl").write_text("\n".join(many))
    running = subprocess.Popen(
        [sys.executable, "-m", "srch3", *INDEX],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    until = time.monotonic() + 120
    while not list((folder / "index").glob("parts/0*.safetensors")) and time.monotonic() < until:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not (folder / "index/manifest.json").exists()
    done = len(list((folder / "index").glob("parts/0*.safetensors")))
    main(INDEX)
    out = capsys.readouterr().out
    assert 1 <= done <= 5
    assert f"6000 documents ({6000 - 1024 * done} embedded now, in float32)" in out
    opened = open_index("index", verify=True)
    texts = open_texts(folder / "beir/corpus.jsonl")
    assert list(opened.corpus.texts) == texts
    expected = Embedder.load("model", "cpu", "float32").encode_documents(texts[:20])
    np.testing.assert_allclose(opened.index.vectors.numpy(), np.tile(expected, (300, 1)), atol=1e-5)
