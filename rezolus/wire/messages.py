"""The msgpack messages of Rezolus as structures: every message is an array of its fields, no field is named.

Nothing on the wire says which version a snapshot is of but the length of the outermost array: 5, 6 or 4 elements for
V1, V2 and V3. A wider integer form than necessary is read, a missing or an additional element is not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, TypeVar

import msgspec

from rezolus.reading import histogram_buckets

Unsigned = Annotated[int, msgspec.Meta(ge=0)]
Signed = Annotated[int, msgspec.Meta(le=2**63 - 1)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=(2**63 - 1) // 10**9 - 1)]
"""So that a time in nanoseconds is a signed 64-bit number: until the year 2262."""
Nanos = Annotated[int, msgspec.Meta(ge=0, lt=10**9)]
Labels = Annotated[dict[str, str], msgspec.Meta(max_length=256)]
T = TypeVar("T")
MOST_SERIES = 100_000
"""Of a snapshot, and so of each list in it. The largest snapshots known have 6,000."""
Many = Annotated[list[T], msgspec.Meta(max_length=MOST_SERIES)]
"""Looked at before the elements are: decoding 16 MiB of the smallest elements there are takes 900 MB and seconds, in which no
other thread has its turn."""
MOST_BUCKETS = 1 << 16
"""Of one histogram. Grouping power 10 over 64 bits, 0.1 % wide, has 56,320; the finest that is known, 7, has 7,424."""
BUCKETS_TOGETHER = 1 << 22
"""Of all histograms of a snapshot, 32 MiB of a reading. The largest snapshots known have 20,000."""


class SystemTime(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """When the reading began."""

    secs_since_epoch: Seconds
    nanos_since_epoch: Nanos


class Duration(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """How long the reading took."""

    secs: Seconds
    nanos: Nanos


class Window(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Between which times, ns since the Unix epoch, a value was read."""

    begin_ns: Unsigned
    end_ns: Unsigned


class H2Config(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Which values share a bucket; the two powers decide, the rest follows from them."""

    max: Unsigned
    grouping_power: Unsigned
    max_value_power: Unsigned
    cutoff_power: Unsigned
    cutoff_value: Unsigned
    lower_bin_count: Unsigned
    upper_bin_divisions: Unsigned
    upper_bin_count: Unsigned


class H2(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """A histogram with all its buckets."""

    config: H2Config
    buckets: Annotated[list[Unsigned], msgspec.Meta(max_length=MOST_BUCKETS)]


class Counter(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A counter of V1 and V2; in V1 no metric has a window."""

    name: str
    value: Unsigned
    metadata: Labels
    window: Window | None = None


class Gauge(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A gauge of V1 and V2."""

    name: str
    value: Signed
    metadata: Labels
    window: Window | None = None


class Histogram(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A histogram of V1 and V2."""

    name: str
    value: H2
    metadata: Labels
    window: Window | None = None


class V1(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A snapshot as the first version had it."""

    systemtime: SystemTime
    metadata: Labels
    counters: Many[Counter]
    gauges: Many[Gauge]
    histograms: Many[Histogram]


class V2(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """With the duration of the reading; metrics may have windows."""

    systemtime: SystemTime
    duration: Duration
    metadata: Labels
    counters: Many[Counter]
    gauges: Many[Gauge]
    histograms: Many[Histogram]


class Desc(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A member of a group."""

    name: str
    metadata: Labels


class Schema(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The members of a group, each kind in the order of its values."""

    counters: Many[Desc]
    gauges: Many[Desc]
    histograms: Many[Desc]


class Group(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What was read together. `schema` stays as it came (`NIL` when it is left out): mostly it is the one of before."""

    name: str
    schema_hash: tuple[Unsigned, Unsigned]
    schema: msgspec.Raw
    window: Window | None
    counters: Many[Unsigned | None]
    gauges: Many[Signed | None]
    histograms: Many[H2 | None]


class V3(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Values in groups, apart from what they are of."""

    systemtime: SystemTime
    duration: Duration
    metadata: Labels
    groups: Many[Group]


NIL = b"\xc0"
VERSIONS: dict[int, type[V1 | V2 | V3]] = {5: V1, 6: V2, 4: V3}
"""By the number of elements of the outermost array."""


@lru_cache(maxsize=256)
def h2_config(power: int, max_power: int) -> H2Config:
    """The configuration of a histogram with this grouping power over values of `max_power` bits.

    Raises ValueError for what is no histogram: 0 <= power < max_power <= 64.
    """
    if not 0 <= power < max_power <= 64:
        raise ValueError(f"no histogram has grouping power {power} over {max_power} bits")
    low = 2 << power
    return H2Config(
        max=(1 << max_power) - 1,
        grouping_power=power,
        max_value_power=max_power,
        cutoff_power=power + 1,
        cutoff_value=low,
        lower_bin_count=low,
        upper_bin_divisions=1 << power,
        upper_bin_count=histogram_buckets(power, max_power) - low,
    )
