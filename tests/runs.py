"""What runs of the whole program need: a BEIR folder, arguments that keep a run short, and a witness."""

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from tests.models import make_model_folder
from tests.toy import WORDS

CONFIGS = Path(__file__).parent.parent / "configs"
QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.log_every_n_steps=1",
]
TINY = [
    "--model.init_args.backbone.init_args.max_query_tokens=8",
    "--model.init_args.backbone.init_args.max_document_tokens=12",
    "--model.init_args.backbone.init_args.max_thought_tokens=4",
]


def make_beir_folder(folder: Path, documents: int = 40) -> Path:
    """Documents of five random words; each is asked for by two of them, in every split by others."""
    draw = random.Random(0)
    texts = [draw.sample(WORDS, 5) for _ in range(documents)]
    corpus = [{"_id": f"d{row}", "title": words[0], "text": " ".join(words[1:])} for row, words in enumerate(texts)]
    queries, judgements = [], {}
    for split, (first, second) in {"train": (0, 1), "dev": (1, 2), "test": (2, 3)}.items():
        asked = [{"_id": f"{split}{row}", "text": f"{w[first]} {w[second]} {row}"} for row, w in enumerate(texts)]
        queries += asked
        judgements[split] = [f"{split}{row}\td{row}\t1" for row in range(documents)]
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", map(json.dumps, corpus))
    write_lines(folder / "queries.jsonl", map(json.dumps, queries))
    for split, lines in judgements.items():
        write_lines(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])
    return folder


def write_lines(path: Path, lines: Any) -> None:
    """Writes a text file."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def small(subcommand: str, stage: str, root: Path, model: Path, *more: str) -> list[str]:
    """A run of one of the small experiments."""
    if not (model / "config.json").is_file():
        make_model_folder(model)
    config = ["--config", str(CONFIGS / "small" / f"{stage}.yaml")]
    data = [f"--data.init_args.root={root}", "--data.init_args.batch_size=6", "--data.init_args.eval_batch_size=7"]
    backbone = [f"--model.init_args.backbone.init_args.model={model}", *TINY]
    samples = ["--model.init_args.samples=3"] if stage == "rl" else []
    return [subcommand, *config, *data, *backbone, *samples, *QUIET, *more]


class Witness(L.Callback):
    """Writes what each process sees, one JSON object per line: steps with their queries and losses, then validations.

    Args:
        folder: Receives ``rank0.jsonl`` and so on.
        index: Whether each step has the vectors and stamps of the training corpus too, as exact sums.
    """

    def __init__(self, folder: str, index: bool = False) -> None:
        self.folder, self.index = Path(folder), index

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        record = {"step": trainer.global_step, "queries": batch.ids, "loss": float(outputs["loss"])}
        if self.index:
            model: Any = pl_module
            state = model.environment.state("train")
            record |= {"vectors": digest(state.index.vectors), "stamps": state.stamps.tolist()}
        self._write(trainer, record)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self._write(trainer, {"threads": torch.get_num_threads(), "metrics": metrics})

    def _write(self, trainer: L.Trainer, record: Mapping[str, Any]) -> None:
        self.folder.mkdir(exist_ok=True)
        with (self.folder / f"rank{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())


def digest(tensor: torch.Tensor) -> list[int]:
    """The bits of a float32 matrix, summed row by row: equal for equal matrices, and hardly for any others."""
    return tensor.contiguous().view(torch.int32).long().sum(1).tolist()


def witnessed(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    """What a process saw, in order."""
    return [json.loads(line) for line in (folder / f"rank{rank}.jsonl").read_text().splitlines()]
