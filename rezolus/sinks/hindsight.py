"""Hindsight: the last minutes on disk, and dumps of them when something has happened.

Readings are appended to a rolling buffer (`rezolus.recording.ring`) by a thread, dumps are made by a child process from the
buffer's files: neither is waited for by the sampling clock, and a dump costs no reading.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import trio

import rezolus
from rezolus.config import HindsightConfig
from rezolus.errors import UserError, reason
from rezolus.guard import read_token
from rezolus.http import serve
from rezolus.reading import Reading
from rezolus.recording.child import Finisher, finish_in_child
from rezolus.recording.output import can_hold_files, refuse_others
from rezolus.recording.ring import FULL, Limits, Ring, RingStatistics
from rezolus.recording.store import DumpResult, Extent, folder_lock
from rezolus.sinks.dumps import BusyError, DumpFailedError, Dumps
from rezolus.sinks.hindsight_pages import make_app
from rezolus.sinks.timerange import TimeRange
from rezolus.sinks.writing import DiskThread
from rezolus.sockets import ListenError
from rezolus.units import format_amount, format_duration

log = logging.getLogger(__name__)

RETRY_NS = 10**9
"""After an error of the disk nothing is written for so long."""
LISTEN_RETRY_S = 5.0
"""Pause before an address in use is tried again; the buffer does without it meanwhile."""
_UNOPENED = RingStatistics(0, 0, 0, 0, None, None, 0)


class HindsightError(UserError):
    """The buffer cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class HindsightStatistics:
    """A hindsight sink since its start."""

    listen: str
    """Address really bound; empty while there is none."""
    path: str
    buffer: str
    written: int
    """Readings added to the buffer."""
    lost: int
    """Readings that could not be written."""
    ring: RingStatistics
    """What is in the buffer; nothing before it was opened."""
    dumps: int
    failed_dumps: int
    error: str
    """Why nothing is written or nobody is answered at the moment; empty when all is well."""


class Hindsight:
    """Keeps what it is given for the configured duration and writes it to a file when asked.

    `metadata` goes into dumps beside what the sink knows itself; it is asked in the thread that writes. `remotes`: how its
    sources elsewhere are.
    """

    def __init__(
        self,
        name: str,
        config: HindsightConfig,
        metadata: Callable[[], Mapping[str, str]] = dict,
        finisher: Finisher = finish_in_child,
        *,
        remotes: Callable[[], tuple[msgspec.Struct, ...]] = tuple,
        retry_ns: int = RETRY_NS,
        listen_retry_s: float = LISTEN_RETRY_S,
    ) -> None:
        self.name = name
        self.config = config
        self.output = config.path
        self.folder = config.buffer_folder
        self._metadata = metadata
        self.remotes = remotes
        self._dumps = Dumps(name, self.folder, self._hold, finisher)
        self._to_file = trio.Lock()
        self._ring: Ring | None = None
        self._owned = contextlib.ExitStack()
        """The lock of the buffer."""
        self._disk = DiskThread(name, self.folder, self._write, self._close, pause_ns=retry_ns)
        self._listen_retry_s = listen_retry_s
        self._bound = ""
        self._listen_error = ""
        self._dropping = False
        self._token = None if config.token_file is None else partial(read_token, config.token_file)

    def check(self) -> None:
        """Whether all of it could start, as far as files tell. Raises HindsightError, TokenError."""
        if self._token is not None:
            self._token()
        self._check_places()

    def _check_places(self) -> None:
        """Whether it could start; without its token it refuses to write files when asked, and buffers. Raises HindsightError."""
        try:
            can_hold_files(self.folder)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            refuse_others(self.output)
        except OSError as error:
            raise HindsightError(f"cannot write dumps: {reason(error)}") from error

    async def run(
        self,
        readings: trio.MemoryReceiveChannel[Reading],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Buffer until the stream ends; then the buffer stays for the next start. Raises HindsightError."""
        self._check_places()
        with self._owned:
            try:
                await trio.to_thread.run_sync(self._open)
            except OSError as error:
                if error.errno not in FULL:
                    raise self._unusable(error) from error
                self._disk.tell(error)  # as later on: there may be room again
            async with trio.open_nursery() as nursery:
                await nursery.start(self._serve)
                task_status.started()
                try:
                    await self._disk.run(readings)
                    async with self._to_file:
                        pass  # what is being written on this host is finished
                finally:
                    self._dumps.stop()
                nursery.cancel_scope.cancel()

    async def capture(self) -> None:
        """Write the whole buffer to the configured file; what goes wrong is logged."""
        try:
            result = await self.dump_to_file(TimeRange())
        except (DumpFailedError, BusyError) as error:
            log.error("%s: cannot write %s: %s", self.name, self.output, error)  # noqa: TRY400
            return
        if result.rows:
            size = format_amount(result.bytes, "bytes")
            log.info("%s: wrote %s: %d readings, %s", self.name, self.output, result.rows, size)
        else:
            log.warning("%s: the buffer is empty, so %s was not written", self.name, self.output)

    async def dump_to_file(self, span: TimeRange) -> DumpResult:
        """Write a range to the configured file, one after the other. Raises DumpFailedError and BusyError."""
        with self._dumps.admitted():
            async with self._to_file:
                return await self._dumps.make(span, self.output)

    @property
    def dumps(self) -> Dumps:
        """What makes the dumps."""
        return self._dumps

    def statistics(self) -> HindsightStatistics:
        """Counts so far."""
        return HindsightStatistics(
            listen=self._bound,
            path=str(self.output),
            buffer=str(self.folder),
            written=self._disk.written,
            lost=self._disk.lost,
            ring=_UNOPENED if self._ring is None else self._ring.statistics(),
            dumps=self._dumps.made,
            failed_dumps=self._dumps.failed,
            error=self._disk.error or self._listen_error,
        )

    def _hold(self) -> contextlib.AbstractContextManager[Extent]:
        if self._ring is None:
            raise DumpFailedError(f"the buffer is not open: {self._disk.error or 'just starting'}")
        return self._ring.hold()

    def _open(self) -> Ring:
        """The buffer, made if need be and ours until `run` ends. Raises OSError, and HindsightError when it is another's."""
        limits = Limits(self.config.duration, self.config.max_bytes, self.config.interval)
        with contextlib.ExitStack() as stack:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not stack.enter_context(folder_lock(self.folder)):
                raise HindsightError(
                    f"the buffer {self.folder} is in use by another process; give each hindsight a buffer of its own"
                )
            self._ring = Ring(self.folder, limits, self._file_metadata, fsync=self.config.fsync)
            self._owned.push(stack.pop_all())
        self._tell_found(self._ring)
        return self._ring

    def _unusable(self, error: OSError) -> HindsightError:
        return HindsightError(
            f"cannot use the buffer {self.folder}: {reason(error)}; give it to the user that the daemon runs as "
            "(chown -R), or choose another with `buffer`"
        )

    def _file_metadata(self) -> dict[str, str]:
        return {
            "version": rezolus.__version__,
            "sampling_interval_ms": str(max(1, round(self.config.interval / 1e6))),
            **self._metadata(),
        }

    def _tell_found(self, ring: Ring) -> None:
        for problem in ring.found:
            log.error("%s: %s", self.name, problem)
        found = ring.statistics()
        kept = format_duration(self.config.duration)
        if found.rows:
            log.info(
                "%s: keeping %s in %s, which has %d readings from before", self.name, kept, self.folder, found.rows
            )
        else:
            log.info("%s: keeping %s in %s", self.name, kept, self.folder)

    async def _serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The pages, once their address can be had; started after the first attempt."""
        address = self.config.listen
        if address is None:
            task_status.started()
            return
        app = make_app(self)
        run_server = partial(serve, app, address, hosts=self.config.hosts, token=self._token)
        while True:
            try:
                await self._serve_once(run_server, None if self._listen_error else task_status)
            except* ListenError as group:
                if not self._listen_error:
                    log.error("%s: %s; trying again", self.name, _leaf(group))  # noqa: TRY400
                    task_status.started()
                self._listen_error = str(_leaf(group))
            await trio.sleep(self._listen_retry_s)

    async def _serve_once(self, run_server: Callable[..., Any], task_status: trio.TaskStatus[None] | None) -> None:
        async with trio.open_nursery() as nursery:
            self._bound = str(await nursery.start(run_server))
            log.info("%s: serving %s", self.name, self._bound)
            self._listen_error = ""
            if task_status is not None:
                task_status.started()

    def _write(self, reading: Reading) -> None:
        """In the thread."""
        ring = self._ring or self._open()
        ring.append(reading)
        if ring.dropped and not self._dropping:
            self._dropping = True
            log.warning(
                "%s: the disk of %s has too little room: the oldest goes before its time", self.name, self.folder
            )

    def _close(self) -> None:
        if self._ring is not None:
            self._ring.close()


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
