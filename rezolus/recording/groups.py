"""The index of an unfinished Parquet file: what is known of its row groups, on disk in frames and in memory in short.

The footer entry of a row group is as long as a tenth of its data. Entries stay on disk until the footer is written,
one after the other, so memory does not grow with a recording's length.

Each frame says all about its row group, so a damaged one costs none of the others. That the series are those of the frame
before is said as well, and then they are not decoded: they are mostly the same, and there may be a thousand of each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rezolus.reading import Series
from rezolus.recording.segment import FRAME, Identity, SeriesRow, frame_at, frame_of, identity, read_frame

INDEX = "index"
MENDED = "index.mended"
"""What is to become the index."""

_FRAME_BEGIN = b"\x97"
"""An array of seven, as msgpack has it."""
_SERIES = msgspec.msgpack.Decoder(list[SeriesRow])

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
    series: msgspec.Raw
    """Its series, `list[SeriesRow]`."""
    metadata: dict[str, str] | None
    """The file's; None: as before."""
    same: bool
    """Whether its series are those of the row group before."""


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

    def __init__(self, folder: Path, name: str = INDEX) -> None:
        """Open or begin it, with all whole frames. Raises OSError."""
        self.path = folder / name
        self.damage: int | None = None
        """Where something that is no frame begins and is followed by frames, or as long as it says; None: nowhere."""
        self.torn = False
        """Whether the end of the last frame is missing, as a killed process leaves it."""
        self.groups: list[Group] = []
        self.series: list[Series] = []
        """All series of all row groups."""
        self.metadata: dict[str, str] = {}
        self._of: dict[Identity, int] = {}
        self._end = 0
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
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
        shown = msgspec.Raw(msgspec.msgpack.encode([SeriesRow.of(self.series[number]) for number in numbers]))
        payload = msgspec.msgpack.encode(GroupFrame(segment, rows, end, entry, shown, described, same))
        at = self._end
        frame = frame_of(payload)
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

    def mend(self, groups: Sequence[Group]) -> None:
        """Have these of its row groups and no others, in the file as well; the file before goes. Raises OSError."""
        mended = GroupIndex(self.path.parent, MENDED)
        try:
            mended.clear()
            for group in groups:
                mended.append(
                    segment=group.segment,
                    rows=group.rows,
                    end=group.end,
                    entry=self.entry(group),
                    series=[self.series[number] for number in group.numbers],
                    metadata=self.metadata,
                )
            mended.path.replace(self.path)
        except BaseException:
            mended.close()
            raise
        self.close()
        self.groups, self.series, self._of = mended.groups, mended.series, mended._of
        self._fd, self._end = mended._fd, mended._end
        self.damage, self.torn = None, False

    @property
    def end(self) -> int:
        """Where its last whole frame ends."""
        return self._end

    def cut(self) -> None:
        """Drop what follows the last whole frame. Raises OSError."""
        os.ftruncate(self._fd, self._end)
        self.torn = False

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _load(self) -> None:
        size = os.fstat(self._fd).st_size
        at, lost = 0, False
        while at < size:
            frame = self._frame(at)
            if frame is not None:
                self._enter(*frame, at, lost=lost)
                at = self._end = at + FRAME.size + frame[1]
                lost = False
                continue
            follows = self._next_frame(at + 1, size)
            if follows is None and self._breaks_off(at, size):
                self.torn = True
                return
            self.damage = at if self.damage is None else self.damage
            if follows is None:
                return
            at, lost = follows, True

    def _frame(self, at: int) -> tuple[GroupFrame, int] | None:
        """What stands there, and the length of its payload; None when that is no whole frame."""
        payload = read_frame(self._fd, at)
        if payload is None:
            return None
        try:
            return msgspec.msgpack.decode(payload, type=GroupFrame), len(payload)
        except msgspec.MsgspecError:
            return None

    def _enter(self, frame: GroupFrame, size: int, at: int, *, lost: bool) -> None:
        """Take up a frame with a payload of `size`; `lost`: the one before is not known."""
        same = frame.same and self.groups and not lost
        numbers = (
            self.groups[-1].numbers if same else self._known([row.series() for row in _SERIES.decode(frame.series)])
        )
        self._take(frame.segment, frame.rows, frame.end, numbers, at, size)
        self.metadata = self.metadata if frame.metadata is None else frame.metadata

    def _next_frame(self, at: int, size: int) -> int | None:
        """Where the next whole frame begins. Looks at every place: this is for damage, which is rare."""
        data = os.pread(self._fd, size - at, at)
        begin = data.find(_FRAME_BEGIN, FRAME.size)
        while begin >= 0:
            if frame_at(data, begin - FRAME.size) is not None:
                return at + begin - FRAME.size
            begin = data.find(_FRAME_BEGIN, begin + 1)
        return None

    def _breaks_off(self, at: int, size: int) -> bool:
        """Whether what stands there is shorter than it says, or than it takes to say that."""
        head = os.pread(self._fd, FRAME.size, at)
        return len(head) < FRAME.size or at + FRAME.size + FRAME.unpack(head)[0] > size

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
        return read_frame(file.fileno(), 0) is not None


def write_at(fd: int, data: bytes, at: int) -> None:
    """Write all of it. Raises OSError."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], at + done)
