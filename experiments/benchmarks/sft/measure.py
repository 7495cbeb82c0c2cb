"""One measurement: trains one line's model, in a process of its own, and says what that took.

Only training counts: what loads, prepares and evaluates is outside.
"""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.sft.prepare import read_lines
from experiments.benchmarks.sft.settings import Task
from srch3.data import Corpus
from srch3.indexes import ExactIndex
from srch3.metrics import query_scores


def measure(task: Task) -> dict[str, Any]:
    """Trains, and searches the held-out queries where asked to.

    Args:
        task: What to measure.

    Returns:
        What `Clock` noted, and ``ndcg@10``.
    """
    torch.manual_seed(task.setup.seed)
    # Ours does not load sentence-transformers, so that the memory of its process is what its users see.
    side = importlib.import_module(f"experiments.benchmarks.sft.{'ours' if task.line.side == 'srch3' else 'theirs'}")
    clock, model = side.train(task)
    figures: dict[str, Any] = clock.figures()
    if task.evaluate:
        held = read_lines(Path(task.setup.folder) / "test.jsonl")
        names = ("query", "document") if task.line.side == "srch3" else ("anchor", "positive")
        queries, documents = ([pair[name] for pair in held] for name in names)
        figures["ndcg@10"] = ndcg(*side.embed(model, queries, documents))
    return figures


def ndcg(queries: Tensor, documents: Tensor) -> float:
    """Mean nDCG@10 where each query has one document, the one in its own place."""
    index = ExactIndex()
    index.build(documents.detach().float())
    ids = [str(row) for row in range(len(documents))]
    hits = index.search(queries.detach().float(), 100)
    return float(query_scores(hits, [{name: 1} for name in ids], Corpus(ids, ids))["ndcg@10"].double().mean())
