"""A minute recorded, at 50 ms and at 1 s: readings lost, CPU time with the Parquet file's, memory, time to finish."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import pyarrow.parquet as pq

from tests.bench import processes
from tests.bench.daemons import RECORDER, Daemon, daemon
from tests.bench.rows import Result, Row

MB = 10**6
SECONDS = 60


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper bounds of a recording."""

    interval: str
    cpu_s: float
    rss_mb: float | None
    finish_s: float | None


BUDGETS = (Budget("50ms", 4.0, 100, 1.0), Budget("1s", 1.0, None, None))


def run() -> Result:
    """One recording each."""
    rows = [row for budget in BUDGETS for row in _record(budget)]
    return Result(f"Recording for {SECONDS} s (agent and recorder, eBPF not counted)", tuple(rows))


def _record(budget: Budget) -> list[Row]:
    with daemon(budget.interval, RECORDER) as running:
        before = processes.cpu_with_children_ns(running.pid)
        rss = 0
        deadline = time.monotonic() + SECONDS
        while (left := deadline - time.monotonic()) > 0:
            running.wait(min(left, 0.25))
            rss = max(rss, processes.memory(running.pid).rss)
        clock = running.status().clock
        finish, total = _finish(running)
        rows = pq.read_metadata(running.recording).num_rows
        size = running.recording.stat().st_size
    due = SECONDS * 10**9 // running.config.agent.interval
    name = f"at {budget.interval}:"
    note = f"{rows} rows in {size / MB:.2f} MB; {clock.late} late"
    return [
        Row(f"{name} readings lost of {due}", clock.skipped, "", 0, note),
        Row(f"{name} CPU in all", (total - before) / 1e9, "s", budget.cpu_s),
        Row(f"{name} highest sum of RSS", rss / MB, "MB", budget.rss_mb),
        Row(f"{name} from SIGTERM to the finished file", finish, "s", budget.finish_s),
    ]


def _finish(running: Daemon) -> tuple[float, int]:
    """Seconds from SIGTERM to the end, and the CPU time of the whole life with all children, ns."""
    begin = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    _, status, used = os.wait4(running.pid, 0)
    running.process.returncode = os.waitstatus_to_exitcode(status)
    return time.monotonic() - begin, round((used.ru_utime + used.ru_stime) * 1e9)
