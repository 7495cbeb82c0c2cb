"""What queries must be: known by unique ids, judged on documents that exist, and fit to learn from."""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np

from srch3.data.corpus import Corpus
from srch3.data.fingerprints import fingerprints, is_blank
from srch3.errors import DataError
from srch3.types import Query, Split

log = logging.getLogger(__name__)

Invalid = Literal["error", "skip"]
"""What becomes of a training example that cannot be learnt from."""


class Flaw(NamedTuple):
    """Why a training query, or one of its documents, cannot be learnt from.

    Attributes:
        reason: In words.
        query: Position of the query.
        positive: Id of the positive that is wrong, where the others may be right.
        negative: Id of the negative that is wrong.
        got: What came.
    """

    reason: str
    query: int
    positive: str | None = None
    negative: str | None = None
    got: str = ""


def check_ids(queries: Sequence[Query], corpus: Corpus, split: Split) -> None:
    """Checks that ids are unique strings, and that every judged document and negative is in the corpus.

    Raises:
        DataError: Where one is not.
    """
    known: set[str] = set()
    for query in queries:
        if not isinstance(query.id, str):
            raise DataError(f"data: expected query ids that are strings in {split}; got {query.id!r}")
        for document_id in chain(query.relevant, query.negatives):
            if document_id not in known and document_id not in corpus:
                raise DataError(
                    f"data: expected every judged document in the corpus of {split}; got {document_id!r}, judged for"
                    f" query {query.id!r}, without a document; add it to the corpus or remove the judgement"
                )
            known.add(document_id)
    for query_id, count in Counter(query.id for query in queries).items():
        if count > 1:
            raise DataError(f"data: expected unique query ids in {split}; got {query_id!r} {count} times")


def check_texts(queries: Sequence[Query], split: Split) -> None:
    """Checks that every query asks something: to leave one out would change what a metric is an average of.

    Raises:
        DataError: Where one has no text.
    """
    for query in queries:
        if is_blank(query.text):
            raise DataError(
                f"data: expected a text for every query in {split}; got {query.text!r} for query {query.id!r};"
                " give it a text or remove it with its judgements"
            )


def with_something_to_find(queries: Sequence[Query], split: Split) -> list[Query]:
    """The queries that have a relevant document; logs how many have none."""
    judged = [query for query in queries if query.relevant]
    if len(judged) < len(queries):
        log.info("%s: left out %d queries without a relevant document", split, len(queries) - len(judged))
    return judged


def fit_to_train_on(queries: Sequence[Query], corpus: Corpus, invalid: Invalid) -> list[Query]:
    """What :func:`without_flaws` keeps; logs how much it leaves out.

    Raises:
        DataError: For the first that is invalid, unless it is to be skipped.
    """
    kept, counts = without_flaws(queries, corpus, invalid)
    log_left_out(counts)
    return kept


def without_flaws(queries: Sequence[Query], corpus: Corpus, invalid: Invalid) -> tuple[list[Query], Counter[str]]:
    """The training queries with all their positives and negatives, or, where asked for, without the invalid ones.

    Invalid are: a query that has no relevant document, no text, or a weight that is NaN, infinite or negative; a
    positive or negative without text; a negative that is relevant or has the text of a relevant document. To skip
    leaves out just the positive or negative that is wrong, and the query where no positive is left.

    Returns:
        The queries, and for each reason how often it was met.

    Raises:
        DataError: For the first that is invalid, unless it is to be skipped.
    """
    flaws = list(chain(_query_flaws(queries), _document_flaws(queries, corpus)))
    if flaws and invalid == "error":
        first, more = flaws[0], f" (and {len(flaws) - 1} more)" if len(flaws) > 1 else ""
        query = queries[first.query]
        raise DataError(
            f"data: expected training examples without flaw; got query {query.id!r} with {first.reason}{first.got}"
            f"{more}; mend the data, or leave such out with data.init_args.invalid: skip (it asks {query.text[:60]!r})"
        )
    return _without(queries, flaws), Counter(flaw.reason for flaw in flaws)


def log_left_out(counts: Mapping[str, int]) -> None:
    """Says how often each reason to leave something out was met, if any was."""
    if counts:
        log.warning("train: left out as invalid: %s", ", ".join(f"{count} with {why}" for why, count in counts.items()))


def _query_flaws(queries: Sequence[Query]) -> Iterator[Flaw]:
    for place, query in enumerate(queries):
        if not query.relevant:
            yield Flaw("no relevant document", place)
        elif is_blank(query.text):
            yield Flaw("an empty text", place, got=f" {query.text!r}")
        elif not 0 <= query.weight < math.inf:
            yield Flaw("a weight that is not a finite number of at least 0", place, got=f", {query.weight}")


def _document_flaws(queries: Sequence[Query], corpus: Corpus) -> Iterator[Flaw]:
    positives = [document_id for query in queries for document_id in query.relevant]
    negatives = [document_id for query in queries for document_id in query.negatives]
    places = np.arange(len(queries))
    asking = np.repeat(places, [len(query.relevant) for query in queries])
    avoiding = np.repeat(places, [len(query.negatives) for query in queries])
    numbers, lengths = fingerprints(corpus, positives + negatives)
    for entry in np.flatnonzero(lengths[: len(positives)] == 0).tolist():
        yield Flaw("an empty positive", int(asking[entry]), positive=positives[entry], got=f", {positives[entry]!r}")
    keys = np.concatenate([asking, avoiding]) * len(numbers) + numbers
    empty = lengths[len(positives) :] == 0
    for entry in np.flatnonzero(empty | np.isin(keys[len(positives) :], keys[: len(positives)])).tolist():
        place, document_id = int(avoiding[entry]), negatives[entry]
        if document_id in queries[place].relevant:
            reason = "a negative that is relevant"
        else:
            reason = "an empty negative" if empty[entry] else "a negative that has the text of a positive"
        yield Flaw(reason, place, negative=document_id, got=f", {document_id!r}")


def _without(queries: Sequence[Query], flaws: Sequence[Flaw]) -> list[Query]:
    wrong = {flaw.query for flaw in flaws if flaw.positive is None and flaw.negative is None}
    positives = {(flaw.query, flaw.positive) for flaw in flaws}
    negatives = {(flaw.query, flaw.negative) for flaw in flaws}
    touched = {flaw.query for flaw in flaws}
    kept = list(queries)
    for place in touched:
        query = queries[place]
        relevant = {name: grade for name, grade in query.relevant.items() if (place, name) not in positives}
        avoided = tuple(name for name in query.negatives if (place, name) not in negatives)
        kept[place] = query._replace(relevant=relevant, negatives=avoided)
    return [query for place, query in enumerate(kept) if query.relevant and place not in wrong]
