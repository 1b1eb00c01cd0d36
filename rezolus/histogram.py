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


def upper_bounds(power: int) -> U64:
    """The highest value of every bucket, ascending."""
    return np.array([bucket_bounds(index, power)[1] for index in range(histogram_buckets(power))], dtype=np.uint64)


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
    return float(np.dot(counts.astype(np.float64), _middles(_power_of(len(counts))))) / total


def _middles(power: int) -> npt.NDArray[np.float64]:
    bounds = (bucket_bounds(index, power) for index in range(histogram_buckets(power)))
    return np.array([(low + high) / 2 for low, high in bounds], dtype=np.float64)


def _power_of(length: int) -> int:
    """The grouping power of histograms with so many buckets; ValueError when there is none."""
    for power in range(64):
        if histogram_buckets(power) == length:
            return power
    raise ValueError(f"no H2 histogram over 64 bits has {length} buckets")
