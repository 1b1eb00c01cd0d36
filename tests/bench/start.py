"""From definitions to readings: the whole daemon, and each step of the loader by itself."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.bench import units
from tests.bench.daemons import EXPORTER, daemon
from tests.bench.rows import Result, Row

TARGET_S = 2.0
CHECK_TARGET_S = 0.5
TURNS = 5


def run() -> Result:
    """The best of a few starts."""
    steps: dict[str, tuple[float, float]] = {}
    first = attached = check = float("inf")
    for _ in range(TURNS):
        started, loaded = _start()
        first, attached = min(first, started), min(attached, loaded)
        check = min(check, _check())
        for step, (wall, cpu) in _steps().items():
            best = steps.get(step, (wall, cpu))
            steps[step] = min(best[0], wall), min(best[1], cpu)
    rows = [
        Row("daemon: start to first reading (interval 10 ms)", first, "s", TARGET_S),
        Row("  of which its loader: .rzl to attached", attached, "s", TARGET_S),
        *(Row(f"  {step}", wall, "s", note=f"CPU {cpu:.3f} s") for step, (wall, cpu) in steps.items()),
        Row("rezolus check of one file", check, "s", CHECK_TARGET_S),
    ]
    return Result("Start, all shipped samplers", tuple(rows))


def _start() -> tuple[float, float]:
    """Seconds from starting a daemon to its first reading, and what its loader took."""
    begin = time.time_ns()
    with daemon("10ms", EXPORTER) as running:
        status = running.status()
    if status.reading is None or not status.load_seconds:
        raise RuntimeError(f"nothing was loaded: {status.error}")
    # The page shows the latest reading; the ticks since the first are known.
    later = (status.clock.ticks + status.clock.skipped - 1) * running.config.agent.interval
    return (status.reading.time_ns - later - begin) / 1e9, sum(status.load_seconds.values())


def _check() -> float:
    begin = time.perf_counter()
    command = [sys.executable, "-m", "rezolus", "check", str(units.ROOT / "probes/scheduler.rzl")]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def _steps() -> dict[str, tuple[float, float]]:
    """The loader's steps in a fresh process, as the loader is one: seconds, and seconds of CPU."""
    done = subprocess.run([sys.executable, "-m", "tests.bench.steps"], check=True, capture_output=True, text=True)
    lines = (line.split("\t") for line in done.stdout.splitlines())
    return {step: (float(wall), float(cpu)) for step, wall, cpu in lines}
