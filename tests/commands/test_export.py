import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError

from srch3.cli import main
from srch3.commands import export as command
from srch3.errors import ConfigError
from srch3.inference import exporting, sentence_transformers_folder
from srch3.inference.embedder import Embedder
from tests.inference.runs_of_training import make_run


class Hub:
    """Takes notes in place of the hub."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> str:
        self.calls.append(("create", name, private, exist_ok))
        return f"https://hub/{name}"

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
        self.calls.append(("upload", repo_id, folder_path))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(exporting, "HfApi", lambda: hub)
    return hub


def test_the_command_writes_a_folder_and_says_what_was_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hub: Hub
) -> None:
    checkpoint, _ = make_run(tmp_path)
    main(["export", "--model", str(checkpoint), "--output", str(tmp_path / "out"), "--data", "Ours."])
    out = capsys.readouterr().out
    assert "transformers: cosine with the model at least 1.000000" in out
    assert "sentence-transformers: cosine with the model at least 1.000000" in out
    assert "of 19 texts too long for a query embedded the same" in out
    assert re.search(r"^unlike the base \(cosine down to -?0\.\d{6}\), as a trained model is$", out, re.MULTILINE)
    assert "weights in float32\n" in out
    assert Embedder.load(tmp_path / "out").dim == 32
    assert "Ours." in (tmp_path / "out/README.md").read_text()
    assert hub.calls == []


def test_what_cannot_be_checked_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, _ = make_run(tmp_path / "direct")
    monkeypatch.setattr(sentence_transformers_folder, "find_spec", lambda name: None)
    command.run(["--model", str(checkpoint), "--output", str(tmp_path / "a")])
    assert "written but not checked, since it is not installed" in capsys.readouterr().out
    checkpoint, _ = make_run(tmp_path / "thinking", documents="thinking")
    command.run(["--model", str(checkpoint), "--output", str(tmp_path / "b")])
    assert "only the folder `thinking`, with trust_remote_code=True" in capsys.readouterr().out


@pytest.mark.parametrize("private", [True, False])
def test_the_hub_gets_the_folder_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hub: Hub, private: bool
) -> None:
    checkpoint, _ = make_run(tmp_path)
    options = [] if private else ["--private", "false"]
    out = tmp_path / "out"
    command.run(["--model", str(checkpoint), "--output", str(out), "--push_to_hub", "me/ours", *options])
    assert hub.calls == [("create", "me/ours", private, True), ("upload", "me/ours", out)]
    assert "https://hub/me/ours" in capsys.readouterr().out
    assert 'Embedder.load("me/ours")' in (out / "README.md").read_text()


def test_a_hub_that_refuses_leaves_the_folder(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = make_run(tmp_path)

    def refuse(*_: Any, **__: Any) -> str:
        raise OSError("offline")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(ConfigError, match=r"expected the hub to take 'me/ours'; got offline.* is complete"):
        command.run(["--model", str(checkpoint), "--output", str(tmp_path / "out"), "--push_to_hub", "me/ours"])
    assert (tmp_path / "out/README.md").is_file()
    assert issubclass(HfHubHTTPError, OSError)


def test_an_impossible_name_is_refused_before_any_work(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(ConfigError, match=r"push_to_hub: expected a name such as organisation/model; got 'a/b/c'"):
        command.run(["--model", "absent", "--output", str(tmp_path / "out"), "--push_to_hub", "a/b/c"])
    assert hub.calls == []
