"""CPU time of the daemon, as a share of one core."""

from __future__ import annotations

import time

from tests.bench import processes
from tests.bench.daemons import EXPORTER, HINDSIGHT, RECORDER, daemon
from tests.bench.rows import Result, Row

SECONDS = 10.0
WINDOWS = 2
SETTLE_S = 2.0
WHOLE_TARGET = 1.0
TARGETS = {"1s": 0.5, "100ms": None, "10ms": 10.0}


def run() -> Result:
    """The better of two windows each."""
    rows = [
        _measure(f"agent alone at {interval}", interval, target, (EXPORTER,)) for interval, target in TARGETS.items()
    ]
    rows += [
        _measure(
            f"agent, exporter scraped each second, {' and '.join(more)} at 1s", "1s", WHOLE_TARGET, (EXPORTER, *more)
        )
        for more in ((RECORDER,), (HINDSIGHT,), (RECORDER, HINDSIGHT))
    ]
    return Result("CPU of the daemon, % of one core, without eBPF", tuple(rows))


def _measure(what: str, interval: str, target: float | None, sinks: tuple[str, ...]) -> Row:
    best = float("inf")
    with daemon(interval, *sinks) as running:
        running.wait(SETTLE_S)
        for _ in range(WINDOWS):
            before, begin = processes.cpu_ns(running.pid), time.monotonic_ns()
            for _ in range(int(SECONDS)):
                running.wait(1.0)
                if len(sinks) > 1:
                    running.scrape()
            used = (processes.cpu_ns(running.pid) - before) / (time.monotonic_ns() - begin)
            best = min(best, 100 * used)
        status = running.status()
    clock, last = status.clock, status.reading
    took = "" if last is None else f"; the last took {last.duration_ns / 1e6:.2f} ms"
    return Row(what, best, "%", target, f"{clock.ticks} readings, {clock.late} late, {clock.skipped} skipped{took}")
