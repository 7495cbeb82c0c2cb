import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, tensor
from torch.nn.functional import normalize

from srch3.errors import ConfigError
from srch3.indexes import ExactIndex
from srch3.rewards import Asked, BasePool, BatchPool, IndexPool, MixedPool, Ranked

SIZE, DIM = 40, 6
RELEVANT = [{3: 2, 17: 1}, {5: 1}, {3: 1, 30: 1, 8: 3}]
GROUPS = tensor([2, 0, 1, 1, 0, 2, 2])
POOLS: dict[str, BasePool] = {
    "index": IndexPool(),
    "batch": BatchPool(),
    "mixed": MixedPool(hard=4, random=5),
    "hard": MixedPool(hard=6, random=0),
    "random": MixedPool(hard=0, random=6),
}


def vectors() -> Tensor:
    return normalize(torch.randn(SIZE, DIM, generator=torch.Generator().manual_seed(0)))


def asked(seed: int = 11, documents: Sequence[int] = (17, 3, 5, 21, 8, 3), groups: Tensor = GROUPS) -> Asked:
    index = ExactIndex()
    index.build(vectors())
    embeddings = normalize(torch.randn(len(groups), DIM, generator=torch.Generator().manual_seed(1)))
    fresh = normalize(torch.randn(SIZE, DIM, generator=torch.Generator().manual_seed(2)))
    return Asked(embeddings, groups, RELEVANT, index, SIZE, tensor(documents), fresh[list(documents)], seed)


def slow_rank(embedding: Tensor, rows: Sequence[int], known: Tensor, judged: dict[int, int], k: int) -> list[object]:
    """Hits, scores, grades and positive score of one completion, by a loop over its candidates."""
    scored = sorted(((float(embedding @ known[row]), row) for row in set(rows)), key=lambda pair: (-pair[0], pair[1]))
    best = max((score for score, row in scored if row in judged), default=-1.0)
    first = scored[:k]
    return [
        [row for _, row in first],
        [score for score, _ in first],
        [float(judged.get(row, 0)) for _, row in first],
        best,
    ]


def check(ranked: Ranked, searches: Asked, candidates: Sequence[Sequence[int]], known: Tensor, k: int) -> None:
    for row, group in enumerate(searches.groups.tolist()):
        hits, scores, grades, best = slow_rank(
            searches.embeddings[row], candidates[group], known, searches.relevant[group], k
        )
        assert ranked.hits.rows[row].tolist() == hits
        torch.testing.assert_close(ranked.hits.scores[row], tensor(scores), atol=1e-6, rtol=0)
        assert ranked.grades[row].tolist() == grades
        assert ranked.positive_scores[row].item() == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("k", [1, 7, 100])
def test_the_index_pool_is_the_whole_corpus(k: int) -> None:
    searches = asked()
    ranked = IndexPool().rank(searches, k)
    assert ranked.hits.rows.shape == (7, min(k, SIZE))
    check(ranked, searches, [range(SIZE)] * 3, vectors(), k)


@pytest.mark.parametrize("k", [1, 3, 100])
def test_the_batch_pool_is_what_the_batch_encoded_each_document_once(k: int) -> None:
    searches = asked()
    assert searches.vectors is not None
    known = torch.zeros(SIZE, DIM)
    for row, vector in zip(searches.documents.tolist(), searches.vectors, strict=True):
        known[row] = vector
    ranked = BatchPool(across_ranks=False).rank(searches, k)
    assert ranked.hits.rows.shape == (7, min(k, 5))
    check(ranked, searches, [searches.documents.tolist()] * 3, known, k)


def test_of_a_document_that_comes_twice_the_first_vector_counts() -> None:
    searches = asked(documents=(3, 3, 5), groups=tensor([0]))
    one, other = torch.eye(DIM)[:2]
    searches = searches._replace(vectors=torch.stack([one, other, -one]), embeddings=one[None])
    ranked = BatchPool().rank(searches, 9)
    assert ranked.hits.rows.tolist() == [[3, 5]]
    assert ranked.positive_scores.tolist() == [1.0]


def test_a_query_without_a_judged_document_in_the_batch_has_the_lowest_score() -> None:
    ranked = BatchPool().rank(asked(documents=(5, 21)), 9)
    assert (ranked.positive_scores == -1).tolist() == [True, True, False, False, True, True, True]


SHARES = [(0, 4), (4, 6)]
"""Documents of each process: the last one of the second is also the second of the first."""


def share(rank: int) -> Asked:
    whole = asked()
    assert whole.vectors is not None
    first, last = SHARES[rank]
    mine = whole.groups % 2 == rank
    return whole._replace(
        embeddings=whole.embeddings[mine],
        groups=whole.groups[mine],
        documents=whole.documents[first:last],
        vectors=whole.vectors[first:last],
    )


def rank_share(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name, pool in (("all", BatchPool()), ("own", BatchPool(across_ranks=False))):
        hits, grades, positive_scores = pool.rank(share(rank), 9)
        torch.save([hits.rows, hits.scores, grades, positive_scores], Path(folder, f"{name}{rank}.pt"))
    dist.destroy_process_group()


def test_documents_of_all_processes_are_ranked_once(tmp_path: Path) -> None:
    mp.spawn(rank_share, (str(tmp_path),), nprocs=2)
    whole = BatchPool().rank(asked(), 9)
    for rank, mine in enumerate((GROUPS % 2 == 0, GROUPS % 2 == 1)):
        found = torch.load(tmp_path / f"all{rank}.pt", weights_only=True)
        expected = [whole.hits.rows, whole.hits.scores, whole.grades, whole.positive_scores]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other[mine], atol=1e-6, rtol=0)
        own = torch.load(tmp_path / f"own{rank}.pt", weights_only=True)
        assert own[0].sort(dim=1).values.unique(dim=0).tolist() == [[[3, 5, 17, 21], [3, 8]][rank]]


def test_the_batch_pool_wants_vectors_and_keeps_no_gradient() -> None:
    searches = asked()
    assert BatchPool.uses_batch
    assert not IndexPool.uses_batch
    assert not MixedPool.uses_batch
    with pytest.raises(RuntimeError, match="expected vectors"):
        BatchPool().rank(searches._replace(vectors=None), 3)
    assert searches.vectors is not None
    learned = searches._replace(vectors=searches.vectors.clone().requires_grad_())
    assert not BatchPool().rank(learned, 3).hits.scores.requires_grad


def mixed_candidates(searches: Asked, group: int, hard: int, drawn: int) -> list[int]:
    """A query's pool: judged documents, then the hardest others, then draws that are neither."""
    judged = searches.relevant[group]
    mine = [searches.embeddings[row] for row, other in enumerate(searches.groups.tolist()) if other == group]
    nearest = {row: max(float(query @ vectors()[row]) for query in mine) for row in range(SIZE) if row not in judged}
    hardest = sorted(nearest, key=lambda row: (-nearest[row], row))[:hard]
    count = min(SIZE, drawn + len(judged) + len(hardest))
    sample = random.Random(f"{searches.seed} {sorted(judged)}").sample(range(SIZE), count)
    others = [row for row in sample if row not in judged and row not in hardest][:drawn]
    return [*judged, *hardest, *others]


@pytest.mark.parametrize(("hard", "drawn"), [(4, 5), (0, 6), (6, 0), (50, 50)])
def test_the_mixed_pool_has_judged_hard_and_random_documents(hard: int, drawn: int) -> None:
    searches = asked()
    candidates = [mixed_candidates(searches, group, hard, drawn) for group in range(3)]
    assert [len(set(rows)) for rows in candidates] == [min(SIZE, hard + drawn + n) for n in (2, 1, 3)]
    smallest = min(map(len, candidates))
    ranked = MixedPool(hard, drawn).rank(searches, 100)
    assert ranked.hits.rows.shape == (7, smallest)
    check(ranked, searches, candidates, vectors(), smallest)
    check(MixedPool(hard, drawn).rank(searches, 3), searches, candidates, vectors(), 3)


def test_draws_depend_on_the_seed_and_the_query_alone() -> None:
    pool = MixedPool(hard=1, random=8)
    one, again, other = (set(pool.rank(asked(seed), 100).hits.rows[2].tolist()) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    searches = asked()
    alone = searches.groups == 1
    whole = MixedPool(2, 8).rank(searches, 100).hits.rows[alone]
    part = searches._replace(
        embeddings=searches.embeddings[alone],
        groups=torch.zeros(int(alone.sum()), dtype=torch.long),
        relevant=[searches.relevant[1]],
    )
    assert torch.equal(MixedPool(2, 8).rank(part, 100).hits.rows, whole)


def test_judged_documents_are_never_among_the_negatives() -> None:
    for seed in range(20):
        ranked = MixedPool(hard=20, random=15).rank(asked(seed), 100)
        for row, group in enumerate(GROUPS.tolist()):
            found = dict(zip(ranked.hits.rows[row].tolist(), ranked.grades[row].tolist(), strict=True))
            assert len(found) == len(ranked.hits.rows[row])
            assert all(found[judged] == grade for judged, grade in RELEVANT[group].items() if judged in found)


@pytest.mark.parametrize("name", POOLS)
def test_the_order_of_completions_does_not_matter(name: str) -> None:
    searches, order = asked(), torch.randperm(7, generator=torch.Generator().manual_seed(0))
    shuffled = searches._replace(embeddings=searches.embeddings[order], groups=searches.groups[order])
    ranked, again = POOLS[name].rank(searches, 8), POOLS[name].rank(shuffled, 8)
    assert again.hits.rows.equal(ranked.hits.rows[order])
    torch.testing.assert_close(again.hits.scores, ranked.hits.scores[order])
    assert again.grades.equal(ranked.grades[order])
    torch.testing.assert_close(again.positive_scores, ranked.positive_scores[order])


@pytest.mark.parametrize("name", POOLS)
def test_mixed_precision_does_not_round_similarities(name: str) -> None:
    expected = POOLS[name].rank(asked(), 8)
    with torch.autocast("cpu", torch.bfloat16):
        ranked = POOLS[name].rank(asked(), 8)
    assert ranked.hits.rows.equal(expected.hits.rows)
    assert ranked.hits.scores.equal(expected.hits.scores)
    assert ranked.positive_scores.equal(expected.positive_scores)


@pytest.mark.parametrize("name", POOLS)
def test_documents_that_tie_stand_in_the_order_of_their_rows(name: str) -> None:
    axes = torch.eye(DIM)
    known = vectors()
    known[[3, 20]], known[[8, 9]] = axes[0], axes[1]
    searches = asked(documents=(20, 3, 9, 8), groups=tensor([0]))
    searches = searches._replace(vectors=known[[20, 3, 9, 8]], relevant=[{3: 1, 8: 1}])
    index = ExactIndex()
    index.build(known)
    for row, twin, axis in ((3, 20, 0), (8, 9, 1)):
        ranked = POOLS[name].rank(searches._replace(embeddings=axes[[axis]], index=index), 8)
        found = ranked.hits.rows[0].tolist()
        assert found[0] == row
        assert name == "random" or found[1] == twin
        assert ranked.positive_scores.item() == 1.0


def test_mixtures_without_negatives_are_refused() -> None:
    for arguments, name in (({"hard": -1}, "hard"), ({"random": -2}, "random"), ({"hard": 0, "random": 0}, "random")):
        with pytest.raises(ConfigError, match=rf"^model\.init_args\.pool\.init_args\.{name}: expected at least"):
            MixedPool(**arguments)


def test_removed_documents_are_no_candidates() -> None:
    searches = asked()
    removed = frozenset(set(range(0, SIZE, 2)) - {row for judged in searches.relevant for row in judged})
    index = ExactIndex()
    index.build(vectors())
    index.remove(torch.tensor(sorted(removed)))
    ranked = MixedPool(hard=2, random=SIZE).rank(searches._replace(index=index, removed=removed), 100)
    assert ranked.hits.rows.shape[1] == SIZE - len(removed)
    assert not removed & set(ranked.hits.rows.flatten().tolist())
