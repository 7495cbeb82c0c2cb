"""A retrieval data set small enough to reason about, and what is needed to train on it in a second."""

import random
from pathlib import Path
from typing import Any

import lightning as L

from srch3.backbones import PlainPrompts, ReasoningEmbedder
from srch3.data.base import RetrievalDataModule
from srch3.data.corpus import Corpus
from srch3.types import Query, Split
from tests.models import make_model_folder

# fmt: off
WORDS = [
    "date", "time", "zone", "parse", "format", "string", "number", "file", "folder", "read", "write", "open", "close",
    "socket", "server", "client", "request", "response", "header", "body", "token", "cache", "index", "search",
    "vector", "model", "train", "test", "loss", "graph", "node", "edge", "tree", "leaf", "sort", "merge", "split",
    "join", "thread", "lock", "queue", "task", "event", "signal", "process", "memory", "buffer", "stream", "byte",
    "encode", "decode", "hash", "key", "value",
]
# fmt: on


class ToyDataModule(RetrievalDataModule):
    """Documents of five random words; a query is two of them, its thought two others."""

    def __init__(self, documents: int = 40, **settings: Any) -> None:
        super().__init__(**settings)
        draw = random.Random(0)
        texts = [" ".join(draw.sample(WORDS, 5)) for _ in range(documents)]
        self.documents = Corpus([f"d{i}" for i in range(documents)], texts)

    def load_corpus(self, split: Split) -> Corpus:
        return self.documents

    def load(self, split: Split) -> list[Query]:
        places = {"train": (0, 1), "val": (1, 2), "test": (2, 3), "predict": (2, 3)}[split]
        queries = []
        for row, text in enumerate(self.documents.texts):
            words = text.split()
            asked = " ".join(words[place] for place in places)
            thought = " ".join(words[3:])
            queries.append(Query(f"{split}{row}", f"{split[0]} {asked} {row}", {f"d{row}": 1}, thought=thought))
        return queries


def toy_embedder(folder: Path, **settings: Any) -> ReasoningEmbedder:
    """A two-layer Qwen2 with random weights, saved to ``folder`` and named by its path."""
    if not (folder / "config.json").is_file():
        make_model_folder(folder, chat=False)
    settings = {"max_thought_tokens": 6, "prompts": PlainPrompts(), **settings}
    return ReasoningEmbedder(str(folder), **settings)


def quiet_trainer(root: Path, **settings: Any) -> L.Trainer:
    """A trainer on one CPU that shows nothing and, unless asked, saves nothing."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": root,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
    }
    return L.Trainer(**(defaults | settings))
