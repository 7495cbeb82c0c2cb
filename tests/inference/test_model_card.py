"""The card of an exported model; its programs are run as they stand."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from srch3.inference.embedder import Embedder
from srch3.inference.exporting import export_model
from srch3.inference.model_card import Facts, model_card
from srch3.inference.provenance import Provenance, provenance, without_paths
from tests.inference.runs_of_training import make_run

RESULTS = {
    "queries": 12,
    "systems": {
        "thinking": {"metrics": {"ndcg@10": 0.51234, "map": 0.4}},
        "bm25": {"metrics": {"ndcg@10": 0.6}},
    },
}


class Made(NamedTuple):
    place: Path
    card: str


@pytest.fixture(scope="module", params=[True, False], ids=["chat", "plain"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("card")
    checkpoint, _ = make_run(place, chat=request.param)
    (place / "results.json").write_text(json.dumps(RESULTS))
    export_model(checkpoint, place / "org/name", "org/name", "Questions of ours.", place / "results.json")
    return Made(place, (place / "org/name/README.md").read_text())


def test_every_program_runs_and_finds_the_same(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.place)
    embedder = Embedder.load("org/name", "cpu", "float32")
    load = Embedder.load
    monkeypatch.setattr(Embedder, "load", lambda model, precision="float32": load(model, "cpu", precision))
    thinking, direct = (embedder.encode_queries(["how to parse a date"], mode) for mode in ("thinking", "direct"))
    programs = re.findall(r"^```python\n(.*?)^```", made.card, re.DOTALL | re.MULTILINE)
    assert len(programs) == 4
    for text, expected in zip(programs, [thinking, direct, direct, thinking], strict=True):
        names: dict[str, Any] = {}
        exec(text, names)  # our own text
        np.testing.assert_allclose(names["queries"], expected, atol=1e-5)
        if "documents" in names:
            documents = ["datetime.strptime reads a date", "sum adds up a list"]
            cosines = expected @ embedder.encode_documents(documents).T
            np.testing.assert_allclose(names["scores"], cosines, atol=1e-5)


def test_the_card_tells_base_data_figures_and_command(made: Made) -> None:
    card = made.card
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "sentence-transformers"
    assert "base_model" not in front
    assert "# name\n" in card
    assert "- base: `base`" in card
    assert "`srch3.modules.RLModule`, 4 steps" in card
    assert "`srch3.data.BeirDataModule`. Questions of ours." in card
    assert "| direct (val) | 0.3750 |" in card
    assert "| thinking (val) | 0.6250 |" in card
    assert "over 12 queries" in card
    assert "| thinking | 0.5123 | 0.4000 |\n| bm25 | 0.6000 |  |" in card
    assert "python -m srch3 fit --config training.yaml" in card
    assert "Of a query 16 tokens are read, of a document 24" in card


def test_neither_card_nor_settings_tell_of_this_machine(made: Made) -> None:
    for path in (made.place / "org/name").rglob("*"):
        if path.suffix in {".md", ".yaml", ".json", ".jinja"}:
            assert str(made.place) not in path.read_text(), path
    settings = yaml.safe_load((made.place / "org/name/training.yaml").read_text())
    assert settings["data"]["init_args"] == {"root": "corpus", "seed": 3}
    assert settings["model"]["init_args"]["backbone"]["init_args"]["model"] == "base"


def test_an_exported_folder_has_neither_training_nor_figures(tmp_path: Path) -> None:
    _, live = make_run(tmp_path)
    live.save_pretrained(tmp_path / "saved")
    exported = export_model(tmp_path / "saved", tmp_path / "out", data="Ours.")
    card = (exported.folder / "README.md").read_text()
    assert "## Training\n\nOurs.\n" in card
    assert "## Figures" not in card
    assert not (exported.folder / "training.yaml").exists()


def test_a_base_of_the_hub_is_named(tmp_path: Path) -> None:
    checkpoint, live = make_run(tmp_path)
    facts = Facts("ours", live, "direct", provenance(checkpoint), None, [], "", {})
    assert "base_model" not in yaml.safe_load(model_card(facts).split("---")[1])
    live.name = "Qwen/Qwen2.5-0.5B"
    front = yaml.safe_load(model_card(facts).split("---")[1])
    assert (front["base_model"], front["library_name"]) == ("Qwen/Qwen2.5-0.5B", "transformers")
    started = facts.origin.config
    assert started is not None
    assert "earlier run" in model_card(facts)
    started["model"]["init_args"]["init_from"] = None
    assert "earlier run" not in model_card(facts)


def test_nothing_is_known_of_folders_and_runs_without_figures(tmp_path: Path) -> None:
    checkpoint, _ = make_run(tmp_path)
    assert provenance(tmp_path / "base") == Provenance()
    found = provenance(checkpoint)
    assert (found.step, dict(found.figures)) == (4, {"val/direct/ndcg@10": 0.375, "val/thinking/ndcg@10": 0.625})
    (checkpoint.parents[1] / "metrics.csv").unlink()
    assert provenance(checkpoint).figures == {}


def test_absolute_paths_alone_are_cut() -> None:
    given = {"a": "/x/y", "b": ["~/z/w", "runs/v/best.ckpt", 3], "c": None, "d": "/ a\nformat", "e": "Qwen/x"}
    expected = {"a": "y", "b": ["w", "runs/v/best.ckpt", 3], "c": None, "d": "/ a\nformat", "e": "Qwen/x"}
    assert without_paths(given) == expected
