"""The recorder: readings into one Parquet file, with memory that does not grow and nothing lost by a kill.

Each reading is appended to a segment in a folder beside the output (`rezolus.parquet.recording/<start>/`). A segment that
is long enough is sealed, and a child process turns it into a row group of the file to be; at the end another one
does the rest, writes the footer and gives the file its name. The daemon itself never loads the Parquet library.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

import rezolus
from rezolus.config import RecorderConfig
from rezolus.errors import UserError, reason
from rezolus.outputs import output_of, recording_path, work_folder, work_folders
from rezolus.reading import Reading
from rezolus.recording.child import Finisher, finish_in_child, not_started
from rezolus.recording.output import can_hold_files, replaceable, sync_folder
from rezolus.recording.raw import RawWriter
from rezolus.recording.ring import FULL
from rezolus.recording.store import create_segment, folder_lock, recordings_in
from rezolus.recording.writer import SegmentWriter
from rezolus.sinks.writing import DiskThread
from rezolus.wire.encode import Encoder

log = logging.getLogger(__name__)

Writer = TypeVar("Writer", SegmentWriter, RawWriter)

SEGMENT_ROWS = 600
"""Rows of a row group. Turning so many into Parquet takes some 0.1 s, which bounds the end of a recording."""
SEGMENT_BYTES = 2 << 20
"""So much is turned into a row group in 20 MB."""
DESCRIBE_ROWS = 20
"""How often the sources are asked what they say of themselves, rows."""
PER_SOURCE = "per_source_metadata"
RETRY_NS = 5 * 10**9
"""After an error of the disk nothing is written for so long."""


class RecordingError(UserError):
    """The recording could not be started or finished; the text says what is where."""


@dataclass(frozen=True, slots=True)
class RecorderStatistics:
    """A recorder since its start."""

    output: str
    rows: int
    """Readings written."""
    lost: int
    """Readings that could not be written."""
    segments: int
    """Segments begun."""
    written_bytes: int
    """Bytes appended to segments."""
    first_ns: int = 0
    """CLOCK_BOOTTIME of the first reading written or lost, 0 before; and of the last."""
    last_ns: int = 0
    error: str = ""
    """Why nothing is written at the moment; empty when all is well."""


class Recorder:
    """Records what it is given to the configured file.

    `metadata`, asked when a segment is begun, is added to the file's: version, `systeminfo`, ... A relative path stays one: the
    working directory may be where an unprivileged process can work, but cannot get to.
    """

    def __init__(
        self,
        name: str,
        config: RecorderConfig,
        metadata: Callable[[], Mapping[str, str]] = dict,
        finisher: Finisher = finish_in_child,
        *,
        segment_rows: int = SEGMENT_ROWS,
        retry_ns: int = RETRY_NS,
    ) -> None:
        self.name = name
        self._config = config
        self._start_ns = time.time_ns()
        self.output = recording_path(config.path, self._start_ns)
        self.folder = work_folder(self.output) / str(self._start_ns)
        self._metadata = metadata
        self._finisher = finisher
        self._segment_rows = segment_rows
        self._disk = DiskThread(name, self.folder, self._write, self._seal, pause_ns=retry_ns)
        self._token: trio.lowlevel.TrioToken | None = None
        self._writer: SegmentWriter | RawWriter | None = None
        self._described: dict[str, str] = {}
        """What the open segment says of the recording."""
        self._encoder: Encoder | None = None
        self._sealed = trio.Event()
        self._recovered = trio.Event()
        """What earlier recorders left was looked after: one of them may have given the name that is ours to give."""
        self._segments = 0
        self._rows = 0
        self._bytes = 0
        self._discarded = False
        self._owned = contextlib.ExitStack()
        """The lock of the folder, once that was made."""
        self._began = False
        self._wall_ns = (0, 0)
        """Wall clock of the first and the last reading written."""

    async def run(
        self,
        readings: trio.MemoryReceiveChannel[Reading],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Record until the stream ends or the configured duration is over, then finish the file.

        Cancelled meanwhile it leaves the segments, from which the recording can be recovered. Raises RecordingError.
        """
        self._token = trio.lowlevel.current_trio_token()
        with self._owned:
            self.check()
            self._refuse_company()
            try:
                self._writer = self._open()
            except OSError as error:
                if error.errno not in FULL:
                    raise RecordingError(f"cannot record to {self.output}: {reason(error)}") from error
                self._disk.tell(error)  # as later on: there may be room again
            log.info("%s: recording to %s", self.name, self.output)
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._absorb_sealed)
                async with aclosing(self._until_over(readings)) as wanted:
                    await self._disk.run(wanted)
                await self._recovered.wait()
                nursery.cancel_scope.cancel()
            if self._discarded:
                self._remove()
            else:
                await self._finish()

    def discard(self) -> None:
        """Leave nothing of this recording when it ends."""
        self._discarded = True

    def check(self) -> None:
        """Whether it could start, as far as files tell. Raises RecordingError."""
        try:
            _refuse_other_files(self.output)
            can_hold_files(self.folder)
        except OSError as error:
            raise RecordingError(f"cannot record to {self.output}: {reason(error)}") from error

    def _refuse_company(self) -> None:
        """Who replaces what has the name must be the only one to give it. Raises RecordingError.

        Not part of `check`: at a reload the predecessor is still at it, and done before its successor starts.
        """
        work = self.folder.parent
        try:
            for folder in recordings_in(work) if self._config.replace and work.exists() else ():
                with folder_lock(folder) as free:
                    if not free:
                        raise RecordingError(
                            f"{self.output} is still being recorded to, in {folder}; choose another path or end that recorder"
                        )
        except OSError as error:
            raise RecordingError(f"cannot record to {self.output}: {reason(error)}") from error

    def statistics(self) -> RecorderStatistics:
        """Counts so far."""
        return RecorderStatistics(
            output=str(self.output),
            rows=self._rows,
            lost=self._disk.lost,
            segments=self._segments,
            written_bytes=self._bytes,
            first_ns=self._disk.first_ns,
            last_ns=self._disk.last_ns,
            error=self._disk.error,
        )

    async def _until_over(self, readings: trio.MemoryReceiveChannel[Reading]) -> AsyncGenerator[Reading, None]:
        """The readings of the configured duration."""
        duration = self._config.duration
        # Readings come a little before or after their time; the first one is recorded in any case.
        length_ns = None if duration is None else max(duration - self._config.interval // 2, 1)
        first_ns: int | None = None
        async for reading in readings:
            first_ns = reading.monotonic_ns if first_ns is None else first_ns
            if length_ns is not None and reading.monotonic_ns - first_ns >= length_ns:
                return
            yield reading

    def _wake(self) -> None:
        self._sealed.set()

    def _write(self, reading: Reading) -> None:
        """In the thread. What is full is sealed, and the absorbing task woken. Raises OSError; then a new segment comes next."""
        try:
            if self._writer is None:
                self._writer = self._open()
            self._describe(self._writer)
            self._bytes += self._writer.append(reading)
            if self._config.fsync:
                self._writer.sync()
        except OSError:
            self._close()
            raise
        self._rows += 1
        self._wall_ns = (self._wall_ns[0] or reading.time_ns, reading.time_ns)
        if isinstance(self._writer, RawWriter):
            return
        if self._writer.rows >= self._segment_rows or self._writer.size >= SEGMENT_BYTES:
            self._seal()
            self._writer = self._open_if_possible()
            if self._token is not None:
                self._token.run_sync_soon(self._wake)

    def _begin(self) -> None:
        """Make the recording's folder and own it. Raises OSError, and RecordingError when somebody else was faster."""
        self.folder.mkdir(parents=True)
        self._began = self._owned.enter_context(folder_lock(self.folder))
        if not self._began:
            raise RecordingError(f"{self.folder} was taken by another process that recovers recordings; start again")
        if self._config.fsync:
            for parent in (self.output.parent, self.folder.parent):
                with contextlib.suppress(PermissionError):  # root made what is in there, and it may not be ours
                    sync_folder(parent)

    def _open(self) -> SegmentWriter | RawWriter:
        if not self._began:
            self._begin()
        if self._config.format == "raw":
            return self._lasting(RawWriter(self.folder, self._snapshot))
        self._described = self._description()
        writer = create_segment(self.folder, self._segments, self._described)
        self._segments += 1
        return self._lasting(writer)

    def _lasting(self, writer: Writer) -> Writer:
        """A file whose name is not on the disk is as good as none."""
        if self._config.fsync:
            try:
                sync_folder(self.folder)
            except OSError:
                writer.close()
                raise
        return writer

    def _describe(self, writer: SegmentWriter | RawWriter) -> None:
        """Now and then: sources say more of themselves once they have been reached."""
        if isinstance(writer, RawWriter) or (writer.rows % DESCRIBE_ROWS and writer.rows not in {1, 2, 4}):
            return
        now = self._description()
        if now != self._described:
            writer.describe(now)
            self._described = now

    def _seal(self) -> None:
        """Close the open segment with the last word about the recording so far."""
        if isinstance(self._writer, SegmentWriter) and self._writer.rows:
            with contextlib.suppress(OSError):  # without it nothing of the readings is lost
                self._writer.describe(self._description(last_ns=self._wall_ns[1]))
        self._close()

    def _description(self, last_ns: int | None = None) -> dict[str, str]:
        """The file's metadata as it is now; what was configured has the last word."""
        said = {
            "version": rezolus.__version__,
            "sampling_interval_ms": str(max(1, round(self._config.interval / 1e6))),
            **self._metadata(),
        }
        if PER_SOURCE not in said and self._rows:
            own: dict[str, object] = {"first_sample_ns": self._wall_ns[0]}
            if last_ns is not None:
                own["last_sample_ns"] = last_ns
            if "role" in said:
                own["role"] = said.pop("role")
            if "sampler_status" in said:
                # JSON, and of whoever was recorded: it is not ours to decode.
                own["sampler_status"] = msgspec.Raw(said.pop("sampler_status").encode())
            said[PER_SOURCE] = msgspec.json.encode({said.get("source", "rezolus"): own}).decode()
        return {**said, **self._config.metadata}

    def _snapshot(self, reading: Reading) -> bytes:
        if self._encoder is None:
            described = {"source": "rezolus", **self._description()}
            self._encoder = Encoder("v2", {key: described[key] for key in ("source", "version")})
        return self._encoder.encode(reading)

    def _open_if_possible(self) -> SegmentWriter | RawWriter | None:
        try:
            return self._open()
        except OSError:
            return None  # the next reading tries again and reports

    def _close(self) -> None:
        """Close the open segment."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _absorb_sealed(self) -> None:
        """Have sealed segments turned into row groups, one child at a time; what fails is tried with the next.

        Before that: finish what an earlier daemon was killed over.
        """
        for work in self._left_behind():
            for path in (await self._child("recover", str(work), str(output_of(work))) or "").splitlines():
                log.warning("%s: an earlier recording had not been finished; it is now %s", self.name, path)
        self._recovered.set()
        while True:
            await self._sealed.wait()
            self._sealed = trio.Event()
            # A child that was begun ends by itself: it would have to be repeated otherwise.
            with trio.CancelScope(shield=True):
                await self._child("absorb", str(self.folder), str(self._segments - 2))

    def _left_behind(self) -> list[Path]:
        """Work folders in which there is more than this recording."""
        try:
            works = work_folders(self._config.path)
            return [work for work in works if any(folder != self.folder for folder in recordings_in(work))]
        except OSError as error:
            log.error("%s: cannot look for unfinished recordings: %s", self.name, reason(error))  # noqa: TRY400
            return []

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():  # all of it is ours: nobody else has been in there
                path.unlink()
            self.folder.rmdir()
            self.folder.parent.rmdir()

    async def _finish(self) -> None:
        if not self._began:
            log.warning("%s: nothing was recorded, so %s was not written", self.name, self.output)
            return
        started = trio.current_time()
        said = await self._child("replace" if self._config.replace else "finish", str(self.folder), str(self.output))
        if said is None:
            raise RecordingError(f"{self.output} could not be written; what was recorded is in {self.folder}")
        with contextlib.suppress(OSError):  # other recordings are left there, or the folder above is not ours
            self.folder.parent.rmdir()
        count, *earlier = said.splitlines()
        for path in earlier:
            log.warning("%s: there was a recording called %s; it is now %s", self.name, self.output, path)
        rows = int(count)
        if rows == 0:
            log.warning("%s: nothing was recorded, so %s was not written", self.name, self.output)
            return
        seconds = trio.current_time() - started
        log.info("%s: wrote %s: %d readings, finished in %.1f s", self.name, self.output, rows, seconds)

    async def _child(self, *arguments: str) -> str | None:
        """Run `rezolus.recording.finish`; what it says on stdout, None when it failed (and was reported)."""
        try:
            done = await self._finisher(list(arguments))
        except OSError as error:
            log.error("%s: %s", self.name, not_started(error))  # noqa: TRY400
            return None
        for line in done.stderr.splitlines():
            log.error("%s: %s", self.name, line.removeprefix("error: "))
        if done.status != 0:
            if done.status < 0:
                log.error("%s: the Parquet writer was killed by signal %d", self.name, -done.status)
            return None
        return done.stdout


def _refuse_other_files(output: Path) -> None:
    """Raises RecordingError when the recording would replace something else, OSError when that cannot be told."""
    try:
        fd = os.open(output, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        if not (stat.S_ISREG(os.fstat(fd).st_mode) and replaceable(fd)):
            raise RecordingError(f"{output} exists and is no recording; remove it or choose another path")
    finally:
        os.close(fd)
