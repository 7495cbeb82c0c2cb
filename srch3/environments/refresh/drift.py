"""The refresh policy that follows the movement of the vectors."""

from jaxtyping import Float, Int64
from torch import Tensor

from srch3.environments.refresh.base import BaseRefresh, View, at_least
from srch3.environments.refresh.graph import nearest


class DriftRefresh(BaseRefresh):
    """Refreshes the documents whose neighbours moved most.

    What moves one document moves those near it. Each document that was encoded again lends the distance that it was
    found to have moved to its nearest neighbours; a document's score is the mean of what it was lent times its age in
    optimizer steps, and the highest scores come first. Until something is known to have moved, and beyond what the
    sources reach, the oldest documents are chosen.

    Args:
        neighbours: Nearest documents that each source lends its distance to.
        sources: Most documents that lend: those encoded last, and among them those that moved most. They bound the
            cost of choosing, which is one search for each; at most ``sources * neighbours`` documents get a score.
        sweep: Share of every budget for the oldest documents, rounded up; with 0 no age is bounded.

    Raises:
        ConfigError: A number is too low, or the share is not between 0 and 1.
    """

    looks = False

    def __init__(self, neighbours: int = 16, sources: int = 512, sweep: float = 0.5) -> None:
        super().__init__(sweep)
        at_least("neighbours", neighbours, 1)
        at_least("sources", sources, 1)
        self.neighbours, self.sources = neighbours, sources

    def rank(self, view: View, room: int) -> Int64[Tensor, "ranked"]:
        """Neighbours of the sources, by mean distance times age, ties by row."""
        sources = _latest(view, self.sources)
        near = nearest(view.searcher, sources, self.neighbours)
        rows, places = near.flatten().unique(return_inverse=True)
        lent = view.moved[sources].double().repeat_interleave(near.shape[1])
        scores = _means(lent, places, len(rows)) * (view.step - view.stamps[rows])
        ranked: Tensor = rows[scores.argsort(descending=True, stable=True)]
        return ranked


def _latest(view: View, count: int) -> Int64[Tensor, "sources"]:
    """Documents whose movement is known: the last encoded first, then those that moved most, ties by row."""
    known = (view.alive & ~view.moved.isnan()).nonzero()[:, 0]
    count = min(count, len(known))
    if count:
        bound = view.stamps[known].topk(count).values[-1]
        known = known[view.stamps[known] >= bound]
    known = known[view.moved[known].argsort(descending=True, stable=True)]
    latest: Tensor = known[view.stamps[known].argsort(descending=True, stable=True)][:count]
    return latest


def _means(values: Float[Tensor, "any"], places: Int64[Tensor, "any"], count: int) -> Float[Tensor, "count"]:
    """The mean of the values at each place."""
    sums = values.new_zeros(count).index_add(0, places, values)
    return sums / places.bincount(minlength=count)
