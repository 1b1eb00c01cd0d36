"""Readings on their way to the disk: a thread writes them, so that a slow disk does not hold up the sampling.

What waits is bounded, and what does not fit is lost and counted. An error is told once, and tried again after a pause;
that it works again is told, too.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Callable
from pathlib import Path
from queue import SimpleQueue

import trio

from rezolus.errors import reason
from rezolus.reading import Reading

log = logging.getLogger(__name__)

GRACE_S = 1.0
"""So long what waits is still written when the daemon leaves at once."""
BACKLOG = 64
"""Readings that wait for the disk at most; kill -9 takes them along."""


class DiskThread:
    """Runs once. `write` and `close` are called in the thread.

    One thread for all readings: a call of one per reading costs 0.3 ms of CPU in wake-ups, the queue 0.04. `write` raises OSError
    for a reading that is lost. `name` and `folder` are for the log; after an error nothing is written for `pause_ns`.
    """

    def __init__(
        self, name: str, folder: Path, write: Callable[[Reading], None], close: Callable[[], None], *, pause_ns: int
    ) -> None:
        self._name = name
        self._folder = folder
        self._write = write
        self._close = close
        self._pause_ns = pause_ns
        self._retry_ns = 0
        self._unwritten = self._overrun = 0
        self._waiting: SimpleQueue[Reading | None] = SimpleQueue()
        self._last_ns = self._overrun_ns = 0
        self.written = 0
        self.first_ns = 0
        """CLOCK_BOOTTIME of the first reading that was written or lost, 0 before."""
        self.error = ""
        """Why nothing is written at the moment; empty when all is well."""

    @property
    def lost(self) -> int:
        """Readings that could not be written, or came while too many waited."""
        return self._unwritten + self._overrun

    @property
    def last_ns(self) -> int:
        """CLOCK_BOOTTIME of the last reading that was written or lost; what waits behind others is neither yet."""
        return max(self._last_ns, self._overrun_ns if self._waiting.empty() else 0)

    async def run(self, readings: AsyncIterable[Reading]) -> None:
        """Have all readings written; then everything is closed. Cancelled, it does not wait long for a disk that hangs."""
        queue = self._waiting
        patience = trio.CancelScope(shield=True)
        ended = trio.Event()

        async def in_thread() -> None:
            with patience:
                # A thread for as long as it runs: with trio's own limiter forty sinks would leave none for anybody.
                limiter = trio.CapacityLimiter(1)
                await trio.to_thread.run_sync(self._run, queue, abandon_on_cancel=True, limiter=limiter)
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread)
            try:
                async for reading in readings:
                    if queue.qsize() >= BACKLOG:
                        self._overrun += 1
                        self._overrun_ns = reading.monotonic_ns
                    else:
                        queue.put(reading)
                queue.put(None)
                await ended.wait()
            except BaseException:
                queue.put(None)
                patience.deadline = trio.current_time() + GRACE_S
                raise

    def tell(self, error: OSError) -> None:
        """Say that nothing can be written, once until something can be again."""
        if not self.error:
            log.error("%s: cannot write to %s: %s; trying again", self._name, self._folder, reason(error))
        self.error = reason(error)

    def _run(self, queue: SimpleQueue[Reading | None]) -> None:
        try:
            while (reading := queue.get()) is not None:
                self.first_ns = self.first_ns or reading.monotonic_ns
                self._take(reading)
                self._last_ns = reading.monotonic_ns
        finally:
            self._close()

    def _take(self, reading: Reading) -> None:
        if self.error and reading.monotonic_ns < self._retry_ns:
            self._unwritten += 1
            return
        try:
            self._write(reading)
        except OSError as error:
            self._unwritten += 1
            self._retry_ns = reading.monotonic_ns + self._pause_ns
            self.tell(error)
            return
        self.written += 1
        if self.error:
            log.warning("%s: writing again; %d readings were lost so far", self._name, self._unwritten)
            self.error = ""
