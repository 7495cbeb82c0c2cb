import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from experiments.stage1 import jobs, negatives
from experiments.stage1 import run as experiment
from experiments.stage1.commands import Job
from experiments.stage1.jobs import JobError, Report, execute, perform, perform_all, read_figures, read_report, told
from experiments.stage1.settings import Settings
from experiments.stage1.variants import FULL, UNTRAINED
from srch3.data import BeirDataModule
from tests.experiments.stage1 import make_data, option, settings_for
from tests.runs import write_lines

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    return make_data(tmp_path / "words")


# Jobs


class Machine:
    """Stands in for the processes: notes what was run, logs what tests log, and fails where it is told to."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.commands: list[list[str]] = []
        self.failing: set[str] = set()
        self.saves = False

    def __call__(self, arguments: list[str], log: Path) -> int:
        what = "test" if arguments[1].endswith("several") else arguments[2]
        self.ran.append(f"{what}{' resumed' if str(log.parent / 'last.ckpt') in arguments else ''}")
        self.commands.append(arguments[2:])
        if self.saves:
            (log.parent / "last.ckpt").touch()
        if what in self.failing:
            log.write_text("first\nerror: that is why\n\n")
            return 3
        for command in map(shlex.split, arguments[2:] if what == "test" else []):
            folder = log.parent / option(command, "--trainer.logger.init_args.name") / "version_0"
            folder.mkdir(parents=True)
            write_lines(
                folder / "metrics.csv", ["step,test/direct/ndcg@10,test/emitted,test/ndcg@10", "4,0.25,1.0,0.5"]
            )
        return 0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(jobs, "execute", machine)
    return machine


def a_job(output: Path, fingerprint: str = "f", training: str = "fit", name: str = "full/seed0") -> Job:
    logged = ["--trainer.logger.init_args.save_dir", str(output / name), "--trainer.logger.init_args.name"]
    tests = {split: ["test", *logged, f"test-{split}"] for split in ("dev", "test")}
    return Job(name, [training] if training else [], tests, fingerprint)


FIGURES = {"direct": {"ndcg@10": 0.25}, "thoughts": {"emitted": 1.0}}


def test_what_is_finished_is_kept(tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    job = a_job(tmp_path)
    assert perform_all([job], tmp_path, 1) == []
    report = read_report(job, tmp_path)
    assert machine.ran == ["fit", "test"]
    assert (report.attempts, report.trained, report.figures) == (1, True, {"dev": FIGURES, "test": FIGURES})
    assert perform_all([job], tmp_path, 1) == []
    assert machine.ran == ["fit", "test"]
    assert capsys.readouterr().out.splitlines() == [
        "[1/1] full/seed0: 0 s, dev nDCG@10, direct 0.250",
        "1 of 1 were finished before",
    ]


def test_what_has_other_settings_starts_over(tmp_path: Path, machine: Machine) -> None:
    machine.saves = True
    perform(a_job(tmp_path), tmp_path)
    machine.saves = False
    perform(a_job(tmp_path, "other"), tmp_path)
    assert machine.ran == ["fit", "test", "fit", "test"]
    assert not (tmp_path / "full" / "seed0" / "last.ckpt").exists()


def test_an_interrupted_training_goes_on_and_a_finished_one_is_not_done_again(tmp_path: Path, machine: Machine) -> None:
    machine.saves, machine.failing = True, {"fit"}
    with pytest.raises(JobError, match=r"fit ended with exit code 3; .*log\.txt ends in: error: that is why"):
        perform(a_job(tmp_path), tmp_path)
    machine.failing = {"test"}
    with pytest.raises(JobError, match="test ended with exit code 3"):
        perform(a_job(tmp_path), tmp_path)
    machine.failing = set()
    report = perform(a_job(tmp_path), tmp_path)
    assert machine.ran == ["fit", "fit resumed", "test", "test"]
    assert (report.attempts, report.figures is not None) == (2, True)


def test_what_cannot_resume_begins_in_an_empty_folder(tmp_path: Path, machine: Machine) -> None:
    machine.saves, machine.failing = True, {"mine"}
    with pytest.raises(JobError):
        perform(a_job(tmp_path, training="mine"), tmp_path)
    machine.saves, machine.failing = False, set()
    perform(a_job(tmp_path, training="mine"), tmp_path)
    assert machine.ran == ["mine", "mine", "test"]
    assert not (tmp_path / "full" / "seed0" / "last.ckpt").exists()


def test_what_needs_no_training_is_only_measured(tmp_path: Path, machine: Machine) -> None:
    report = perform(a_job(tmp_path, training=""), tmp_path)
    assert machine.ran == ["test"]
    assert (report.attempts, report.seconds) == (0, 0.0)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, machine: Machine) -> None:
    (tmp_path / "full" / "seed0").mkdir(parents=True)
    (tmp_path / "full" / "seed0" / "thesis.txt").touch()
    with pytest.raises(JobError, match="expected the folder of an earlier run"):
        perform(a_job(tmp_path), tmp_path)
    assert (tmp_path / "full" / "seed0" / "thesis.txt").exists()


def test_a_job_that_fails_does_not_stop_the_others(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.failing = {"mine"}
    bad, good = a_job(tmp_path, training="mine", name="bad"), a_job(tmp_path, name="good")
    assert perform_all([bad, good], tmp_path, 1) == [bad]
    assert read_report(good, tmp_path).figures is not None
    assert "bad: mine ended with exit code 3" in capsys.readouterr().out


def test_a_damaged_report_means_starting_over(tmp_path: Path) -> None:
    (tmp_path / "full" / "seed0").mkdir(parents=True)
    (tmp_path / "full" / "seed0" / "report.json").write_text("{")
    assert read_report(a_job(tmp_path), tmp_path) == Report("f")


def test_figures_are_those_of_the_last_attempt(tmp_path: Path) -> None:
    for version, score in enumerate((0.1, 0.2)):
        (tmp_path / f"version_{version}").mkdir()
        lines = ["step,test/thinking@32/mrr@10,test/mrr@10,test/thought_tokens", f"4,{score},0.9,3.5"]
        write_lines(tmp_path / f"version_{version}" / "metrics.csv", lines)
    assert read_figures(tmp_path) == {"thinking@32": {"mrr@10": 0.2}, "thoughts": {"thought_tokens": 3.5}}


def test_a_process_has_one_thread_and_its_words_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    log = tmp_path / "log.txt"
    assert execute(["-c", "import os, sys; print(os.environ['OMP_NUM_THREADS']); sys.exit(5)"], log) == 5
    command, threads = log.read_text().splitlines()
    assert command.startswith(f"$ {shlex.join([sys.executable, '-c'])}")
    assert threads == "1"


def test_a_job_is_told_in_one_line() -> None:
    figures = {"dev": {"thinking": {"ndcg@10": 0.12345}, "direct": {"ndcg@10": 0.5}}}
    assert told(Report("f", 1, 61.2, True, figures)) == "61 s, dev nDCG@10, thinking 0.123, direct 0.500"
    assert told(Report("f", 1, 61.2, True, {})) == "61 s"


# Experiments


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (JobError("why"), 1)])
def test_what_stops_an_experiment_is_said_in_one_line(
    error: BaseException, code: int, beir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(settings: Settings) -> int:
        raise error

    assert experiment.answered(stop, settings_for(beir)) == code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_without_a_base_nothing_else_is_tried(beir: Path, tmp_path: Path, machine: Machine) -> None:
    machine.failing = {"fit"}
    for main in (experiment.main, negatives.main):
        assert main(["--root", str(beir), "--output", str(tmp_path / main.__module__)]) == 1
    assert machine.ran == ["fit", "fit"]


@pytest.mark.slow
def test_the_smoke_version_measures_what_it_trained_and_then_has_nothing_left_to_do(
    beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    output = tmp_path / "out"
    arguments = ["--root", str(beir), "--output", str(output), "--smoke", "--seeds", "0", "--variants", FULL, UNTRAINED]
    assert experiment.main([*arguments, "--jobs", "2"]) == 0
    results = json.loads((output / "stage1.json").read_text())
    assert list(results["figures"]) == [FULL, UNTRAINED]
    for name in (FULL, UNTRAINED):
        assert set(results["figures"][name]) == {"dev", "test", "unseen"}
        modes = results["figures"][name]["test"]
        assert set(modes) == {"thinking", "direct", "empty", "shuffled", "thoughts"}
        assert modes == results["figures"][name]["unseen"]  # the same queries, and the same best checkpoint
        for mode in ("thinking", "direct"):
            assert 0 <= modes[mode]["ndcg@10"]["mean"] <= modes[mode]["recall@100"]["mean"] <= 1
    assert results["seconds"][FULL][0] > 0 == results["seconds"][UNTRAINED][0]
    assert (output / "full" / "seed0" / "best.ckpt").is_file()
    assert results["queries"] == {"dev": 40, "test": 40, "unseen": 40}
    assert results["bm25"]["test"]["ndcg@10"] > 0.3
    assert str(beir) not in json.dumps(results)
    assert (output / "stage1.png").read_bytes().startswith(b"\x89PNG")
    assert "BM25" in capsys.readouterr().out

    monkeypatch.setattr(jobs, "execute", lambda arguments, log: pytest.fail("nothing is left to do"))
    assert experiment.main(arguments) == 0
    assert json.loads((output / "stage1.json").read_text())["figures"] == results["figures"]


def mine(beir: Path, output: Path) -> None:
    """Two negatives for each training query but the first, which has none."""
    shutil.copytree(beir, output)
    (output / "negatives").mkdir()
    lines = [f"train{row}\td{(row + step) % 40}" for row in range(1, 40) for step in (1, 2)]
    write_lines(output / "negatives" / "train.tsv", ["query-id\tcorpus-id", *lines])


def test_mined_and_random_negatives_are_trained_with_alike(
    beir: Path, tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"

    def run(arguments: list[str], log: Path) -> int:
        code = machine(arguments, log)
        if arguments[2] == "fit":
            (log.parent / "logs" / "version_0").mkdir(parents=True)
            (log.parent / "logs" / "version_0" / "config.yaml").touch()
        if arguments[2] == "mine":
            mine(beir, Path(option(arguments, "--output")))
        return code

    monkeypatch.setattr(jobs, "execute", run)
    monkeypatch.setattr(
        negatives, "conclude", lambda settings, program, kind, variants, done: 7 if len(done) == 3 else 0
    )
    arguments = ["--root", str(beir), "--output", str(output), "--seeds", "2"]
    assert negatives.main(arguments) == 7
    assert machine.ran == ["fit", "fit", "test", "mine", "fit", "test", "fit", "test"]
    mining, at_random, mined = (machine.commands[place] for place in (3, 4, 6))
    assert option(mining, "--config") == str(output / "full" / "seed2" / "logs" / "version_0" / "config.yaml")
    assert option(mining, "--ckpt_path") == str(output / "full" / "seed2" / "best.ckpt")
    roots = [Path(option(command, "--data.init_args.root")) for command in (at_random, mined)]
    assert [str(root.relative_to(output)) for root in roots] == ["random/seed2", "mining/seed2/data"]
    assert option(at_random, "--data.init_args.negatives") == option(mined, "--data.init_args.negatives") == "1"
    asked = [BeirDataModule(str(root)).queries("train") for root in roots]
    assert [[len(query.negatives) for query in queries] for queries in asked] == [[0, *[2] * 39]] * 2
    assert [query.negatives for query in asked[0]] != [query.negatives for query in asked[1]]

    machine.ran.clear()
    assert negatives.main(arguments) == 7
    assert machine.ran == []


def test_random_negatives_are_as_many_as_the_mined_and_none_is_relevant(beir: Path) -> None:
    data = BeirDataModule(str(beir))
    queries = [
        q._replace(negatives=tuple(f"d{i}" for i in range(1, 1 + n % 5))) for n, q in enumerate(data.queries("train"))
    ]
    drawn = negatives.random_negatives(queries, data, 0)
    for number, query in enumerate(queries):
        assert len(set(drawn[query.id])) == len(drawn[query.id]) == number % 5
        assert not set(drawn[query.id]) & set(query.relevant)
        assert set(drawn[query.id]) <= set(data.corpus("train").ids)
    assert negatives.random_negatives(queries, data, 0) == drawn
    assert negatives.random_negatives(queries, data, 1) != drawn
    everything = [queries[0]._replace(negatives=tuple(data.corpus("train").ids))]
    assert len(negatives.random_negatives(everything, data, 0)[queries[0].id]) == 39
