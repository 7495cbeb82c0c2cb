import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from srch3.environments.ranks import balanced, encode_sharded
from srch3.environments.shards import ShardedIndex
from srch3.errors import CheckpointError
from srch3.indexes import ExactIndex, HnswIndex
from tests.environments.ranks_of_two import DIM, PARTS, agree, pair, unit

ROOT = Path(__file__).parent.parent.parent


def test_work_is_dealt_out_evenly() -> None:
    assert balanced([5, 1, 4, 2, 9], 2) == [[3, 4], [0, 1, 2]]
    assert balanced([3], 3) == [[0], [], []]
    assert balanced([], 2) == [[], []]
    lengths = [7 * number % 31 for number in range(100)]
    shares = balanced(lengths, 3)
    assert sorted(number for share in shares for number in share) == list(range(100))
    totals = [sum(lengths[number] for number in share) for share in shares]
    assert max(totals) - min(totals) <= 3


def test_one_process_encodes_everything_at_once() -> None:
    calls: list[list[str]] = []
    encode_sharded(["a", "b"], lambda texts: calls.append(list(texts)) or torch.eye(2))
    assert calls == [["a", "b"]]


def test_alone_it_is_the_index_that_it_holds(tmp_path: Path) -> None:
    together, alone = pair()
    for index in (together, alone):
        index.update(torch.tensor([7, 2]), unit(2, 5))
        index.remove(torch.tensor([0, 9]))
    agree(together, alone, unit(4, 1))
    agree(together, alone, unit(4, 1), width=5)
    together.finish()
    rows = torch.tensor([2, 100])
    assert torch.equal(together.vectors_of(rows), alone.vectors_of(rows))
    together.collect()
    together.write(tmp_path)
    together.to("cpu")
    again = ShardedIndex(ExactIndex(dtype="float16"))
    again.read(tmp_path)
    agree(again, alone, unit(4, 1))


@pytest.mark.parametrize(
    ("rows", "message"),
    [([5, 5], "expected each row once"), ([101], "expected 0 to 100; got 101 to 101"), ([3], "do not; remove each")],
)
def test_rows_that_cannot_be_removed_are_refused(rows: list[int], message: str) -> None:
    together, _ = pair()
    together.remove(torch.tensor([3]))
    with pytest.raises(ValueError, match=message):
        together.remove(torch.tensor(rows))
    assert together.live == 100


def test_half_the_precision_is_saved_as_it_is_searched(tmp_path: Path) -> None:
    together = ShardedIndex(ExactIndex(dtype="int8"))
    together.build(
        torch.nn.functional.normalize(torch.randn(50, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    )
    together.collect()
    together.write(tmp_path)
    again = ShardedIndex(ExactIndex(dtype="int8"))
    again.read(tmp_path)
    assert float((again.vectors - together.vectors).abs().max()) < 1e-2


def test_writing_needs_what_was_collected(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"expected collect\(\) in every process before write\(\)"):
        pair()[0].write(tmp_path)


def test_what_a_single_process_saved_in_another_form_is_refused(tmp_path: Path) -> None:
    index = HnswIndex()
    index.build(unit(30, 0))
    index.write(tmp_path)
    with pytest.raises(CheckpointError, match="got kind='hnsw', dtype='float32'; resume with `shards: false`"):
        ShardedIndex(HnswIndex()).read(tmp_path)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.environments.ranks_of_two", str(tmp_path)]
    runs = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    printed = [run.communicate(timeout=240) for run in runs]
    for run, (out, errors) in zip(runs, printed, strict=True):
        assert run.returncode == 0, out + errors
        assert out.split() == [part.__name__ for part in PARTS]
