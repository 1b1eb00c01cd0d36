from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rezolus.histogram import (
    MAX_VALUE,
    all_bounds,
    bucket_bounds,
    bucket_index,
    mean,
    middles,
    quantile,
    quantiles,
    upper_bounds,
)
from rezolus.reading import U64, histogram_buckets

powers = st.integers(0, 7)
# Every size of number is as likely as any other, as with durations.
values = st.integers(0, 64).flatmap(lambda bits: st.integers((1 << bits) >> 1, max(0, (1 << bits) - 1)))


def count(numbers: list[int], power: int) -> U64:
    counts = np.zeros(histogram_buckets(power), dtype=np.uint64)
    for number in numbers:
        counts[bucket_index(number, power)] += np.uint64(1)
    return counts


@given(values, powers)
def test_a_value_lies_within_the_bounds_of_its_bucket(value: int, power: int) -> None:
    low, high = bucket_bounds(bucket_index(value, power), power)
    assert low <= value <= high
    assert high - low <= low / 2**power


@given(powers)
def test_buckets_cover_all_values_without_gap_or_overlap(power: int) -> None:
    expected_low = 0
    for index in range(histogram_buckets(power)):
        low, high = bucket_bounds(index, power)
        assert low == expected_low
        assert bucket_index(low, power) == bucket_index(high, power) == index
        expected_low = high + 1
    assert expected_low == MAX_VALUE + 1


@pytest.mark.parametrize(
    ("index", "bounds"),
    [
        (15, (15, 15)),
        (16, (16, 17)),
        (23, (30, 31)),
        (24, (32, 35)),
        (32, (64, 71)),
        (494, (16140901064495857664, 17293822569102704639)),
        (495, (17293822569102704640, MAX_VALUE)),
    ],
)
def test_bounds_at_power_3_agree_with_the_published_ones(index: int, bounds: tuple[int, int]) -> None:
    assert bucket_bounds(index, 3) == bounds
    assert upper_bounds(3)[index] == bounds[1]


@pytest.mark.parametrize(("power", "bits"), [(0, 64), (3, 64), (7, 64), (10, 64), (0, 1), (3, 4), (7, 35)])
def test_the_bounds_of_all_buckets_at_once_are_those_of_each(power: int, bits: int) -> None:
    each = [bucket_bounds(index, power) for index in range(histogram_buckets(power, bits))]
    lows, highs = all_bounds(power, bits)
    assert list(zip(lows.tolist(), highs.tolist(), strict=True)) == each
    assert middles(power, bits).tolist() == [(low + high) / 2 for low, high in each]


def test_quantiles_of_1_to_1000_agree_with_the_published_ones() -> None:
    counts = count(list(range(1, 1001)), 3)
    assert quantiles(counts, (0.0, 0.5, 0.9, 0.99, 0.999, 1.0)) == (1, 511, 959, 1023, 1023, 1023)


@given(st.lists(values, min_size=1, max_size=50), st.floats(0, 1), powers)
def test_a_quantile_is_the_upper_bound_of_the_ranked_values_bucket(numbers: list[int], q: float, power: int) -> None:
    ranked = sorted(numbers)[max(1, math.ceil(q * len(numbers))) - 1]
    assert quantile(count(numbers, power), q) == bucket_bounds(bucket_index(ranked, power), power)[1]


@given(values, powers, powers)
def test_buckets_of_different_powers_nest(number: int, one: int, other: int) -> None:
    lower, higher = sorted((one, other))
    low, high = bucket_bounds(bucket_index(number, higher), higher)
    assert bucket_index(low, lower) == bucket_index(high, lower) == bucket_index(number, lower)


@given(st.lists(values, min_size=1, max_size=50))
def test_the_mean_is_within_half_a_bucket(numbers: list[int]) -> None:
    found = mean(count(numbers, 3))
    assert found is not None
    assert found == pytest.approx(sum(numbers) / len(numbers), rel=1 / 16 + 1e-12)  # the edge itself, rounded


def test_an_empty_histogram_has_neither_quantile_nor_mean() -> None:
    assert quantile(count([], 3), 0.5) is None
    assert mean(count([], 3)) is None


def test_what_is_no_histogram_is_refused() -> None:
    with pytest.raises(ValueError, match="has 5 buckets"):
        quantile(np.zeros(5, dtype=np.uint64), 0.5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        quantile(count([], 3), 1.5)
    with pytest.raises(ValueError, match="64 bits"):
        bucket_index(1 << 64, 3)
    with pytest.raises(IndexError, match="no bucket 496"):
        bucket_bounds(496, 3)
