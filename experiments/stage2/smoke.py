"""The minute's version: data made of random words, a tiny model, a few steps, everything in this process."""

import json
import logging
import random
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from experiments.stage1 import several
from srch3.cli import main as srch3

DOCUMENTS = 40
STEPS = 2
_LETTERS = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu")
SMOKE_TRAINING = ["--trainer.log_every_n_steps", "1", "--data.init_args.batch_size", "8"]


def make_data(folder: Path) -> Path:
    """Writes a BEIR folder of documents of five words each, asked for by two of them, in every split by others.

    Returns:
        The same folder.
    """
    draw = random.Random(0)
    words = [first + second for first in _LETTERS for second in _LETTERS]
    documents = [draw.sample(words, 5) for _ in range(DOCUMENTS)]
    splits = {"train": (0, 1), "dev": (1, 2), "test": (2, 3), "test_unseen": (3, 4)}
    queries = [
        {"_id": f"{split}{row}", "text": f"{some[first]} {some[second]} {row}"}
        for split, (first, second) in splits.items()
        for row, some in enumerate(documents)
    ]
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = [{"_id": f"d{row}", "title": some[0], "text": " ".join(some[1:])} for row, some in enumerate(documents)]
    _write(folder / "corpus.jsonl", map(json.dumps, corpus))
    _write(folder / "queries.jsonl", map(json.dumps, queries))
    for split in splits:
        judgements = [f"{split}{row}\td{row}\t1" for row in range(DOCUMENTS)]
        _write(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *judgements])
    return folder


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def run_here(arguments: list[str], log: Path) -> int:
    """Does what ``python`` with these arguments would do, in this process, which saves the start of another.

    Args:
        arguments: ``-m``, ``srch3`` or ``experiments.stage1.several``, and what follows.
        log: Receives what it says.

    Returns:
        The exit code.
    """
    _, program, *rest = arguments
    logging.disable(logging.INFO)
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            srch3(rest) if program == "srch3" else several.main(rest)
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
        finally:
            logging.disable(logging.NOTSET)
    return 0
