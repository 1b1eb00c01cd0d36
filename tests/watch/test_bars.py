"""The bar of a distribution: every count is in it, at the value the axis says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rezolus.histogram import bucket_index
from rezolus.reading import histogram_buckets
from rezolus.watch.bars import OCTAVES, Axis, octaves


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30), st.integers(0, 7))
def test_values_fall_into_their_power_of_two(values: list[int], power: int) -> None:
    counts = np.zeros(histogram_buckets(power), dtype=np.uint64)
    for value in values:
        counts[bucket_index(value, power)] += 1
    folded = octaves(counts, power)
    assert len(folded) == OCTAVES
    assert list(folded) == [sum(value.bit_length() == octave for value in values) for octave in range(OCTAVES)]


@given(
    st.lists(st.dictionaries(st.integers(0, 64), st.integers(1, 10**12), max_size=20), min_size=1, max_size=4),
    st.integers(1, 80),
)
def test_the_axis_covers_all_within_the_room_and_no_count_is_invisible(found: list[dict[int, int]], room: int) -> None:
    distributions = [[counts.get(octave, 0) for octave in range(OCTAVES)] for counts in found]
    axis = Axis.over(distributions, room)
    assert 1 <= axis.columns <= room
    for counts in distributions:
        for ascii_only in (False, True):
            bar = axis.bar(counts, ascii_only=ascii_only)
            assert len(bar) == axis.columns
            assert bar.isascii() or not ascii_only
            assert bool(bar.strip()) == any(counts)
        covered = range(axis.first, axis.first + axis.columns * axis.step)
        assert all(octave in covered for octave, count in enumerate(counts) if count)


def one(octave: int) -> list[int]:
    return [int(octave == other) for other in range(OCTAVES)]


@pytest.mark.parametrize(
    ("unit", "low", "high", "expected"),
    [
        ("nanoseconds", 10, 27, {"10us": 14, "1ms": 20, "100ms": 27}),
        ("bytes", 8, 24, {"1KiB": 11, "1MiB": 21}),
        ("", 1, 16, {"1": 1, "100": 7, "10,000": 14}),
    ],
)
def test_marks_stand_at_their_value(unit: str, low: int, high: int, expected: dict[str, int]) -> None:
    axis = Axis.over([one(low), one(high)], 40)
    marks = axis.marks(unit)
    for text, octave in expected.items():
        assert f" {marks} ".index(f" {text} ") == octave - axis.first, marks


@given(st.integers(0, 64), st.integers(0, 64), st.integers(1, 80), st.sampled_from(["nanoseconds", "bytes", "", "x"]))
def test_marks_never_touch(low: int, high: int, room: int, unit: str) -> None:
    axis = Axis.over([one(low), one(high)], room)
    numbers = axis.marks(unit).split()
    assert len(numbers) == len(set(numbers))
    assert all(text[0].isdigit() for text in numbers)


def test_the_highest_column_is_full_and_heights_are_proportional() -> None:
    counts = [0] * OCTAVES
    counts[10], counts[11], counts[12] = 8, 4, 1
    bar = Axis(10, 4).bar(counts)
    assert bar == "█▄▁ "
    assert Axis(10, 2, step=2).bar(counts) == "█▁"
