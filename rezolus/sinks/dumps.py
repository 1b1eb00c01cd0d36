"""Dumps of a buffer: made by a child process, few at a time, beside the sampling."""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from rezolus.errors import UserError
from rezolus.recording.child import Finisher, not_started
from rezolus.recording.store import DUMP_PREFIX, DumpResult, Extent
from rezolus.sinks.timerange import TimeRange

log = logging.getLogger(__name__)

T = TypeVar("T")

AT_ONCE = 2
"""Children; each takes one CPU for as long as it runs."""
MAX_OPEN = 16
"""Dumps asked for and not yet sent to the end; more are refused."""


class DumpFailedError(UserError):
    """The dump could not be written; the text says why."""


class BusyError(UserError):
    """Too many dumps are being made or sent."""

    def __str__(self) -> str:
        return f"{MAX_OPEN} dumps are being made or sent already; try again in some seconds"


class Dumps:
    """Makes dumps of the buffer in `folder`. `hold` keeps what is in the buffer on the disk for a while, and says what that is."""

    def __init__(
        self, name: str, folder: Path, hold: Callable[[], AbstractContextManager[Extent]], finisher: Finisher
    ) -> None:
        self._name = name
        self._folder = folder
        self._hold = hold
        self._finisher = finisher
        self._running = trio.CapacityLimiter(AT_ONCE)
        # One for each that is open, and not of those that the whole daemon has: on a disk that hangs they would be used up.
        self._threads = trio.CapacityLimiter(MAX_OPEN)
        self._scopes: set[trio.CancelScope] = set()
        self._stopped = False
        self._numbers = itertools.count()
        self.open = 0
        """Dumps being made or sent."""
        self.made = 0
        self.failed = 0

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """A place among the dumps. Raises BusyError."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Take a place until `leave`. Raises BusyError."""
        if self.open >= MAX_OPEN:
            raise BusyError
        self.open += 1

    def leave(self) -> None:
        """Give a place back."""
        self.open -= 1

    def temporary(self) -> Path:
        """A name in the buffer's folder for a dump that nobody else sees; the next start removes what is left of it."""
        return self._folder / f"{DUMP_PREFIX}{next(self._numbers)}.parquet"

    async def on_disk(self, call: Callable[[], T]) -> T:
        """What `call` returns, called in a thread; for who has a place. Also who is cancelled has it done: it closes and removes."""
        with trio.CancelScope(shield=True):
            return await trio.to_thread.run_sync(call, limiter=self._threads)
        raise AssertionError  # nobody cancels the shield

    async def make(self, span: TimeRange, output: Path) -> DumpResult:
        """Write the readings of a range to `output`. Raises DumpFailedError.

        Few are made at a time. The buffer is taken as it is when this one's turn comes: nothing that it has dropped by then
        and another dump still needs, and nothing that is begun later; the segment being written is read as far as it goes.
        Once begun it is not cancelled with who asked, a client that goes away for instance: children would pile up, and
        what they read could be dropped under them. `stop` ends it.
        """
        work = self.temporary().with_suffix(".work")
        try:
            async with self._running:
                with self._hold() as extent:
                    result = await self._stoppable(span, extent, output, work)
        except DumpFailedError:
            self.failed += 1
            raise
        finally:
            await self.on_disk(partial(shutil.rmtree, work, ignore_errors=True))  # it was killed
        self.made += bool(result.rows)
        return result

    def stop(self) -> None:
        """Break off what is being made, and make nothing more."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()

    async def _stoppable(self, span: TimeRange, extent: Extent, output: Path, work: Path) -> DumpResult:
        scope = trio.CancelScope(shield=True)
        self._scopes.add(scope)
        if self._stopped:
            scope.cancel()
        try:
            with scope:
                return await self._run_child(span, extent, output, work)
        finally:
            self._scopes.discard(scope)
        raise DumpFailedError("the daemon is stopping")

    async def _run_child(self, span: TimeRange, extent: Extent, output: Path, work: Path) -> DumpResult:
        numbers = str(extent.first), str(extent.last)
        arguments = ["dump", str(self._folder), str(span.start_ns), str(span.end_ns), str(output), work.name, *numbers]
        try:
            done = await self._finisher(arguments)
        except OSError as error:
            raise DumpFailedError(not_started(error)) from error
        lines = [line.removeprefix("error: ") for line in done.stderr.splitlines()]
        if done.status < 0:
            raise DumpFailedError(f"the Parquet writer was killed by signal {-done.status}")
        if done.status:
            raise DumpFailedError("; ".join(lines) or "the Parquet writer failed")
        for line in lines:
            log.warning("%s: %s", self._name, line)
        return msgspec.json.decode(done.stdout, type=DumpResult)
