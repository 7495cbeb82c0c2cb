import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from srch3.cli import main
from srch3.usage import SUBCOMMANDS
from tests.cli.line import toy


def test_help_says_what_it_is_and_how_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["--help"], ["fit", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "python -m srch3 fit --config stage1.yaml --config more.yaml --trainer.max_epochs 2\n" in printed
    assert "SRCH3_DEBUG=1" in printed
    for option in ("--environment", "--best_checkpoint.monitor", "--last_checkpoint.every_n_minutes", "--ckpt_path"):
        assert option in printed


def test_the_subcommands_are_described_in_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for name, text in SUBCOMMANDS.items():
        assert f"{name} {text}" in printed
    assert "Perform one evaluation epoch" not in printed
    with pytest.raises(SystemExit):
        main(["test", "--help"])
    assert SUBCOMMANDS["test"] in capsys.readouterr().out


def test_predict_writes_its_results_into_the_run(folder: Path) -> None:
    main(toy("predict", model="Searcher"))
    results = folder / "runs" / "version_0" / "predictions"
    assert len((results / "run.trec").read_text().splitlines()) == 24
    first = json.loads((results / "searches.jsonl").read_text().splitlines()[0])
    assert first["hits"][0] == {"id": "a", "score": 0.5}


@pytest.mark.slow
def test_the_program_exits_with_a_code_and_one_line(folder: Path) -> None:
    command = [sys.executable, "-m", "srch3", "fit", "--modle", "x"]
    root = str(Path(__file__).parents[2])
    failed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root})
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr == "error: unknown key modle; did you mean model? (see: python -m srch3 fit --help)\n"


@pytest.mark.slow
def test_two_processes_share_the_cores_between_them(folder: Path) -> None:
    program = (
        "import torch; from srch3.cli import main;"
        f"cli = main({toy('fit', '--trainer.devices=2', '--trainer.strategy=ddp')!r});"
        "print(f'threads {torch.get_num_threads()}\\n', end='')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    (folder / "program.py").write_text(program)
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    each = max(1, len(os.sched_getaffinity(0)) // 2)
    assert done.stdout.count(f"threads {each}\n") == 2
