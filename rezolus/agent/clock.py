"""The sampling clock: absolute deadlines, so that load makes a tick late but never shifts the ones after it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

NS = 1_000_000_000

LATE_FRACTION = 0.1
"""A tick that starts later than this share of the interval (at least `LATE_LEAST`) counts as late."""
LATE_LEAST = 0.002
"""Seconds. The event loop wakes at whole milliseconds, so nothing finer is ours to promise."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One due time that was met, late or not."""

    number: int
    """Intervals since the first deadline, skipped ones included."""
    late: float
    """Seconds after its due time."""
    skipped: int
    """Ticks before this one that were due while nobody was ready."""


@dataclass(frozen=True, slots=True)
class ClockStatistics:
    """Counts of a clock since its first tick."""

    ticks: int
    late: int
    skipped: int


class SamplingClock:
    """Ticks at every multiple of the interval.

    The first deadline is aligned to the wall clock, so that recordings of several hosts have the same instants; after that
    only the monotonic clock counts: a step of the wall clock changes no interval. While the machine is suspended
    the monotonic clock stands still, hence nothing is skipped. `interval` is in seconds.
    """

    def __init__(self, interval: float, *, wall: Callable[[], int] = time.time_ns) -> None:
        if interval <= 0:
            raise ValueError(f"interval must be positive, not {interval}")
        self.interval = interval
        self._wall = wall
        self._first: float | None = None
        self._number = -1
        self._ticks = self._late = self._skipped = 0

    async def wait(self) -> Tick:
        """Sleep until the next deadline; at once when it has passed, then counting what was missed."""
        now = trio.current_time()
        if self._first is None:
            self._first = now + self._until_aligned()
        due = self._number + 1
        skipped = max(0, int((now - self._first) / self.interval) - due)
        due += skipped
        deadline = self._first + due * self.interval
        await trio.sleep_until(deadline)
        late = max(0.0, trio.current_time() - deadline)
        self._number = due
        self._ticks += 1
        self._skipped += skipped
        if late > max(LATE_LEAST, LATE_FRACTION * self.interval):
            self._late += 1
        return Tick(due, late, skipped)

    def change(self, interval: float) -> None:
        """Tick at multiples of another interval from now on; to be called while nobody waits, or who waits is cancelled."""
        if interval <= 0:
            raise ValueError(f"interval must be positive, not {interval}")
        self.interval = interval
        self._first, self._number = None, -1

    def statistics(self) -> ClockStatistics:
        """Counts so far."""
        return ClockStatistics(self._ticks, self._late, self._skipped)

    def _until_aligned(self) -> float:
        interval_ns = round(self.interval * NS)
        return (-self._wall() % interval_ns) / NS
