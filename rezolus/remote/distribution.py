"""A Prometheus histogram as an H2 histogram: whole numbers, and each bucket's count at its upper bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rezolus.histogram import MAX_VALUE, bucket_index
from rezolus.reading import U64, Series
from rezolus.remote.exposition import Number, PageError, Sample, parse_number

POWER = 7
"""Grouping power of the result: its buckets are 0.8 % wide, finer than anybody's own."""
LEAST_MAX_POWER = 8
SECONDS = 10**9
MAX_SCALE = 10**18


@dataclass(frozen=True, slots=True)
class Histogram:
    """An H2 histogram and where its counts come from."""

    series: Series
    at: tuple[int, ...]
    """Samples, by rising bound."""
    slots: tuple[int, ...]
    """The bucket each of them fills."""


class Distribution:
    """The `_bucket` samples of one histogram of a page."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._bounds: dict[Number, int] = {}

    def add(self, sample: Sample, at: int) -> None:
        """Sample number `at` of the page. Raises PageError when it has no bound."""
        try:
            bound = parse_number(sample.labels.get("le", ""))
        except ValueError:
            bound = math.nan
        if math.isnan(bound):
            raise PageError(f"a sample of {sample.name} has no number in its label le")
        self._bounds[bound] = at

    def histogram(self, unusable: frozenset[int]) -> Histogram | None:
        """Without the samples in `unusable` and the one of +Inf; None when no other is there."""
        found = sorted((bound, at) for bound, at in self._bounds.items() if at not in unusable and bound < math.inf)
        if not found:
            return None
        bounds = [bound for bound, _ in found]
        scale = SECONDS if self._series.name.endswith("_seconds") else _scale(bounds)
        whole = [_whole(bound, scale) for bound in bounds]
        # Bits of the highest bound, and one more because a bound is the last value of its bucket.
        max_power = min(max((whole[-1] - 1).bit_length() + 1, LEAST_MAX_POWER), 64)
        last = (1 << max_power) - 1
        return Histogram(
            series=_scaled(replace(self._series, power=POWER, max_power=max_power), scale),
            at=tuple(at for _, at in found),
            slots=tuple(bucket_index(min(value, last), POWER) for value in whole),
        )


class Buckets:
    """All histograms of a page: from the samples' cumulative counts to the columns of a reading."""

    def __init__(self, histograms: Sequence[Histogram]) -> None:
        self.at = [at for histogram in histograms for at in histogram.at]
        """The samples that `counts` wants."""
        positions: list[int] = []
        firsts: list[int] = []
        self._size = 0
        for histogram in histograms:
            firsts.append(len(positions))
            positions += [self._size + slot for slot in histogram.slots]
            self._size += histogram.series.buckets
        self._positions = np.array(positions, np.intp)
        self._firsts = np.array(firsts, np.intp)

    def counts(self, cumulative: U64) -> U64:
        """Counts per bucket, all histograms one after the other. A count lower than that of a lower bound is taken for the same."""
        out = np.zeros(self._size, np.uint64)
        if not self._size:
            return out
        falls = cumulative[1:] < cumulative[:-1]
        falls[self._firsts[1:] - 1] = False
        if falls.any():  # a page made while its counters moved
            cumulative = np.concatenate(
                [np.maximum.accumulate(part) for part in np.split(cumulative, self._firsts[1:])]
            )
        steps = cumulative.copy()
        steps[1:] -= cumulative[:-1]
        steps[self._firsts] = cumulative[self._firsts]
        np.add.at(out, self._positions, steps)
        return out


def _scale(bounds: Sequence[Number]) -> int:
    """The smallest power of ten that makes the smallest positive bound at least 1."""
    least = next((bound for bound in bounds if bound > 0), 1)
    scale = 1
    while least * scale < 1 and scale < MAX_SCALE:
        scale *= 10
    return scale


def _whole(bound: Number, scale: int) -> int:
    """The highest whole number within the bound; a bound that is whole but for rounding is that number."""
    if bound <= 0:
        return 0
    scaled = bound * scale
    if isinstance(scaled, int) or scaled >= MAX_VALUE:
        return int(min(scaled, MAX_VALUE))
    nearest = round(scaled)
    return nearest if abs(scaled - nearest) <= 1e-9 * scaled else math.floor(scaled)


def _scaled(series: Series, scale: int) -> Series:
    """With what the scale changes in what is said of the series."""
    if series.name.endswith("_seconds"):
        return replace(series, unit="nanoseconds")
    return series if scale == 1 else replace(series, help=f"{series.help} (times {scale})".strip())
