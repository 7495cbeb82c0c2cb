"""The documents that the queries of a step are compared with, and which of them answer which query."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from srch3.functional.contrastive import Targets
from srch3.functional.distributed import gather_rows
from srch3.functional.hashing import key


class Documents(NamedTuple):
    """The documents of a process' share of a batch, each text once.

    Attributes:
        texts: What has to be embedded.
        text_keys: A number for each text, the same in every process.
        id_keys: A number for each id that stands for one of the texts.
        id_texts: The number of its text.
    """

    texts: list[str]
    text_keys: Int64[Tensor, "docs"]
    id_keys: Int64[Tensor, "ids"]
    id_texts: Int64[Tensor, "ids"]


class Pool(NamedTuple):
    """The documents that queries are compared with, each text once.

    Attributes:
        embeddings: Unit length; column ``j`` of a matrix of similarities is row ``j`` here.
        text_keys: In ascending order.
        id_keys: In ascending order, each once.
        id_columns: Which document each of these ids stands for.
    """

    embeddings: Float[Tensor, "docs dim"]
    text_keys: Int64[Tensor, "docs"]
    id_keys: Int64[Tensor, "ids"]
    id_columns: Int64[Tensor, "ids"]


class Wanted(NamedTuple):
    """What is known about the queries; every list has one entry per query.

    Attributes:
        texts: Query texts.
        positives: Texts of the positives, which are in the pool.
        relevant: Ids of all documents that are judged relevant, in the pool or not.
        weights: Importance of each query.
    """

    texts: Sequence[str]
    positives: Sequence[Sequence[str]]
    relevant: Sequence[Iterable[str]]
    weights: Sequence[float]


def list_documents(ids: Iterable[Sequence[str]], texts: Iterable[Sequence[str]]) -> Documents:
    """Puts documents of many lists into one, without repeating a text; the text of an id is always the same."""
    text_of = dict(zip(chain.from_iterable(ids), chain.from_iterable(texts), strict=True))
    keys = {text: key(text) for text in dict.fromkeys(text_of.values())}
    return Documents(
        list(keys),
        torch.tensor(list(keys.values()), dtype=torch.int64),
        torch.tensor([key(document_id) for document_id in text_of], dtype=torch.int64),
        torch.tensor([keys[text] for text in text_of.values()], dtype=torch.int64),
    )


def pool(documents: Documents, embeddings: Float[Tensor, "docs dim"], across_ranks: bool) -> Pool:
    """Puts together the documents of all processes, or of this one alone.

    Args:
        documents: Those of this process.
        embeddings: In the order of ``documents.texts``.
        across_ranks: Whether to add those of the other processes; gradients then flow to them.
    """
    tensors = [column.to(embeddings.device) for column in documents[1:]]
    if across_ranks:
        embeddings = gather_rows(embeddings)
        tensors = [gather_rows(column) for column in tensors]
    keys, ids, id_texts = tensors
    text_keys, first = _firsts(keys)
    id_keys, first_id = _firsts(ids)
    return Pool(embeddings[first], text_keys, id_keys, torch.searchsorted(text_keys, id_texts[first_id]))


def find_targets(
    candidates: Pool, wanted: Wanted, owners: Int64[Tensor, "rows"], across_ranks: bool, with_queries: bool = False
) -> Targets:
    """Finds each query's positives in the pool, and whatever must not count as its negative.

    Args:
        candidates: The pool.
        wanted: The queries of this process.
        owners: Which of these queries each row of embeddings belongs to; a query may have several rows.
        across_ranks: Whether rows are compared with those of the other processes too.
        with_queries: Whether queries are compared with queries.

    Returns:
        The targets of the rows; the weight of a query is divided by the number of its positives.
    """
    device = candidates.embeddings.device
    owners = owners.to(device)
    pairs = [(query, key(text)) for query, texts in enumerate(wanted.positives) for text in dict.fromkeys(texts)]
    judged = [(query, key(document)) for query, ids in enumerate(wanted.relevant) for document in ids]
    owner, column = _columns(pairs, candidates.text_keys, torch.arange(len(candidates.text_keys), device=device))
    known = torch.zeros(len(wanted.texts), len(candidates.text_keys), dtype=torch.bool, device=device)
    known[owner, column] = True
    known[_columns(judged, candidates.id_keys, candidates.id_columns)] = True
    rows, chosen = (owners[:, None] == owner[None, :]).nonzero(as_tuple=True)
    shares = torch.tensor(wanted.weights, dtype=torch.float32, device=device) / owner.bincount(minlength=len(known))
    targets = Targets(rows, column[chosen], shares[owner[chosen]], known[owners])
    return targets._replace(same=_same(targets, wanted.texts, owners, across_ranks)) if with_queries else targets


def _same(targets: Targets, texts: Sequence[str], owners: Tensor, across_ranks: bool) -> Tensor:
    """Which rows, of all processes, ask the same as a row of this one, or have a positive that is known for it."""
    keys = torch.tensor([key(text) for text in texts], dtype=torch.int64, device=owners.device)[owners]
    counts = targets.queries.bincount(minlength=len(owners))
    columns = targets.documents
    others = keys
    if across_ranks:
        others, counts, columns = gather_rows(keys), gather_rows(counts), gather_rows(columns)
    rows = torch.arange(len(counts), device=owners.device).repeat_interleave(counts)
    shared = torch.zeros(len(owners), len(others), device=owners.device)
    shared.index_add_(1, rows, targets.known[:, columns].float())
    return (shared > 0) | (keys[:, None] == others[None, :])


def _firsts(keys: Int64[Tensor, "any"]) -> tuple[Int64[Tensor, "distinct"], Int64[Tensor, "distinct"]]:
    """The distinct keys in ascending order, and where each of them stands first."""
    distinct, inverse = keys.unique(return_inverse=True)
    places = torch.arange(len(keys), device=keys.device)
    return distinct, torch.full_like(distinct, len(keys)).scatter_reduce(0, inverse, places, "amin")


def _columns(found: list[tuple[int, int]], keys: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and columns of those keys that are in the pool."""
    wanted = torch.tensor(found, dtype=torch.int64, device=keys.device).reshape(-1, 2)
    place = torch.searchsorted(keys, wanted[:, 1].contiguous()).clamp(max=len(keys) - 1)
    inside = keys[place] == wanted[:, 1]
    return wanted[inside, 0], columns[place[inside]]
