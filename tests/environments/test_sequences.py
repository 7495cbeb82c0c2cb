"""Random sequences of everything that happens to a corpus while a model trains, against a dictionary of vectors."""

import copy
import hashlib
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from srch3.data import Corpus
from srch3.data.changing import ChangingCorpus
from srch3.environments import BaseCorrection, DocumentBudget, NoCorrection, RandomRefresh, RidgeCorrection
from srch3.environments.state import CorpusState
from srch3.environments.storage import open_generation, write_generation
from srch3.environments.upkeep import Upkeep
from srch3.indexes import BaseIndex, ExactIndex, HnswIndex
from srch3.types import Pending

DIM, BUDGET, PRIOR, MEMORY = 12, 7, 2.0, 0.8
SEQUENCES = 5
LENGTH = 120
NOBODY = Pending(torch.empty(0, DIM), torch.empty(0, dtype=torch.int64), [], 5)
MAKES: dict[str, Callable[[], BaseIndex]] = {
    "exact": ExactIndex,
    "float16": partial(ExactIndex, dtype="float16"),
    "hnsw": partial(HnswIndex, ef=32, ef_construction=40, overlay_share=0.3),
}
CORRECTIONS: dict[str, Callable[[], BaseCorrection]] = {
    "alone": NoCorrection,
    "ridge": partial(RidgeCorrection, PRIOR, MEMORY),
}
TOLERANCES = {"float32": 1e-5, "float16": 2e-3}


def encoded(text: str, step: int) -> np.ndarray:
    """Texts move by a map that they share, and a little on their own."""
    draw = np.random.default_rng(int(hashlib.sha256(text.encode()).hexdigest()[:15], 16))
    turn = np.eye(DIM) + 0.15 * np.random.default_rng(1).standard_normal((DIM, DIM)) / DIM**0.5
    vector = draw.standard_normal(DIM) @ np.linalg.matrix_power(turn, step)
    vector += 0.02 * step * draw.standard_normal(DIM)
    unit: np.ndarray = vector / np.linalg.norm(vector)
    return unit


class Truth:
    """What must be known of the documents: text, vector and stamp of each, by row; and what a correction learned."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.vectors: dict[int, np.ndarray] = {}
        self.stamps: dict[int, int] = {}
        self.changed: set[int] = set()
        self.within, self.across = np.zeros((DIM, DIM)), np.zeros((DIM, DIM))
        self.followed = -1

    def write(self, row: int, text: str) -> None:
        self.texts[row] = text
        self.changed.add(row)

    def remove(self, row: int) -> None:
        for known in (self.texts, self.vectors, self.stamps):
            known.pop(row, None)
        self.changed.discard(row)

    def encode(self, rows: list[int], step: int) -> None:
        for row in rows:
            self.vectors[row], self.stamps[row] = encoded(self.texts[row], step), step

    def follow(self, step: int) -> None:
        """New texts are encoded before anything else."""
        self.encode(sorted(self.changed), step)
        self.changed.clear()

    def correct(self, rows: list[int], step: int) -> None:
        """Least squares from where documents were to where they are, for those of earlier steps."""
        if step == self.followed:
            return
        self.followed = step
        before = np.array([self.vectors[row] for row in rows])
        after = np.array([encoded(self.texts[row], step) for row in rows])
        self.within = before.T @ before + MEMORY * self.within
        self.across = before.T @ after + MEMORY * self.across
        still = PRIOR * np.eye(DIM)
        matrix = np.linalg.inv(self.within + still) @ (self.across + still)
        for row, stamp in self.stamps.items():
            if stamp != step:
                there = self.vectors[row] @ matrix
                self.vectors[row] = there / np.linalg.norm(there)


class Sequence:
    """A training run reduced to its corpus, and the truth about it."""

    def __init__(self, index: str, correction: str, seed: int, folder: Path) -> None:
        self.index, self.correction, self.folder = index, correction, folder
        self.choose, self.recalls = random.Random(seed), list[float]()
        self.base = Corpus([f"d{row}" for row in range(60)], [f"{seed} {row}" for row in range(60)])
        self.truth, self.step, self.made = Truth(), 0, 60
        self.begin()
        self.state.store(torch.arange(60), torch.from_numpy(self.answer(range(60))), 0)
        for row in range(60):
            self.truth.write(row, self.base.texts[row])
        self.truth.follow(0)
        self.save()

    def begin(self) -> None:
        self.corpus = ChangingCorpus(self.base)
        self.state = CorpusState(self.corpus, MAKES[self.index]())
        self.upkeep = Upkeep(self.state, RandomRefresh(seed=3), DocumentBudget(BUDGET), CORRECTIONS[self.correction]())

    def answer(self, rows: range | list[int]) -> np.ndarray:
        return np.array([encoded(self.corpus.texts[row], self.step) for row in rows], dtype=np.float32)

    def add(self) -> None:
        count = self.choose.randint(1, 3)
        names = [f"new{self.made + number}" for number in range(count)]
        self.made += count
        for row, name in zip(self.corpus.add(names, names), names, strict=True):
            self.truth.write(row, name)

    def replace(self) -> None:
        some = self.choose.sample(sorted(self.truth.texts), 2)
        self.made += 1
        texts = [f"{row} again {self.made}" for row in some]
        self.corpus.replace([self.corpus.ids[row] for row in some], texts)
        for row, text in zip(some, texts, strict=True):
            self.truth.write(row, text)

    def remove(self) -> None:
        some = self.choose.sample(sorted(self.truth.texts), self.choose.randint(1, 3))
        if len(self.truth.texts) > 40:
            self.corpus.remove([self.corpus.ids[row] for row in some])
            for row in some:
                self.truth.remove(row)

    def train(self) -> None:
        """The model changes, and the index is kept up with it."""
        self.step += 1
        self.keep_up()

    def keep_up(self) -> None:
        asked: list[list[int]] = []

        def encode(rows: Tensor) -> Tensor:
            asked.append(rows.tolist())
            return torch.from_numpy(self.answer(asked[-1]))

        grown = set(range(len(self.state), len(self.corpus)))
        new = sorted(self.truth.changed | grown)
        self.upkeep.advance(NOBODY, encode, self.step)
        assert not new or asked.pop(0) == new
        self.truth.follow(self.step)
        for chosen in asked:
            assert len(chosen) <= BUDGET
            if self.correction == "ridge":
                self.truth.correct(chosen, self.step)
            self.truth.encode(chosen, self.step)

    def save(self) -> None:
        self.keep_up()
        snapshot = self.state.snapshot(self.step, self.upkeep.correction.state_dict(), {})
        self.saved = write_generation(self.folder, snapshot, "weights"), copy.deepcopy(self.truth), self.step

    def kill(self) -> None:
        """All that is not on the disk is gone; the run goes on from there."""
        name, truth, self.step = self.saved
        self.truth = copy.deepcopy(truth)
        self.truth.followed = -1
        self.begin()
        self.upkeep.correction.load_state_dict(self.state.restore(open_generation(self.folder, name), "weights"))
        self.train()

    def search(self) -> None:
        self.keep_up()
        queries = torch.nn.functional.normalize(torch.tensor(self.answer([0, 1, 2])) + 0.1, dim=1)
        hits = self.state.searcher.search(queries, 9)
        known = sorted(self.truth.vectors)
        scores = queries.numpy().astype(np.float64) @ np.array([self.truth.vectors[row] for row in known]).T
        for found, given, exact in zip(hits.rows.tolist(), hits.scores.tolist(), scores, strict=True):
            mine = exact[np.searchsorted(known, found)]
            np.testing.assert_allclose(given, mine, atol=TOLERANCES[self.state.index.dtype])
            least = np.sort(exact)[-9] - TOLERANCES[self.state.index.dtype]
            self.recalls.append(float((mine >= least).mean()))

    def compare(self) -> None:
        rows = sorted(self.truth.vectors)
        assert self.state.alive.nonzero()[:, 0].tolist() == rows
        assert self.state.stamps[rows].tolist() == [self.truth.stamps[row] for row in rows]
        vectors = self.state.searcher.vectors_of(torch.tensor(rows)).numpy()
        expected = np.array([self.truth.vectors[row] for row in rows])
        np.testing.assert_allclose(vectors, expected, atol=TOLERANCES[self.state.index.dtype])


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("index", MAKES)
def test_a_corpus_that_changes_while_a_model_trains_agrees_with_a_dictionary(
    index: str, correction: str, tmp_path: Path
) -> None:
    recalls = []
    for seed in range(SEQUENCES):
        sequence = Sequence(index, correction, seed, tmp_path / str(seed))
        changes = [sequence.add, sequence.replace, sequence.remove]
        steps = [*changes, sequence.train, sequence.keep_up, sequence.search, sequence.save, sequence.kill]
        for step in sequence.choose.choices(steps, weights=[3, 3, 3, 8, 2, 4, 2, 1], k=LENGTH):
            step()
            if step not in changes:
                sequence.compare()
        recalls += sequence.recalls
    assert len(recalls) > SEQUENCES * 20
    assert np.mean(recalls) >= (0.98 if index == "hnsw" else 1)
