import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from srch3.cli import main
from srch3.commands import think
from srch3.commands.teacher import Teacher
from tests.models import make_model_folder
from tests.runs import make_beir_folder, small

OUTPUT = "thoughts.jsonl"
THINK = ["think", "--data=BeirDataModule", "--data.root=beir", "--model=model", "--teacher.device=cpu"]
SHORT = ["--teacher.max_new_tokens=5", "--teacher.tokens_per_batch=600"]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    make_beir_folder(folder / "beir", documents=20)
    make_model_folder(folder / "model", chat=False)
    return folder


@pytest.fixture(autouse=True)
def folder(templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(templates, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["srch3"])
    return tmp_path


def run(*more: str, output: str = OUTPUT) -> dict[str, str]:
    main([*THINK, *SHORT, f"--output={output}", *more])
    return thoughts(Path(output))


def thoughts(path: Path) -> dict[str, str]:
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert all(record.keys() == {"id", "query", "thought"} for record in records)
    assert len({record["id"] for record in records}) == len(records)
    return {record["id"]: record["thought"] for record in records}


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def refused(*more: str, output: str = OUTPUT) -> str:
        with pytest.raises(SystemExit) as stop:
            main([*THINK, *SHORT, f"--output={output}", *more])
        assert stop.value.code in {1, 2}
        last = capfd.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        return last.removeprefix("error: ")

    return refused


def test_every_training_query_gets_a_thought_and_training_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    written = run()
    assert sorted(written) == sorted(f"train{row}" for row in range(20))
    assert len(set(written.values())) > 5
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("20 thoughts")]
    options = shlex.split(line.partition("train with them: ")[2])
    cli = main(small("fit", "sft", Path("beir"), Path("model"), *options)[1:], run=False)
    batch = next(iter(cli.datamodule.train_dataloader()))
    assert batch.thoughts == [written[name] for name in batch.ids]


def test_another_split_and_a_document_in_the_prompt(folder: Path) -> None:
    plain = run("--split=test", "--teacher.prompt={query}")
    assert sorted(plain) == sorted(f"test{row}" for row in range(20))
    informed = run("--split=test", "--teacher.prompt={query} {positive}", output="informed.jsonl")
    assert informed != plain


def test_the_most_relevant_document_stands_in_the_prompt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "beir/qrels/train.tsv").open("a") as file:
        file.write("train0\td7\t3\ntrain0\td8\t3\ntrain1\td9\t1\n")
    asked: list[Any] = []
    original = Teacher.write
    monkeypatch.setattr(Teacher, "write", lambda self, some: original(self, asked.extend(some) or some))
    cli: Any = main([*THINK, *SHORT, f"--output={OUTPUT}", "--teacher.prompt={query} {positive}"])
    corpus = cli.datamodule.corpus("train")
    positives = {one.query: one.positive for one in asked}
    texts = {query.id: query.text for query in cli.datamodule.queries("train")}
    assert positives[texts["train0"]] == corpus.texts[7]
    assert positives[texts["train1"]] == corpus.texts[1]


@pytest.mark.parametrize("keep", [0, 1, 300, 0.6])
def test_after_a_kill_the_same_command_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch, keep: float) -> None:
    whole = run()
    path = folder / OUTPUT
    content = path.read_bytes()
    kept = content[: int(keep * len(content)) if 0 < keep < 1 else int(keep)]
    path.write_bytes(kept)
    asked: list[Any] = []
    original = Teacher.write
    monkeypatch.setattr(Teacher, "write", lambda self, some: original(self, asked.extend(some) or some))
    assert run() == whole
    assert len(asked) == 20 - kept.count(b"\n")
    assert path.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])


def test_a_finished_file_is_left_as_it_is_without_loading_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run()
    monkeypatch.setattr(Teacher, "load", lambda self, model: pytest.fail("loaded"))
    assert run() == whole


def test_chunks_and_batches_do_not_change_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run()
    monkeypatch.setattr(think, "_CHUNK", 3)
    assert run("--teacher.tokens_per_batch=1", output="one.jsonl") == whole


def test_another_model_or_prompt_is_refused(refusal: Callable[..., str], folder: Path) -> None:
    whole = run()
    assert refusal("--teacher.prompt=about {query}").startswith(f"output: {OUTPUT} was begun with prompt 'Write what")
    shutil.copytree("model", "other")
    assert refusal("--model=other") == (
        f"output: {OUTPUT} was begun with model 'model'; got 'other'; give another name, or remove both files to begin "
        "anew"
    )
    assert thoughts(folder / OUTPUT) == whole


def test_thoughts_of_other_queries_are_not_taken_for_finished(refusal: Callable[..., str]) -> None:
    run()
    path = Path("beir/queries.jsonl")
    path.write_text(path.read_text().replace(' 3"', ' three"'))
    assert "has a thought for query 'train3' with another text (1 such in all)" in refusal()


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    whole = run(output="whole.jsonl")
    original = Teacher.write

    def interrupted(self: Teacher, some: Any) -> Any:
        for number, batch in enumerate(original(self, some)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    monkeypatch.setattr(Teacher, "write", interrupted)
    with pytest.raises(SystemExit) as stop:
        run("--teacher.tokens_per_batch=300")
    assert stop.value.code == 130
    assert capfd.readouterr().err.endswith("stopped; the same command goes on from there\n")
    monkeypatch.setattr(Teacher, "write", original)
    assert 0 < len(thoughts(Path(OUTPUT))) < 20
    assert run("--teacher.tokens_per_batch=300") == whole


def test_too_little_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]) -> None:
    def fail(self: Teacher, some: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Teacher, "write", fail)
    assert "lower teacher.tokens_per_batch" in refusal()


def test_the_config_of_a_run_serves_and_its_other_sections_are_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "parts").mkdir()
    (folder / "parts/data.yaml").write_text("class_path: BeirDataModule\ninit_args: {root: beir, val_fraction: 1e-1}\n")
    (folder / "run.yaml").write_text(
        "seed_everything: 3\nmodel: {class_path: SFTModule, init_args: {seed: &s 3}}\ntrainer: {max_steps: 2}\n"
        "data: parts/data.yaml\nckpt_path: null\nteacher: {max_new_tokens: 5, temperature: 0e-3}\n"
    )
    main(["think", "--config=run.yaml", "--model=model", f"--output={OUTPUT}", "--data.init_args.seed=4"])
    assert thoughts(folder / OUTPUT) == run(output="other.jsonl")
    assert "of the configuration, model, trainer, ckpt_path are not needed and left out" in caplog.text


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--modle=x"], "unknown key modle; did you mean model? (see: python -m srch3 think --help)"),
        (["--teacher.promt=x"], "unknown key teacher.promt; did you mean teacher.prompt?"),
        (["--teacher.max_new_tokens=many"], "teacher.max_new_tokens: expected int; got many"),
        (["--split=all"], "split: expected one of 'train', 'val', 'test', 'predict'; got all"),
        (["--trainer.max_steps=1"], "unknown key trainer.max_steps"),
        (["--data.rot=x"], "unknown key data.init_args.rot: BeirDataModule has no such argument; did you mean root?"),
        (["--config=absent.yaml"], "--config: cannot read absent.yaml"),
        (["--teacher.prompt=x"], "teacher.prompt: expected a text with {query} in it; got 'x'"),
        (["--data.root=absent"], "data.init_args.root: expected a folder at absent; got none"),
        (["--model=./absent"], "model: expected a folder written by save_pretrained, got './absent', which is absent"),
        (["--data=tests.programs.NumberData"], "data: think expects a data module with judged queries; got NumberData"),
    ],
)
def test_mistakes_are_one_line(refusal: Callable[..., str], more: list[str], expected: str) -> None:
    assert refusal(*more).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("data: [\n", "bad.yaml:2:1: not valid YAML"), ("- data\n", "bad.yaml: expected keys such as")],
)
def test_a_bad_config_file_is_one_line(folder: Path, refusal: Callable[..., str], text: str, expected: str) -> None:
    (folder / "bad.yaml").write_text(text)
    assert refusal("--config=bad.yaml").startswith(expected)


def test_a_prompt_with_a_document_needs_judged_queries(folder: Path, refusal: Callable[..., str]) -> None:
    with (folder / "beir/qrels/test.tsv").open("a") as file:
        file.write("dev0\td1\t0\n")
    line = refusal("--split=predict", "--teacher.prompt={query} {positive}")
    assert line.startswith("teacher.prompt: {positive} expects queries with a relevant document; got 'dev0' without")


def test_what_must_be_given_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["think"])
    assert stop.value.code == 2
    assert "missing required keys output, model, data (see: python -m srch3 think --help)" in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["think", "--help"], ["--help"]):
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == 0
    own, general = capsys.readouterr().out.split("usage: python -m srch3 [")
    for text in (
        "--teacher.prompt",
        "--teacher.tokens_per_batch",
        "--split",
        "{positive}",
        "usage: python -m srch3 think",
    ):
        assert text in own
    assert "--trainer" not in own
    assert "  think  " in general
    assert "  mine  " in general


@pytest.mark.slow
def test_the_command_runs_from_a_shell(folder: Path) -> None:
    command = [sys.executable, "-m", "srch3", *THINK, *SHORT, f"--output={OUTPUT}"]
    root = str(Path(__file__).parent.parent.parent)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("20 thoughts; train with them: ")
    assert len(thoughts(folder / OUTPUT)) == 20
