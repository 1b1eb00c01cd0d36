"""H2 histograms over 64 bits: which values share a bucket, quantiles, coarser forms.

With grouping power `g` the values below 2^(g+1) have a bucket each; above, every power of two is split into 2^g
buckets of equal width. A bucket is therefore at most 2^-g of its lower bound wide (12.5 % at 3). Counts are numpy
arrays of `buckets(g)` u64, one per bucket, not cumulative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rezolus.reading import U64, histogram_buckets

MAX_VALUE = 2**64 - 1


def bucket_index(value: int, power: int) -> int:
    """The bucket that counts `value` (0 to 2^64-1); ValueError outside."""
    if not 0 <= value <= MAX_VALUE:
        raise ValueError(f"value {value} does not fit into 64 bits")
    top = value.bit_length() - 1
    if top <= power:
        return value
    # In octave `top`, the `power` bits below the highest one choose the bucket.
    return ((top - power) << power) + (value >> (top - power))


def bucket_bounds(index: int, power: int) -> tuple[int, int]:
    """Lowest and highest value that bucket `index` counts; IndexError when there is no such bucket."""
    if not 0 <= index < histogram_buckets(power):
        raise IndexError(f"histogram of grouping power {power} has no bucket {index}")
    octave = index >> power
    if octave == 0:
        return index, index
    width_bits = octave - 1
    low = ((1 << power) + (index & ((1 << power) - 1))) << width_bits
    return low, low + (1 << width_bits) - 1


def all_bounds(power: int, max_power: int = 64) -> tuple[U64, U64]:
    """As `bucket_bounds`, of every bucket over values of `max_power` bits, ascending."""
    index = np.arange(histogram_buckets(power, max_power), dtype=np.uint64)
    octave = index >> np.uint64(power)
    width_bits = np.maximum(octave, np.uint64(1)) - np.uint64(1)
    # The highest bit, which the index of a bucket of the first octave lacks, and those that choose the bucket.
    leading = np.where(octave == 0, index, (index & np.uint64((1 << power) - 1)) | np.uint64(1 << power))
    low = leading << width_bits
    return low, low + ((np.uint64(1) << width_bits) - np.uint64(1))


def upper_bounds(power: int) -> U64:
    """The highest value of every bucket, ascending."""
    return all_bounds(power)[1]


def middles(power: int, max_power: int = 64) -> npt.NDArray[np.float64]:
    """What values are taken for that are known by their bucket only."""
    low, high = all_bounds(power, max_power)
    return low.astype(np.float64) + (high - low).astype(np.float64) / 2


def quantile(counts: U64, q: float) -> int | None:
    """The highest value of the bucket in which the q-quantile (0 to 1) lies; None for an empty histogram.

    The rank is max(1, ceil(q * N)), so quantile 0 is the lowest bucket that counted anything.
    """
    return quantiles(counts, (q,))[0]


def quantiles(counts: U64, qs: Sequence[float], power: int | None = None) -> tuple[int | None, ...]:
    """As `quantile`, for several at once. `power`: of a histogram over fewer than 64 bits, whose length does not tell."""
    if any(not 0.0 <= q <= 1.0 for q in qs):
        raise ValueError(f"quantiles are from 0 to 1, got {tuple(qs)}")
    power = _power_of(len(counts)) if power is None else power
    running = np.cumsum(counts, dtype=np.uint64)
    total = int(running[-1])
    if total == 0:
        return (None,) * len(qs)
    ranks = np.array([min(total, max(1, math.ceil(q * total))) for q in qs], dtype=np.uint64)
    return tuple(bucket_bounds(int(index), power)[1] for index in np.searchsorted(running, ranks))


def mean(counts: U64) -> float | None:
    """The mean, taking each value for the middle of its bucket; None for an empty histogram."""
    total = int(counts.sum(dtype=np.uint64))
    if total == 0:
        return None
    return float(np.dot(counts.astype(np.float64), middles(_power_of(len(counts))))) / total


def _power_of(length: int) -> int:
    """The grouping power of histograms with so many buckets; ValueError when there is none."""
    for power in range(64):
        if histogram_buckets(power) == length:
            return power
    raise ValueError(f"no H2 histogram over 64 bits has {length} buckets")
