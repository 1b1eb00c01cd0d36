"""Any reading whatever, for properties."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from rezolus.reading import ABSENT_GAUGE, Catalog, Kind, Reading, Series
from rezolus.recording.segment import identity
from rezolus.wire.columns import NOT_LABELS

TEXTS = st.text(max_size=8)
NAMES = st.sampled_from(["cpu_usage", "latency", "é", "log", "a b"]) | st.text(min_size=1, max_size=8)
UNSIGNED = st.integers(0, 2**64 - 1) | st.integers(0, 300)
SIGNED = st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-300, 300) | st.just(ABSENT_GAUGE)
IDS = st.sampled_from(["0", "1", "17", "017", "-1", "x", ""])


@st.composite
def series(draw: st.DrawFn, kind: Kind) -> Series:
    labels = draw(st.dictionaries(TEXTS.filter(lambda key: key not in NOT_LABELS), TEXTS, max_size=2))
    if draw(st.booleans()):
        labels["id"] = draw(IDS)
    power, max_power = (
        draw(st.sampled_from([(3, 64), (0, 1), (1, 4), (0, 64), (2, 20)])) if kind == "histogram" else (3, 64)
    )
    return Series(
        draw(NAMES.filter(lambda name: not name.startswith("log_"))),
        kind,
        dict(sorted(labels.items())),
        unit=draw(st.sampled_from(["", "bytes"])),
        help=draw(TEXTS),
        sampler=draw(st.sampled_from(["", "cpu_usage", "tcp"])),
        power=power,
        max_power=max_power,
    )


def several(kind: Kind) -> st.SearchStrategy[tuple[Series, ...]]:
    return st.lists(series(kind), max_size=4, unique_by=identity).map(tuple)


catalogs = st.builds(Catalog, several("counter"), several("gauge"), several("histogram"))


@st.composite
def readings(draw: st.DrawFn, of: st.SearchStrategy[Catalog] = catalogs) -> Reading:
    catalog = draw(of)
    buckets = catalog.histogram_offsets[-1]
    histograms = np.zeros(buckets, np.uint64)
    for _ in range(draw(st.integers(0, 4)) if buckets else 0):
        histograms[draw(st.integers(0, buckets - 1))] = draw(UNSIGNED)
    return Reading(
        catalog=catalog,
        time_ns=draw(st.integers(0, 2**62)),
        monotonic_ns=0,
        duration_ns=draw(st.integers(0, 10**10)),
        counters=np.array([draw(UNSIGNED) for _ in catalog.counters], np.uint64),
        gauges=np.array([draw(SIGNED) for _ in catalog.gauges], np.int64),
        histograms=histograms,
    )


def values(reading: Reading) -> dict[object, object]:
    """Every series with its value; None: a gauge without one."""
    catalog = reading.catalog
    found: dict[object, object] = {}
    for one, counter in zip(catalog.counters, reading.counters.tolist(), strict=True):
        found[identity(one)] = counter
    for one, gauge in zip(catalog.gauges, reading.gauges.tolist(), strict=True):
        found[identity(one)] = None if gauge == ABSENT_GAUGE else gauge
    offsets = catalog.histogram_offsets
    for at, one in enumerate(catalog.histograms):
        found[identity(one)] = reading.histograms[offsets[at] : offsets[at + 1]].tolist()
    return found
