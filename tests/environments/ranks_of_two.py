"""What two processes find together, and what one finds alone, over gloo; prints nothing if they agree."""

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from srch3.environments import (
    ContestedRefresh,
    DocumentBudget,
    ErrorBudget,
    NoCorrection,
    RandomRefresh,
    RidgeCorrection,
    TimeBudget,
)
from srch3.environments.ranks import encode_sharded
from srch3.environments.shards import ShardedIndex
from srch3.environments.state import CorpusState
from srch3.environments.upkeep import Upkeep
from srch3.errors import NumericError
from srch3.functional.distributed import mean_over_ranks
from srch3.indexes import ExactIndex, HnswIndex
from srch3.types import Pending
from tests.environments.toy import ToyCorpus

DIM = 8
NOTHING = Pending(torch.empty(0, DIM), torch.empty(0, dtype=torch.int64), [], 5)


def unit(count: int, seed: int) -> Tensor:
    """Vectors of components that are ±0.5 or 0, so that many cosines are equal, and all of them exact."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(count, DIM, generator=generator).argsort(dim=1)[:, :4]
    signs = torch.randint(2, (count, 4), generator=generator) - 0.5
    return torch.zeros(count, DIM).scatter(1, places, signs)


def pair(count: int = 101) -> tuple[ShardedIndex, ExactIndex]:
    together, alone = ShardedIndex(ExactIndex()), ExactIndex()
    for index in (together, alone):
        index.build(unit(count, 0))
    return together, alone


def agree(together: ShardedIndex, alone: ExactIndex, queries: Tensor, k: int = 7, width: int | None = None) -> None:
    for mine, expected in zip(together.search(queries, k, width), alone.search(queries, k, width), strict=True):
        assert torch.equal(mine, expected), (mine, expected)


def same_hits(rank: int) -> None:
    together, alone = pair()
    for k in (1, 7, 300):
        agree(together, alone, unit(5 + 3 * rank, 1 + rank), k)
    agree(together, alone, unit(3, rank), 2 + 4 * rank, 4 if rank else None)
    agree(together, alone, unit(4, 9), 5, 6)
    agree(together, alone, unit(2 * rank, 9))
    assert together.search(unit(0, 0), 3).rows.shape[0] == 0
    assert len(together.vectors) == 51 - rank


def same_vectors(rank: int) -> None:
    together, alone = pair()
    rows = torch.tensor([5, 100, 5, 0, 8][: 5 - 3 * rank])
    assert torch.equal(together.vectors_of(rows), alone.vectors_of(rows))
    assert together.vectors_of(rows[:0]).shape == (0, DIM)


def changes(rank: int) -> None:
    together, alone = pair(3)
    for step in range(12):
        new = unit(1 + step % 3, 50 + step)
        assert torch.equal(together.append(new), alone.append(new))
        rows = torch.randperm(len(alone), generator=torch.Generator().manual_seed(step))[:3]
        gone = rows[alone.alive[rows]][:2]
        for index in (together, alone):
            index.update(rows, unit(3, step))
            index.remove(rows[:2] if not len(gone) else rows[:1])
        assert (len(together), together.live) == (len(alone), alone.live)
        assert torch.equal(together.alive, alone.alive)
        agree(together, alone, unit(4, rank), 6)


def blocks(rank: int) -> None:
    together, alone = pair(1)
    together.build_from(unit(23, 3).split(5))
    alone.build(unit(23, 3))
    agree(together, alone, unit(4, rank), 30)


def fewer_documents_than_processes(rank: int) -> None:
    together, alone = pair(1)
    agree(together, alone, unit(3, rank), 5)
    for index in (together, alone):
        index.append(unit(2, 4))
    together.merge()
    assert together.health() == {}
    agree(together, alone, unit(3, rank), 5)


def uneven_numbers_of_questions(rank: int) -> None:
    together, alone = pair()
    for _ in range(2):
        for number in range(1 + 3 * rank):
            agree(together, alone, unit(2, number))
            if rank == 0 or number == 2:
                rows = torch.arange(number, 9)
                assert torch.equal(together.vectors_of(rows), alone.vectors_of(rows))
        together.finish()
    agree(together, alone, unit(2, 0))


def graphs(rank: int) -> None:
    together, alone = ShardedIndex(HnswIndex()), ExactIndex()
    for index in (together, alone):
        index.build(
            torch.nn.functional.normalize(torch.randn(400, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
        )
    agree(together, alone, unit(5, rank), 10)


def mistakes_do_not_hang(rank: int) -> None:
    together, alone = pair()
    bad = {"NaN": (unit(1, 0) * torch.nan, 3), "k": (unit(1, 0), 0), "width": (torch.ones(1, 3), 3)}
    for queries, k in bad.values():
        with pytest.raises((NumericError, ValueError)) as caught:
            together.search(*((queries, k) if rank else (unit(1, 0), 3)))
        assert ("another process" in str(caught.value)) == (rank == 0)
    agree(together, alone, unit(2, 0))


def saved(rank: int) -> None:
    together, alone = pair()
    for index in (together, alone):
        index.remove(torch.tensor([3, 50]))
    folder = Path(sys.argv[1], "saved")
    together.collect()
    if rank == 0:
        folder.mkdir()
        together.write(folder)
    dist.barrier()
    for again in (ShardedIndex(ExactIndex()), ExactIndex()):
        again.read(folder)
        assert torch.equal(again.alive, alone.alive)
        for mine, expected in zip(again.search(unit(4, rank), 9), alone.search(unit(4, rank), 9), strict=True):
            assert torch.equal(mine, expected)


def encoding(rank: int) -> None:
    seen: list[int] = []

    def encode(texts: Sequence[str]) -> Tensor:
        seen.append(sum(map(len, texts)))
        return torch.tensor([[len(text), ord(text[0])] for text in texts], dtype=torch.float32)

    for count in (1, 2, 3, 50):
        texts = [chr(97 + number % 26) * (1 + 7 * number % 40) for number in range(count)]
        expected = torch.tensor([[len(text), ord(text[0])] for text in texts], dtype=torch.float32)
        assert torch.equal(encode_sharded(texts, encode), expected)
    totals: list[int] = [0, 0]
    dist.all_gather_object(totals, seen[-1])
    assert abs(totals[0] - totals[1]) <= 2
    assert len(seen) == 4


def budgets(rank: int) -> None:
    """Processes of unequal speed, and with unequal errors, choose the same documents."""
    for budget in (TimeBudget(share=0.5), ErrorBudget(target=0.01)):
        state = CorpusState(ToyCorpus([str(row) for row in range(101)]), ExactIndex())
        state.store(torch.arange(101), unit(101, 0), 0)
        upkeep, counts = Upkeep(state, RandomRefresh(seed=1), budget, NoCorrection()), []
        for step in range(1, 7):
            upkeep.advance(NOTHING, lambda rows: unit(len(rows), 7), step)
            upkeep.account((1 + 8 * rank) * 1e-4 * step + 1, torch.device("cpu"))
            error = mean_over_ranks(torch.tensor(0.04 if rank else 0.0))
            budget.audited({"reward_mae": float(error)})
            chosen = (state.stamps == step).nonzero()[:, 0]
            everywhere: list[object] = [None, None]
            dist.all_gather_object(everywhere, [chosen.tolist(), vars(budget)])
            assert everywhere[0] == everywhere[1]
            counts.append(len(chosen))
        assert len(set(counts)) > 1, counts


def upkeep(rank: int) -> None:
    """Documents are chosen, moved and found alike, whether the index is shared, and whoever searches."""
    for searches in ((5, 5), (3, 0), (0, 0)):
        runs = []
        for index in (ExactIndex(), ShardedIndex(ExactIndex())):
            state = CorpusState(ToyCorpus([str(row) for row in range(60)]), index)
            state.store(torch.arange(60), unit(60, 0), 0)
            kept = Upkeep(state, ContestedRefresh(), DocumentBudget(9), RidgeCorrection(prior=1.0))
            for step in range(1, 5):
                count = searches[rank]
                relevant = [{row: 1} for row in range(rank, 5 * count, 5)][:count]
                pending = Pending(unit(count, 10 * step + rank), torch.arange(count), relevant, 7)
                kept.advance(pending, lambda rows, step=step: unit(60, step)[rows], step)
            hits = state.searcher.search(unit(4, rank), 9)
            state.finish()
            vectors = state.searcher.vectors_of(torch.arange(60))
            state.finish()
            runs.append((state.stamps, hits.rows, hits.scores, vectors))
        for whole, shared in zip(*runs, strict=True):
            torch.testing.assert_close(shared, whole, atol=1e-6, rtol=0)


def other_default_types(rank: int) -> None:
    together, alone = pair()
    queries, rows = unit(4, rank), torch.arange(7)
    for kind in (torch.bfloat16, torch.float64):
        torch.set_default_dtype(kind)
        try:
            found, vectors = together.search(queries, 7), together.vectors_of(rows)
        finally:
            torch.set_default_dtype(torch.float32)
        assert torch.equal(found.scores, alone.search(queries, 7).scores)
        assert torch.equal(vectors, alone.vectors_of(rows))


PARTS = [
    same_hits, same_vectors, changes, blocks, fewer_documents_than_processes, uneven_numbers_of_questions, graphs,
    mistakes_do_not_hang, saved, encoding, budgets, upkeep,
    other_default_types,
]  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    number = int(os.environ["RANK"])
    store = f"file://{Path(sys.argv[1], 'store').resolve()}"
    dist.init_process_group("gloo", store, timedelta(seconds=180), world_size=2, rank=number)
    for part in PARTS:
        part(number)
        print(part.__name__, flush=True)  # noqa: T201
    dist.destroy_process_group()
