import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks.serve import clients
from experiments.benchmarks.serve.clients import Expected, Tally, load
from experiments.benchmarks.serve.run import RESULTS, markdown, parse, summarise
from srch3.serving.app import application
from tests.serving.fakes import FakeFound, FakeSearcher, found_for, serving

QUERIES = [f"query {number}" for number in range(30)]


def expected_of_fakes() -> dict[tuple[str, str], Expected]:
    found = {(query, mode): found_for(query, 10, mode) for query in QUERIES for mode in ("direct", "thinking")}
    return {
        asked: Expected([hit.id for hit in one.hits], [hit.score for hit in one.hits], one.thought)
        for asked, one in found.items()
    }


def tally_with(searcher: FakeSearcher, number: int = 50, seconds: float = 2.0) -> Tally:
    with serving(application(searcher)) as port:
        return asyncio.run(load(port, expected_of_fakes(), number, seconds))


def test_fifty_clients_lose_and_mix_nothing() -> None:
    tally = tally_with(FakeSearcher())
    assert (tally.mixed, tally.lost, tally.otherwise, tally.complaints) == (0, 0, 0, [])
    assert all(len(seconds) > 5 for seconds in tally.seconds.values())
    assert tally.left > 0
    assert tally.refused.keys() == {"400", "413", "422"}


def test_answers_that_are_mixed_up_are_noticed() -> None:
    class Mixing(FakeSearcher):
        def search_many(self, queries: Sequence[str], k: int, mode: str) -> list[FakeFound]:
            found = super().search_many(queries, k, mode)
            return [*found[1:], found[0]]

    tally = tally_with(Mixing(), seconds=1.0)
    assert tally.mixed > 0
    assert "got the answer of" in tally.complaints[0]


def test_answers_that_are_lost_are_noticed() -> None:
    class Losing(FakeSearcher):
        def stream(self, query: str, k: int, mode: str) -> Iterator[tuple[str, Any]]:
            if query == QUERIES[0]:
                raise ZeroDivisionError
            yield from super().stream(query, k, mode)

        def search_many(self, queries: Sequence[str], k: int, mode: str) -> list[FakeFound]:
            found = super().search_many(queries, k, mode)
            return [one._replace(hits=[hit._replace(score=0.1) for hit in one.hits]) for one in found]

    tally = tally_with(Losing(), number=10, seconds=1.0)
    assert tally.mixed == 0
    assert tally.lost > 0
    assert tally.otherwise > 0


def test_a_server_that_is_gone_loses_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "KINDS", {"direct": 1.0})
    with serving(application(FakeSearcher())) as port:
        pass
    tally = asyncio.run(load(port, expected_of_fakes(), 2, 0.1))
    assert tally.lost >= 2


def test_the_readme_has_the_figures_of_the_results() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert markdown(results) in (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    assert (results["clients"], results["seconds"], results["mixed"], results["lost"]) == (50, 60.0, 0, 0)


def test_what_happened_is_summed_up(tmp_path: Path) -> None:
    settings = parse([f"--index={tmp_path}", f"--queries={tmp_path}", "--seconds=2"])
    tally = Tally({"direct": [0.1, 0.3, 0.2, 0.4], "thinking": [], "stream": [1.0]}, left=3)
    tally.refused["413"] += 1
    results = summarise(tally, settings, 7, [None, None])
    assert results["kinds"] == {
        "direct": {"answers": 4, "median_seconds": 0.25, "p95_seconds": 0.3},
        "stream": {"answers": 1, "median_seconds": 1.0, "p95_seconds": 1.0},
    }
    assert "| direct | 4 | 2.0 | 0.25 s | 0.30 s |" in markdown(results)
    assert "Clients that left: 3. Refused: 1 with 413." in markdown(results)
