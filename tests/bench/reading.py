"""One reading of everything, and one scrape."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from dsl.schema import Schema
from rezolus.agent.cgroups import CgroupNames, find_hierarchy
from rezolus.agent.handover import Handover
from rezolus.agent.running import Running
from rezolus.agent.sampling import everything
from rezolus.bpf.load import Loaded
from tests.bench import units
from tests.bench.daemons import EXPORTER, daemon
from tests.bench.rows import Result, Row
from tests.bench.workload import pass_bytes

READING_TARGET_MS = 0.5
SCRAPE_TARGET_MS = 3.0
TURNS = 500
SCRAPES = 100


def run() -> Result:
    """The median, and the best, of many."""
    unit = units.compiled()
    with units.loaded(unit) as programs, units.attached(programs):
        pass_bytes(10)
        times, note = _read_often(unit.schema, programs)
    with daemon("1s", EXPORTER) as running:
        running.wait(2.0)
        scrapes = sorted(_scrape(running.scrape) for _ in range(SCRAPES))
        size = len(running.scrape())
    return Result(
        "One reading, one scrape",
        (
            Row("a reading, median", times[len(times) // 2], "ms", READING_TARGET_MS, note),
            Row("a reading, best", times[0], "ms", READING_TARGET_MS),
            Row("a scrape over HTTP, median", scrapes[len(scrapes) // 2], "ms", SCRAPE_TARGET_MS, f"{size} bytes"),
            Row(
                "a scrape over HTTP, worst: the page is rendered once per reading", scrapes[-1], "ms", SCRAPE_TARGET_MS
            ),
        ),
    )


def _scrape(fetch: Callable[[], bytes]) -> float:
    begin = time.perf_counter_ns()
    fetch()
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
