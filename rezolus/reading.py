"""What the series are (`Catalog`) and their values at one time (`Reading`), as columns.

A reading is three flat arrays; the catalog says which series each element belongs to. The catalog
is replaced, never changed, when series come or go, so a consumer compares `reading.catalog is previous.catalog`
and redoes its own preparations only when that fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["counter", "gauge", "histogram"]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

ABSENT_GAUGE = -(2**63)
"""A gauge that has no value at this time."""


def histogram_buckets(power: int, max_power: int = 64) -> int:
    """Number of buckets of an H2 histogram at a grouping power, over values of `max_power` bits.

    One over fewer bits has the first of the buckets of one over 64.
    """
    return (max_power - power + 1) << power


@dataclass(frozen=True, slots=True)
class Series:
    """One time series: a metric name and its label values."""

    name: str
    kind: Kind
    labels: Mapping[str, str]
    """Without `unit` and `sampler`; sorted by key."""
    unit: str = ""
    help: str = ""
    sampler: str = ""
    power: int = 3
    """Grouping power; histograms only."""
    max_power: int = 64
    """Bits of the highest value; histograms only. Less than 64 comes from elsewhere, never from a definition."""

    @property
    def buckets(self) -> int:
        """Number of buckets; histograms only."""
        return histogram_buckets(self.power, self.max_power)


@dataclass(frozen=True, slots=True, eq=False)
class Catalog:
    """The series of a reading, each kind in the order of its array."""

    counters: tuple[Series, ...]
    gauges: tuple[Series, ...]
    histograms: tuple[Series, ...]
    histogram_offsets: tuple[int, ...] = field(init=False)
    """Where each histogram's buckets begin in `Reading.histograms`; one more entry for the end."""

    def __post_init__(self) -> None:
        offsets = [0]
        for series in self.histograms:
            offsets.append(offsets[-1] + series.buckets)
        object.__setattr__(self, "histogram_offsets", tuple(offsets))


@dataclass(slots=True, eq=False)
class Reading:
    """Values of all series at one time. The arrays belong to the receiver; nobody writes to them again.

    Counters and histogram buckets are totals since the sampler was attached.
    """

    catalog: Catalog
    time_ns: int
    """Wall clock at the start of the reading, ns since the Unix epoch."""
    monotonic_ns: int
    """CLOCK_BOOTTIME at the start of the reading: intervals and rates come from this one only."""
    duration_ns: int
    """How long the reading took."""
    counters: U64
    gauges: I64
    histograms: U64
    """All histograms' buckets, one after the other (`Catalog.histogram_offsets`)."""
