"""Everything that the README shows is run, on data and models of a moment's size."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import datasets
import lightning as L
import pytest
import torch
import uvicorn

from experiments.quickstart import seeds
from srch3.cli import SearchCLI, main
from srch3.serving import server
from tests.models import make_model_folder
from tests.rewards.outcomes import outcome
from tests.runs import QUIET, TINY, make_beir_folder, write_lines

ROOT = Path(__file__).parent.parent
PLACEHOLDERS = {
    "BEIR_FOLDER": "beir",
    "MODEL_FOLDER": "model",
    "MINED_FOLDER": "mined",
    "DATA_SET": "saved",
    "SOURCE_FOLDER": "source",
}
RUN_BY_MAKE = {"make quickstart", "make test"}
SHORT = ["--data.init_args.batch_size=4", "--trainer.max_steps=2", "--trainer.val_check_interval=1"]
OTHER_LANGUAGES = {"text", "bibtex"}
USING = ["index", "search", "serve", "evaluate", "export"]


class Block(NamedTuple):
    """A fenced block: its language, the name of the file that it shows, if any, and what stands in it."""

    language: str
    name: str
    text: str


def blocks(document: str) -> list[Block]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return [Block(*found) for found in re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def filled(text: str) -> str:
    for name, value in PLACEHOLDERS.items():
        text = text.replace(name, value)
    return text


def commands(document: str) -> list[list[str]]:
    shells = [block.text for block in blocks(document) if block.language == "bash"]
    lines = [line for text in shells for line in text.replace("\\\n", " ").strip().splitlines()]
    return [shlex.split(filled(line)) for line in lines if line not in RUN_BY_MAKE]


def examples(line: str) -> Iterator[str]:
    """The line that the README shows, and more of its kind."""
    record = json.loads(line)
    for number in range(40):
        yield json.dumps({**record, "query": f"{record['query']} {number}", "positives": [f"# {number}", "x"]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The repository as a reader sees it, with data and a model under the names that stand for them."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "configs").symlink_to(ROOT / "configs")
    make_beir_folder(folder / "beir")
    make_model_folder(folder / "model")
    rows = [{"question": f"where is {number}", "answer": f"here is {number}"} for number in range(40)]
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    (folder / "source").symlink_to(ROOT / "srch3")
    for block in blocks("README.md"):
        if block.name:
            content = list(examples(block.text)) if block.language == "json" else [block.text]
            write_lines(folder / block.name, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        patch.syspath_prepend(str(folder))
        yield folder


def run(command: list[str]) -> SearchCLI:
    """A command of the README, cut short."""
    python, switch, package, subcommand, *options = command
    assert (python, switch, package) == ("python", "-m", "srch3")
    if subcommand in USING:
        return main([subcommand, *options])
    if subcommand == "think":
        return main([subcommand, *options, "--teacher.max_new_tokens=4"])
    first_run = any(option.startswith("configs/") for option in options)
    resumes = subcommand == "fit" and "--ckpt_path" in options
    more = [*TINY, *SHORT] if first_run else ["--trainer.max_steps=3"] * resumes
    return main([subcommand, *options, *more, *QUIET])


def test_every_block_is_run_or_is_no_program() -> None:
    kinds = {(block.language, bool(block.name)) for block in blocks("README.md")}
    run_here = {("bash", False), ("python", False), ("python", True), ("yaml", True), ("json", True)}
    assert kinds - {(language, False) for language in OTHER_LANGUAGES} == run_here
    shells = "".join(block.text for block in blocks("README.md") if block.language == "bash")
    assert {line for line in shells.splitlines() if line.startswith("make ")} == RUN_BY_MAKE


@pytest.mark.slow
def test_the_commands_run_in_their_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: served.append(sockets[0].getsockname()[0]))
    monkeypatch.setattr(server, "listen", lambda host, port, listen=server.listen: listen(host, 0))
    done = [run(command) for command in commands("README.md")]
    subcommands = [command[3] for command in commands("README.md")]
    assert subcommands == ["fit", "fit", "fit", "test", "predict", *USING, "think", "mine", *["fit"] * 5]
    one, two, resumed, tested, predicted, *_ = done
    others = done[-5:]
    assert [cli.trainer.global_step for cli in (one, two, resumed)] == [2, 2, 3]
    assert Path("runs/version_1/checkpoints/best.ckpt").is_file()
    assert 0 <= tested.trainer.callback_metrics["test/ndcg@10"] <= 1
    predictions = Path(predicted.trainer.loggers[0].log_dir or "") / "predictions"
    assert {path.name for path in predictions.iterdir()} == {"run.trec", "searches.jsonl"}
    assert served == ["127.0.0.1"]
    used = ["searchable/manifest.json", "results/results.json", "exported/modules.json"]
    assert [name for name in used if not Path(name).is_file()] == []
    capsys.readouterr()
    exec(Path("searching.py").read_text(), {})  # our own text
    assert capsys.readouterr().out.count("('d") == 10
    assert 20 < len(Path("thoughts.jsonl").read_text().splitlines()) < 40  # train_slice leaves some out
    assert len(Path("mined/negatives/train.tsv").read_text().splitlines()) > 20
    assert [type(cli.datamodule).__name__ for cli in others[:3]] == [
        "JsonlDataModule",
        "HubDataModule",
        "PythonSourceDataModule",
    ]
    assert type(others[3].trainer.logger).__name__ == "WandbLogger"
    assert type(others[4].model.reward).__name__ == "ReciprocalRank"
    assert all(cli.trainer.global_step == 2 for cli in others)


def tables() -> list[list[str]]:
    """The options of each table, as on a command line."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = re.findall(r"^\| (?:stage 2 )?option \|.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [re.findall(r"^\| `(--.+?)` \|", part, re.MULTILINE) for part in parts]
    assert [len(row) >= 10 for row in rows] == [True, True]
    return [[word for row in table for word in shlex.split(row)] for table in rows]


def test_every_option_of_the_tables_is_one(folder: Path) -> None:
    data = ["--data.init_args.root=beir", "--model.init_args.backbone.init_args.model=model"]
    sft, rl = (
        main([f"--config=configs/small/{stage}.yaml", *data, *options], run=False)
        for stage, options in zip(("sft", "rl"), tables(), strict=True)
    )
    assert sft.datamodule.positives == 2
    assert sft.model.info_nce.widths == [64, 128]
    assert sft.model.cross_entropy.changes
    assert rl.model.updates == 2
    assert rl.model.modes[2] == "mean-4"
    assert (rl.model.policy_loss.normaliser, rl.model.policy_loss.ratio) == ("grpo", "sequence")
    thoughts_alone = ["--model.init_args.frozen=embedder", "--model.init_args.info_nce.init_args.weight=0"]
    assert main(["--config=configs/small/rl.yaml", *data, *thoughts_alone], run=False).model.frozen_embedder


def test_the_rewards_numbers_are_right(folder: Path) -> None:
    names: dict[str, type] = {}
    exec((folder / "my_rewards.py").read_text(), names)  # our own text
    grades = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    found = outcome(torch.tensor([[0.9, 0.7, 0.6]] * 3), grades)
    assert names["ReciprocalRank"]()(found).tolist() == pytest.approx([0.5, 0.0, 1.0])


def test_the_program_in_python_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = [block.text for block in blocks("README.md") if block.language == "python" and not block.name]
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer
    monkeypatch.setattr(L, "Trainer", lambda **settings: trainer(**{**settings, **quiet, "max_steps": 2}))
    monkeypatch.setattr(sys, "argv", ["srch3"])
    names: dict[str, object] = {}
    exec(filled(text), names)
    cosines = names["cosines"]
    assert isinstance(cosines, torch.Tensor)
    assert cosines.shape == (1, 2)
    assert float(cosines.abs().max()) <= 1 + 1e-5


@pytest.mark.slow
def test_the_papers_pair_runs_with_a_tiny_model(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In bfloat16 and with gradient checkpointing, as on a large GPU."""
    monkeypatch.chdir(tmp_path)
    options = [f"--data.init_args.root={folder}/beir", f"--model.init_args.backbone.init_args.model={folder}/model"]
    rehearsal = ["-c", str(ROOT / "configs/trainer/rehearsal.yaml"), *TINY, *QUIET]
    settings = ["--data.init_args.batch_size=2"]
    first = main(["fit", "-c", str(ROOT / "configs/sft.yaml"), *options, *rehearsal, *settings])
    begun = f"--model.init_args.init_from={first.trainer.checkpoint_callbacks[-1].last_model_path}"
    second = main(["fit", "-c", str(ROOT / "configs/rl.yaml"), *options, *rehearsal, *settings, begun])
    assert [cli.trainer.global_step for cli in (first, second)] == [3, 3]
    assert all(cli.trainer.precision == "bf16-mixed" for cli in (first, second))
    assert torch.isfinite(second.trainer.callback_metrics["train/loss"])


def test_the_quickstarts_table_is_that_of_the_committed_results() -> None:
    results = json.loads((ROOT / "experiments/quickstart/results.json").read_text(encoding="utf-8"))
    computed = seeds.table(results).splitlines()
    shown = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if " ± " in line]
    rows = [line for line in shown if line.startswith("|")]
    assert len(rows) >= 6
    assert set(rows) <= set(computed)
