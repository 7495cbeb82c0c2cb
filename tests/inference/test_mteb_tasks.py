import json
import sys
from pathlib import Path

import mteb
import pytest
import torch
from rich.console import Console

from srch3.errors import ConfigError, DataError
from srch3.inference.embedder import Embedder
from srch3.inference.mteb_tasks import evaluate_task, find_task, task_table, write_task
from srch3.metrics.evaluation import evaluate_run, means
from tests.inference.test_mteb import LocalRetrieval
from tests.toy import toy_embedder

MODES = ["direct", "thinking"]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    backbone = toy_embedder(tmp_path_factory.mktemp("model"))
    backbone.build()
    return Embedder(backbone, device="cpu", precision="float32")


def test_a_task_of_mteb_is_found_by_its_name() -> None:
    assert find_task("SciFact").metadata.main_score == "ndcg_at_10"
    with pytest.raises(DataError, match=r"task: expected the name of a task of mteb; got 'SciFakt'. Did you mean"):
        find_task("SciFakt")


def test_a_missing_mteb_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(ConfigError, match="task: expected mteb 2 or later; it is not installed"):
        find_task("SciFact")


def test_mteb_measures_each_mode_as_we_do_and_its_cache_stays_out_of_it(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "cache"))
    task = LocalRetrieval()
    results = evaluate_task(embedder, task, MODES)
    for mode in MODES:
        expected = means(evaluate_run(task.run_of(embedder, mode), task.judged, ["ndcg@10"]))["ndcg@10"]
        assert results[mode].get_score() == pytest.approx(expected, abs=1e-5)
    assert not (tmp_path / "cache").exists()

    write_task(results, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "LocalRetrieval.thinking.json").read_text())
    assert written["scores"]["test"][0]["main_score"] == pytest.approx(results["thinking"].get_score(), abs=1e-6)
    assert len(list((tmp_path / "out").iterdir())) == 2

    console = Console(width=100)
    with console.capture() as shown:
        console.print(task_table(results))
    row = f"{results['direct'].get_score():.4f} {results['thinking'].get_score():.4f}"
    words = " ".join(shown.get().replace("│", " ").split())
    assert f"main score {row} ndcg_at_10 {row} mrr_at_10" in words


def test_weights_decide_not_what_was_measured_before(embedder: Embedder, tmp_path: Path) -> None:
    other = toy_embedder(tmp_path)
    other.build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    moved = Embedder(other, device="cpu", precision="float32")
    before = evaluate_task(embedder, LocalRetrieval(), ["direct"])["direct"]
    after = evaluate_task(moved, LocalRetrieval(), ["direct"])["direct"]
    assert before.scores["test"][0]["ndcg_at_100"] != after.scores["test"][0]["ndcg_at_100"]


def test_figures_that_a_task_does_not_have_are_left_out() -> None:
    scores = {"test": [{"main_score": 0.5, "hf_subset": "default", "languages": ["eng-Latn"]}]}
    result = mteb.TaskResult(
        dataset_revision="1", task_name="Local", mteb_version="2", scores=scores, evaluation_time=0.0
    )
    assert task_table({"direct": result}).row_count == 1
