"""Choosing some of the queries, always the same ones: by a hash of their ids, never by their order."""

import hashlib
from collections.abc import Sequence

from srch3.errors import ConfigError
from srch3.types import Query


def stable_share(text: str, salt: str) -> float:
    """A number in [0, 1) that depends on the text alone: the same on every machine, in every process.

    Args:
        text: What is hashed, usually an id.
        salt: Different salts give independent numbers for the same text.
    """
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), key=salt.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def hold_out(queries: Sequence[Query], fraction: float, argument: str) -> tuple[list[Query], list[Query]]:
    """Splits training queries into those to train on and those to validate on.

    Queries without text or relevant document cannot be validated on, and stay among those to train on.

    Args:
        queries: All training queries.
        fraction: Expected share of the second part, above 0 and below 1.
        argument: The setting that gave the fraction, as it stands in YAML.

    Raises:
        ConfigError: Where the fraction is out of range.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"{argument}: expected a number above 0 and below 1; got {fraction}")
    fit = [bool(query.relevant and query.text.strip()) for query in queries]
    held = [can and stable_share(query.id, "validation") < fraction for can, query in zip(fit, queries, strict=True)]
    kept = [query for query, out in zip(queries, held, strict=True) if not out]
    return kept, [query for query, out in zip(queries, held, strict=True) if out]


def slice_of(queries: Sequence[Query], interval: tuple[float, float]) -> list[Query]:
    """The queries whose hash lies in a half-open interval of [0, 1); disjoint intervals share no query."""
    low, high = interval
    return [query for query in queries if low <= stable_share(query.id, "slice") < high]


def sample(queries: Sequence[Query], limit: int | None, seed: int) -> list[Query]:
    """A number of queries drawn by their ids, in their given order; a larger limit only adds to a smaller one."""
    if limit is None or limit >= len(queries):
        return list(queries)
    ranked = sorted(range(len(queries)), key=lambda place: (stable_share(queries[place].id, f"limit {seed}"), place))
    return [queries[place] for place in sorted(ranked[:limit])]
