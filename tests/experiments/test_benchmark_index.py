import json
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.benchmarks.index import measure, report, run
from experiments.benchmarks.index.settings import RESULTS, Settings, Size
from srch3.indexes import ExactIndex, HnswIndex


def test_embeddings_have_the_same_clusters_whatever_the_seed() -> None:
    size = Size(2000, 32)
    first, second = measure.draw(200, size, 0), measure.draw(200, size, 1)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(200))
    assert not torch.equal(first, second)
    nearest = (first @ second.T).max(dim=1).values
    assert nearest.min() > 0.5


def test_recall_is_counted_by_hand() -> None:
    class Blind(HnswIndex):
        def _propose(self, queries: torch.Tensor, k: int, effort: int) -> torch.Tensor:
            return super()._propose(queries, k + 5, effort)[:, 5:]

    size = Size(400, 16)
    vectors, queries = measure.draw(400, size, 0), measure.draw(20, size, 1)
    exact, blind = ExactIndex(), Blind(min_recall=0)
    exact.build(vectors)
    blind.build(vectors)
    assert measure.recall(exact, queries, 20) == 1
    assert measure.recall(blind, queries, 20) == pytest.approx(15 / 20)


def summary() -> dict[str, Any]:
    settings = Settings([Size(400, 16)], [0.05], [8, 16], 10, 400, 0, Path("unused"))
    searched = {"search_seconds": {"8": 0.002, "16": 0.0031}, "recall": 0.98765}
    built = {"share": None, "change_seconds": 1.26, "write_seconds": 0.125, "structure_bytes_per_document": 1300.4}
    lines = [
        {"way": "hnsw", **built, **searched, "health": {"ann_effort": 256.0}},
        {"way": "in place", "share": 0.05, "change_seconds": 0.0123, **searched},
    ]
    life = [
        {"step": n, "phase": "drift", "recall": found, "ann_effort": 128.0, "exact_fallback": float(n)}
        for n, found in enumerate((0.99, 1.0))
    ]
    return report.summarise(settings, {"400 x 16": lines}, life, 12.3)


def test_tables_hold_each_figure_in_its_place() -> None:
    lines = report.markdown(summary()).splitlines()
    assert lines[2] == "| 400 x 16 | hnsw | 1.3 | 0.12 | 1,300 | 2 / 3 | 0.988 | 256 |"
    assert lines[6] == "| 400 x 16 | 5% | in place | 12 | 2 / 3 | 0.988 |"
    assert lines[10] == "| drift | 2 | 0.990 | 0.995 | 128 to 128 | 1 |"


def test_the_smoke_version_measures_every_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        assert run.main(["--smoke", "--output", str(tmp_path / "run")]) == 0
    finally:
        torch.set_num_threads(threads)
    results = json.loads((tmp_path / "run-smoke" / "results.json").read_text())
    (lines,) = results["sizes"].values()
    ways = [(line["way"], line["share"]) for line in lines]
    built = [("exact", None), ("hnsw", None), ("faiss", None)]
    assert ways == built + [(way, share) for share in (0.05, 0.2) for way in ("overlay", "in place")]
    assert all(line["recall"] > 0.9 for line in lines)
    assert len(results["life"]) == 80
    assert "| 400 x 16 | 5% | overlay |" in capsys.readouterr().out


def test_the_readme_says_what_the_results_say() -> None:
    results = json.loads(RESULTS.read_text())
    assert report.markdown(results) in (RESULTS.parent / "README.md").read_text()
