import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from experiments.stage1 import negatives, publish, run
from experiments.stage1.commands import Job
from experiments.stage1.conclude import conclude
from experiments.stage1.jobs import Report
from experiments.stage1.publish import README, RESULTS, filled
from experiments.stage1.results import command, dump, measure_bm25, over_seeds, spread, summarise
from experiments.stage1.settings import Settings, parse
from experiments.stage1.tables import CONTROLS, modes_table, results_table, variants_table
from experiments.stage1.variants import FULL, MATRYOSHKA, NEGATIVES, VARIANTS, Variant
from srch3.data import BeirDataModule
from tests.experiments.lucene import lucene_bm25
from tests.runs import make_beir_folder

MODES = ("thinking", "direct", "empty", "shuffled")
SOME = {
    "full": Variant("whole?"),
    "plain": Variant("plain?", "--a 1", modes=("direct",)),
    "third": Variant("third?", "--b [2]"),
}


def figures(level: float, splits: tuple[str, ...] = ("dev", "test")) -> dict[str, dict[str, dict[str, float]]]:
    """Each mode a hundredth above the one before, each split a tenth."""
    return {
        split: {mode: {"ndcg@10": level + 0.1 * s + 0.01 * m} for m, mode in enumerate(MODES)}
        for s, split in enumerate(splits)
    }


def results(*levels: tuple[float, ...]) -> dict[str, Any]:
    """Of ``SOME``, each with the levels of its seeds."""
    named = dict(zip(SOME, levels, strict=False))
    return {
        "figures": {name: over_seeds([figures(level) for level in some]) for name, some in named.items()},
        "bm25": {"dev": {"ndcg@10": 0.7}, "test": {"ndcg@10": 0.75}},
        "seconds": {name: [10.0 * (1 + seed) for seed in range(len(some))] for name, some in named.items()},
        "queries": {"dev": 9, "test": 1234},
        "documents": 2345,
        "command": "python -m experiments.stage1.run --root BEIR_FOLDER",
    }


# Results


def test_mean_and_spread_by_hand() -> None:
    assert spread([0.1, 0.3]) == {"mean": 0.2, "std": 0.141421, "per_seed": [0.1, 0.3]}
    assert spread([0.5]) == {"mean": 0.5, "std": None, "per_seed": [0.5]}
    found = over_seeds([{"dev": {"direct": {"mrr@10": 0.2}}}, {"dev": {"direct": {"mrr@10": 0.4}}}])
    assert found["dev"]["direct"]["mrr@10"]["mean"] == 0.3


@pytest.mark.parametrize(
    "content", [{}, [], "é", {"a": [1, None, {"b": "]{"}], "c": {"d" * 90: ["e" * 50] * 4, "f": []}}]
)
def test_what_is_dumped_can_be_read(content: Any) -> None:
    assert json.loads(dump(content)) == content
    assert max(map(len, dump(content).splitlines())) <= 120


def test_bm25_is_measured_on_every_split(tmp_path: Path) -> None:
    root = make_beir_folder(tmp_path / "words")
    counts, scores = measure_bm25(Settings(root, tmp_path))
    assert counts == {"queries": {"dev": 40, "test": 40}, "documents": 40}
    for split in ("dev", "test"):
        data = BeirDataModule(str(root), test_split=split)
        queries, corpus = data.queries("test"), data.corpus("test")
        slow = lucene_bm25([query.text for query in queries], corpus.texts)
        ranks = [
            sorted(range(40), key=lambda row, s=s: (-round(s[row], 5), row)).index(
                corpus.row(next(iter(query.relevant)))
            )
            for query, s in zip(queries, slow, strict=True)
        ]
        expected = sum(1 / (1 + rank) for rank in ranks if rank < 10) / 40
        assert scores[split]["mrr@10"] == pytest.approx(expected, abs=1e-5)
    assert scores["dev"] != scores["test"]


def test_a_summary_has_every_seed_and_no_path(tmp_path: Path) -> None:
    settings = Settings(make_beir_folder(tmp_path / "words"), tmp_path, seeds=(5, 7), jobs=2)
    reports = {"plain": [Report("f", 1, 3.0, True, figures(0.1)), Report("f", 1, 4.0, True, figures(0.2))]}
    summary = summarise(settings, "a.b", SOME, reports)
    assert next(iter(summary)) == "figures"
    assert summary["figures"]["plain"]["dev"]["thinking"]["ndcg@10"]["per_seed"] == [0.1, 0.2]
    assert (summary["seconds"], summary["options"]) == ({"plain": [3.0, 4.0]}, {"plain": "--a 1"})
    assert summary["command"] == "python -m a.b --root BEIR_FOLDER --seeds 5 7 --jobs 2"
    assert str(tmp_path) not in json.dumps(summary)


# Tables


def test_the_table_by_hand() -> None:
    lines = results_table(results((0.1, 0.3), (0.5, 0.5), (0.2, 0.3)), SOME).splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| variant", "| ---", "| full", "| plain", "| third", "| BM25"]
    assert lines[0] == (
        "| variant | dev, thinking | dev, direct | test, thinking | difference | test, direct | difference | s |"
    )
    assert lines[2] == ("| full | 0.200 ± 0.141 | 0.210 ± 0.141 | 0.300 ± 0.141 | - | 0.310 ± 0.141 | - | 15 |")
    assert lines[3] == "| plain | - | 0.510 ± 0.000 | - | - | 0.610 ± 0.000 | +0.300 ± 0.141 | 15 |"
    dev, test = "0.250 ± 0.071 | 0.260 ± 0.071", "0.350 ± 0.071 | +0.050 ± 0.071 | 0.360 ± 0.071 | +0.050 ± 0.071"
    assert lines[4] == f"| third | {dev} | {test} | 15 |"
    assert lines[5] == "| BM25 | - | 0.700 | - | - | 0.750 | - | - |"
    assert len({line.count("|") for line in lines}) == 1


def test_one_seed_has_no_spread_and_what_is_not_finished_no_row() -> None:
    lines = results_table(results((0.1,), (0.5,)), SOME).splitlines()
    assert lines[3] == "| plain | - | 0.510 | - | - | 0.610 | +0.400 | 10 |"
    assert not any("third" in line for line in lines)


def test_modes_stand_below_one_another() -> None:
    assert modes_table(results((0.1, 0.3)), "full", CONTROLS).splitlines() == [
        "| full | dev | test |",
        "| --- | ---: | ---: |",
        "| with its own thought | 0.200 ± 0.141 | 0.300 ± 0.141 |",
        "| embedded at once | 0.210 ± 0.141 | 0.310 ± 0.141 |",
        "| with the thought left out | 0.220 ± 0.141 | 0.320 ± 0.141 |",
        "| with another query's thought | 0.230 ± 0.141 | 0.330 ± 0.141 |",
    ]


def test_variants_are_listed_with_their_options() -> None:
    assert variants_table(SOME).splitlines()[2:4] == ["| full | whole? | - |", "| plain | plain? | `--a 1` |"]


# README


def test_the_readme_shows_what_the_results_say() -> None:
    text = README.read_text(encoding="utf-8")
    assert filled(text, json.loads(RESULTS.read_text(encoding="utf-8"))) == text


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A README and results of their own, so that the committed ones stay."""
    for name, path in (("README", README), ("RESULTS", RESULTS)):
        copy = tmp_path / path.name
        copy.write_text("{}" if name == "RESULTS" else path.read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(publish, name, copy)
    return tmp_path / README.name, tmp_path / RESULTS.name


def test_data_sets_and_experiments_are_published_side_by_side(published: tuple[Path, Path]) -> None:
    readme, kept = published
    text = readme.read_text()
    full = results((0.1, 0.3))
    publish.publish("one", "stage1", full)
    publish.publish("two", "stage1", full)
    publish.publish("one", "stage1", results((0.6, 0.6)))
    mined = {**full, "figures": {"mined": full["figures"]["full"]}, "seconds": {"mined": [1.0, 2.0]}}
    publish.publish("two", "negatives", mined)
    found = json.loads(kept.read_text())
    assert {name: list(some) for name, some in found.items()} == {"one": ["stage1"], "two": ["stage1", "negatives"]}
    shown = readme.read_text()
    assert shown.count("### one") == 1
    assert shown.count("### two") == 2
    assert shown.count("2,345 documents; queries: 9 dev, 1,234 test.") == 3
    assert "| full | 0.600 ± 0.000 |" in shown
    assert "| mined | 0.200 ± 0.141 |" in shown
    assert "| with another query's thought | 0.630 ± 0.000 | 0.730 ± 0.000 |" in shown
    kept.write_text("{}")
    readme.write_text(filled(shown, {}))
    assert readme.read_text() == filled(text, {})


def test_widths_have_a_table_of_their_own() -> None:
    some = results((0.1,))
    modes = {"thinking@32": {"ndcg@10": spread([0.4])}, "thoughts": {"emitted": spread([1.0])}}
    some["figures"] = {MATRYOSHKA: {split: {**some["figures"]["full"][split], **modes} for split in ("dev", "test")}}
    some["seconds"] = {MATRYOSHKA: [1.0]}
    shown = publish.section("words", "stage1", some)
    assert "| thinking, width 32 | 0.400 | 0.400 |" in shown
    assert "emitted" not in shown
    assert CONTROLS["empty"] not in shown


@pytest.mark.parametrize("unfinished", [False, True])
def test_only_what_is_finished_is_published(
    unfinished: bool, tmp_path: Path, published: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    settings = Settings(make_beir_folder(tmp_path / "words"), output, seeds=(0,), publish=True)
    jobs = {name: [Job(f"{name}/seed0", [], {}, "f")] for name in ("full", "plain")}
    for name in jobs:
        (output / name / "seed0").mkdir(parents=True)
        report = Report("f", 1, 2.0, True, None if unfinished and name == "plain" else figures(0.1))
        (output / name / "seed0" / "report.json").write_text(json.dumps(report._asdict()))
    chosen = {name: SOME[name] for name in jobs}
    assert conclude(settings, "a.b", "stage1", chosen, jobs) == int(unfinished)
    assert list(json.loads((output / "stage1.json").read_text())["figures"]) == ["full", "plain"][: 2 - unfinished]
    assert list(json.loads(published[1].read_text())) == ([] if unfinished else ["words"])
    assert ("not finished: plain" in capsys.readouterr().err) == unfinished


def test_the_readmes_commands_can_be_typed(tmp_path: Path) -> None:
    root = make_beir_folder(tmp_path / "words")
    text = README.read_text(encoding="utf-8")
    lines = [line.partition("#")[0] for line in text.splitlines() if line.startswith("python -m experiments.stage1.")]
    assert len(lines) >= 3
    for line in lines:
        _, _, program, *options = shlex.split(line.replace("BEIR_FOLDER", str(root)))
        choices = {run.PROGRAM: list(VARIANTS), negatives.PROGRAM: None}[program]
        settings = parse(program, "", options, choices)
        assert command(settings, program).startswith(f"python -m {program} --root BEIR_FOLDER")


def test_random_comes_first_so_that_the_others_are_compared_with_it() -> None:
    assert list(NEGATIVES) == ["random", "mined", "none"]
    assert NEGATIVES["random"].options == NEGATIVES["mined"].options
    assert next(iter(VARIANTS)) == FULL
