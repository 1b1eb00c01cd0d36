"""What a snapshot costs the one who sends it and the one who reads it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import TypeVar

from rezolus.reading import Reading
from rezolus.wire.decode import Decoder
from rezolus.wire.encode import Encoder, Version
from tests.bench.daemons import EXPORTER, daemon
from tests.bench.rows import Result, Row
from tests.synthetic import Walk, catalog

ENCODE_TARGET_MS = 2.0
REQUEST_TARGET_MS = 5.0
TURNS = 200
REQUESTS = 100
STALE_S = 0.015
"""Longer than the time to live, so that each request takes a reading."""
CGROUPS = 64
"""Makes about a thousand counters."""
T = TypeVar("T")
VERSIONS: tuple[Version, ...] = ("v2", "v3")
LIVE = Path(__file__).parents[1] / "data/rezolus/live"


def run() -> Result:
    """Medians. The target of encoding is for about 1,000 counters and 33 histograms of 496 buckets."""
    rows = [row for version in VERSIONS for row in _codec(version)]
    rows += [_theirs(version) for version in VERSIONS]
    with daemon("1s", EXPORTER) as running, closing(HTTPConnection(str(running.config.agent.listen))) as connection:
        times, size = [], 0
        for _ in range(REQUESTS):
            running.wait(STALE_S)
            begin = time.perf_counter_ns()
            connection.request("GET", "/metrics/binary")
            size = len(connection.getresponse().read())
            times.append((time.perf_counter_ns() - begin) / 1e6)
    rows.append(Row("a request, with the reading it takes", _median(times), "ms", REQUEST_TARGET_MS, f"{size} bytes"))
    return Result("The wire", tuple(rows))


def _codec(version: Version) -> list[Row]:
    """Our own snapshots."""
    walk = Walk(catalog(cgroups=CGROUPS))
    encoder, decoder = Encoder(version, {"source": "rezolus"}), Decoder()
    body = encoder.encode(walk.step())
    decoder.decode(body)
    note = f"{len(walk.catalog.counters)} counters, {len(walk.catalog.histograms)} histograms, {len(body)} bytes"
    readings = [walk.step() for _ in range(TURNS)]
    bodies = [encoder.encode(reading) for reading in readings]
    more = _with_another_cgroup(walk)
    return [
        Row(f"{version}: encode", _each(encoder.encode, readings), "ms", ENCODE_TARGET_MS, note),
        Row(f"{version}: encode, when a cgroup came", _once(encoder.encode, more), "ms"),
        Row(f"{version}: decode", _each(decoder.decode, bodies), "ms"),
        Row(f"{version}: decode, when a cgroup came", _once(decoder.decode, encoder.encode(more)), "ms"),
    ]


def _theirs(version: Version) -> Row:
    """A snapshot that Rezolus sent."""
    body = (LIVE / f"agent-{version}.msgpack").read_bytes()
    decoder = Decoder()
    decoder.decode(body)
    return Row(
        f"{version}: decode one of Rezolus", _each(decoder.decode, [body] * TURNS), "ms", note=f"{len(body)} bytes"
    )


def _with_another_cgroup(walk: Walk) -> Reading:
    walk.enter(catalog(cgroups=CGROUPS + 1))
    return walk.step()


def _each(work: Callable[[T], object], items: list[T]) -> float:
    return _median([_once(work, item) for item in items])


def _once(work: Callable[[T], object], item: T) -> float:
    begin = time.perf_counter_ns()
    work(item)
    return (time.perf_counter_ns() - begin) / 1e6


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
