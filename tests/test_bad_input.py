"""Whatever a user can get wrong ends in one line that names the argument, and a code other than zero."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from srch3.checkpoints import read_checkpoint
from srch3.cli import main
from tests.models import make_model_folder
from tests.runs import make_beir_folder, small, write_lines

MODEL = "model.init_args.backbone.init_args"
LAST = "runs/version_0/checkpoints/last.ckpt"

Change = Callable[[Path], object]
Refusal = Callable[..., str]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set and a model in which nothing is wrong."""
    folder = tmp_path_factory.mktemp("templates")
    make_beir_folder(folder / "beir")
    make_model_folder(folder / "model", chat=False)
    return folder


@pytest.fixture(autouse=True)
def folder(templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with copies of both."""
    shutil.copytree(templates, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["srch3"])
    return tmp_path


def run(stage: str, *more: str, subcommand: str = "fit") -> list[str]:
    short = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0"] if subcommand == "fit" else []
    return small(subcommand, stage, Path("beir"), Path("model"), *short, *more)


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str]) -> Refusal:
    """Runs a command that must fail, and returns the one line that it prints to stderr but for Lightning's remarks."""

    def refused(args: list[str]) -> str:
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code in {1, 2}
        printed = capfd.readouterr().err
        assert "Traceback" not in printed
        lines = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, printed
        assert printed.endswith(f"{lines[0]}\n"), "the error comes last, and whole"
        return lines[0].removeprefix("error: ")

    return refused


def append(name: str, line: str) -> Change:
    def change(root: Path) -> None:
        with (root / name).open("a") as file:
            file.write(f"{line}\n")

    return change


def replace(name: str, old: str, new: str) -> Change:
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new))


def empty(name: str) -> Change:
    return lambda root: (root / name).write_text("")


def remove(name: str) -> Change:
    return lambda root: (root / name).unlink()


# Keys, classes and values


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ("--data.init_args.root", "missing required key data.init_args.root"),
        (f"--{MODEL}.model", f"missing required key {MODEL}.model"),
    ],
)
def test_a_missing_key_is_named(refusal: Refusal, left_out: str, expected: str) -> None:
    args = [arg for arg in run("sft") if not arg.startswith(f"{left_out}=")]
    assert refusal(args).startswith(expected)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (
            "data.init_args.rot=x",
            "unknown key data.init_args.rot: BeirDataModule has no such argument; did you mean root",
        ),
        ("trainer.max_stpes=3", "unknown key trainer.max_stpes; did you mean trainer.max_steps?"),
        ("model.init_args.base_kl.init_args.wieght=1", "unknown key model.init_args.base_kl.init_args.wieght"),
        (
            "data.init_args.thoughts=KeywordThoughs",
            "data.init_args.thoughts: unknown class KeywordThoughs; did you mean",
        ),
        (f"{MODEL}.prompts=ChatPromts", f"{MODEL}.prompts: unknown class ChatPromts; did you mean ChatPrompts?"),
        (
            "environment=SearchEnviroment",
            "environment: unknown class SearchEnviroment; did you mean SearchEnvironment?",
        ),
        ("model.init_args.modes=[thinkin]", "model.init_args.modes: expected one of 'thinking', 'direct', 'empty'"),
        ("model.init_args.optimizer.init_args.lr=abc", "model.init_args.optimizer.lr: expected float; got abc (see"),
        (f"{MODEL}.dtype=int8", f"{MODEL}.dtype: expected one of 'float32', 'bfloat16', 'float16'; got int8"),
    ],
)
def test_what_is_misspelt_is_named_with_what_was_meant(refusal: Refusal, option: str, expected: str) -> None:
    assert refusal(run("sft", f"--{option}")).startswith(expected)


@pytest.mark.parametrize(
    ("stage", "option", "expected"),
    [
        ("sft", "data.init_args.batch_size=0", "data.init_args.batch_size: expected at least 1; got 0"),
        ("sft", "data.init_args.limit_val=0", "data.init_args.limit_val: expected at least 1; got 0"),
        ("sft", "data.init_args.train_slice=[0.5,0.5]", "data.init_args.train_slice: expected two numbers"),
        ("sft", "data.init_args.thoughts.init_args.terms=0", "data.init_args.thoughts.init_args.terms: expected"),
        ("sft", "model.init_args.base_kl.init_args.weight=-1", "model.init_args.base_kl.init_args.weight: expected"),
        ("rl", "model.init_args.info_nce.init_args.weight=nan", "model.init_args.info_nce.init_args.weight: expected"),
        ("sft", "model.init_args.train_modes=[thinking,shuffled]", "model.init_args.train_modes: expected thinking"),
        ("rl", "model.init_args.samples=1", "model.init_args.samples: expected at least 2"),
        ("rl", "model.init_args.warmup=2", "model.init_args.warmup: expected a share of all steps"),
        ("rl", "model.init_args.optimizer.init_args.lr=-1", "model.init_args.optimizer: Invalid learning rate: -1.0"),
        ("rl", "environment.init_args.budget.init_args.share=0", "environment.init_args.budget.init_args.share: exp"),
        ("rl", "environment.init_args.audit_every_n_steps=-1", "environment.init_args.audit_every_n_steps: expected 0"),
        ("sft", f"{MODEL}.max_query_tokens=0", f"{MODEL}.max_query_tokens: expected at least 1"),
        ("sft", f"{MODEL}.embed_token=", f"{MODEL}.embed_token: expected the text of a token"),
        ("sft", f"{MODEL}.prompts.init_args.direct=words", f"{MODEL}.prompts.init_args.direct: expected a format with"),
        ("sft", "trainer.accelerator=abacus", "trainer: "),
        (
            "sft",
            "last_checkpoint.dirpath=/dev/null/here",
            "checkpoint: cannot write /dev/null/here/last.ckpt: Not a dir",
        ),
        ("sft", "trainer.logger.init_args.save_dir=/dev/null/here", "cannot use /dev/null/here: Not a directory"),
    ],
)
def test_a_value_out_of_range_is_named(refusal: Refusal, stage: str, option: str, expected: str) -> None:
    assert refusal(run(stage, f"--{option}")).startswith(expected)


def test_an_index_setting_out_of_range_is_named(refusal: Refusal) -> None:
    line = refusal(run("rl", "--environment.init_args.index=HnswIndex", "--environment.init_args.index.init_args.m=1"))
    assert line.startswith("environment.init_args.index.init_args.m: expected at least 2; got 1")


def test_a_reward_out_of_range_is_named(refusal: Refusal) -> None:
    line = refusal(run("rl", "--model.init_args.reward=LogRank", "--model.init_args.reward.init_args.k=0"))
    assert line.startswith("model.init_args.reward.init_args.k: expected an integer >= 1; got 0")


def test_adapters_for_layers_that_are_not_there_are_named(refusal: Refusal) -> None:
    lora = [f"--{MODEL}.lora=LoRA", f"--{MODEL}.lora.init_args.target_modules=[nope]"]
    assert refusal(run("sft", *lora)).startswith(f"{MODEL}.lora.target_modules: expected names of linear layers")


def test_a_stage_that_searches_without_an_environment_is_told_what_to_set(refusal: Refusal) -> None:
    assert "set `environment: SearchEnvironment`" in refusal(run("rl", "--environment=NoEnvironment"))


def test_a_schedule_without_an_end_is_told_what_to_set(refusal: Refusal) -> None:
    endless = ["--trainer.max_steps=-1", "--trainer.max_epochs=-1", "--model.init_args.schedule=linear"]
    assert "set trainer.max_steps or trainer.max_epochs" in refusal(run("rl", *endless))


def test_fewer_hits_than_the_metrics_look_at_are_refused(refusal: Refusal) -> None:
    shutil.rmtree("beir")
    make_beir_folder(Path("beir"), documents=120)
    line = refusal(run("sft", "--model.init_args.hits=10", subcommand="validate"))
    assert line.startswith("model.init_args.hits: expected at least 100")


# Data


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (shutil.rmtree, "data.init_args.root: expected a folder at beir; got none; check the path"),
        (remove("corpus.jsonl"), "data.init_args.root: expected a file at beir/corpus.jsonl; got none"),
        (remove("qrels/train.tsv"), "data.init_args.root: expected a file at beir/qrels/train.tsv; got none"),
        (empty("corpus.jsonl"), "data.init_args.root: expected at least one document in beir/corpus.jsonl; got none"),
        (append("qrels/train.tsv", "train1\tnope\t1"), "data: expected every judged document in the corpus of train; "),
        (append("qrels/train.tsv", "nope\td1\t1"), "beir/qrels/train.tsv:42: expected the id of a query"),
        (append("qrels/train.tsv", "train1\td1\thigh"), "beir/qrels/train.tsv:42: expected an integer grade"),
        (append("qrels/train.tsv", "train1 d1 1"), "beir/qrels/train.tsv:42: expected query id, document id, grade"),
        (
            append("corpus.jsonl", '{"_id": '),
            "beir/corpus.jsonl:41: expected one JSON object per line; got broken JSON",
        ),
        (append("corpus.jsonl", '{"_id": "x"}'), "beir/corpus.jsonl:41: expected a field 'text'"),
        (append("corpus.jsonl", '{"_id": 7, "text": "x"}'), "beir/corpus.jsonl:41: expected a string as '_id'; got 7"),
        (append("corpus.jsonl", '{"_id": "d1", "text": "x"}'), "corpus: expected unique document ids; got 'd1' twice"),
        (replace("qrels/train.tsv", "\t1\n", "\t0\n"), "data: expected at least one query with a relevant document in"),
        (
            replace("qrels/dev.tsv", "\t1\n", "\t0\n"),
            "data: expected at least one query with a relevant document in val",
        ),
    ],
)
def test_data_that_cannot_be_used_is_named_with_file_and_line(refusal: Refusal, change: Change, expected: str) -> None:
    change(Path("beir"))
    assert refusal(run("sft")).startswith(expected)


def test_the_judgement_without_a_document_is_named(refusal: Refusal) -> None:
    append("qrels/train.tsv", "train1\tnope\t1")(Path("beir"))
    assert "got 'nope', judged for query 'train1', without a document" in refusal(run("sft"))


def test_an_absent_test_split_is_refused_when_it_is_asked_for(refusal: Refusal) -> None:
    remove("qrels/test.tsv")(Path("beir"))
    line = refusal(run("sft", subcommand="test"))
    assert line.startswith("data.init_args.root: expected a file at beir/qrels/test.tsv")


def test_a_broken_line_of_a_jsonl_file_is_named(refusal: Refusal) -> None:
    write_lines(Path("train.jsonl"), [json.dumps({"query": "a", "positives": "not a list"})])
    data = [option for option in run("sft") if not option.startswith("--data.")]
    line = refusal([*data, "--data=JsonlDataModule", "--data.init_args.train=train.jsonl"])
    assert line.startswith("train.jsonl:1: expected a list of strings as 'positives'")


# Models


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (shutil.rmtree, "expected a folder written by save_pretrained, got './model', which is absent"),
        (empty("config.json"), "expected the folder or the hub name of a causal language model"),
        (empty("model.safetensors"), "expected the folder or the hub name of a causal language model in safetensors"),
        (remove("model.safetensors"), "expected the folder or the hub name of a causal language model in safetensors"),
        (remove("tokenizer.json"), "expected a tokenizer beside the model, got none in './model'"),
    ],
)
def test_a_model_folder_that_cannot_be_used_is_named(refusal: Refusal, change: Change, expected: str) -> None:
    args = run("sft", f"--{MODEL}.model=./model")
    change(Path("model"))
    assert refusal(args).startswith(f"{MODEL}.model: {expected}")


def test_a_model_that_no_hub_has_is_named(refusal: Refusal) -> None:
    line = refusal(run("sft", f"--{MODEL}.model=nobody/nothing"))
    assert line.startswith(f"{MODEL}.model: expected the folder or the hub name of a causal language model")
    assert "got 'nobody/nothing'" in line


def test_a_model_without_a_chat_template_is_told_what_to_set(refusal: Refusal) -> None:
    line = refusal(run("sft", f"--{MODEL}.prompts=ChatPrompts"))
    assert line.startswith(f"{MODEL}.prompts: ChatPrompts needs a chat template")
    assert "set `prompts: PlainPrompts`" in line


# Training


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("sft", "the training loss became nan at step 1 (cross_entropy nan"),
        ("rl", "the model's next-token probabilities are no"),
    ],
)
def test_numbers_that_diverge_stop_the_run_and_say_what_to_look_at(refusal: Refusal, stage: str, expected: str) -> None:
    diverging = ["--model.init_args.optimizer.init_args.lr=1e30", "--model.init_args.schedule=constant"]
    line = refusal(run(stage, *diverging, "--model.init_args.warmup=0", "--trainer.max_steps=5"))
    assert line.startswith(expected)
    assert "lower the learning rate" in line
    assert "trainer.gradient_clip_val" in line


def test_a_checkpoint_of_another_stage_is_refused_with_the_way_out(refusal: Refusal) -> None:
    main(run("sft"))
    line = refusal(run("rl", f"--ckpt_path={LAST}"))
    assert line.startswith(f"ckpt_path: {LAST} was saved by SFTModule, but `model` is RLModule")
    assert f"`model.init_args.init_from: {LAST}`" in line
    assert read_checkpoint(Path(LAST))["global_step"] == 2


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("ckpt_path=absent.ckpt", "ckpt_path: expected a checkpoint file; got absent.ckpt"),
        ("ckpt_path=beir/corpus.jsonl", "ckpt_path: beir/corpus.jsonl is damaged or is not a checkpoint"),
        ("model.init_args.init_from=absent.ckpt", "model.init_args.init_from: expected a checkpoint file, got 'absent"),
        ("model.init_args.init_from=beir/corpus.jsonl", "model.init_args.init_from: expected a checkpoint of srch3"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(refusal: Refusal, option: str, expected: str) -> None:
    assert refusal(run("rl", f"--{option}")).startswith(expected)


def test_an_absent_checkpoint_to_start_from_is_refused_before_any_work(refusal: Refusal) -> None:
    Path("before").mkdir()
    (Path("before") / "last.ckpt").touch()
    line = refusal(run("rl", "--model.init_args.init_from=before/best.ckpt", f"--{MODEL}.model=./absent"))
    assert line.startswith("model.init_args.init_from: expected a checkpoint file, got 'before/best.ckpt', which does")
    assert "'before/last.ckpt' beside it does" in line
    assert not Path("runs").exists()


def test_a_budget_that_learns_from_audits_is_refused_without_any(refusal: Refusal) -> None:
    audits = ["--environment.init_args.audit_every_n_steps=0"]
    line = refusal(run("rl", *audits, "--environment.init_args.budget=ErrorBudget"))
    assert line.startswith("environment.init_args.audit_every_n_steps: expected at least 1 with ErrorBudget")
    assert not Path("runs").exists()


def test_weights_of_another_model_are_refused(refusal: Refusal) -> None:
    main(run("sft"))
    make_model_folder(Path("other"), "gpt2", chat=False)
    line = refusal(run("rl", f"--model.init_args.init_from={LAST}", f"--{MODEL}.model=./other"))
    assert line.startswith(f"model.init_args.init_from: expected weights that fit './other', got '{LAST}'")


def test_a_full_disk_leaves_the_last_good_checkpoint(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = os.fsync
    files: list[int] = []

    def fill_up(descriptor: int) -> None:
        files.append(descriptor)
        if len(files) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    line = refusal(run("sft", "--last_checkpoint.every_n_train_steps=1", "--trainer.max_steps=9"))
    assert line.startswith("checkpoint: cannot write ")
    assert "No space left on device; the previous last.ckpt is intact" in line
    assert line.endswith(f"make room and resume with --ckpt_path {LAST}")
    assert read_checkpoint(Path(LAST))["global_step"] == 2
    monkeypatch.setattr(os, "fsync", synced)
    assert main(run("sft", f"--ckpt_path={LAST}", "--trainer.max_steps=3")).trainer.global_step == 3
