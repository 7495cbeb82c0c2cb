"""Times changes and searches, and counts what searches find."""

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from experiments.benchmarks.index.settings import Settings, Size
from srch3.indexes import BaseIndex, ExactIndex, FaissIndex, HnswIndex

SPREAD = 0.6
DRIFT = 0.3


class InPlace(HnswIndex):
    """Rewires the graph around every changed document at once."""

    kind: ClassVar[str] = "hnsw"
    fold_share: ClassVar[float] = 1.0


def draw(count: int, size: Size, seed: int) -> Tensor:
    """Embeddings that lie in clusters of about 500 within 50 topics, the same ones whatever the seed."""
    generator = torch.Generator().manual_seed(12345)
    topics = _around(torch.zeros(50, size.width), 1.0, generator)
    kinds = max(1, size.documents // 500)
    centres = _around(topics[torch.randint(len(topics), (kinds,), generator=generator)], 0.8, generator)
    generator = torch.Generator().manual_seed(seed)
    return _around(centres[torch.randint(kinds, (count,), generator=generator)], SPREAD, generator)


def _around(centres: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    return normalize(
        centres + spread * torch.randn(centres.shape, generator=generator) / centres.shape[1] ** 0.5, dim=1
    )


def moved(vectors: Tensor, size: Size, seed: int) -> Tensor:
    """The same embeddings a little elsewhere."""
    return normalize(vectors + DRIFT * draw(len(vectors), size, seed), dim=1)


def measure(settings: Settings, size: Size, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """What every way costs for a corpus of one size; times are CPU-seconds of one thread."""
    vectors = draw(size.documents, size, settings.seed)
    queries = draw(max(settings.batches), size, settings.seed + 1)
    lines = [
        line for make in (ExactIndex, HnswIndex, FaissIndex) for line in [_built(make, vectors, queries, settings)]
    ]
    say(f"{size.name}: built")
    with tempfile.TemporaryDirectory() as name:
        graph = HnswIndex(min_recall=0)
        graph.build(vectors)
        graph.write(Path(name))
        for share in settings.shares:
            lines += _changed(settings, size, share, vectors, queries, Path(name))
            say(f"{size.name}: {share:.0%} changed")
    return lines


def _built(make: Callable[[], BaseIndex], vectors: Tensor, queries: Tensor, settings: Settings) -> dict[str, Any]:
    index = make()
    seconds = _timed(lambda: index.build(vectors))
    with tempfile.TemporaryDirectory() as name:
        writing = _timed(lambda: index.write(Path(name)))
        beside = sum(path.stat().st_size for path in Path(name, index.kind).parent.glob(index.kind))
    line = {"way": index.kind, "share": None, "change_seconds": seconds, "write_seconds": writing}
    extra = {"structure_bytes_per_document": beside / len(vectors), "health": index.health()}
    return line | _searched(index, queries, settings) | extra


def _changed(
    settings: Settings, size: Size, share: float, vectors: Tensor, queries: Tensor, saved: Path
) -> Iterator[dict[str, Any]]:
    generator = torch.Generator().manual_seed(settings.seed)
    rows = torch.randperm(len(vectors), generator=generator)[: round(share * len(vectors))]
    now = vectors.clone()
    now[rows] = moved(vectors[rows], size, settings.seed + 2)
    for way, make in (("overlay", HnswIndex), ("in place", InPlace)):
        index = make(min_recall=0)
        index.read(saved)
        index.overlay_share = 1.0

        def change(index: HnswIndex = index, way: str = way) -> None:
            index.update(rows, now[rows])
            if way == "in place":
                index.merge()

        line = {"way": way, "share": share, "change_seconds": _timed(change)}
        yield line | _searched(index, queries, settings)


def _searched(index: BaseIndex, queries: Tensor, settings: Settings) -> dict[str, Any]:
    index.search(queries[:1], settings.k)
    seconds = {str(n): _timed(partial(index.search, queries[:n], settings.k)) for n in settings.batches}
    return {"search_seconds": seconds, "recall": recall(index, queries[: settings.batches[0]], settings.k)}


def recall(index: BaseIndex, queries: Tensor, k: int) -> float:
    """Share of the nearest documents, by the vectors as they are stored, that a search finds."""
    oracle = ExactIndex()
    oracle.build(index.vectors)
    worst = oracle.search(queries, k).scores[:, -1:]
    return float((index.search(queries, k).scores >= worst).float().mean())


def life(settings: Settings, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Recall at the default settings while 5 % per step are drawn anew, collapse onto a point, and spread again."""
    size = Size(settings.collapse, 128 if settings.collapse > 1000 else 16)
    vectors = draw(size.documents, size, settings.seed)
    point = normalize(draw(1, size, 99), dim=1)
    index, lines = HnswIndex(), []
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        index.build(vectors)
        for step, (phase, closeness) in enumerate(_phases()):
            rows = torch.arange(step % 20, size.documents, 20)
            vectors[rows] = _towards(point, draw(len(rows), size, step), closeness)
            index.update(rows, vectors[rows])
            queries = _towards(point, draw(64, size, step + 500), closeness)
            found = recall(index, queries, settings.k)
            lines.append({"step": step, "phase": phase, "recall": found, **index.health()})
    say(f"{size.name}: drifted, collapsed and spread")
    return lines


def _phases() -> Sequence[tuple[str, float]]:
    return [("drift", 0.0)] * 20 + [("collapse", c) for c in [0.9] * 20 + [0.99] * 20] + [("spread", 0.0)] * 20


def _towards(point: Tensor, vectors: Tensor, closeness: float) -> Tensor:
    return normalize(closeness * point + (1 - closeness) * vectors, dim=1)


def _timed(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
