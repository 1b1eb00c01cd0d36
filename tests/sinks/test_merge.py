"""Several sources at once: rounds, provenance, and what a source that is late or gone costs the others."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import numpy as np
import trio
import trio.testing

from rezolus.reading import Catalog, Reading, Series
from rezolus.sinks.merge import KEPT_SERIES, PATIENCE, Merger, Relabel, with_labels

INTERVAL_NS = 1_000_000_000
CPU = Series("cpu_usage", "counter", {"state": "user"}, "nanoseconds", "Time.", "cpu_usage")
FREE = Series("memory_free", "gauge", {}, "bytes")
LATENCY = Series("latency", "histogram", {}, "nanoseconds", power=1)
SMALL = Catalog((CPU,), (FREE,), (LATENCY,))
OTHER = Catalog((), (FREE,), ())


def reading(catalog: Catalog, tick: float, value: int = 1, *, duration_ns: int = 10) -> Reading:
    return Reading(
        catalog=catalog,
        time_ns=1,
        monotonic_ns=round(tick * INTERVAL_NS),
        duration_ns=duration_ns,
        counters=np.full(len(catalog.counters), value, np.uint64),
        gauges=np.full(len(catalog.gauges), -value, np.int64),
        histograms=np.full(catalog.histogram_offsets[-1], value, np.uint64),
    )


def label(name: str) -> Callable[[], Mapping[str, str]]:
    return lambda: {"source": "rezolus", "node": name}


@asynccontextmanager
async def running(*names: str) -> AsyncIterator[tuple[Merger, list[Reading]]]:
    sent: list[Reading] = []
    merger = Merger(INTERVAL_NS, {name: label(name) for name in names}, sent.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(merger.run)
        yield merger, sent
        nursery.cancel_scope.cancel()


def nodes(merged: Reading) -> list[str]:
    return [series.labels["node"] for series in merged.catalog.gauges]


async def test_a_round_is_sent_once_every_source_delivered(autojump_clock: trio.testing.MockClock) -> None:
    async with running("a", "b") as (merger, sent):
        merger.put("b", reading(OTHER, 10.01, 7, duration_ns=99))
        assert sent == []
        merger.put("a", reading(SMALL, 10.0, 5))
        (merged,) = sent
    assert [(s.name, s.labels) for s in merged.catalog.gauges] == [
        ("memory_free", {"node": "a", "source": "rezolus"}),
        ("memory_free", {"node": "b", "source": "rezolus"}),
    ]
    assert merged.gauges.tolist() == [-5, -7]
    assert merged.counters.tolist() == [5]
    assert merged.histograms.tolist() == [5] * LATENCY.buckets
    assert merged.catalog.histogram_offsets == (0, LATENCY.buckets)
    assert merged.duration_ns == 99
    assert merged.monotonic_ns == 10 * INTERVAL_NS


async def test_a_merged_reading_has_the_time_of_this_host() -> None:
    async with running("a") as (merger, sent):
        one = reading(SMALL, 0)
        one.monotonic_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 3 * INTERVAL_NS
        merger.put("a", one)
    assert abs(time.time_ns() - 3 * INTERVAL_NS - sent[0].time_ns) < INTERVAL_NS


async def test_the_same_catalogs_give_the_same_catalog_also_after_a_source_was_away(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running("a", "b") as (merger, sent):
        for tick in range(4):
            merger.put("a", reading(SMALL, tick))
            if tick != 2:
                merger.put("b", reading(OTHER, tick))
            await trio.sleep(1)
    assert [nodes(merged) for merged in sent] == [["a", "b"], ["a", "b"], ["a"], ["a", "b"]]
    assert sent[0].catalog is sent[1].catalog
    assert sent[2].catalog is not sent[1].catalog
    assert sent[3].catalog is sent[0].catalog


async def test_a_source_that_stays_down_is_waited_for_only_so_often(autojump_clock: trio.testing.MockClock) -> None:
    when: list[float] = []
    merger = Merger(INTERVAL_NS, {"a": label("a"), "b": label("b")}, lambda _: when.append(trio.current_time()))
    async with trio.open_nursery() as nursery:
        await nursery.start(merger.run)
        begin = trio.current_time()
        for tick in range(PATIENCE + 3):
            merger.put("a", reading(SMALL, tick))
            await trio.sleep_until(begin + tick + 1)
        nursery.cancel_scope.cancel()
    assert [round((at - begin) % 1, 3) for at in when] == [0.5] * PATIENCE + [0.0] * 3
    assert merger.statistics().rounds == PATIENCE + 3
    assert merger.statistics().partial == PATIENCE


async def test_a_late_reading_is_lost_and_the_next_round_waits_again(autojump_clock: trio.testing.MockClock) -> None:
    async with running("a", "b") as (merger, sent):
        merger.put("a", reading(SMALL, 0))
        await trio.sleep(0.6)
        merger.put("b", reading(OTHER, 0.001))
        await trio.sleep(0.4)
        merger.put("a", reading(SMALL, 1))
        await trio.sleep(0.3)
        merger.put("b", reading(OTHER, 1.001))
    assert [nodes(merged) for merged in sent] == [["a"], ["a", "b"]]
    assert merger.statistics().late == {"a": 0, "b": 1}


async def test_a_reading_from_a_round_long_over_opens_none(autojump_clock: trio.testing.MockClock) -> None:
    async with running("a", "b") as (merger, sent):
        for tick in range(3):
            merger.put("a", reading(SMALL, tick))
            await trio.sleep(1)
        merger.put("b", reading(OTHER, 0))  # a fetch that took two intervals and more
        merger.put("a", reading(SMALL, 3))
        merger.put("b", reading(OTHER, 1))
        merger.put("b", reading(OTHER, 3))
    assert [merged.monotonic_ns // INTERVAL_NS for merged in sent] == [0, 1, 2, 3]
    assert nodes(sent[-1]) == ["a", "b"]
    assert merger.statistics().late["b"] == 2


async def test_a_round_out_of_turn_is_sent_and_costs_none_beside_it(autojump_clock: trio.testing.MockClock) -> None:
    async with running("a", "b") as (merger, sent):
        for tick in (1.0, 1.2, 1.3):
            if tick == 1.2:
                merger.expect_extra()
            merger.put("a", reading(SMALL, tick))
            merger.put("b", reading(SMALL, tick))
        merger.put("a", reading(SMALL, 2))
        merger.put("b", reading(SMALL, 2))
    assert [nodes(merged) for merged in sent] == [["a", "b"]] * 3
    assert merger.statistics().late == {"a": 1, "b": 1}  # at 1.3 nothing was expected


async def test_a_second_reading_of_a_source_ends_the_round_before(autojump_clock: trio.testing.MockClock) -> None:
    async with running("a", "b") as (merger, sent):
        merger.put("a", reading(SMALL, 0, 1))
        merger.put("a", reading(SMALL, 1, 2))
        assert [merged.counters.tolist() for merged in sent] == [[1]]


async def test_what_is_there_at_the_end_is_sent() -> None:
    async with running("a", "b") as (merger, sent):
        merger.flush()
        merger.put("a", reading(SMALL, 0))
        merger.flush()
        merger.flush()
        assert [nodes(merged) for merged in sent] == [["a"]]


async def test_merged_catalogs_do_not_pile_up(autojump_clock: trio.testing.MockClock) -> None:
    async with running("a") as (merger, sent):
        for tick in range(100):
            merger.put("a", reading(Catalog((), (FREE,), ()), tick))
    assert len(sent) == 100
    assert len(merger._merged) <= 16


async def test_a_source_whose_series_come_and_go_is_remembered_once(autojump_clock: trio.testing.MockClock) -> None:
    async with running("a", "b") as (merger, _):
        for tick in range(10):
            merger.put("a", reading(Catalog((Series(f"new{tick}", "counter", {}),), (), ()), tick))
            merger.put("b", reading(SMALL, tick))
    (merged,) = merger._merged.values()
    assert merged.catalog.counters[0].name == "new9"


async def test_merged_catalogs_have_so_many_series_together(autojump_clock: trio.testing.MockClock) -> None:
    many = Catalog(tuple(Series(f"m{at}", "counter", {}) for at in range(KEPT_SERIES // 5 * 2)), (), ())
    async with running("a", "b", "c") as (merger, sent):
        for tick, names in enumerate(("ab", "a", "ac", "a", "ab")):
            for name in names:
                merger.put(name, reading(many if name == "a" else OTHER, tick))
            merger.flush()
        kept = [len(merged.catalog.counters) for merged in merger._merged.values()]
    assert sum(kept) <= KEPT_SERIES
    assert len(kept) == 2
    assert sent[3].catalog is sent[1].catalog
    assert sent[4].catalog is not sent[0].catalog


def test_relabelling_keeps_values_and_is_worked_out_once_per_catalog() -> None:
    relabel = Relabel(label("a"))
    first, second = relabel.relabel(reading(SMALL, 1)), relabel.relabel(reading(SMALL, 2))
    assert first.catalog is second.catalog
    assert first.catalog.counters[0].labels == {"node": "a", "source": "rezolus", "state": "user"}
    assert first.catalog.counters[0].sampler == "cpu_usage"
    assert relabel.relabel(reading(OTHER, 3)).catalog is not first.catalog


def test_a_series_that_stays_is_the_same_in_the_next_catalog() -> None:
    relabel = Relabel(label("a"))
    first = relabel.relabel(reading(SMALL, 1)).catalog
    second = relabel.relabel(reading(Catalog((Series("new", "counter", {}), CPU), (), ()), 2)).catalog
    assert second.counters[1] is first.counters[0]
    assert second.counters[0].labels == {"node": "a", "source": "rezolus"}


def test_labels_that_have_changed_are_taken_over_with_the_next_catalog() -> None:
    labels = {"source": "guess"}
    relabel = Relabel(lambda: labels)
    assert relabel.relabel(reading(OTHER, 1)).catalog.gauges[0].labels == {"source": "guess"}
    labels["source"] = "rezolus"
    assert relabel.relabel(reading(SMALL, 2)).catalog.gauges[0].labels == {"source": "rezolus"}


def test_a_label_in_the_way_is_kept_under_another_name() -> None:
    own = Series("m", "gauge", {"exported_node": "x", "node": "mine", "z": "1"})
    assert dict(with_labels(own, {"node": "web1"}).labels) == {
        "exported_exported_node": "mine",
        "exported_node": "x",
        "node": "web1",
        "z": "1",
    }
