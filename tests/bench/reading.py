"""One reading of everything, and one scrape."""

from __future__ import annotations

import os
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

from dsl.schema import Schema
from rezolus.agent.cgroups import CgroupNames, find_hierarchy
from rezolus.agent.handover import Handover
from rezolus.agent.running import Running
from rezolus.agent.sampling import everything
from rezolus.bpf.load import Loaded
from tests.bench import units
from tests.bench.daemons import EXPORTER, Daemon, daemon
from tests.bench.rows import Result, Row
from tests.bench.workload import pass_bytes

READING_TARGET_MS = 0.5
SCRAPE_TARGET_MS = 3.0
TURNS = 500
SCRAPES = 60
FRESH_S = 0.15
"""Longer than the interval, so that there is a new reading, and no multiple of it."""


def run() -> Result:
    """The median, and the best, of many."""
    unit = units.compiled()
    with units.loaded(unit) as programs, units.attached(programs):
        pass_bytes(10)
        times, note = _read_often(unit.schema, programs)
    with daemon("100ms", EXPORTER) as running:
        size = len(running.scrape())
        with closing(HTTPConnection(running.exporter)) as connection:
            fresh = sorted(_scrape(connection, running, FRESH_S) for _ in range(SCRAPES))
            again = sorted(_scrape(connection, running, 0.0) for _ in range(SCRAPES))
    return Result(
        "One reading, one scrape",
        (
            Row("a reading, median", _median(times), "ms", READING_TARGET_MS, note),
            Row("a reading, best", times[0], "ms", READING_TARGET_MS),
            Row("a scrape of a new reading over HTTP, median", _median(fresh), "ms", SCRAPE_TARGET_MS, f"{size} bytes"),
            Row("a scrape of a new reading over HTTP, best", fresh[0], "ms", SCRAPE_TARGET_MS),
            Row("a scrape of a reading that was scraped before, median", _median(again), "ms", SCRAPE_TARGET_MS),
        ),
    )


def _median(values: list[float]) -> float:
    return values[len(values) // 2]


def _scrape(connection: HTTPConnection, running: Daemon, after: float) -> float:
    """Milliseconds of a scrape, on a connection that is kept as Prometheus keeps it."""
    running.wait(after)
    begin = time.perf_counter_ns()
    connection.request("GET", "/metrics")
    connection.getresponse().read()
    return (time.perf_counter_ns() - begin) / 1e6


def _read_often(schema: Schema, programs: Loaded) -> tuple[list[float], str]:
    """Sorted times of readings, ms, and how much a reading holds."""
    copies = {name: os.dup(fd) for name, fd in programs.fds().items()}
    handover = Handover(schema=schema, cpus=units.facts().online_cpus, privileged=True)
    names = CgroupNames(find_hierarchy(Path("/proc/self/mounts").read_text()))
    running = Running.start(handover, copies, names, wanted=everything, own=())
    try:
        readings = [running.sampling.read() for _ in range(TURNS)]
        count = running.sampling.statistics()
    finally:
        running.close()
    note = f"{count.counters} counters, {count.gauges} gauges, {count.histograms} histograms"
    return sorted(reading.duration_ns / 1e6 for reading in readings), note
