"""Views made by hand, on top of a search that compares everything with everything."""

import torch
from torch import Tensor

from srch3.environments import View
from srch3.environments.touched import Touched, nothing_touched
from srch3.types import Hits
from tests.indexes.clusters import brute_force, clustered

NOTHING = nothing_touched()


class Exhaustive:
    """A searcher of some vectors that never returns removed rows, and counts its queries."""

    def __init__(self, vectors: Tensor, alive: Tensor) -> None:
        self.vectors, self.alive, self.queries = vectors, alive, 0

    def search(self, queries: Tensor, k: int, width: int | None = None) -> Hits:
        assert len(queries)
        self.queries += len(queries)
        live = self.alive.nonzero()[:, 0]
        rows = live[torch.tensor(brute_force(self.vectors[live], queries, k))]
        return Hits(rows, torch.einsum("qd,qhd->qh", queries, self.vectors[rows]))

    def vectors_of(self, rows: Tensor) -> Tensor:
        return self.vectors[rows]


def view(
    stamps: Tensor | list[int],
    step: int = 10,
    seen: Touched = NOTHING,
    vectors: Tensor | None = None,
    moved: Tensor | None = None,
    alive: Tensor | None = None,
) -> View:
    stamps = torch.as_tensor(stamps)
    alive = torch.ones(len(stamps), dtype=torch.bool) if alive is None else alive
    searcher = Exhaustive(clustered(len(stamps)) if vectors is None else vectors, alive)
    return View(seen, searcher, stamps, torch.full((len(stamps),), torch.nan) if moved is None else moved, alive, step)


def seen(count: int, positives: int, hits: int, seed: int) -> Touched:
    """Random rows, and random weights."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(count, generator=generator)[:size].sort().values for size in (positives, hits)]
    stakes, weights, contested = (
        torch.rand(len(some), generator=generator, dtype=torch.float64) for some in (rows[0], rows[1], rows[1])
    )
    return Touched(rows[0], stakes, rows[1], weights, contested)


def random_view(count: int, seed: int, positives: int = 5) -> View:
    """Some documents are removed, some are up to date, and of some it is known how far they moved."""
    generator = torch.Generator().manual_seed(seed)
    stamps = torch.randint(-1, 11, (count,), generator=generator)
    moved = torch.rand(count, generator=generator)
    moved[torch.rand(count, generator=generator) < 0.5] = torch.nan
    alive = torch.rand(count, generator=generator) < 0.8
    alive[seed % count] = True
    return view(stamps, 10, seen(count, positives, 3 * positives, seed), moved=moved, alive=alive)


def nearest_rows(vectors: Tensor, row: int, count: int) -> set[int]:
    """The other rows with the highest cosines, ties by row."""
    (ranked,) = brute_force(vectors, vectors[row][None], len(vectors))
    return set([other for other in ranked if other != row][:count])
