import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from srch3.errors import ConfigError
from srch3.indexes import FaissIndex
from tests.indexes.clusters import brute_force, clustered, recall


def test_vectors_in_a_file_are_searched_and_overwritten_as_those_in_memory(tmp_path: Path) -> None:
    memory, mapped = FaissIndex(), FaissIndex(vectors_folder=str(tmp_path))
    for index in (memory, mapped):
        index.build(clustered(400))
        index.append(clustered(150, seed=1))
        index.update(torch.arange(0, 500, 9), clustered(56, seed=2))
        index.remove(torch.arange(30))
    queries = clustered(20, seed=3)
    assert torch.equal(memory.vectors, mapped.vectors)
    assert torch.equal(memory.search(queries, 10).rows, mapped.search(queries, 10).rows)
    assert list(tmp_path.iterdir()) == []
    saved = tmp_path / "saved"
    saved.mkdir()
    mapped.write(saved)
    memory.read(saved)
    assert torch.equal(memory.search(queries, 10).scores, mapped.search(queries, 10).scores)


def test_codes_that_lose_much_are_made_up_for_by_proposing_more() -> None:
    vectors, queries = clustered(2000, clusters=40), clustered(40, clusters=40, seed=1)
    found = []
    for refine in (1, 8):
        index = FaissIndex(codes="PQ2x4", refine=refine, min_recall=0, dtype="float32")
        index.build(vectors)
        found.append(recall(index.search(queries, 100).rows, brute_force(vectors, queries, 100)))
    assert found[0] < 0.95 < 0.98 <= found[1]


def test_training_depends_on_the_seed_alone() -> None:
    rows = []
    for seed in (0, 0, 1):
        index = FaissIndex(nprobe=1, refine=1, min_recall=0, seed=seed)
        index.build(clustered(2000))
        rows.append(index._propose(index._coordinates(clustered(30, seed=1)), 20, 1))
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_the_threads_of_torch_are_left_as_they_were() -> None:
    before = torch.get_num_threads()
    index = FaissIndex(threads=before + 1)
    index.build(clustered(300))
    index.search(clustered(3), 5)
    assert torch.get_num_threads() == before


def test_prototypes_can_be_copied_and_sent_to_another_process() -> None:
    prototype = FaissIndex(nprobe=3)
    for index in (copy.deepcopy(prototype), pickle.loads(pickle.dumps(prototype))):
        index.build(clustered(50))
        assert index.nprobe == 3
        assert index.search(clustered(50), 1).rows[:, 0].tolist() == list(range(50))
    assert len(prototype) == 0


def test_without_faiss_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"expected faiss for FaissIndex; got none; pip install 'srch3\[faiss\]'"):
        FaissIndex()


@pytest.mark.parametrize("codes", ["PQ7", "nonsense"])
def test_codes_that_cannot_be_made_are_refused(codes: str) -> None:
    with pytest.raises(ConfigError, match=f"index.init_args.codes: expected what faiss can train .*got '{codes}'"):
        FaissIndex(codes=codes).build(clustered(300))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lists": 0}, "index.init_args.lists: expected at least 1; got 0"),
        ({"nprobe": 0}, "index.init_args.nprobe: expected at least 1; got 0"),
        ({"refine": 0}, "index.init_args.refine: expected at least 1; got 0"),
        ({"threads": 0}, "index.init_args.threads: expected at least 1; got 0"),
        ({"vectors_folder": "/nowhere"}, "index.init_args.vectors_folder: expected a folder that exists; got /nowhere"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FaissIndex(**settings)
