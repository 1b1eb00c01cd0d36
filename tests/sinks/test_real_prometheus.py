"""A real Prometheus scrapes a running exporter over HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio

from rezolus.config import ExporterConfig
from rezolus.histogram import bucket_bounds, quantile
from rezolus.reading import U64, Catalog, Reading, Series
from rezolus.sinks.exporter import FRESH_NS, Exporter
from rezolus.units import Address
from tests import needs
from tests.sinks import prometheus_server
from tests.sinks.prometheus_server import Prometheus, job
from tests.synthetic import Walk, catalog

SECOND = 10**9
ROOT = Path(__file__).parents[2]
CONFIG = ExporterConfig(listen=Address("127.0.0.1", 0), interval=SECOND)
TEXT = {"openmetrics": False}
OPENMETRICS = {"openmetrics": True}
EXPRESSIONS = [
    line
    for block in re.findall(r"^```promql\n(.*?)^```", (ROOT / "docs/exporter.md").read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
"""The queries that the page for users shows."""
EMPTY = np.empty(0, np.uint64)


@asynccontextmanager
async def exporting(**options: Any) -> AsyncIterator[tuple[Exporter, str]]:
    """A running exporter and its address; `up` and `clock` are arguments of Exporter, the others keys of its table."""
    arguments = {key: options.pop(key) for key in ("up", "clock") if key in options}
    exporter = Exporter("prom", msgspec.structs.replace(CONFIG, **options), **arguments)
    send, receive = trio.open_memory_channel[Reading](0)
    async with send, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: exporter.run(receive, task_status=task_status))
        yield exporter, exporter.statistics().listen
        await send.aclose()


def now(reading: Reading) -> Reading:
    """The same values, read now: Prometheus looks for recent ones."""
    reading.time_ns = time.time_ns()
    return reading


def histogram_reading(counts: U64) -> Reading:
    series = Series("h", "histogram", {"op": "x"}, "nanoseconds")
    return now(Reading(Catalog((), (), (series,)), 0, 0, 0, EMPTY, np.empty(0, np.int64), counts))


def value(result: list[dict[str, Any]]) -> float:
    (only,) = result
    return float(only["value"][1])


async def test_every_counter_and_gauge_arrives(tmp_path: Path) -> None:
    program = needs.program("prometheus", "prometheus")
    walk = Walk(catalog(cgroups=2))
    walk.step()
    reading = now(walk.step())
    async with exporting(**TEXT) as (text, address), exporting(**OPENMETRICS) as (openmetrics, other):
        text.take(reading)
        openmetrics.take(reading)
        jobs = [job("text", address), job("openmetrics", other)]
        async with prometheus_server.running(program, tmp_path, jobs) as server:
            for name, total in (("text", ""), ("openmetrics", "_total")):
                await server.wait(f'cpu_usage{total}{{job="{name}"}}')
                values = values_of(await server.query(f'{{job="{name}",sampler!=""}}'))
                assert len(values) == len(walk.catalog.counters) + len(walk.catalog.gauges)
                for series, expected in zip(walk.catalog.counters, reading.counters.tolist(), strict=True):
                    assert values[key_of(series, total)] == float(expected)
                for series, expected in zip(walk.catalog.gauges, reading.gauges.tolist(), strict=True):
                    assert values[key_of(series, "")] == float(expected)
            assert not await server.query("up == 0")
            for expression in EXPRESSIONS:
                await server.query(expression)
            assert server.complaints() == []


def values_of(found: list[dict[str, Any]]) -> dict[frozenset[tuple[str, str]], float]:
    """By labels, the name among them."""
    return {
        frozenset((key, text) for key, text in entry["metric"].items() if key not in {"job", "instance"}): float(
            entry["value"][1]
        )
        for entry in found
    }


def key_of(series: Series, suffix: str) -> frozenset[tuple[str, str]]:
    labels = {**series.labels, "unit": series.unit, "sampler": series.sampler, "__name__": series.name + suffix}
    return frozenset((key, text) for key, text in labels.items() if text)


async def test_its_quantiles_are_ours(tmp_path: Path) -> None:
    program = needs.program("prometheus", "prometheus")
    random = np.random.default_rng(1)
    # totals of which no quantile is a whole number: there, rounding would decide between two buckets
    counts, more = np.zeros(496, np.uint64), np.zeros(496, np.uint64)
    np.add.at(counts, random.normal(120, 20, 4999).astype(int), np.uint64(1))
    np.add.at(more, random.normal(200, 40, 2999).astype(int), np.uint64(1))
    async with (
        exporting(histograms="buckets", **TEXT) as (text, address),
        exporting(histograms="buckets", grouping_power=1, **OPENMETRICS) as (openmetrics, other),
    ):
        reading = histogram_reading(counts)
        text.take(reading)
        openmetrics.take(reading)
        jobs = [job("3", address), job("1", other)]
        async with prometheus_server.running(program, tmp_path, jobs) as server:
            await server.wait("count(h_distribution_count == 4999) == 2")
            await expect_quantiles(server, "h_distribution_bucket", counts)
            reading = histogram_reading(counts + more)
            text.take(reading)
            openmetrics.take(reading)
            await server.wait("count(h_distribution_count == 7998) == 2")
            await expect_quantiles(server, "increase(h_distribution_bucket[1m])", more)
            assert server.complaints() == []


async def expect_quantiles(server: Prometheus, query: str, counts: U64) -> None:
    """That Prometheus finds each quantile in the bucket where we do; the jobs are called by grouping power."""
    for q in (0.01, 0.25, 0.5, 0.9, 0.99, 0.999):
        ours = quantile(counts, q)
        assert ours is not None
        found = await server.query(f"histogram_quantile({q}, {query})")
        assert len(found) == 2
        for entry in found:
            low, high = bounds_around(ours, int(entry["metric"]["job"]))
            assert low <= float(entry["value"][1]) <= high * (1 + 1e-9), entry


def bounds_around(upper: int, power: int) -> tuple[int, int]:
    """The bucket at a grouping power of which Prometheus interpolates: from the bound below to its own."""
    at = next(at for at in range(496) if bucket_bounds(at, power)[1] >= upper)
    return (bucket_bounds(at - 1, power)[1] if at else 0), bucket_bounds(at, power)[1]


async def test_scrapers_at_any_interval_get_every_value_at_its_time(tmp_path: Path) -> None:
    program = needs.program("prometheus", "prometheus")
    series = Catalog((Series("ticks", "counter", {}),), (), ())

    async def tick(*exporters: Exporter) -> None:
        """A counter that grows with the clock: each value is true at one millisecond only."""
        while True:
            time_ns = time.time_ns()
            count = np.array([time_ns // 1_000_000], np.uint64)
            for exporter in exporters:
                exporter.take(Reading(series, time_ns, 0, 0, count, np.empty(0, np.int64), EMPTY))
            await trio.sleep(0.03)

    async with (
        exporting(**TEXT) as (text, address),
        exporting(**OPENMETRICS) as (openmetrics, other),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(tick, text, openmetrics)
        jobs = {
            (name, every): job(f"{name} {every}", target, scrape_interval=every, scrape_timeout="20ms")
            for name, target in (("ticks", address), ("ticks_total", other))
            for every in ("20ms", "170ms", "450ms")
        }
        async with prometheus_server.running(program, tmp_path, jobs.values()) as server:
            for name, every in jobs:
                selector = f'{name}{{job="{name} {every}"}}[1m]'
                await server.wait(f"count_over_time({selector}) > 3")
                (found,) = await server.query(selector)
                for seconds, count in found["values"]:
                    assert float(count) == round(seconds * 1000)
                assert value(await server.query(f"irate({selector})")) == pytest.approx(1000, rel=1e-9)
            assert server.complaints() == []
        nursery.cancel_scope.cancel()


async def test_what_is_gone_becomes_stale_and_its_source_is_down(tmp_path: Path) -> None:
    program = needs.program("prometheus", "prometheus")
    await see_it_go(program, tmp_path, timestamps=False)


async def test_with_times_of_its_own_it_becomes_stale_where_prometheus_tracks_that(tmp_path: Path) -> None:
    await see_it_go(needs.prometheus_3(), tmp_path, timestamps=True, track_timestamps_staleness=True)


async def see_it_go(program: str, folder: Path, *, timestamps: bool, **more: bool) -> None:
    now_ns, alive = 0, True
    options: dict[str, Callable[[], object]] = {"up": lambda: {"node1": alive}, "clock": lambda: now_ns}
    walk = Walk(catalog(cgroups=1))
    async with exporting(timestamps=timestamps, **options) as (exporter, address):
        exporter.take(now(walk.step()))
        async with prometheus_server.running(program, folder, [job("r", address, **more)]) as server:
            await server.wait('{sampler!=""}')
            await server.wait("rezolus_source_up == 1")
            alive = False
            await server.wait("rezolus_source_up == 0")
            assert await server.query('{sampler!=""}')
            now_ns = FRESH_NS + 1
            await server.wait('{sampler!=""}', lambda found: not found)
            assert value(await server.query("up")) == 1
            alive = True
            exporter.take(now(walk.step()))
            await server.wait('{sampler!=""}')
            await server.wait("rezolus_source_up == 1")


async def test_prometheus_3_makes_native_histograms_without_loss(tmp_path: Path) -> None:
    program = needs.prometheus_3()
    first, second = np.zeros(496, np.uint64), np.zeros(496, np.uint64)
    first[[0, 1, 15, 16, 100, 119]] = [3, 1, 4, 1, 5, 9]
    second[[1, 99, 120, 494, 495]] = [2, 6, 5, 3, 5]
    async with (
        exporting(histograms="buckets", **TEXT) as (text, address),
        exporting(histograms="buckets", **OPENMETRICS) as (openmetrics, other),
    ):
        jobs = [
            job(name, target, convert_classic_histograms_to_nhcb=True)
            for name, target in (("text", address), ("openmetrics", other))
        ]
        feature = "--enable-feature=native-histograms"
        async with prometheus_server.running(program, tmp_path, jobs, feature) as server:
            for counts in (first, first + second):
                reading = histogram_reading(counts)
                text.take(reading)
                openmetrics.take(reading)
                for name in ("text", "openmetrics"):
                    await server.wait(f'h_distribution{{job="{name}"}}', partial(has_buckets, by_bound(counts, 1)))
            assert await server.query("h_distribution_bucket") == []
            # the bounds are the same ones, so a difference is one of buckets and not a new start
            grown = await server.query("increase(h_distribution[1m])")
            assert len(grown) == 2
            for entry in grown:
                share = float(entry["histogram"][1]["count"]) / int(second.sum())
                assert buckets_of(entry) == pytest.approx(by_bound(second, share))
            assert server.complaints() == []


def by_bound(counts: U64, factor: float) -> dict[float, float]:
    """Of a histogram's buckets that count anything, multiples by upper bound."""
    return {float(bucket_bounds(at, 3)[1]): count * factor for at, count in enumerate(counts.tolist()) if count}


def has_buckets(expected: Mapping[float, float], found: list[dict[str, Any]]) -> bool:
    return len(found) == 1 and buckets_of(found[0]) == expected


def buckets_of(entry: Mapping[str, Any]) -> dict[float, float]:
    """Counts by upper bound of a native histogram."""
    return {float(upper): float(count) for _, _, upper, count in entry["histogram"][1]["buckets"]}
