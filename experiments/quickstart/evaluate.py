"""Evaluates every system and control on the held-out queries, in one process, which saves most of its start-up.

Each evaluation is a command of ``python -m srch3``, printed before it runs, and does what it would do by itself; beside
the means, it keeps the nDCG@10 of each query, for paired comparisons. What is finished is not done again.
"""

import hashlib
import importlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from experiments.bm25 import bm25_hits
from experiments.quickstart.examples import read_examples
from experiments.quickstart.progress import write_json
from experiments.quickstart.settings import parse, python
from experiments.quickstart.stages import System, prediction, systems
from srch3.cli import SearchCLI
from srch3.data import RetrievalDataModule
from srch3.messages import exit_in_one_line, quieten
from srch3.metrics import RetrievalMetrics, query_scores
from srch3.types import CorpusLike, Hits

EXAMPLES = 5

CORPUS = "corpus.jsonl"
"""The documents of the test, in the output folder."""


class KeptScores(RetrievalMetrics):
    """Keeps the scores of each query, beside their means."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[dict[str, Tensor]] = []

    def update(self, hits: Hits, relevant: Sequence[Mapping[str, int]], corpus: CorpusLike) -> None:
        """Takes in the searches of a batch of queries, all of which are judged."""
        scores = query_scores(hits, relevant, corpus)
        self.kept.append(scores)
        for name, values in scores.items():
            self.means[name].update(values)  # type: ignore[operator]

    def scores(self) -> dict[str, Tensor]:
        """By metric, one number per query in their order."""
        return {name: torch.cat([scores[name] for scores in self.kept]) for name in self.kept[0]}


class EvaluationCLI(SearchCLI):
    """The command line, which keeps the scores of each query in each mode."""

    kept: dict[str, KeptScores]

    def before_test(self) -> None:
        """Exchanges the metrics for those that remember."""
        self.kept = {mode: KeptScores() for mode in self.model.modes}
        self.model.metrics = nn.ModuleDict(self.kept)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs ``python -m experiments.quickstart.evaluate``."""
    settings = parse("experiments.quickstart.evaluate", "Evaluates what the quickstart trained.", arguments)
    for part in ("backbones", "data", "environments", "indexes", "losses", "modules", "monitoring", "rewards"):
        importlib.import_module(f"srch3.{part}")  # so that the YAML files can name their classes in short
    folder = settings.output / "evaluate"
    folder.mkdir(parents=True, exist_ok=True)
    with exit_in_one_line(), quieten():
        for system in systems(settings):
            if settings.fresh or not (folder / f"{system.name}.json").is_file():
                _test(system, folder)
        if settings.fresh or not (folder / "examples.json").is_file():
            _predict(prediction(settings, EXAMPLES), folder)


def _test(system: System, folder: Path) -> None:
    """Evaluates one system; and BM25, once, as soon as the test queries are at hand."""
    cli = _run(system.command)
    if not (folder / "bm25.json").is_file():
        write_json(bm25(cli.datamodule), folder / "bm25.json")
    scores = {mode: keeper.scores() for mode, keeper in cli.kept.items()}
    write_json(evaluation(scores, cli.datamodule), folder / f"{system.name}.json")


def _predict(command: list[str], folder: Path) -> None:
    """Makes the example searches, and writes down what was searched, for `python -m srch3 index`."""
    cli = _run(command)
    corpus = cli.datamodule.corpus("predict")
    with (folder.parent / CORPUS).open("w", encoding="utf-8") as file:
        for name, text in zip(corpus.ids, corpus.texts, strict=True):
            file.write(json.dumps({"_id": name, "text": text}) + "\n")
    relevant = {query.id: query.relevant for query in cli.datamodule.queries("predict")}
    write_json(read_examples(folder / "examples" / "searches.jsonl", relevant), folder / "examples.json")


def _run(command: list[str]) -> EvaluationCLI:
    """Prints a command of ``python -m srch3`` and does what it says."""
    line = shlex.join([python(), "-m", "srch3", *command])
    Console().print(f"\n$ {line}", style="bold", markup=False, highlight=False, soft_wrap=True)
    return EvaluationCLI(args=command)


def evaluation(scores: Mapping[str, Mapping[str, Tensor]], data: RetrievalDataModule) -> dict[str, Any]:
    """What an evaluation leaves: the means of each mode, what they are over, and each query's nDCG@10.

    Args:
        scores: By mode and metric, one number per test query.
        data: Where the queries and documents come from.
    """
    queries, corpus = data.queries("test"), data.corpus("test")
    named = "\n".join([*(query.id for query in queries), "", *corpus.ids])
    return {
        "metrics": {mode: _means(some) for mode, some in scores.items()},
        "queries": len(queries),
        "documents": len(corpus),
        "test_set": hashlib.sha256(named.encode()).hexdigest()[:16],
        "ndcg@10": {mode: [round(score, 6) for score in some["ndcg@10"].tolist()] for mode, some in scores.items()},
    }


def _means(scores: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(values.double().mean()) for name, values in scores.items()}


def bm25(data: RetrievalDataModule) -> dict[str, Any]:
    """The same for BM25."""
    queries, corpus = data.queries("test"), data.corpus("test")
    hits = bm25_hits([query.text for query in queries], corpus)
    scores = query_scores(hits, [query.relevant for query in queries], corpus)
    return evaluation({"bm25": scores}, data)


if __name__ == "__main__":
    main()
