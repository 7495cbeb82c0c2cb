"""The notebooks run from top to bottom, one after the other, and were committed with small outputs."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
ORDER = ["tour", "read_a_run", "reward_and_environment", "your_model_and_data"]  # the first trains what two others use


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    return content


def code(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def shown(cell: dict[str, Any]) -> list[tuple[str, str]]:
    """What a cell shows: a stream's name, or the kinds of what is displayed, with the text."""
    parts = []
    for output in cell["outputs"]:
        kind = output.get("name") or ",".join(sorted(output.get("data", {"error": ""})))
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        parts.append((kind, "".join(text)))
    return parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The notebooks as a reader has them, in a repository of their own."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "notebooks").mkdir()
    for path in [*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("*.py")]:
        shutil.copy(path, folder / "notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        yield folder / "notebooks"


@pytest.fixture(scope="module")
def done(folder: Path) -> dict[str, dict[str, Any]]:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebooks = {name: nbformat.read(folder / f"{name}.ipynb", as_version=4) for name in ORDER}
    for notebook in notebooks.values():
        nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return notebooks


# As they were committed


def test_these_are_all() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_outputs_are_there_and_small(name: str) -> None:
    notebook = read(name)
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < 100_000
    assert [cell["execution_count"] for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert sum(len(cell["outputs"]) for cell in code(notebook)) >= 3
    assert notebook["cells"][0]["cell_type"] == "markdown"


@pytest.mark.parametrize("name", ORDER)
def test_outputs_tell_nothing_of_the_machine_and_no_warnings(name: str) -> None:
    for cell in code(read(name)):
        for kind, text in shown(cell):
            assert kind in {"stdout", "image/png,text/plain", "text/plain"}
            assert not re.search(r"/home/|/tmp/|0x[0-9a-f]{6}|Warning|Traceback", text)
            assert str(ROOT) not in text


@pytest.mark.parametrize("name", ORDER)
def test_links_lead_somewhere(name: str) -> None:
    texts = ["".join(cell["source"]) for cell in read(name)["cells"] if cell["cell_type"] == "markdown"]
    links = re.findall(r"\]\(([^)]+)\)", "".join(texts))
    assert links or name == "your_model_and_data"
    assert [link for link in links if "://" not in link and not (NOTEBOOKS / link).exists()] == []


# As they run


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDER)
def test_it_runs_and_shows_what_was_committed(name: str, done: dict[str, dict[str, Any]]) -> None:
    for cell, committed in zip(code(done[name]), code(read(name)), strict=True):
        assert [kind for kind, _ in shown(cell)] == [kind for kind, _ in shown(committed)], "".join(cell["source"])


@pytest.mark.slow
def test_nothing_is_left_behind_but_runs(folder: Path, done: dict[str, dict[str, Any]]) -> None:
    expected = {path.name for path in NOTEBOOKS.iterdir()} - {".ipynb_checkpoints"}
    assert {path.name for path in folder.iterdir()} | {"runs", "__pycache__"} == expected | {"runs", "__pycache__"}


@pytest.mark.slow
def test_the_tour_learns_what_it_says(done: dict[str, dict[str, Any]]) -> None:
    for notebook in (done["tour"], read("tour")):
        texts = [text for cell in code(notebook) for _, text in shown(cell)]
        scores = [float(score) for text in texts for score in re.findall(r"held-out riddles: ([\d.]+)", text)]
        thinking, direct, thinking_after, _ = scores
        assert thinking < direct
        assert thinking_after > thinking + 0.1


@pytest.mark.slow
def test_refreshing_makes_rewards_truer(done: dict[str, dict[str, Any]]) -> None:
    for notebook in (done["reward_and_environment"], read("reward_and_environment")):
        texts = [text for cell in code(notebook) for _, text in shown(cell)]
        errors = dict(re.findall(r"(\w+) +mean error of rewards: ([\d.]+)", "".join(texts)))
        assert float(errors["default"]) < float(errors["never"])
        assert float(errors["mine"]) < float(errors["never"])
