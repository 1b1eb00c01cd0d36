"""Numbers of many histograms at once: percentiles of an interval, and cumulative buckets at a grouping power.

Histograms of one size are one matrix, so a catalog costs a few numpy calls, however many it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rezolus.histogram import all_bounds, middles
from rezolus.reading import Catalog, Reading
from rezolus.recording.segment import identity

PERCENTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Cumulative:
    """A histogram since the sampler was attached, at a grouping power."""

    first: int
    """The lowest bucket that counted anything; with an empty histogram the number of buckets."""
    top: int
    """The highest such bucket; with an empty histogram -1."""
    running: list[int]
    """Running sums of the buckets from `first` to `top`."""
    count: int
    total: float
    """Estimate of the sum of all values: each is taken for the middle of its bucket."""


class Group:
    """Histograms of one size. `numbers` are their places among the histograms of the catalog."""

    def __init__(self, catalog: Catalog, numbers: Sequence[int], grouping_power: int) -> None:
        series = catalog.histograms[numbers[0]]
        self.numbers = tuple(numbers)
        self._series = [catalog.histograms[number] for number in numbers]
        self._buckets = series.buckets
        lows, self._uppers = all_bounds(series.power, series.max_power)
        self._middles = middles(series.power, series.max_power)
        self._positions = self._positions_of([catalog.histogram_offsets[number] for number in numbers])
        power = min(grouping_power, series.power)
        coarse_lows, uppers = all_bounds(power, series.max_power)
        self.uppers: tuple[int, ...] = tuple(uppers.tolist())
        """Bounds of the buckets that `cumulative` gives."""
        # Coarser buckets hold whole finer ones: each begins where one of these does.
        self._starts = None if power == series.power else np.searchsorted(lows, coarse_lows)
        self._paired_with: Catalog | None = None
        self._pairs: tuple[npt.NDArray[np.bool_], Rows] = (np.empty(0, bool), np.empty((0, 0), np.intp))

    def percentiles(self, reading: Reading, previous: Reading) -> list[tuple[int, ...] | None]:
        """Of what happened between the readings, the highest value of each percentile's bucket.

        None where nothing happened, or where nothing is known: new histograms, and those that went backwards, whose
        sampler began anew.
        """
        if not previous.catalog.histograms:
            return [None] * len(self.numbers)
        have, before = self._previous_positions(reading.catalog, previous.catalog)
        now, past = reading.histograms[self._positions], previous.histograms[before]
        running = np.cumsum(now - past, axis=1, dtype=np.uint64)
        totals = running[:, -1].astype(np.float64)
        usable = (have & (totals > 0) & ~(now < past).any(axis=1)).tolist()
        ranks = np.maximum(1.0, np.ceil(np.outer(PERCENTILES, totals)))
        last = self._buckets - 1
        indexes = [(running < rank.astype(np.uint64)[:, None]).sum(axis=1) for rank in ranks]
        highest = [self._uppers[np.minimum(index, last)].tolist() for index in indexes]
        return [row if fine else None for fine, row in zip(usable, zip(*highest, strict=True), strict=True)]

    def totals(self, reading: Reading) -> list[tuple[int, float]]:
        """Count and estimated sum of each."""
        counts = reading.histograms[self._positions]
        return list(zip(counts.sum(axis=1, dtype=np.uint64).tolist(), (counts @ self._middles).tolist(), strict=True))

    def cumulative(self, reading: Reading) -> list[Cumulative]:
        """Each with its buckets."""
        fine = reading.histograms[self._positions]
        totals = (fine @ self._middles).tolist()
        counts = fine if self._starts is None else np.add.reduceat(fine, self._starts, axis=1)
        running = np.cumsum(counts, axis=1, dtype=np.uint64)
        some = counts != 0
        empty = ~some.any(axis=1)
        firsts = np.where(empty, counts.shape[1], some.argmax(axis=1)).tolist()
        tops = np.where(empty, -1, counts.shape[1] - 1 - some[:, ::-1].argmax(axis=1)).tolist()
        return [
            Cumulative(first, top, row[first : top + 1].tolist(), int(row[-1]), total)
            for first, top, row, total in zip(firsts, tops, running, totals, strict=True)
        ]

    def _previous_positions(self, catalog: Catalog, previous: Catalog) -> tuple[npt.NDArray[np.bool_], Rows]:
        """Which histograms the previous reading had, and where their buckets were; paired by identity, not by place."""
        if previous is catalog:
            return np.ones(len(self.numbers), bool), self._positions
        if previous is not self._paired_with:
            offsets = zip(previous.histograms, previous.histogram_offsets[:-1], strict=True)
            at = {identity(series): offset for series, offset in offsets}
            starts = [at.get(identity(series), -1) for series in self._series]
            # A histogram that is new takes any place that exists; it is not used.
            inside = np.clip(self._positions_of(starts), 0, previous.histogram_offsets[-1] - 1)
            self._paired_with = previous
            self._pairs = (np.array(starts) >= 0, inside)
        return self._pairs

    def _positions_of(self, starts: Sequence[int]) -> Rows:
        """Where the buckets of these histograms are in a reading: histograms x buckets."""
        return np.array(starts, np.intp)[:, None] + np.arange(self._buckets, dtype=np.intp)


def groups_of(catalog: Catalog, grouping_power: int) -> list[Group]:
    """The histograms of a catalog by size; `grouping_power` is of `Group.cumulative`, at most their own."""
    sizes: dict[tuple[int, int], list[int]] = {}
    for number, series in enumerate(catalog.histograms):
        sizes.setdefault((series.power, series.max_power), []).append(number)
    return [Group(catalog, numbers, grouping_power) for numbers in sizes.values()]
