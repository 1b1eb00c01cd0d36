"""Hindsight with a reading every 10 ms, and what a dump costs."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from rezolus.agent.report import AgentStatus
from rezolus.recording.child import ENVIRONMENT
from rezolus.recording.ring import Limits, Ring
from tests.bench import processes
from tests.bench.daemons import EXPORTER, HINDSIGHT, Daemon, daemon, fetch
from tests.bench.rows import Result, Row
from tests.bench.units import ROOT
from tests.synthetic import SECOND_NS, START_NS, Walk, catalog

MB = 10**6
MS = 10**6
SECONDS = 10.0
WINDOWS = 3
SETTLE_S = 2.0
CPU_TARGET = 10.0
"""Of one core: that of the agent alone at this interval; nobody has said that keeping the readings may cost more."""
DUMPS = ((900, 1000 * MS), (90_000, 10 * MS))
"""Readings of 15 minutes at 1 s and at 10 ms."""
QUIET = ((os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),)
"""Without what the child says of the dump."""
ALL_TIME = (0, 2**64 - 1)


def run() -> Result:
    """The daemon first, then dumps of buffers that are made here."""
    return Result("Hindsight", (*_beside_sampling(), *(row for dump in DUMPS for row in _dump(*dump))))


def _beside_sampling() -> list[Row]:
    """CPU time with and without the buffer, in the same run; the better of some windows each. Then dumps beside readings."""
    with daemon("10ms", EXPORTER) as running:
        alone, _ = _cpu(running)
    with daemon("10ms", HINDSIGHT) as running:
        best, status = _cpu(running)
        before = _delivered(running)
        begin = time.perf_counter()
        body = fetch(f"http://{running.hindsight}/dump?last=20s")
        took = time.perf_counter() - begin
        delivered, lost = _delivered(running)
    clock = status.clock
    late = (
        f"{delivered} delivered; the clock skipped {clock.skipped} of {clock.ticks + clock.skipped}, {clock.late} late"
    )
    return [
        Row(
            "agent and hindsight at 10ms, CPU", best, "%", CPU_TARGET, f"of one core; the agent without it {alone:.2f}"
        ),
        Row("readings lost, a dump among them", lost, "", 0, late),
        Row(
            "that dump, over HTTP",
            took,
            "s",
            note=f"{len(body) / MB:.2f} MB, {delivered - before[0]} readings meanwhile",
        ),
    ]


def _cpu(running: Daemon) -> tuple[float, AgentStatus]:
    running.wait(SETTLE_S)
    best = float("inf")
    for _ in range(WINDOWS):
        before, begin = processes.cpu_ns(running.pid), time.monotonic_ns()
        running.wait(SECONDS)
        best = min(best, 100 * (processes.cpu_ns(running.pid) - before) / (time.monotonic_ns() - begin))
    return best, running.status()


def _delivered(running: Daemon) -> tuple[int, int]:
    """Readings given to the sink, and those that it was too slow for or could not write."""
    status = json.loads(fetch(f"http://{running.config.agent.listen}/status"))
    (sink,) = status["sinks"]
    return sink["delivered"], sink["lost"] + sink["statistics"]["lost"]


def _dump(rows: int, interval_ns: int) -> list[Row]:
    """A whole buffer of synthetic readings, dumped by the process that does it for the daemon."""
    with tempfile.TemporaryDirectory(prefix="rezolus-bench-") as name:
        folder = Path(name)
        size = _fill(folder, rows, interval_ns)
        output = folder / "dump.parquet"
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
        command = [
            "rezolus.recording.finish",
            "dump",
            str(folder),
            *map(str, ALL_TIME),
            str(output),
            str(folder / "dump.work"),
            "0",
            "999999",
        ]
        begin = time.perf_counter()
        child = os.posix_spawn(sys.executable, [sys.executable, "-P", "-m", *command], environment, file_actions=QUIET)
        _, status, used = os.wait4(child, 0)
        took = time.perf_counter() - begin
        if status or pq.read_metadata(output).num_rows != rows:
            raise RuntimeError(f"the dump of {rows} readings failed")
        made = output.stat().st_size
    what = f"dump of {rows} readings, every {interval_ns // MS} ms:"
    note = f"{size / MB:.1f} MB in the buffer, {made / MB:.2f} MB of Parquet"
    return [
        Row(f"{what} time", took, "s", note=note),
        Row(f"{what} CPU of its process", used.ru_utime + used.ru_stime, "s"),
        Row(f"{what} its highest resident memory", used.ru_maxrss * 1024 / MB, "MB"),
    ]


def _fill(folder: Path, rows: int, interval_ns: int) -> int:
    """Bytes of a buffer with so many readings."""
    walk = Walk(catalog(cgroups=10), interval_ns=interval_ns)
    limits = Limits(duration_ns=rows * interval_ns, max_bytes=1 << 40, interval_ns=interval_ns)
    ring = Ring(folder, limits, lambda: {"sampling_interval_ms": str(interval_ns // MS), "source": "bench"})
    # At 10 ms a host does not do a hundred times what it does at 1 s: most readings there are like the one before.
    changing = max(1, 100 * MS // interval_ns)
    made = walk.step()
    for number in range(rows):
        if number % changing == 0:
            made = walk.step()
        passed = number * interval_ns
        ring.append(replace(made, time_ns=START_NS + passed, monotonic_ns=SECOND_NS + passed))
    ring.close()
    return ring.statistics().bytes
