"""A minute recorded, at 50 ms and at 1 s: readings lost, CPU time with the Parquet file's, memory, time to finish."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from dataclasses import dataclass

import pyarrow.parquet as pq

from tests.bench import processes
from tests.bench.daemons import RECORDER, Daemon, daemon
from tests.bench.rows import Result, Row

MB = 10**6
SECONDS = 60
SETTLE_S = 2.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper bounds of a recording."""

    interval: str
    cpu_s: float
    memory_mb: float | None
    finish_s: float | None


BUDGETS = (Budget("50ms", 4.0, 100, 1.0), Budget("1s", 1.0, None, None))


def adopt_orphans() -> None:
    """Children whose parent ends become ours, so that what they used can be asked for."""
    set_child_subreaper = 36
    ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def run() -> Result:
    """One recording each."""
    rows = [row for budget in BUDGETS for row in _record(budget)]
    return Result(f"Recording for {SECONDS} s (agent and recorder, eBPF not counted)", tuple(rows))


def _record(budget: Budget) -> list[Row]:
    adopt_orphans()
    with daemon(budget.interval, RECORDER) as running:
        running.wait(SETTLE_S)  # the loader, with the compiler in its memory, has ended
        before = processes.cpu_with_children_ns(running.pid)
        helper = [pid for pid in processes.tree(running.pid) if pid != running.pid]
        peak = _watch(running)
        clock = running.status().clock
        begin = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        total, peak_at_end = _wait(running, helper)
        finish = time.monotonic() - begin
        rows = pq.read_metadata(running.recording).num_rows
        size = running.recording.stat().st_size
    due = round(SECONDS * 10**9 / running.config.agent.interval)
    name = f"at {budget.interval}:"
    note = f"{rows} rows in {size / MB:.2f} MB; {clock.late} late"
    memory = f"at the end; {peak.pss / MB:.0f} before it"
    return [
        Row(f"{name} readings lost of {due}", clock.skipped, "", 0, note),
        Row(f"{name} CPU in all, Parquet file included", (total - before) / 1e9, "s", budget.cpu_s),
        Row(f"{name} highest sum of Pss", max(peak.pss, peak_at_end.pss) / MB, "MB", budget.memory_mb, memory),
        Row(f"{name} from SIGTERM to the finished file", finish, "s", budget.finish_s),
    ]


def _watch(running: Daemon) -> processes.Use:
    """The most memory in use at once while the recording goes on."""
    peak = processes.Use(0, 0, 0)
    deadline = time.monotonic() + SECONDS
    while (left := deadline - time.monotonic()) > 0:
        running.wait(min(left, POLL_S))
        peak = max(peak, processes.memory(running.pid), key=lambda use: use.pss)
    return peak


def _wait(running: Daemon, helper: list[int]) -> tuple[int, processes.Use]:
    """Waits for the end. The CPU time of all its life with all its children, ns, and the most memory on the way."""
    peak = processes.Use(0, 0, 0)
    left = {running.pid, *helper}
    total = 0.0
    while left:
        peak = max(peak, processes.memory(running.pid), key=lambda use: use.pss)
        # The helper is ours to wait for once the daemon has ended.
        for pid in (running.pid,) if running.pid in left else tuple(left):
            ended, status, used = os.wait4(pid, os.WNOHANG)
            if ended:
                left.discard(pid)
                total += used.ru_utime + used.ru_stime
                if pid == running.pid:
                    running.process.returncode = os.waitstatus_to_exitcode(status)
        select.select([], [], [], 0.005)
    return round(total * 1e9), peak
