"""The refresh policy that follows the rewards: positives together with their competitors."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from srch3.environments.refresh.base import BaseRefresh, View, at_least
from srch3.environments.refresh.graph import neighbourhoods


class NeighbourhoodRefresh(BaseRefresh):
    """Refreshes the positives together with their competitors, then hits, and the oldest documents in turn.

    A positive that is fresher than its competitors scores too high, and so does the reward. Therefore a positive is
    preferred only together with its neighbourhood in the graph of nearest documents, the stalest positive first, as
    many neighbourhoods as fit. Room that is left goes to the other hits of all searches, by how much they can weigh in
    a DCG. The sweep, as in :class:`BaseRefresh`, goes by age alone.

    Args:
        competitors: Nearest documents that each document of the graph is linked to.
        hops: How many links away from a positive its neighbourhood ends; neighbourhoods grow like
            ``competitors ** hops``.
        sweep: Share of every budget for the oldest documents, rounded up; with 0 no age is bounded.

    Raises:
        ConfigError: A number is too low, or the share is not between 0 and 1.
    """

    def __init__(self, competitors: int = 4, hops: int = 1, sweep: float = 0.5) -> None:
        super().__init__(sweep)
        at_least("competitors", competitors, 0)
        at_least("hops", hops, 1)
        self.competitors, self.hops = competitors, hops

    def rank(self, view: View, room: int) -> Int64[Tensor, "ranked"]:
        """Whole neighbourhoods that fit into the room, then hits that are no positives."""
        seen = view.seen
        positives = seen.positives[view.alive[seen.positives]]
        positives = positives[view.stamps[positives].argsort(stable=True)]
        units = neighbourhoods(view.searcher, positives, self.competitors, self.hops)
        hits = seen.hits[seen.weights.argsort(descending=True, stable=True)]
        return torch.cat([packed(units, view.stale, room), hits[~torch.isin(hits, positives)]])


def packed(units: list[Int64[Tensor, "unit"]], waiting: Bool[Tensor, "docs"], room: int) -> Int64[Tensor, "packed"]:
    """The waiting members of the first units, passing over units that do not fit whole beside those before them.

    Args:
        units: Rows to take together, in order of preference; they may share members.
        waiting: Members that are not need no room.
        room: The most members.
    """
    taken: dict[int, None] = {}
    for unit in units:
        new = [row for row in unit[waiting[unit]].tolist() if row not in taken]
        if len(taken) + len(new) <= room:
            taken.update(dict.fromkeys(new))
    return torch.tensor(list(taken), dtype=torch.int64)
