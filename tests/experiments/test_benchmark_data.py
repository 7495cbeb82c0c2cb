import json
import sys
from pathlib import Path

import pytest

from experiments.benchmarks.data import run
from experiments.benchmarks.data.measure import Meter, apart

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark names a cache of its own, which must not outlive it here."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))


def test_a_rehearsal_measures_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.main(["--smoke", "--output", str(tmp_path / "results.json")])
    results = json.loads((tmp_path / "results.json").read_text())
    assert next(iter(results)) == "documents"
    figures = results["documents"]["2000"]
    assert figures["disk"].keys() - figures["lists"].keys() == {"prepare_s", "prepare_peak_mib"}
    assert figures["disk"]["pickle_bytes"] < 1000 < figures["lists"]["pickle_bytes"]
    assert figures["pairs"]["documents"] == 2000
    assert capsys.readouterr().out.strip() == run.table(results).strip()


def test_the_readme_shows_the_results() -> None:
    readme = (run.RESULTS.parent / "README.md").read_text()
    assert run.table(json.loads(run.RESULTS.read_text())) in readme


def test_texts_are_distinct_and_always_the_same() -> None:
    texts = list(run.texts(300))
    assert len(set(texts)) == 300
    assert texts == list(run.texts(300))
    assert all(len(text.split()) == 13 for text in texts)


def hold(mebibytes: int) -> dict[str, float]:
    meter = Meter()
    held = b"x" * (mebibytes << 20)
    return {"own": meter.own_mib(), "peak": meter.peak_mib(), "length": len(held), "seconds": meter.seconds()}


def test_memory_is_measured_in_a_process_of_its_own() -> None:
    figures = apart(hold, 50)
    assert figures["length"] == 50 << 20
    assert 49 < figures["own"] < 60
    assert figures["peak"] > 49
    assert figures["seconds"] > 0


def fail() -> dict[str, float]:
    raise ValueError("broken")


def test_a_failure_there_is_one_here() -> None:
    with pytest.raises(RuntimeError, match="fail failed in its process"):
        apart(fail)
