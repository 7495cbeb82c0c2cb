"""``python -m srch3 evaluate``: how well models, BM25 and run files answer judged queries."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch

from srch3.backbones.querying import parse_mode
from srch3.commands.calling import call
from srch3.commands.console import result_console
from srch3.environments.progress import encoding_bar
from srch3.errors import ConfigError
from srch3.indexes import BaseIndex, ExactIndex
from srch3.inference.bm25 import BM25
from srch3.inference.embedder import Embedder
from srch3.inference.evaluation import (
    TIMED,
    Depth,
    System,
    search_with_model,
    search_with_words,
    without_same_ids,
)
from srch3.inference.judged import judgements_of, read_documents, read_queries, warn_of_absent
from srch3.inference.mteb_tasks import evaluate_task, find_task, task_table, write_task
from srch3.inference.precision import Precision
from srch3.inference.scorecard import Scorecard
from srch3.inference.searcher import Searcher
from srch3.metrics.evaluation import METRICS, parse_metric
from srch3.metrics.trec_files import read_qrels, read_run
from srch3.types import CorpusLike, Mode

EPILOG = """examples:
  python -m srch3 evaluate --model runs/version_1/checkpoints/best.ckpt --data BEIR_FOLDER --bm25 true \\
    --output results
  python -m srch3 evaluate --index INDEX --data BEIR_FOLDER --modes thinking,mean-4 --metrics ndcg@10,mrr@10
  python -m srch3 evaluate --run results/thinking.trec --run_b other.trec --qrels results/qrels.trec
"""


def run(args: Sequence[str]) -> None:
    """Measures.

    Args:
        args: The words after ``evaluate``.
    """
    call(evaluate, args, EPILOG)


def evaluate(
    model: str | None = None,
    index: str | None = None,
    data: str | None = None,
    split: str = "test",
    modes: Sequence[Mode] = ("thinking", "direct"),
    bm25: bool = False,
    bm25_language: str = "english",
    bm25_stemming: bool = False,
    run: str | None = None,
    run_b: str | None = None,
    qrels: str | None = None,
    task: str | None = None,
    metrics: Sequence[str] = METRICS,
    k: int = 100,
    drop_same_ids: bool = False,
    timed: int = TIMED,
    output: str | None = None,
    device: str | None = None,
    precision: Precision | None = None,
) -> None:
    """Measures how well judged queries are answered: by a model in several modes, by BM25, and by TREC run files.

    The numbers equal trec_eval's over all judged queries, of which those that a run lacks count as 0. The first system
    is compared with each of the others by a paired randomisation test.

    Args:
        model: An exported folder or a checkpoint of a run, which embeds the documents of the data.
        index: A folder that the command index wrote, in place of documents; it knows its model unless that has moved.
        data: A folder in BEIR's layout.
        split: Name of the judgements in its folder qrels.
        modes: How the model embeds queries: thinking, direct, mean-N, budget-N, empty, shuffled, copied.
        bm25: Whether to measure BM25 too.
        bm25_language: Whose stop words, and endings, BM25 leaves out.
        bm25_stemming: Whether BM25 leaves out endings, by PyStemmer.
        run: A TREC run to measure.
        run_b: Another one.
        qrels: Judgements, in TREC's or BEIR's form, in place of those of the data.
        task: Name of a task of mteb to measure the model with, in place of data; mteb downloads it.
        metrics: Any of ndcg@K, mrr@K, map@K, recall@K, precision@K and success@K.
        k: Hits per query.
        drop_same_ids: Whether a document with the id of the query is no hit. BEIR drops them, mteb does not; it matters
            where queries are documents themselves.
        timed: How many queries are searched for one at a time, to measure how long each takes.
        output: A folder for results.json, per_query.tsv, qrels.trec, and a TREC run per mode and BM25.
        device: Where to compute, such as cuda; by default on a GPU, where there is one.
        precision: In which the model computes; by default float32 if the documents of the index are, otherwise auto.
    """
    _check(model, index, data, bm25, run or run_b, qrels, task, modes)
    _check_output(output)
    if task is not None:
        _evaluate_task(task, str(model), modes, device, precision, output)
        return
    _check_depth(k, metrics, timed, bool(model or index or bm25))
    table, depth = Path(qrels) if qrels else judgements_of(Path(str(data)), split), Depth(k, drop_same_ids)
    judged, searched = read_qrels(table), [*(modes if model or index else ()), *(["bm25"] if bm25 else ())]
    runs = _read_runs([path for path in (run, run_b) if path], searched, drop_same_ids)
    systems: list[System] = []
    facts: dict[str, Any] = {"data": data, "judgements": str(table), "k": k, "drop_same_ids": drop_same_ids}
    if searched:
        queries = read_queries(Path(str(data)), judged)
        ready = _ready(model, index, Path(str(data)), modes, device, precision)
        warn_of_absent(judged, ready.corpus)
        words = BM25(ready.corpus, bm25_language, bm25_stemming) if bm25 else None
        systems += _with_model(ready, queries, modes, depth, timed)
        systems += [search_with_words(words, queries, depth)] if words else []
        facts |= {"model": model, "index": index, **ready.facts()}
    _report(Scorecard([*systems, *runs], judged, metrics), output, facts, searched)


@dataclass(frozen=True)
class _Ready:
    """What is searched, and the model that does so, if there is one."""

    corpus: CorpusLike
    embedder: Embedder | None = None
    index: BaseIndex | None = None

    def facts(self) -> dict[str, str]:
        """What to remember about the model."""
        if self.embedder is None:
            return {}
        return {"revision": self.embedder.revision, "precision": self.embedder.precision}


def _check(
    model: str | None,
    index: str | None,
    data: str | None,
    bm25: bool,
    run: str | None,
    qrels: str | None,
    task: str | None,
    modes: Sequence[Mode],
) -> None:
    """Refuses what does not go together, before any work is done."""
    if (model or index) and (not modes or len(set(modes)) < len(modes)):
        raise ConfigError(f"modes: expected at least one mode, and each once; got {list(modes)}")
    if task is not None:
        if model is None or index or data or bm25 or run or qrels:
            raise ConfigError(
                "task: expected a model, and neither index, data, bm25, run nor qrels, beside a task of mteb"
            )
        return
    if not (model or index or bm25 or run):
        raise ConfigError("model: expected something to measure: model, index, bm25 or run; got none of them")
    if data is None and (model or index or bm25):
        raise ConfigError("data: expected a folder in BEIR's layout, with the queries; got none")
    if data is None and qrels is None:
        raise ConfigError("qrels: expected a file of judgements, or data; got neither")


def _check_output(output: str | None) -> None:
    if output and Path(output).is_file():
        raise ConfigError(f"output: expected a folder; got the file {output}; give another name")


def _check_modes(modes: Sequence[Mode], embedder: Embedder) -> None:
    """Before documents are encoded, which takes long."""
    for mode in modes:
        parse_mode(mode, embedder.backbone.max_thought_tokens, "modes")


def _check_depth(k: int, metrics: Sequence[str], timed: int, searching: bool) -> None:
    deepest = max((parse_metric(name).depth or 0 for name in metrics), default=None)
    if deepest is None:
        raise ConfigError("metrics: expected at least one; got none")
    if k < 1 or (searching and deepest > k):
        raise ConfigError(f"k: expected at least {max(deepest, 1)}, as deep as the metrics look; got {k}")
    if timed < 0:
        raise ConfigError(f"timed: expected a number of queries, 0 for none; got {timed}")


def _evaluate_task(
    name: str, model: str, modes: Sequence[Mode], device: str | None, precision: Precision | None, output: str | None
) -> None:
    task, embedder = find_task(name), _embedder(model, device, precision)
    _check_modes(modes, embedder)
    results = evaluate_task(embedder, task, modes)
    result_console().print(task_table(results))
    if output:
        write_task(results, Path(output))


def _embedder(model: str, device: str | None, precision: Precision | None) -> Embedder:
    return Embedder.load(model, device, precision or "auto")


def _ready(
    model: str | None,
    index: str | None,
    data: Path,
    modes: Sequence[Mode],
    device: str | None,
    precision: Precision | None,
) -> _Ready:
    """Loads the model and what it searches; without a model, only the documents."""
    if index:
        searcher = Searcher.load(index, model, device, precision)
        _check_modes(modes, searcher.embedder)
        return _Ready(searcher.corpus, searcher.embedder, searcher.index)
    corpus = read_documents(data)
    if model is None:
        return _Ready(corpus)
    embedder, built = _embedder(model, device, precision), ExactIndex()
    _check_modes(modes, embedder)
    with encoding_bar("encoding documents", len(corpus)) as advance:
        built.build(torch.from_numpy(embedder.encode_documents(corpus.texts, advance)))
    return _Ready(corpus, embedder, built)


def _with_model(
    ready: _Ready, queries: Mapping[str, str], modes: Sequence[Mode], depth: Depth, timed: int
) -> list[System]:
    if ready.embedder is None or ready.index is None:
        return []
    with encoding_bar("searching for queries", len(queries)) as advance:
        return search_with_model(ready.embedder, ready.corpus, ready.index, queries, modes, depth, timed, advance)


def _read_runs(paths: Sequence[str], taken: Sequence[str], drop_same_ids: bool) -> list[System]:
    """Run files as systems, each with the name of its file, numbered where that is taken."""
    systems: list[System] = []
    for path in map(Path, paths):
        names = {*taken, *(system.name for system in systems)}
        stem = "_".join(path.stem.split())
        numbered = (f"{stem}-{number}" for number in count(2))
        name = next(name for name in chain([stem], numbered) if name not in names)
        found = read_run(path)
        systems.append(System(name, without_same_ids(found) if drop_same_ids else found))
    return systems


def _report(card: Scorecard, output: str | None, facts: Mapping[str, Any], searched: Sequence[str]) -> None:
    result_console().print(card.tables())
    if output:
        card.write(Path(output), facts, searched)
        sys.stdout.write(f"{output}: results.json, per_query.tsv, qrels.trec and runs\n")
