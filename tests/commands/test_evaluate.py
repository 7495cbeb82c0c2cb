import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval

from srch3.cli import main
from srch3.inference import mteb_tasks
from srch3.inference.embedder import Embedder
from srch3.metrics.trec_files import read_run
from tests.inference.runs_of_training import make_run
from tests.inference.test_mteb import LocalRetrieval
from tests.runs import make_beir_folder, write_lines

MODEL = "runs/version_1/checkpoints/best.ckpt"
MEASURE = ["evaluate", "--data=beir", "--device=cpu", "--precision=float32"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a model and an index."""
    folder = tmp_path_factory.mktemp("made")
    make_run(folder)
    make_beir_folder(folder / "beir")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["index", f"--model={MODEL}", "--corpus=beir", "--output=index", "--device=cpu", "--precision=float32"])
    return folder


@pytest.fixture(autouse=True)
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return tmp_path


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def refused(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", *words])
        assert stop.value.code in {1, 2}
        last = capfd.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        return last.removeprefix("error: ")

    return refused


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def trec_eval(run: Path, qrels: Path, measure: str) -> float:
    """pytrec_eval's own reading of two files, its mean over all judged queries."""
    with run.open() as hits, qrels.open() as judgements:
        judged = pytrec_eval.parse_qrel(judgements)
        found = pytrec_eval.RelevanceEvaluator(judged, {measure}).evaluate(pytrec_eval.parse_run(hits))
    return float(np.sum([values[measure] for values in found.values()]) / len(judged))


def test_a_model_is_measured_in_its_modes_beside_bm25_and_a_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(folder / "direct.trec", ["test0 Q0 d0 1 1.0 x", "test1 Q0 d0 1 1.0 x"])
    main([*MEASURE, f"--model={MODEL}", "--bm25", f"--run={folder / 'direct.trec'}", f"--output={folder / 'out'}"])
    record = results(folder / "out")
    assert list(record["systems"]) == ["thinking", "direct", "bm25", "direct-2"]
    assert {versus["second"] for versus in record["comparisons"]} == {"direct", "bm25", "direct-2"}
    assert record["revision"] == Embedder.load(MODEL, "cpu", "float32").revision
    assert (record["queries"], record["precision"], record["k"]) == (40, "float32", 100)
    assert record["systems"]["thinking"]["tokens"] >= 1
    assert record["systems"]["direct"]["seconds"]["queries"] == 20
    assert record["systems"]["direct-2"]["metrics"]["mrr@10"] == 1 / 40
    assert record["systems"]["bm25"]["metrics"]["ndcg@10"] > 0.9
    assert not (folder / "out" / "direct-2.trec").exists()
    for name in ("thinking", "direct", "bm25"):
        for metric, measure in {"ndcg@10": "ndcg_cut_10", "map@100": "map", "recall@5": "recall_5"}.items():
            files = folder / "out" / f"{name}.trec", folder / "out" / "qrels.trec"
            assert record["systems"][name]["metrics"][metric] == pytest.approx(trec_eval(*files, measure), abs=1e-12)
    shown = capsys.readouterr().out
    assert "thinking \N{MINUS SIGN} direct-2" in shown
    assert f"{record['systems']['thinking']['metrics']['ndcg@10']:.4f}" in shown


def test_files_that_were_written_measure_the_same_again(folder: Path) -> None:
    more = ["--metrics=ndcg@3,mrr@5,precision@2", "--k=7"]
    main([*MEASURE, f"--model={MODEL}", "--timed=0", "--modes", "thinking,direct", *more, f"--output={folder / 'a'}"])
    files = [f"--run={folder / 'a/thinking.trec'}", f"--run_b={folder / 'a/direct.trec'}"]
    main(["evaluate", *files, f"--qrels={folder / 'a/qrels.trec'}", *more, f"--output={folder / 'b'}"])
    first, again = results(folder / "a"), results(folder / "b")
    assert first["comparisons"] == again["comparisons"]
    for name in ("thinking", "direct"):
        assert first["systems"][name]["metrics"] == again["systems"][name]["metrics"]
        assert {len(found) for found in read_run(folder / "a" / f"{name}.trec").values()} == {7}
    assert sorted(path.name for path in (folder / "b").iterdir()) == ["per_query.tsv", "qrels.trec", "results.json"]


def test_an_index_is_measured_as_its_model_is(folder: Path) -> None:
    for number, source in enumerate((f"--model={MODEL}", "--index=index")):
        main([*MEASURE, source, "--modes=[direct]", "--timed=2", f"--output={folder / str(number)}"])
    assert (folder / "0" / "direct.trec").read_text() == (folder / "1" / "direct.trec").read_text()
    assert (
        results(folder / "0")["systems"]["direct"]["metrics"] == results(folder / "1")["systems"]["direct"]["metrics"]
    )
    assert results(folder / "0")["revision"] == results(folder / "1")["revision"]


def test_other_judgements_take_the_place_of_the_datas(folder: Path) -> None:
    write_lines(folder / "qrels.tsv", ["query-id\tcorpus-id\tscore", "dev3\td3\t1"])
    main([*MEASURE, "--bm25", f"--qrels={folder / 'qrels.tsv'}", f"--output={folder / 'out'}"])
    assert results(folder / "out")["queries"] == 1
    assert list(read_run(folder / "out" / "bm25.trec")) == ["dev3"]


def test_documents_that_are_the_query_can_be_dropped(folder: Path) -> None:
    beir = folder / "own"
    shutil.copytree("beir", beir)
    documents = [json.loads(line) for line in (beir / "corpus.jsonl").read_text().splitlines()]
    write_lines(beir / "queries.jsonl", (json.dumps({"_id": d["_id"], "text": d["text"]}) for d in documents))
    write_lines(beir / "qrels" / "test.tsv", ["h\th\th", *(f"d{row}\td{row}\t1" for row in range(9))])
    write_lines(folder / "run.trec", ["d0 Q0 d0 1 2.0 x", "d0 Q0 d1 2 1.0 x"])
    words = ["evaluate", f"--data={beir}", "--bm25", f"--run={folder / 'run.trec'}", "--metrics=[success@1]"]
    for number, drop in enumerate(("false", "true")):
        main([*words, f"--drop_same_ids={drop}", f"--output={folder / str(number)}"])
    kept, dropped = results(folder / "0")["systems"], results(folder / "1")["systems"]
    assert [kept["bm25"]["metrics"]["success@1"], kept["run"]["metrics"]["success@1"]] == [1.0, 1 / 9]
    assert [dropped["bm25"]["metrics"]["success@1"], dropped["run"]["metrics"]["success@1"]] == [0.0, 0.0]


def test_a_task_of_mteb_is_measured(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(mteb_tasks, "find_task", lambda name: LocalRetrieval())
    monkeypatch.setattr("srch3.commands.evaluate.find_task", lambda name: LocalRetrieval())
    main(["evaluate", "--task=LocalRetrieval", f"--model={MODEL}", "--modes=[direct]", f"--output={folder / 'out'}"])
    assert "LocalRetrieval of mteb" in capsys.readouterr().out
    assert (folder / "out" / "LocalRetrieval.direct.json").is_file()


def test_what_does_not_go_together_is_refused_before_any_work(
    folder: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "load", None)
    qrels, data, model = "--qrels=beir/qrels/test.tsv", "--data=beir", f"--model={MODEL}"
    (folder / "file").write_text("")
    assert refusal(data).startswith("model: expected something to measure")
    assert refusal(model).startswith("data: expected a folder in BEIR's layout")
    assert refusal("--bm25", qrels).startswith("data: expected a folder in BEIR's layout")
    assert refusal("--run=x").startswith("qrels: expected a file of judgements, or data; got neither")
    assert refusal("--run=x", qrels).startswith("run: expected a file at x; got none")
    assert refusal(model, data, "--split=tests").startswith("split: expected judgements at beir/qrels/tests.tsv")
    assert refusal(model, data, "--k=50").startswith("k: expected at least 100, as deep as the metrics look; got 50")
    assert refusal("--run=x", qrels, "--k=0").startswith("k: expected at least 100")
    assert refusal(model, data, "--timed=-1").startswith("timed: expected a number of queries")
    assert refusal(model, data, "--metrics=[dcg@10]").startswith("metrics: expected some of ndcg@K")
    assert refusal(model, data, "--metrics=[]").startswith("metrics: expected at least one")
    assert refusal(model, data, "--modes=[]").startswith("modes: expected at least one mode, and each once")
    assert refusal(model, data, "--modes=[direct,direct]").startswith("modes: expected at least one mode, and each")
    assert refusal(model, data, f"--output={folder / 'file'}").startswith("output: expected a folder; got the file")
    assert refusal("--task=SciFact").startswith("task: expected a model, and neither index, data")
    assert refusal("--task=SciFact", model, "--bm25").startswith("task: expected a model, and neither index, data")


def test_unknown_modes_are_refused_before_documents_are_encoded(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "encode_documents", None)
    assert refusal("--data=beir", f"--model={MODEL}", "--modes=[pondering]").startswith("modes: expected one of 'think")
    assert refusal("--data=beir", "--index=index", "--modes=[budget-99]").startswith("modes: expected a budget of at")
    assert refusal("--task=SciFact", f"--model={MODEL}", "--modes=[pondering]").startswith("modes: expected one of")
