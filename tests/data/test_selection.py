import pytest

from srch3.data.selection import hold_out, sample, slice_of, stable_share
from srch3.errors import ConfigError
from srch3.types import Query

QUERIES = [Query(f"q{number}", f"text {number}", {"d": 1}) for number in range(1000)]


def test_shares_are_the_leading_bits_of_keyed_blake2b() -> None:
    # printf q1 | openssl mac -macopt hexkey:$(printf slice | xxd -p) -macopt size:8 BLAKE2BMAC
    assert stable_share("q1", "slice") == pytest.approx(0xE6819CC6DD2711CF / 2**64, abs=1e-12)
    assert stable_share("q1", "validation") == pytest.approx(0x703A5B479C73E129 / 2**64, abs=1e-12)


def test_shares_are_spread_evenly_below_one() -> None:
    shares = [stable_share(query.id, "slice") for query in QUERIES]
    assert all(0 <= share < 1 for share in shares)
    assert sum(share < 0.3 for share in shares) == pytest.approx(300, abs=60)


def test_held_out_and_kept_are_a_partition_in_order() -> None:
    kept, held = hold_out(QUERIES, 0.2, "val_fraction")
    assert len(held) == pytest.approx(200, abs=50)
    assert sorted(kept + held, key=lambda query: int(query.id[1:])) == QUERIES
    assert hold_out(QUERIES[::-1], 0.2, "val_fraction") == (kept[::-1], held[::-1])


def test_what_cannot_be_validated_on_is_not_held_out() -> None:
    blank = [query._replace(text=" ") for query in QUERIES]
    unjudged = [query._replace(relevant={}) for query in QUERIES]
    assert hold_out(blank + unjudged, 0.5, "val_fraction") == (blank + unjudged, [])


@pytest.mark.parametrize("fraction", [0.0, 1.0, float("nan")])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.init_args\.val_fraction: expected"):
        hold_out(QUERIES, fraction, "data.init_args.val_fraction")


def test_adjacent_slices_are_a_partition_that_does_not_follow_the_held_out_part() -> None:
    low, high = slice_of(QUERIES, (0.0, 0.5)), slice_of(QUERIES, (0.5, 1.0))
    assert not {query.id for query in low} & {query.id for query in high}
    assert len(low) + len(high) == len(QUERIES)
    _, held = hold_out(low, 0.5, "val_fraction")
    assert len(held) == pytest.approx(len(low) / 2, abs=60)


def test_samples_keep_the_order_grow_with_the_limit_and_depend_on_the_seed() -> None:
    small, large = sample(QUERIES, 10, seed=0), sample(QUERIES, 100, seed=0)
    assert len(small) == 10
    assert {query.id for query in small} <= {query.id for query in large}
    assert large == [query for query in QUERIES if query in large]
    assert sample(QUERIES, 10, seed=1) != small
    assert sample(QUERIES, None, seed=0) == sample(QUERIES, 5000, seed=0) == QUERIES
