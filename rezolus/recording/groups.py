"""The index of an unfinished Parquet file: what is known of its row groups, on disk in frames and in memory in short.

The footer entry of a row group is as long as a tenth of its data. Entries stay on disk until the footer is written,
one after the other, so memory does not grow with a recording's length.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rezolus.reading import Series
from rezolus.recording.segment import FRAME, MAX_FRAME, Identity, SeriesRow, identity

INDEX = "index"

Numbers = tuple[int, ...]
"""Of series in `GroupIndex.series`; groups of the same series share one."""


class GroupFrame(msgspec.Struct, frozen=True, array_like=True):
    """One row group in the index."""

    segment: int
    rows: int
    end: int
    """Length of `body` with this row group."""
    entry: bytes
    """The RowGroup struct."""
    series: list[SeriesRow] | None
    """Its series; None: those of the row group before."""
    metadata: dict[str, str] | None
    """The file's; None: as before."""


@dataclass(frozen=True, slots=True)
class Group:
    """One row group in memory."""

    segment: int
    rows: int
    end: int
    numbers: Numbers
    at: int
    """Where its frame begins in the index."""
    size: int
    """Of its frame's payload."""


class GroupIndex:
    """The row groups of a body. One owner at a time."""

    def __init__(self, folder: Path) -> None:
        """Open or begin it, up to its last whole frame. Raises OSError."""
        self.groups: list[Group] = []
        self.series: list[Series] = []
        """All series of all row groups."""
        self.metadata: dict[str, str] = {}
        self._of: dict[Identity, int] = {}
        self._end = 0
        self._fd = os.open(folder / INDEX, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def append(
        self, *, segment: int, rows: int, end: int, entry: bytes, series: Sequence[Series], metadata: Mapping[str, str]
    ) -> None:
        """Add a row group; it counts when this returns. Raises OSError."""
        numbers = self._known(series)
        same = bool(self.groups) and numbers == self.groups[-1].numbers
        described = None if self.groups and metadata == self.metadata else dict(metadata)
        shown = None if same else [SeriesRow.of(self.series[number]) for number in numbers]
        payload = msgspec.msgpack.encode(GroupFrame(segment, rows, end, entry, shown, described))
        at = self._end
        frame = FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        try:
            write_at(self._fd, frame, at)
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, at)
            raise
        self._end += len(frame)
        self._take(segment, rows, end, self.groups[-1].numbers if same else numbers, at, len(payload))
        self.metadata = self.metadata if described is None else described

    def entry(self, group: Group) -> bytes:
        """The row group's footer entry. Raises OSError."""
        payload = os.pread(self._fd, group.size, group.at + FRAME.size)
        return msgspec.msgpack.decode(payload, type=GroupFrame).entry

    def entries(self) -> Iterator[tuple[Group, bytes]]:
        """All row groups with their footer entries."""
        for group in self.groups:
            yield group, self.entry(group)

    def clear(self) -> None:
        """Forget all row groups. Raises OSError."""
        os.ftruncate(self._fd, 0)
        self.groups, self.series, self.metadata, self._of, self._end = [], [], {}, {}, 0

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _load(self) -> None:
        while len(head := os.pread(self._fd, FRAME.size, self._end)) == FRAME.size:
            at = self._end
            length, checksum = FRAME.unpack(head)
            payload = os.pread(self._fd, length, at + FRAME.size)
            if len(payload) != length or zlib.crc32(payload) != checksum:
                break
            frame = msgspec.msgpack.decode(payload, type=GroupFrame)
            if frame.series is None:
                numbers = self.groups[-1].numbers
            else:
                numbers = self._known([row.series() for row in frame.series])
            self._take(frame.segment, frame.rows, frame.end, numbers, at, length)
            self.metadata = self.metadata if frame.metadata is None else frame.metadata
            self._end = at + FRAME.size + length
        os.ftruncate(self._fd, self._end)

    def _take(self, segment: int, rows: int, end: int, numbers: Numbers, at: int, size: int) -> None:
        self.groups.append(Group(segment, rows, end, numbers, at, size))

    def _known(self, series: Sequence[Series]) -> Numbers:
        """Their numbers in ascending order; those that are new get one."""
        numbers = []
        for one in series:
            key = identity(one)
            if key not in self._of:
                self._of[key] = len(self.series)
                self.series.append(one)
            numbers.append(self._of[key])
        return tuple(sorted(numbers))


def begins_index(path: Path) -> bool:
    """Whether the file begins with a whole frame. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(FRAME.size)
        if len(head) < FRAME.size:
            return False
        length, checksum = FRAME.unpack(head)
        return bool(0 < length <= MAX_FRAME and zlib.crc32(file.read(length)) == checksum)


def write_at(fd: int, data: bytes, at: int) -> None:
    """Write all of it. Raises OSError."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], at + done)
