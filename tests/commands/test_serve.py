"""The command, with a real model that is tiny: in this process, and once as a program of its own."""

import builtins
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from srch3.backbones import PlainPrompts, ReasoningEmbedder
from srch3.cli import main
from srch3.inference.corpus_index import build_index
from srch3.inference.embedder import Embedder
from srch3.inference.searcher import Searcher
from srch3.serving import server
from tests.models import make_model_folder
from tests.runs import make_beir_folder
from tests.serving.fakes import FakeSearcher, ask, request, serving


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    torch.manual_seed(0)
    make_model_folder(folder / "base")
    backbone = ReasoningEmbedder(str(folder / "base"), prompts=PlainPrompts(), max_thought_tokens=12)
    backbone.build()
    backbone.save_pretrained(folder / "model")
    embedder = Embedder.load(folder / "model", "cpu", "float32")
    build_index(embedder, folder / "model", make_beir_folder(folder / "beir"), folder / "index")
    return folder / "index"


@pytest.fixture(scope="module")
def searcher(index: Path) -> Searcher:
    return Searcher.load(index, device="cpu")


@pytest.fixture(scope="module")
def port(searcher: Searcher) -> Iterator[int]:
    with serving(server.application(searcher)) as port:
        yield port


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setattr(sys, "argv", ["srch3"])

    def refused(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["serve", *words])
        assert stop.value.code in {1, 2}
        return capfd.readouterr().err.splitlines()[-1]

    return refused


@pytest.mark.parametrize("mode", ["direct", "thinking", "mean-2", "budget-3"])
def test_a_real_model_answers_as_it_does_alone(port: int, searcher: Searcher, mode: str) -> None:
    alone = searcher.search("alpha beta", 5, mode)
    answer = ask(port, "/search", {"query": "alpha beta", "k": 5, "mode": mode}).json
    assert (answer["thought"], answer["tokens"]) == (alone.thought, alone.tokens)
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in alone.hits]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([hit.score for hit in alone.hits], abs=1e-5)
    assert [hit["text"] for hit in answer["hits"]] == [hit.text for hit in alone.hits]
    *before, found = ask(port, "/stream", {"query": "alpha beta", "k": 5, "mode": mode}).lines
    assert "".join(event["text"] for event in before[1:]) == alone.thought
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in alone.hits]


def test_others_are_answered_while_a_real_model_thinks(searcher: Searcher) -> None:
    wanted = [searcher.search(query, 3).hits for query in ("one", "two")]
    streams = [searcher.stream(query, 3) for query in ("one", "two")]
    seen: list[list[Any]] = [[next(stream)] for stream in streams]
    assert searcher.search_many(["three"], 1, "direct")[0].hits
    seen[0].append(next(streams[0]))
    for parts, stream in zip(seen, streams, strict=True):
        parts.extend(stream)
    assert [parts[-1][1].hits for parts in seen] == wanted
    assert all("".join(piece for _, piece in parts[:-1]) == parts[-1][1].thought for parts in seen)


def test_a_budget_beyond_the_model_is_explained(port: int) -> None:
    reply = ask(port, "/search", {"query": "a", "mode": "budget-999"})
    assert reply.status == 422
    assert reply.json["error"].startswith("mode: expected a budget of at most 12 tokens")


def test_the_command_serves_with_what_it_is_given(
    index: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def load(*given: Any) -> FakeSearcher:
        seen.append(given)
        return FakeSearcher()

    class Once:
        def __init__(self, app: Any) -> None:
            self.app = app

        def run(self, sockets: Sequence[Any]) -> None:
            with serving(self.app) as port:
                seen.append(request(port, "GET", "/health").json["limits"])
            assert sockets[0].getsockname()[1] > 0

    monkeypatch.setattr("srch3.commands.serve.Searcher.load", load)
    monkeypatch.setattr(server, "server_for", Once)
    monkeypatch.setattr(sys, "argv", ["srch3"])
    words = ["--host=0.0.0.0", "--max_k=5", "--max_query_chars=9", "--max_text_chars=3", "--precision=float32"]
    main(["serve", f"--index={index}", "--port=0", *words])
    out, err = capfd.readouterr()
    assert seen == [(str(index), None, None, "float32"), {"max_query_chars": 9, "max_k": 5, "max_text_chars": 3}]
    assert re.search(r"^1234 documents at http://0\.0\.0\.0:\d+ \(Ctrl-C stops it\)$", out, re.MULTILINE)
    assert "there is no password" in err


def test_what_the_command_cannot_use_is_said_in_one_line(refusal: Callable[..., str], tmp_path: Path) -> None:
    assert refusal("--index=x", "--max_k=0") == "error: max_k: expected 1 or more; got 0"
    assert refusal("--index=x", "--port=70000") == "error: port: expected a number from 0 to 65535; got 70000"
    assert refusal().startswith("error: missing required key index")
    assert str(tmp_path / "none") in refusal(f"--index={tmp_path / 'none'}", "--port=0")


def test_a_missing_library_is_named(refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "uvicorn":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return imported(name, *rest, **more)

    imported = builtins.__import__
    monkeypatch.delitem(sys.modules, "srch3.serving.server")
    monkeypatch.setattr(builtins, "__import__", without)
    assert refusal("--index=x") == "error: serve: expected uvicorn to be installed: pip install 'srch3[serve]'"


def test_another_missing_module_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name="srch3.serving.server")

    monkeypatch.setattr("importlib.import_module", broken)
    from srch3.commands.serve import serve

    with pytest.raises(ModuleNotFoundError):
        serve("x")


@pytest.mark.slow
def test_ctrl_c_stops_the_program_in_one_line(index: Path) -> None:
    command = [sys.executable, "-m", "srch3", "serve", "--index", str(index), "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    port = int(re.fullmatch(r"40 documents at http://127\.0\.0\.1:(\d+) \(Ctrl-C stops it\)\n", line)[1])
    assert ask(port, "/search", {"query": "a", "k": 2}).status == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "stopped"
    assert "Traceback" not in err
