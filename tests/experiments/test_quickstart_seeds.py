import json
from pathlib import Path
from typing import Any

import pytest

from experiments.quickstart import seeds
from experiments.quickstart.report import CONTROLS, METRICS, ROWS


def report(seed: int, shift: float) -> dict[str, Any]:
    made: dict[str, Any] = {"seed": seed, "queries": 9, "documents": 20, "audits": {}, "stages": {}}
    made |= {"machine": {}, "versions": {}}
    for name in (*ROWS, *CONTROLS):
        system, _, mode = name.partition(".")
        figures = dict.fromkeys(METRICS, 0.2 + shift * (system == "rl"))
        if system == "untrained":
            made["untrained_direct" if mode == "direct" else "untrained"] = figures
        elif mode:
            made.setdefault(system, {})[mode] = figures
        else:
            made[system] = figures
    return made


def test_seeds_are_summarised_by_mean_and_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for seed, shift in enumerate((0.01, 0.03)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(report(seed, shift)))
        folders.append(str(folder))
    monkeypatch.setattr(seeds, "RESULTS", tmp_path / "results.json")
    seeds.main(folders)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["gain_of_stage_2"]["mean"] == pytest.approx(0.02, abs=1e-9)
    assert results["gain_of_stage_2"]["std"] == pytest.approx(0.02 / 2**0.5, abs=1e-9)
    assert results["systems"]["rl.thinking"]["ndcg@10"]["mean"] == pytest.approx(0.22, abs=1e-9)
    printed = capsys.readouterr().out
    assert "| stage 2, thinking | 0.220 ± 0.014 |" in printed
    assert "+0.020 ± 0.014 (seeds: +0.010, +0.030)" in printed
    with pytest.raises(SystemExit, match="absent"):
        seeds.main([folders[0], str(tmp_path / "absent")])


def test_the_committed_table_is_that_of_the_committed_results() -> None:
    results = json.loads((Path(seeds.__file__).parent / "results.json").read_text())
    assert seeds.table(results) in (Path(seeds.__file__).parent / "README.md").read_text()
