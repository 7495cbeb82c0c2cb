"""What systems find for judged queries, how long they take, and how many tokens they write."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import torch

from srch3.indexes import BaseIndex
from srch3.inference.bm25 import BM25
from srch3.inference.embedder import Embedder
from srch3.metrics.trec_files import Run, falling_scores
from srch3.types import CorpusLike, Hits, Mode

TIMED = 20
"""Queries that are searched for one at a time."""

_WRITING = {"thinking", "shuffled", "mean", "budget"}


class System(NamedTuple):
    """What one system found.

    Attributes:
        name: One word.
        run: Document ids and scores of each query, best first.
        seconds: What each of some queries took, one at a time, from its text to its hits; none where nothing was timed.
        tokens: What was written for each query, embed tokens included; none where nothing is written.
    """

    name: str
    run: Run
    seconds: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()


class Depth(NamedTuple):
    """Which hits count.

    Attributes:
        k: Hits per query.
        drop_same_ids: Whether a document with the id of the query is no hit, where queries are documents themselves.
            BEIR's own evaluation drops them, mteb's does not.
    """

    k: int = 100
    drop_same_ids: bool = False


def search_with_model(
    embedder: Embedder,
    corpus: CorpusLike,
    index: BaseIndex,
    queries: Mapping[str, str],
    modes: Sequence[Mode],
    depth: Depth,
    timed: int = TIMED,
    on_progress: Callable[[int], None] | None = None,
) -> list[System]:
    """Searches with a model, in each of the modes.

    Args:
        embedder: The model.
        corpus: The documents.
        index: Has their embeddings.
        queries: Id to text.
        modes: As in ``srch3.types.Mode``; each becomes a system with its name.
        depth: Which hits count.
        timed: Of so many queries, each is searched for once more in every mode, alone, after one that is not counted.
        on_progress: Called with the number of queries after each part of them.
    """
    texts = list(queries.values())
    embedded = embedder.embed_queries(texts, modes, on_progress)
    systems = []
    for mode in modes:
        hits = index.search(embedded[mode].embeddings, depth.k + depth.drop_same_ids)
        found = {query: _scores(hits, row, corpus) for row, query in enumerate(queries)}
        tokens = tuple(embedded[mode].lengths) if mode.partition("-")[0] in _WRITING else ()

        def search(text: str, mode: Mode = mode) -> Hits:
            return index.search(embedder.embed_queries([text], [mode])[mode].embeddings, depth.k)

        seconds = time_queries(search, texts[:timed]) if timed else ()
        systems.append(System(mode, _cut(found, depth), seconds, tokens))
    return systems


def search_with_words(bm25: BM25, queries: Mapping[str, str], depth: Depth) -> System:
    """Searches with BM25, and times every query.

    Args:
        bm25: Has the documents.
        queries: Id to text.
        depth: Which hits count.
    """
    run, seconds = {}, []
    for query, text in queries.items():
        began = time.perf_counter()
        found = bm25.search(text, depth.k + depth.drop_same_ids)
        seconds.append(time.perf_counter() - began)
        run[query] = dict(zip(found, falling_scores(found.values()), strict=True))
    return System("bm25", _cut(run, depth), tuple(seconds))


def without_same_ids(run: Run) -> Run:
    """The run without documents that have the id of their query."""
    return {query: {name: score for name, score in found.items() if name != query} for query, found in run.items()}


def time_queries(search: Callable[[str], object], texts: Sequence[str]) -> tuple[float, ...]:
    """Seconds that each query takes by itself.

    Args:
        search: Answers one query.
        texts: The queries; the first is answered once before, uncounted.
    """
    seconds = []
    for place, text in enumerate([*texts[:1], *texts]):
        began = time.perf_counter()
        search(text)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if place:
            seconds.append(time.perf_counter() - began)
    return tuple(seconds)


def _scores(hits: Hits, row: int, corpus: CorpusLike) -> dict[str, float]:
    """One query's hits, with scores that fall in single precision, so that the order is that of the index."""
    names = (corpus.ids[place] for place in hits.rows[row].tolist())
    return dict(zip(names, falling_scores(hits.scores[row].tolist()), strict=True))


def _cut(run: Run, depth: Depth) -> Run:
    """The hits that count, of which there was one more than asked for where one may drop out."""
    kept = without_same_ids(run) if depth.drop_same_ids else run
    return {query: dict(islice(found.items(), depth.k)) for query, found in kept.items()}
