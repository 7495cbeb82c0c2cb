"""Random sequences of everything that can be done to an index, against a dictionary of vectors."""

import copy
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from srch3.indexes import BaseIndex, ExactIndex, FaissIndex, HnswIndex
from tests.indexes.clusters import clustered

DIM = 16
SEQUENCES = 9
LENGTH = 250
MAKES: dict[str, Callable[[], BaseIndex]] = {
    "exact": ExactIndex,
    "exact-float16": partial(ExactIndex, dtype="float16"),
    "exact-int8": partial(ExactIndex, block=700, dtype="int8"),
    "hnsw": partial(HnswIndex, ef=32, ef_construction=40, overlay_share=0.3),
    "faiss": partial(FaissIndex, nprobe=4, overlay_share=0.3, dtype="float32"),
}


def as_stored(vectors: Tensor, dtype: str) -> np.ndarray:
    numbers = vectors.numpy()
    if dtype == "float16":
        return numbers.astype(np.float16).astype(np.float64)
    if dtype == "int8":
        scales = np.abs(numbers).max(axis=1, keepdims=True) / np.float32(127)
        return np.round(numbers / scales).astype(np.float64) * scales
    return numbers.astype(np.float64)


class Sequence:
    """An index, and the dictionary that says what it must hold."""

    def __init__(self, make: Callable[[], BaseIndex], seed: int, folder: Path) -> None:
        self.make, self.folder, self.seed = make, folder, seed
        self.choose = random.Random(seed)
        self.index, self.truth, self.rows = make(), {}, 120
        self.recalls: list[float] = []
        vectors = self.draw(120)
        self.index.build(vectors)
        self.note(range(120), vectors)

    def draw(self, count: int) -> Tensor:
        self.seed += 1000
        return clustered(count, DIM, clusters=12, seed=self.seed)

    def note(self, rows: range | list[int], vectors: Tensor) -> None:
        self.truth.update(zip(rows, as_stored(vectors, self.index.dtype), strict=True))

    def append(self) -> None:
        vectors = self.draw(self.choose.randint(0, 6))
        rows = self.index.append(vectors).tolist()
        assert rows == list(range(self.rows, self.rows + len(vectors)))
        self.rows += len(vectors)
        self.note(rows, vectors)

    def update(self) -> None:
        rows = self.choose.sample(range(self.rows), self.choose.randint(0, 12))
        vectors = self.draw(len(rows))
        if len(rows) > 1 and self.choose.random() < 0.3:
            vectors[0] = vectors[1]
        self.index.update(torch.tensor(rows, dtype=torch.int64), vectors)
        self.note(rows, vectors)

    def remove(self) -> None:
        rows = self.choose.sample(sorted(self.truth), self.choose.randint(0, min(8, len(self.truth))))
        self.index.remove(torch.tensor(rows, dtype=torch.int64))
        for row in rows:
            del self.truth[row]

    def merge(self) -> None:
        self.index.merge()

    def reread(self) -> None:
        folder = self.folder / str(len(list(self.folder.iterdir())))
        folder.mkdir()
        self.index.write(folder)
        self.index = self.make()
        self.index.read(folder)

    def search(self) -> None:
        queries, k = self.draw(3), self.choose.choice([1, 7, 30, 1000])
        hits = self.index.search(queries, k)
        rows = np.array(sorted(self.truth))
        assert hits.rows.shape == (3, min(k, len(rows)))
        if len(rows) == 0:
            return
        scores = queries.numpy().astype(np.float64) @ np.array([self.truth[row] for row in rows]).T
        for found, given, exact in zip(hits.rows.tolist(), hits.scores.tolist(), scores, strict=True):
            order = np.lexsort((rows, -exact))[: len(found)]
            assert set(found) <= set(rows)
            mine = exact[np.searchsorted(rows, found)]
            np.testing.assert_allclose(given, mine, atol=1e-6)
            self.recalls.append(float((mine >= exact[order[-1]] - 1e-7).mean()))
            pairs = [(-score, row) for score, row in zip(given, found, strict=True)]
            assert pairs == sorted(pairs)
            if isinstance(self.index, ExactIndex):
                np.testing.assert_allclose(mine, exact[order], atol=1e-7)

    def check_counts(self) -> None:
        assert (len(self.index), self.index.live) == (self.rows, len(self.truth))
        assert self.index.alive.nonzero()[:, 0].tolist() == sorted(self.truth)


@pytest.mark.parametrize("name", MAKES)
def test_an_index_agrees_with_a_dictionary_of_vectors(name: str, tmp_path: Path) -> None:
    recalls = []
    for seed in range(SEQUENCES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        sequence = Sequence(copy.deepcopy(MAKES[name]), seed, folder)
        steps = [sequence.append, sequence.update, sequence.remove, sequence.search, sequence.merge, sequence.reread]
        for step in sequence.choose.choices(steps, weights=[4, 8, 5, 12, 1, 0.5], k=LENGTH):
            step()
        sequence.check_counts()
        recalls += sequence.recalls
    assert len(recalls) > SEQUENCES * LENGTH / 2
    assert sum(recalls) / len(recalls) >= (1 if name.startswith("exact") else 0.98)


def test_there_are_ten_thousand_operations() -> None:
    assert len(MAKES) * SEQUENCES * LENGTH >= 10_000
