"""The recorder: readings into one Parquet file, with memory that does not grow and nothing lost by a kill.

Each reading is appended to a segment in a folder beside the output (`rezolus.parquet.recording/<start>/`). A segment that
is long enough is sealed, and a child process turns it into a row group of the file to be; at the end another one
does the rest, writes the footer and gives the file its name. The daemon itself never loads the Parquet library.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trio

import rezolus
from rezolus.config import RecorderConfig
from rezolus.errors import UserError
from rezolus.reading import Reading
from rezolus.recording.segment import SegmentWriter
from rezolus.recording.store import create_segment, folder_lock

log = logging.getLogger(__name__)

SEGMENT_ROWS = 600
"""Rows of a row group. Turning so many into Parquet takes some 0.3 s, which bounds the end of a recording."""
SEGMENT_BYTES = 8 << 20
RETRY_NS = 5 * 10**9
"""After an error of the disk nothing is written for so long."""
WORK_SUFFIX = ".recording"
PACKAGE_ROOT = Path(rezolus.__file__).resolve().parent.parent


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


def output_path(config: RecorderConfig, start_ns: int) -> Path:
    """The file to be written. `%Y`, `%m`, ... in the configured name stand for the start (UTC)."""
    if "%" not in config.path.name:
        return config.path
    return config.path.with_name(datetime.fromtimestamp(start_ns / 1e9, UTC).strftime(config.path.name))


def work_folder(output: Path) -> Path:
    """Where unfinished recordings of `output` are; whoever starts the daemon with privileges prepares it and `output`."""
    return output.with_name(output.name + WORK_SUFFIX)


class Recorder:
    """Records what it is given to the configured file.

    `metadata` is added to the file's: the agent's version, `systeminfo`, ...
    """

    def __init__(self, name: str, config: RecorderConfig, metadata: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._config = config
        self._start_ns = time.time_ns()
        self.output = output_path(config, self._start_ns).absolute()
        self.folder = work_folder(self.output) / str(self._start_ns)
        self._metadata = {
            "version": rezolus.__version__,
            "sampling_interval_ms": str(max(1, round(config.interval / 1e6))),
            **(metadata or {}),
        }
        self._writer: SegmentWriter | None = None
        self._sealed = trio.Event()
        self._segments = 0
        self._rows = 0
        self._lost = 0
        self._bytes = 0
        self._first_ns: int | None = None
        self._retry_ns = 0

    async def run(
        self,
        readings: trio.MemoryReceiveChannel[Reading],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Record until the stream ends or the configured duration is over, then finish the file.

        Cancelled meanwhile it leaves the segments, from which the recording can be recovered. Raises RecordingError.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True)
                stack.enter_context(folder_lock(self.folder))
                self._writer = self._open()
            except OSError as error:
                raise RecordingError(f"cannot record to {self.output}: {_reason(error)}") from error
            stack.callback(self._close)
            log.info("%s: recording to %s", self.name, self.output)
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._absorb_sealed)
                await self._record(readings)
                nursery.cancel_scope.cancel()
            await trio.to_thread.run_sync(self._close)
            await self._finish()

    def statistics(self) -> RecorderStatistics:
        """Counts so far."""
        return RecorderStatistics(str(self.output), self._rows, self._lost, self._segments, self._bytes)

    async def _record(self, readings: trio.MemoryReceiveChannel[Reading]) -> None:
        async for reading in readings:
            if self._first_ns is None:
                self._first_ns = reading.monotonic_ns
            elapsed = reading.monotonic_ns - self._first_ns
            if self._config.duration is not None and elapsed >= self._config.duration:
                return
            # In a thread: a disk that is slow to take a write must not hold up the sampling.
            await trio.to_thread.run_sync(self._append, reading)

    def _append(self, reading: Reading) -> None:
        """Write a reading and seal the segment when it is long enough; an error is reported once and retried later."""
        if self._writer is None and reading.monotonic_ns < self._retry_ns:
            self._lost += 1
            return
        try:
            if self._writer is None:
                self._writer = self._open()
            self._bytes += self._writer.append(reading)
            if self._config.fsync:
                self._writer.sync()
        except OSError as error:
            self._lost += 1
            if self._retry_ns == 0:
                log.error("%s: cannot write to %s: %s; trying again", self.name, self.folder, _reason(error))  # noqa: TRY400
            self._retry_ns = reading.monotonic_ns + RETRY_NS
            self._close()
            return
        if self._retry_ns:
            log.warning("%s: writing again; %d readings were lost so far", self.name, self._lost)
            self._retry_ns = 0
        self._rows += 1
        if self._writer.rows >= SEGMENT_ROWS or self._writer.size >= SEGMENT_BYTES:
            self._close()
            self._writer = self._open_if_possible()
            trio.from_thread.run_sync(self._sealed.set)

    def _open(self) -> SegmentWriter:
        writer = create_segment(self.folder, self._segments, self._metadata)
        self._segments += 1
        return writer

    def _open_if_possible(self) -> SegmentWriter | None:
        try:
            return self._open()
        except OSError:
            return None  # the next reading tries again and reports

    def _close(self) -> None:
        """Seal the open segment."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _absorb_sealed(self) -> None:
        """Have sealed segments turned into row groups, one child at a time; what fails is tried with the next.

        Before that: finish what an earlier daemon was killed over.
        """
        if any(folder != self.folder for folder in self.folder.parent.iterdir()):
            for path in (await self._child("recover", str(self.folder.parent), str(self.output)) or "").splitlines():
                log.warning("%s: an earlier recording had not been finished; it is now %s", self.name, path)
        while True:
            await self._sealed.wait()
            self._sealed = trio.Event()
            # A child that was begun ends by itself: it would have to be repeated otherwise.
            with trio.CancelScope(shield=True):
                await self._child("absorb", str(self.folder), str(self._segments - 2))

    async def _finish(self) -> None:
        started = trio.current_time()
        said = await self._child("finish", str(self.folder), str(self.output))
        if said is None:
            raise RecordingError(f"{self.output} could not be written; what was recorded is in {self.folder}")
        with contextlib.suppress(OSError):  # other recordings are left there, or the folder above is not ours
            self.folder.parent.rmdir()
        rows = int(said)
        if rows == 0:
            log.warning("%s: nothing was recorded, so %s was not written", self.name, self.output)
            return
        seconds = trio.current_time() - started
        log.info("%s: wrote %s: %d readings, finished in %.1f s", self.name, self.output, rows, seconds)

    async def _child(self, *arguments: str) -> str | None:
        """Run `rezolus.recording.finish`; what it says on stdout, None when it failed (and was reported)."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(PACKAGE_ROOT),
            "ARROW_DEFAULT_MEMORY_POOL": "system",  # gives memory back where the default keeps it
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, "-P", "-m", "rezolus.recording.finish", *arguments]
        try:
            done = await trio.run_process(
                command,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=environment,
                # Ctrl-C reaches the whole process group; the child has to end its work.
                start_new_session=True,
            )
        except OSError as error:
            log.error("%s: cannot start %s: %s", self.name, sys.executable, _reason(error))  # noqa: TRY400
            return None
        for line in done.stderr.decode(errors="replace").splitlines():
            log.error("%s: %s", self.name, line.removeprefix("error: "))
        if done.returncode != 0:
            if done.returncode < 0:
                log.error("%s: the Parquet writer was killed by signal %d", self.name, -done.returncode)
            return None
        return done.stdout.decode()


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else ""
    return f"{name}: {text.lower()}" if name else text.lower()
