import multiprocessing
from math import log2
from pathlib import Path

import torch
import torch.distributed as dist

from srch3.environments.touched import Touched, gather, touched, union
from srch3.types import Hits, Observation


def observation(rows: list[list[int]], positives: list[int]) -> Observation:
    hits = Hits(torch.tensor(rows), torch.zeros(len(rows), len(rows[0])))
    return Observation(
        torch.zeros(len(rows), 2), torch.tensor(positives), hits, torch.arange(len(rows)), lambda _: hits
    )


def check(result: Touched, positives: list[int], weights: dict[int, float]) -> None:
    assert result.positives.tolist() == positives
    assert result.hits.tolist() == sorted(weights)
    expected = torch.tensor([weights[row] for row in sorted(weights)], dtype=torch.float64)
    torch.testing.assert_close(result.weights, expected)


def test_hits_weigh_what_they_can_contribute_to_a_dcg() -> None:
    result = touched(observation([[7, 2, 5], [2, 9, 7]], [5, 3]))
    check(result, [3, 5], {7: 1 + 1 / 2, 2: 1 / log2(3) + 1, 5: 1 / 2, 9: 1 / log2(3)})


def test_a_union_adds_weights_and_names_each_document_once() -> None:
    parts = [touched(observation([[1, 2]], [1])), touched(observation([[2, 3]], [1, 4]))]
    expected = ([1, 4], {1: 1.0, 2: 1 / log2(3) + 1, 3: 1 / log2(3)})
    check(union(parts), *expected)
    check(union(parts[::-1]), *expected)
    check(union([]), [], {})


def test_alone_a_rank_has_only_its_own() -> None:
    mine = touched(observation([[1, 2]], [1]))
    assert gather(mine) is mine


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = touched(observation([[1, 2]] if rank == 0 else [[2, 3]], [1] if rank == 0 else [4]))
    torch.save(tuple(gather(mine)), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_all_ranks_gather_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=60)
    first, second = (Touched(*torch.load(tmp_path / f"{rank}.pt")) for rank in range(2))
    check(first, [1, 4], {1: 1.0, 2: 1 / log2(3) + 1, 3: 1 / log2(3)})
    assert all(torch.equal(left, right) for left, right in zip(first, second, strict=True))
