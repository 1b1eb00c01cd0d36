"""The rolling buffer: a folder of short segments of which the oldest go.

It holds at least `duration` of readings, as far as so many were taken, and at most a segment (a thirtieth) more; and never
more than `max_bytes`, nor for long so much that its disk has no room for a dump. What counts is the time that was *covered*: of
each segment the monotonic time from its first to its last reading and one interval, but no more than it has readings times the
interval. Neither a step of the wall clock, nor a reboot (the monotonic clock begins anew), nor a machine or daemon that was off
for a day empties the buffer or makes it keep more.

Nothing has to be closed properly. A segment gets a note at its end when it is sealed (what it covers), so that opening a
buffer reads a few bytes of each; one without a note is read as a whole and gets it then. `append` and `close` run in the thread
that writes; everything else may be called beside it and never waits for the disk.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rezolus.reading import Reading
from rezolus.recording.output import sync_folder
from rezolus.recording.segment import Segment, SegmentError, note_frame, read_note
from rezolus.recording.store import (
    DAMAGED,
    DUMP_PREFIX,
    SPARE_BYTES,
    SUFFIX,
    Extent,
    create_segment,
    dump_bytes,
    free_bytes,
    segment_files,
    segment_number,
)
from rezolus.recording.writer import SegmentWriter

PARTS = 30
"""A segment is at most this part of the duration: by so much the buffer may exceed it."""
SEGMENT_ROWS = (10, 600)
"""Fewest and most readings of a segment. Each begins with all values, a twentieth of a megabyte of them on a small host."""
SEGMENT_BYTES = 8 << 20
DAMAGED_KEPT = 4
"""Damaged segments that are left for whoever wants to look into them."""
ROOMY_BYTES = 7 * SPARE_BYTES // 4
"""On a disk with less for buffer and dump together the buffer has it all: beside a dump's room hardly anything would be left."""
GIVEN_UP = 2
"""Segments that go at most for one that comes while there is too little room for a dump. So the buffer comes down to its part
within a third of its duration, but others who fill the disk cannot make it give up its past faster than it gets older."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

NOTE = struct.Struct("<IQQQ")


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a buffer."""

    duration_ns: int
    max_bytes: int
    interval_ns: int

    @property
    def segment_rows(self) -> int:
        """Readings after which a segment is sealed."""
        fewest, most = SEGMENT_ROWS
        return max(fewest, min(most, self.duration_ns // self.interval_ns // PARTS))


@dataclass(frozen=True, slots=True)
class Span:
    """What a segment holds."""

    rows: int
    covered_ns: int
    first_ns: int
    """Earliest wall clock of a reading."""
    last_ns: int
    """Latest wall clock of a reading."""

    def note(self) -> bytes:
        """As it stands at the end of the segment."""
        return NOTE.pack(self.rows, self.covered_ns, self.first_ns, self.last_ns)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A segment that is complete."""

    path: Path
    size: int
    span: Span


@dataclass(frozen=True, slots=True)
class RingStatistics:
    """A buffer now. Times are None while it is empty."""

    rows: int
    segments: int
    bytes: int
    covered_ns: int
    first_ns: int | None
    last_ns: int | None
    dropped: int
    """Segments dropped since it was opened because the disk had too little room."""


class _Growing:
    """The span of the open segment."""

    def __init__(self, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self.rows = 0
        self._first_ns = 2**64 - 1
        self._last_ns = 0
        self._begin = self._end = 0

    def add(self, time_ns: int, monotonic_ns: int) -> None:
        if not self.rows:
            self._begin = monotonic_ns
        self._end = monotonic_ns
        self._first_ns = min(self._first_ns, time_ns)
        self._last_ns = max(self._last_ns, time_ns)
        self.rows += 1

    def span(self) -> Span:
        covered = min(max(0, self._end - self._begin) + self._interval_ns, self.rows * self._interval_ns)
        return Span(self.rows, covered, self._first_ns, self._last_ns)


class Ring:
    """The buffer in `folder`, which the caller has made and locked. `metadata` is asked when a segment is begun."""

    def __init__(
        self, folder: Path, limits: Limits, metadata: Callable[[], Mapping[str, str]], *, fsync: bool = False
    ) -> None:
        """Pick up what is there and drop what is too much. `found`: what there was to report. Raises OSError."""
        self._folder = folder
        self._limits = limits
        self._metadata = metadata
        self._fsync = fsync
        self._lock = threading.Lock()
        self._writer: SegmentWriter | None = None
        self._open = _Growing(limits.interval_ns)
        self._sealed: list[Sealed] = []
        self._holds: set[object] = set()
        self._doomed: list[tuple[Sealed, set[object]]] = []
        self.dropped = 0
        """Segments dropped before their time because the disk had too little room."""
        self.found = tuple(self._pick_up())
        self._segment_bytes = SEGMENT_BYTES
        self._number = 1 + max((segment_number(path) for path in _numbered(folder)), default=-1)
        self._trim()

    def append(self, reading: Reading) -> None:
        """Add a reading and drop what is too old for that, on a full disk also what else is old.

        Raises OSError when it could not be written; the next one may be.
        """
        while True:
            try:
                self._write(reading)
                break
            except OSError as error:
                if error.errno not in FULL or not self._make_room():
                    raise
        self._trim()

    @contextlib.contextmanager
    def hold(self) -> Iterator[Extent]:
        """While the context lasts, no segment that is in the buffer at its beginning leaves the disk; which those are.

        Others may be on the disk: what was dropped earlier and is still held by somebody else, and what is begun later.
        """
        token = object()
        with self._lock:
            self._holds.add(token)
            extent = self._extent()
        try:
            yield extent
        finally:
            with self._lock:
                self._holds.discard(token)
                for _, holds in self._doomed:
                    holds.discard(token)

    def statistics(self) -> RingStatistics:
        """What is in the buffer now."""
        with self._lock:
            spans = [entry.span for entry in self._sealed]
            size = sum(entry.size for entry in self._sealed)
            segments = len(self._sealed)
            if self._writer is not None:
                size += self._writer.size
                segments += 1
            if self._open.rows:
                spans.append(self._open.span())
        return RingStatistics(
            rows=sum(span.rows for span in spans),
            segments=segments,
            bytes=size,
            covered_ns=sum(span.covered_ns for span in spans),
            first_ns=min((span.first_ns for span in spans), default=None),
            last_ns=max((span.last_ns for span in spans), default=None),
            dropped=self.dropped,
        )

    def close(self) -> None:
        """Seal the open segment; a second call does nothing. What a dump still holds is left to the next start."""
        if self._writer is not None:
            self._seal(self._writer)
        self._unlink(self._unheld())

    def _extent(self) -> Extent:
        """What is in the buffer; with the lock."""
        writer = self._writer
        paths = [entry.path for entry in self._sealed] + ([] if writer is None else [writer.path])
        return Extent(segment_number(paths[0]), segment_number(paths[-1])) if paths else Extent(0, -1)

    def _space(self) -> int:
        """Bytes that the buffer has or could have: on a small disk it must be able to go by small steps, too."""
        return free_bytes(self._folder) + sum(entry.size for entry in self._sealed)

    def _write(self, reading: Reading) -> None:
        writer = self._writer
        if writer is None:
            writer = self._writer = create_segment(self._folder, self._number, self._metadata())
            self._number += 1
            self._segment_bytes = min(SEGMENT_BYTES, min(self._limits.max_bytes, self._space()) // 8)
            if self._fsync:
                sync_folder(self._folder)
        try:
            writer.append(reading)
            if self._fsync:
                _sync_or_take_back(writer)
        except OSError:
            self._seal(writer)
            raise
        self._open.add(reading.time_ns, reading.monotonic_ns)
        if writer.rows >= self._limits.segment_rows or writer.size >= self._segment_bytes:
            self._seal(writer)
            self._leave_room()

    def _seal(self, writer: SegmentWriter) -> None:
        span = self._open.span()
        try:
            with contextlib.suppress(OSError):  # a full disk; the next start reads the segment as a whole
                writer.note(span.note())
                if self._fsync:
                    writer.sync()
        finally:
            writer.close()
        with self._lock:
            self._writer = None
            self._open = _Growing(self._limits.interval_ns)
            if span.rows:
                self._sealed.append(Sealed(writer.path, writer.size, span))
        if not span.rows:
            writer.path.unlink(missing_ok=True)

    def _trim(self) -> None:
        """Drop the oldest segments that the limits leave no room for; the newest with readings stays."""
        with self._lock:
            writer = self._writer
            size = sum(entry.size for entry in self._sealed) + (0 if writer is None else writer.size)
            covered = sum(entry.span.covered_ns for entry in self._sealed)
            if self._open.rows:
                covered += self._open.span().covered_ns
            while len(self._sealed) > (0 if self._open.rows else 1):
                oldest = self._sealed[0]
                old = covered - oldest.span.covered_ns >= self._limits.duration_ns
                if not old and size <= self._limits.max_bytes:
                    break
                self._doom_oldest()
                size -= oldest.size
                covered -= oldest.span.covered_ns
        self._unlink(self._unheld())

    def _leave_room(self) -> None:
        """Drop some of the oldest when, a segment from now, there would be no room for a dump of everything.

        And for a segment beside it: until a dump's process has begun, and while it runs, what is dropped stays on the disk.
        """
        try:
            free = free_bytes(self._folder)
        except OSError:  # the reading is written; what is wrong with the disk shows with the next one
            return
        with self._lock:
            size = sum(entry.size for entry in self._sealed)
            free += sum(entry.size for entry, _ in self._doomed)
            if free + size < ROOMY_BYTES:
                return
            latest = self._sealed[-1].size
            for _ in range(GIVEN_UP):
                # A dump that is being made takes up the room that was left for it.
                room = 2 * latest + dump_bytes(0 if self._holds else size + latest)
                if free >= room or len(self._sealed) <= 1:
                    break
                size -= self._sealed[0].size
                free += self._sealed[0].size
                self._doom_oldest()
                self.dropped += 1
        self._unlink(self._unheld())

    def _doom_oldest(self) -> None:
        """Take the oldest off the list; with the lock."""
        self._doomed.append((self._sealed.pop(0), set(self._holds)))

    def _make_room(self) -> bool:
        """Drop the oldest segment; false when only the newest is left, or when a dump keeps it on the disk anyway."""
        gone = self._unheld()
        if not gone:
            with self._lock:
                if self._holds or len(self._sealed) <= 1:
                    return False
                gone = [self._sealed.pop(0).path]
                self.dropped += 1
        self._unlink(gone)
        return True

    def _unheld(self) -> list[Path]:
        """What is to go and no dump needs any more."""
        with self._lock:
            gone = [entry.path for entry, holds in self._doomed if not holds]
            self._doomed = [entry for entry in self._doomed if entry[1]]
        return gone

    def _unlink(self, paths: Iterable[Path]) -> None:
        """Without the lock: a disk may take its time."""
        for path in paths:
            path.unlink(missing_ok=True)

    def _pick_up(self) -> Iterator[str]:
        """Find the segments; what is wrong with those that are damaged."""
        for left in self._folder.glob(f"{DUMP_PREFIX}*"):  # by a dump that was killed
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()
        for path in segment_files(self._folder):
            try:
                span = read_span(path)
                if span is None:
                    segment = Segment(path)
                    if damage := segment.damage():
                        yield f"{damage}; {_keep(path)}"
                    span = _complete(segment)
                if span.rows:
                    self._sealed.append(Sealed(path, path.stat().st_size, span))
                else:
                    path.unlink()
            except SegmentError as error:
                aside = path.with_suffix(DAMAGED)
                path.rename(aside)
                yield f"{error}; kept as {aside.name}"
            except OSError as error:
                # It may be readable another time: nothing is done to it.
                reason = (error.strerror or str(error)).lower()
                yield (
                    f"{path}: {reason}; it is left out. Give it to the user that the daemon runs as (chown) and "
                    "restart to have it in the buffer again, or remove it"
                )
        for path in sorted(self._folder.glob(f"*{DAMAGED}"))[:-DAMAGED_KEPT]:
            path.unlink()


def _sync_or_take_back(writer: SegmentWriter) -> None:
    """Raises OSError. The row would be written again when there is room, and be there twice."""
    try:
        writer.sync()
    except OSError:
        with contextlib.suppress(OSError):
            writer.take_back()
        raise


def read_span(path: Path) -> Span | None:
    """What a sealed segment says of itself; None of one that was not sealed. Raises OSError."""
    note = read_note(path, NOTE.size)
    return None if note is None else Span(*NOTE.unpack(note))


def _keep(path: Path) -> str:
    """Copy a segment that is going to be cut; what became of that."""
    aside = path.with_suffix(DAMAGED)
    try:
        shutil.copyfile(path, aside)
    except OSError as error:
        aside.unlink(missing_ok=True)
        return f"it could not be kept as it was: {(error.strerror or str(error)).lower()}"
    return f"as it was it is kept as {aside.name}"


def _complete(segment: Segment) -> Span:
    """Cut what a killed process left of its last reading, and seal. Raises OSError and SegmentError."""
    growing = _Growing(_interval_of(segment))
    for row in segment.replay():
        growing.add(row.time_ns, row.monotonic_ns)
    span = growing.span()
    if span.rows:
        # A full disk, or a file of another user's: it is read like this the next time, too.
        with contextlib.suppress(OSError), segment.path.open("r+b") as file:
            file.truncate(segment.size)
            file.seek(segment.size)
            file.write(note_frame(span.note()))
    return span


def _interval_of(segment: Segment) -> int:
    text = segment.metadata.get("sampling_interval_ms", "")
    return max(1, int(text) if text.isdecimal() else 1000) * 10**6


def _numbered(folder: Path) -> Iterator[Path]:
    """Everything that has or had the number of a segment."""
    return (path for path in folder.iterdir() if path.suffix in {SUFFIX, DAMAGED} and path.stem.isdecimal())
