"""What crosses the borders between sub-packages: plain tuples with a shape per field, and the protocols.

Axis names used in annotations: ``queries``, ``docs`` (rows of a corpus), ``batch`` (sequences), ``seq`` (tokens),
``dim`` (embedding width), ``hits`` (results per query), ``rollouts`` (sampled completions).
Row ``i`` of a matrix of document vectors is always document ``i`` of its corpus.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from jaxtyping import Bool, Float, Int64
from torch import Tensor

Split = Literal["train", "val", "test", "predict"]
"""Which part of a data set; each has its own queries, and may have its own corpus."""

Mode = str
"""How a query becomes an embedding.

``thinking``: the model writes the likeliest thought, then the embed token. ``direct``: no thought. ``mean-N``: the mean
of the embeddings after ``N`` sampled thoughts. ``budget-N``: the thought ends after ``N`` tokens at the latest. Three
controls tell whether the thought carries meaning: ``empty`` (the thinking prompt, but the embed token at once),
``shuffled`` (the thought written for another query) and ``copied`` (the query in place of a thought).
"""


class Query(NamedTuple):
    """One query with its judgements.

    Attributes:
        id: Unique in its split.
        text: What is searched for.
        relevant: Document id to grade, grades above zero only.
        negatives: Ids of documents known to look relevant and not to be.
        thought: The reasoning that the data set gives for this query, if any.
        weight: Importance in training, >= 0; only ratios matter.
    """

    id: str
    text: str
    relevant: dict[str, int]
    negatives: tuple[str, ...] = ()
    thought: str | None = None
    weight: float = 1.0


class QueryBatch(NamedTuple):
    """Queries to search with; every list has one entry per query."""

    ids: list[str]
    texts: list[str]
    relevant: list[dict[str, int]]


class TrainBatch(NamedTuple):
    """Queries with one or several positives each, and any number of negatives; every list has one entry per query.

    Attributes:
        ids: Query ids.
        texts: Query texts.
        relevant: Document id to grade, for all judged documents (used to mask false negatives).
        thoughts: The thought to learn to write, empty where there is none.
        weights: Importance of each query, >= 0; only ratios matter.
        positive_ids: Ids of the positives, at least one.
        positives: Texts of the positives.
        negative_ids: Ids of the hard negatives, possibly none.
        negatives: Texts of the hard negatives.
    """

    ids: list[str]
    texts: list[str]
    relevant: list[dict[str, int]]
    thoughts: list[str]
    weights: list[float]
    positive_ids: list[list[str]]
    positives: list[list[str]]
    negative_ids: list[list[str]]
    negatives: list[list[str]]


class Hits(NamedTuple):
    """Search results, best first.

    Attributes:
        rows: Corpus rows.
        scores: Cosine similarities, float32, in descending order.
    """

    rows: Int64[Tensor, "queries hits"]
    scores: Float[Tensor, "queries hits"]


class Outcome(NamedTuple):
    """What a reward judges: a batch of sampled completions, and the searches that were made with them.

    Attributes:
        hits: The results of each completion's embedding.
        grades: Relevance grade of each hit for the completion's query; 0 is irrelevant.
        positive_scores: Cosine with the nearest of the documents judged relevant, whether it is among the hits or not.
        embeddings: Where each completion ended, unit length.
        emitted: False where the completion ended without the embed token.
        truncated: True where it used up its tokens.
        lengths: Sampled tokens of each completion.
        groups: Completions with equal numbers answer the same query.
        queries: The text that each completion is about.
        thoughts: What was written before the embed token.
    """

    hits: Hits
    grades: Float[Tensor, "rollouts hits"]
    positive_scores: Float[Tensor, "rollouts"]
    embeddings: Float[Tensor, "rollouts dim"]
    emitted: Bool[Tensor, "rollouts"]
    truncated: Bool[Tensor, "rollouts"]
    lengths: Int64[Tensor, "rollouts"]
    groups: Int64[Tensor, "rollouts"]
    queries: list[str]
    thoughts: list[str]


class Searcher(Protocol):
    """An index of all documents."""

    def search(self, queries: Float[Tensor, "queries dim"], k: int, width: int | None = None) -> Hits:
        """The best ``k`` documents of each query, by the first ``width`` components; fewer in a smaller corpus."""

    def vectors_of(self, rows: Int64[Tensor, "some"]) -> Float[Tensor, "some dim"]:
        """Vectors of some documents, as they are stored."""


class Pending(NamedTuple):
    """Searches that are about to be rewarded, from which an environment decides what to encode again before.

    Attributes:
        embeddings: What is searched with, unit length.
        groups: Query of each search, an index into ``relevant``.
        relevant: For each query, corpus row to grade of the documents judged relevant, at least one.
        hits: How many results will be judged.
    """

    embeddings: Float[Tensor, "rollouts dim"]
    groups: Int64[Tensor, "rollouts"]
    relevant: list[dict[int, int]]
    hits: int


class Observation(NamedTuple):
    """What one training step found, from which an environment audits itself.

    Attributes:
        embeddings: The searches that were made, unit length.
        hits: What the searches found.
        groups: Query of each search.
        score: The rewards as a function of the index, so that they can be computed again with an exact one.
    """

    embeddings: Float[Tensor, "rollouts dim"]
    hits: Hits
    groups: Int64[Tensor, "rollouts"]
    score: Callable[[Searcher], Float[Tensor, "rollouts"]]


class CorpusLike(Protocol):
    """Documents in a fixed order."""

    @property
    def ids(self) -> Sequence[str]:
        """Document ids, unique."""

    @property
    def texts(self) -> Sequence[str]:
        """Document texts, title included."""

    def __len__(self) -> int:
        """Number of documents."""

    def row(self, document_id: str) -> int:
        """Position of a document."""


class DocumentEncoder(Protocol):
    """What an environment needs from a model."""

    def encode_documents(
        self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None
    ) -> Float[Tensor, "docs dim"]:
        """Unit-length float32 embeddings in the order of ``texts``; calls ``on_progress`` with counts as it goes."""


class Environment(Protocol):
    """What a model needs from an environment."""

    def corpus(self, split: Split) -> CorpusLike:
        """The documents that queries of a split are searched in."""

    def search(self, queries: Float[Tensor, "queries dim"], k: int, split: Split, width: int | None = None) -> Hits:
        """The best ``k`` documents of each query, by the first ``width`` components; fewer in a smaller corpus."""

    def searcher(self, split: Split) -> Searcher:
        """The index of a split's documents."""

    def prepare(self, pending: Pending) -> None:
        """Brings up to date what matters for these searches; on all processes once per batch."""

    def observe(self, observation: Observation) -> None:
        """Takes note of what the searches of a training step found."""


class Searches(NamedTuple):
    """What a batch of queries found; every list has one entry per query.

    Attributes:
        ids: Query ids.
        texts: Query texts.
        thoughts: What stood before the embed token, written or given; empty where there was no thought.
        hits: The results.
        document_ids: Ids of the hits, best first.
    """

    ids: list[str]
    texts: list[str]
    thoughts: list[str]
    hits: Hits
    document_ids: list[list[str]]
