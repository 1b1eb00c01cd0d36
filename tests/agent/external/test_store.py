"""The store of pushed series, and what readings have of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsl.schema import Schema
from rezolus.agent.cgroups import CgroupNames
from rezolus.agent.external.columns import Contributor
from rezolus.agent.external.store import HELP, MAX_BUCKETS, Store
from rezolus.agent.external.updates import Labels, Shape, Update
from rezolus.agent.sampling import Memory, Sampling
from rezolus.agent.sources import SourceReader
from rezolus.config import ExternalConfig
from rezolus.reading import Kind, Reading, Series
from rezolus.units import UnixAddress
from rezolus.wire.decode import Decoder
from rezolus.wire.encode import Encoder, Version

SECOND = 10**9


class Clock:
    """Stands still."""

    def __init__(self) -> None:
        self.now = 1000 * SECOND

    def __call__(self) -> int:
        return self.now


class Bench:
    """An open store with a reader."""

    def __init__(self, *, wanted: Any = bool, **limits: Any) -> None:
        self.clock = Clock()
        self.store = Store(self.clock)
        self.store.open(ExternalConfig(socket=UnixAddress("/x"), **limits))
        self.sampling = self.make_sampling(wanted)
        self.by = Contributor()

    def make_sampling(self, wanted: Any = bool) -> Sampling:
        schema = Schema(samplers=(), metrics=())
        return Sampling(schema, Memory({}), SourceReader([]), CgroupNames(None), wanted=wanted, pushed=self.store)

    def push(self, name: str, value: int = 1, kind: Kind = "counter", labels: Labels = (), *, by: Any = None) -> None:
        self.store.put(Update(name, labels, kind, value % 2**64), by or self.by)

    def push_histogram(self, name: str, shape: Shape, *buckets: int) -> None:
        self.store.put(Update(name, (), "histogram", 0, shape, np.array(buckets, np.uint64)), self.by)

    def values(self) -> dict[str, object]:
        return values_of(self.sampling.read())


def values_of(reading: Reading) -> dict[str, object]:
    """Of what is pushed, by name and labels."""
    catalog, found = reading.catalog, dict[str, object]()
    rows = [*zip(catalog.counters, reading.counters.tolist(), strict=True)]
    rows += zip(catalog.gauges, reading.gauges.tolist(), strict=True)
    offsets = catalog.histogram_offsets
    for at, series in enumerate(catalog.histograms):
        found[series.name] = reading.histograms[offsets[at] : offsets[at + 1]].tolist()
    for series, value in rows:
        if series.sampler == "external":
            labels = [value for key, value in series.labels.items() if key != "source"]
            found[",".join([series.name, *labels])] = value
    return found


def own(reading: Reading) -> dict[str, int]:
    """What the store tells of itself, where it is not nothing."""
    found = {}
    for group, values in ((reading.catalog.counters, reading.counters), (reading.catalog.gauges, reading.gauges)):
        for series, value in zip(group, values.tolist(), strict=True):
            if series.sampler == "rezolus" and value:
                found[",".join((series.name.removeprefix("rezolus_external_"), *series.labels.values()))] = value
    return found


def test_what_is_pushed_is_in_the_next_reading() -> None:
    bench = Bench()
    bench.push("requests", 5, labels=(("path", "/"),))
    bench.push("depth", -3, "gauge")
    bench.push_histogram("latency", Shape(0, 1), 4, 5)
    bench.push_histogram("size", Shape(0, 2), 1, 2, 3)
    assert bench.values() == {"requests,/": 5, "depth": -3, "latency": [4, 5], "size": [1, 2, 3]}
    catalog = bench.sampling.read().catalog
    assert catalog.counters[-1] == Series(
        "requests", "counter", {"path": "/", "source": "external"}, help=HELP, sampler="external"
    )
    assert [(s.power, s.max_power, s.buckets) for s in catalog.histograms] == [(0, 1, 2), (0, 2, 3)]


def test_a_label_unit_says_the_unit() -> None:
    bench = Bench()
    bench.push("a", labels=(("unit", "bytes"),))
    series = bench.sampling.read().catalog.counters[-1]
    assert (series.unit, dict(series.labels)) == ("bytes", {"source": "external"})


def test_other_values_change_no_catalog() -> None:
    bench = Bench()
    bench.push("a", 1)
    first = bench.sampling.read()
    bench.push("a", 2)
    second = bench.sampling.read()
    assert second.catalog is first.catalog
    assert (values_of(first), values_of(second)) == ({"a": 1}, {"a": 2})


def test_a_series_that_is_not_wanted_is_not_read_and_changes_no_catalog() -> None:
    bench = Bench(wanted=lambda name: name in ("b", "h"))
    bench.push("b", 2)
    bench.push_histogram("h", Shape(0, 1), 4, 5)
    before = bench.sampling.read().catalog
    bench.push("a", 1)
    bench.push_histogram("g", Shape(0, 2), 1, 2, 3)
    bench.push("b", 3)
    reading = bench.sampling.read()
    assert values_of(reading) == {"b": 3, "h": [4, 5]}
    assert reading.catalog is before


def test_what_is_not_pushed_for_the_time_to_live_is_gone_and_the_rest_keeps_its_values() -> None:
    bench = Bench(ttl=60 * SECOND)
    bench.push("old", 1)
    bench.push("kept", 2)
    bench.push_histogram("h", Shape(0, 1), 1, 1)
    bench.push("depth", 7, "gauge")
    bench.clock.now += 30 * SECOND
    bench.push("kept", 3)
    bench.push_histogram("i", Shape(0, 1), 4, 5)
    before = bench.sampling.read().catalog
    bench.clock.now += 30 * SECOND - 1
    assert bench.sampling.read().catalog is before
    bench.clock.now += SECOND
    assert bench.values() == {"kept": 3, "i": [4, 5]}
    assert bench.by.series == 2
    bench.push("old", 9)
    assert bench.values() == {"kept": 3, "i": [4, 5], "old": 9}


def test_limits_count_what_they_refuse_and_leave_what_is_there() -> None:
    bench = Bench(max_metrics=3, max_metrics_per_connection=2)
    for name in "aabbcc":
        bench.push(name)
    assert bench.values() == {"a": 1, "b": 1}
    other = Contributor()
    for name in "cdda":
        bench.push(name, 5, by=other)
    reading = bench.sampling.read()
    assert values_of(reading) == {"a": 5, "b": 1, "c": 5}
    assert own(reading) == {"updates": 6, "series": 3, "rejected,connection": 2, "rejected,metrics": 2}
    bench.clock.now += 61 * SECOND
    bench.values()
    bench.push("d")
    assert bench.values() == {"d": 1}


def test_all_histograms_together_have_so_many_buckets_at_most() -> None:
    bench = Bench()
    buckets = np.zeros(7424, np.uint64)
    for number in range(MAX_BUCKETS // 7424 + 1):
        bench.store.put(Update(f"h{number}", (), "histogram", 0, Shape(7, 64), buckets), bench.by)
    assert bench.store.rejected == {"buckets": 1}


def test_a_metric_of_the_agent_cannot_be_pushed_and_one_that_becomes_it_is_dropped() -> None:
    bench = Bench()
    bench.store.reserve(["cpu_usage"])
    for name in ("cpu_usage", "rezolus_late_ticks", "mine"):
        bench.push(name)
    assert bench.values() == {"mine": 1}
    bench.store.reserve(["mine", "other"])
    assert bench.values() == {}
    bench.push("mine")
    assert bench.store.rejected == {"name": 3}


def test_labels_that_say_what_a_series_is_are_not_the_users() -> None:
    bench = Bench()
    for key in ("metric", "source", "sampler", "grouping_power", "max_value_power", "mine"):
        bench.push("a", labels=((key, "x"),))
    assert bench.values() == {"a,x": 1}
    assert bench.store.rejected == {"label": 5}


def test_a_name_has_one_kind_and_a_series_one_shape_while_it_is_there() -> None:
    bench = Bench()
    bench.push("a", 1)
    bench.push("a", 1, "gauge", (("x", "1"),))
    bench.push_histogram("h", Shape(0, 1), 4, 5)
    bench.push_histogram("h", Shape(0, 2), 1, 2, 3)
    assert bench.values() == {"a": 1, "h": [4, 5]}
    assert bench.store.rejected == {"kind": 2}
    bench.clock.now += 61 * SECOND
    bench.values()
    bench.push("a", 1, "gauge")
    bench.push_histogram("h", Shape(0, 2), 1, 2, 3)
    assert bench.values() == {"a": 1, "h": [1, 2, 3]}


def test_a_store_that_is_off_tells_nothing_and_keeps_what_it_has_until_that_is_old() -> None:
    bench = Bench()
    bench.push("a")
    bench.store.close()
    reading = bench.sampling.read()
    assert (values_of(reading), own(reading), bench.store.status()) == ({"a": 1}, {}, None)
    bench.clock.now += 61 * SECOND
    assert bench.values() == {}
    bench.store.open(ExternalConfig(socket=UnixAddress("/y"), ttl=SECOND))
    assert own(bench.sampling.read()) == {"updates": 1}
    status = bench.store.status()
    assert status is not None
    assert (status.socket, status.updates, status.series) == ("unix:/y", 1, 0)


def test_a_shorter_time_to_live_counts_for_what_is_there() -> None:
    bench = Bench(ttl=60 * SECOND)
    bench.push("a")
    bench.values()
    bench.store.open(ExternalConfig(socket=UnixAddress("/x"), ttl=SECOND))
    bench.clock.now += 2 * SECOND
    assert bench.values() == {}


def test_definitions_that_are_loaded_anew_change_nothing_of_it() -> None:
    bench = Bench()
    bench.push("a", 1)
    bench.push_histogram("h", Shape(0, 1), 4, 5)
    before = bench.sampling.read()
    schema = Schema(samplers=(), metrics=())
    after = Sampling(
        schema,
        Memory({}),
        SourceReader([]),
        CgroupNames(None),
        wanted=bool,
        before=before.catalog,
        pushed=bench.store,
    ).read()
    assert after.catalog is before.catalog
    assert values_of(after) == values_of(before)


def test_without_a_store_and_with_one_that_is_off_readings_are_the_same() -> None:
    off = Sampling(Schema(samplers=(), metrics=()), Memory({}), SourceReader([]), CgroupNames(None), pushed=Store())
    first = off.read()
    assert (first.catalog.counters, first.catalog.gauges, first.catalog.histograms) == ((), (), ())
    assert off.read().catalog is first.catalog
    assert off.statistics().catalogs == 1


def test_both_forms_of_snapshots_have_every_series_under_a_name_of_its_own() -> None:
    bench = Bench()
    for at in range(3):
        bench.push("a", at + 1, labels=(("x", str(at)),))
    bench.push("d", -2, "gauge")
    bench.push_histogram("h", Shape(0, 2), 1, 2, 3)
    reading = bench.sampling.read()
    versions: tuple[Version, ...] = ("v2", "v3")
    for version in versions:
        decoded = Decoder().decode(Encoder(version, {"source": "rezolus"}).encode(reading)).reading
        assert values_of(decoded) == values_of(reading)
        assert {s.sampler for s in decoded.catalog.histograms} == {"external"}
