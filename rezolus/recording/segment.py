"""Segments: readings on disk as they come, in plain append-only files that need nothing to be closed properly.

A segment is the magic followed by frames, each `u32 length, u32 crc32` and then `length` bytes, the first of which says
what it is:

- `M`: file metadata, msgpack map of strings; the first frame, and again when it changed: the last one counts.
- `C`: the catalog of the rows that follow. Series that are new to this segment join its table and get the next
  *slots*, one for a counter or gauge, one per bucket for a histogram; the catalog is then three lists of table numbers.
- `R`: one reading. `u64 time, u64 monotonic, u64 duration, u32 n`, then n slot numbers (u32) and their n values (u64):
  only what changed since the slot was last written (a new slot is 0). A cgroup that comes or goes thus costs its own
  series only.
- `E`: a note of whoever sealed the segment, at its very end; readers of rows pass over it.

There are no complete rows in between: a segment is short (the recorder seals it after some hundred rows) and always read
from its beginning. A file that ends within a frame, or whose frame has a wrong checksum, is good up to the frame before;
that is what a killed process or a full disk leaves. Whole frames behind such a place are damage. Everything is little-endian.

Here is the form and how it is read; `rezolus.recording.writer` writes it.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from rezolus.errors import UserError
from rezolus.reading import U64, Catalog, Kind, Series

MAGIC = b"RZSEG\x00\x00\x01"
FRAME = struct.Struct("<II")
ROW = struct.Struct("<cQQQI")
MAX_FRAME = 1 << 28
"""Longer frames are taken for damage; the largest real one (65,536 series appearing at once) is a tenth of it."""

_KIND = re.compile(b"[MCRE]")

Identity = tuple[str, str, tuple[tuple[str, str], ...], str, str, int, int]
"""What makes a series the same one in two catalogs: all of it but the help text."""


class SegmentError(UserError):
    """The file is not a segment, or its contents contradict each other."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class SeriesRow(msgspec.Struct, frozen=True, array_like=True):
    """A `Series` as it is stored."""

    name: str
    kind: Kind
    labels: dict[str, str]
    unit: str
    help: str
    sampler: str
    power: int
    max_power: int = 64

    @classmethod
    def of(cls, series: Series) -> SeriesRow:
        """Row of a series."""
        return cls(
            series.name,
            series.kind,
            dict(series.labels),
            series.unit,
            series.help,
            series.sampler,
            series.power,
            series.max_power,
        )

    def series(self) -> Series:
        """The series of this row."""
        return Series(self.name, self.kind, self.labels, self.unit, self.help, self.sampler, self.power, self.max_power)


class CatalogFrame(msgspec.Struct, frozen=True, array_like=True):
    """Payload of a `C` frame; the lists are u32 numbers of the segment's series table."""

    new: list[SeriesRow]
    counters: bytes
    gauges: bytes
    histograms: bytes


def identity(series: Series) -> Identity:
    """Key under which a series is the same one in any catalog."""
    labels = tuple(series.labels.items())
    return (series.kind, series.name, labels, series.unit, series.sampler, series.power, series.max_power)


def width_of(series: Series) -> int:
    """Number of slots a series takes."""
    return series.buckets if series.kind == "histogram" else 1


def frame_of(payload: bytes) -> bytes:
    """A frame as it stands in the file."""
    return FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def frame_at(data: bytes, at: int) -> bytes | None:
    """The payload of the frame that stands at a place of `data`; None when there is no whole one."""
    if len(data) - at < FRAME.size:
        return None
    length, checksum = FRAME.unpack_from(data, at)
    start = at + FRAME.size
    if not 0 < length <= min(MAX_FRAME, len(data) - start):
        return None
    payload = data[start : start + length]
    return payload if zlib.crc32(payload) == checksum else None


def read_frame(fd: int, at: int) -> bytes | None:
    """The same of an open file, of which no more is read than the frame. Raises OSError."""
    head = os.pread(fd, FRAME.size, at)
    if len(head) < FRAME.size:
        return None
    length, _ = FRAME.unpack(head)
    return frame_at(head + os.pread(fd, length, at + FRAME.size), 0) if length <= MAX_FRAME else None


def note_frame(payload: bytes) -> bytes:
    """A note as it stands in the file."""
    return frame_of(b"E" + payload)


def read_note(path: Path, size: int) -> bytes | None:
    """The note of `size` bytes at the end of a segment, None when there is none. Raises OSError."""
    frame = FRAME.size + 1 + size
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        if length < len(MAGIC) + frame or file.read(len(MAGIC)) != MAGIC:
            return None
        file.seek(length - frame)
        raw = file.read(frame)
    payload = raw[FRAME.size + 1 :]
    return payload if raw == note_frame(payload) else None


@dataclass(slots=True)
class SeriesTable:
    """The series seen in a segment so far and where their slots begin."""

    series: list[Series] = field(default_factory=list)
    bases: list[int] = field(default_factory=list)
    width: int = 0
    _asked: list[int] | None = None
    _answer: U64 = field(default_factory=lambda: np.empty(0, np.uint64))

    def add(self, series: Series) -> int:
        """Take it up; returns its number."""
        self.series.append(series)
        self.bases.append(self.width)
        self.width += width_of(series)
        return len(self.series) - 1

    def slots(self, numbers: list[int]) -> U64:
        """Slot numbers of these series, one after the other; the answer to the last question is remembered."""
        if self._asked is not numbers:
            spans = [
                np.arange(self.bases[n], self.bases[n] + width_of(self.series[n]), dtype=np.uint64) for n in numbers
            ]
            self._answer = np.concatenate(spans) if spans else np.empty(0, np.uint64)
            self._asked = numbers
        return self._answer


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a frame's payload lies, its kind byte left out."""

    kind: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A catalog of a segment and where its values lie among the slots."""

    catalog: Catalog
    numbers: tuple[int, ...]
    """Series table numbers, counters, gauges, histograms."""
    place: Callable[[], U64]
    """Gives `slots`. Not kept with the layout: where series come and go there are many, of 100 kB each."""

    @property
    def slots(self) -> U64:
        """The slots of its values, counters, gauges, histograms."""
        return self.place()


@dataclass(slots=True)
class Row:
    """One reading of a segment in slots. `values` is changed in place by the next row."""

    time_ns: int
    monotonic_ns: int
    duration_ns: int
    layout: Layout
    values: U64
    written: npt.NDArray[np.uint32] | None = None
    """Slots that may differ from the row before; None: any may."""


class Rows(Protocol):
    """What becomes a row group: a segment, or several of them as one."""

    @property
    def rows(self) -> int:
        """Number of readings."""
        ...

    @property
    def series(self) -> tuple[Series, ...]:
        """Every series of the rows, in the order of their slots."""
        ...

    @property
    def bases(self) -> tuple[int, ...]:
        """First slot of each of `series`."""
        ...

    @property
    def metadata(self) -> dict[str, str]:
        """Of the file to be."""
        ...

    def replay(self) -> Iterator[Row]:
        """The rows in order. Raises SegmentError."""
        ...


class Segment:
    """A segment file, checked and ready to be replayed. Holds the file's bytes in memory."""

    def __init__(self, path: Path) -> None:
        """Read the file up to its last whole frame. Raises OSError, or SegmentError when it is something else."""
        self.path = path
        self._data = path.read_bytes()
        self._parts: list[_Part] = []
        self._table = SeriesTable()
        self.metadata: dict[str, str] = {}
        self.times: list[int] = []
        """Wall clock of each row, ns."""
        if self._data[: len(MAGIC)] != MAGIC[: len(self._data)]:
            raise SegmentError(path, "is not a segment: it does not begin with the magic bytes")
        self.size = self._scan()
        """Bytes up to the end of the last whole frame."""
        self.whole = self.size == len(self._data)
        """False when something unusable follows that."""
        self._layouts = self._decode_layouts()

    @property
    def rows(self) -> int:
        """Number of readings."""
        return len(self.times)

    @property
    def series(self) -> tuple[Series, ...]:
        """Every series of the segment in order of appearance; `base` gives the slots."""
        return tuple(self._table.series)

    @property
    def bases(self) -> tuple[int, ...]:
        """First slot of each of `series`."""
        return tuple(self._table.bases)

    @property
    def width(self) -> int:
        """Number of slots."""
        return self._table.width

    def replay(self) -> Iterator[Row]:
        """All rows in order. Raises SegmentError when a row names slots the segment does not have."""
        layouts = iter(self._layouts)
        layout: Layout | None = None
        values = np.zeros(self._table.width, np.uint64)
        for part in self._parts:
            if part.kind == b"C":
                layout = next(layouts)
            elif part.kind == b"R":
                if layout is None:
                    raise SegmentError(self.path, "a row comes before the first catalog")
                yield self._row(part, layout, values)

    def _scan(self) -> int:
        """Find the frames; returns where the last good one ends."""
        data = self._data
        at = len(MAGIC)
        while (payload := frame_at(data, at)) is not None:
            start = at + FRAME.size
            at = start + len(payload)
            self._parts.append(_Part(payload[:1], start + 1, at))
        return at

    def damage(self) -> str:
        """What to say of a segment that is broken in the middle; empty when at most its end was torn off.

        Readings behind the damage are lost: they say only what changed, and nobody knows any more since when.
        """
        start = self.size + FRAME.size
        followed = (match.start() - FRAME.size for match in _KIND.finditer(self._data, start + 1))
        if self.whole or all(frame_at(self._data, at) is None for at in followed):
            return ""
        return f"{self.path}: is damaged behind byte {self.size}; {self.rows} readings before it are good"

    def _decode_layouts(self) -> list[Layout]:
        layouts = []
        try:
            for part in self._parts:
                payload = self._data[part.start : part.end]
                if part.kind == b"M":
                    self.metadata = msgspec.msgpack.decode(payload, type=dict[str, str])
                elif part.kind == b"C":
                    layouts.append(self._layout(msgspec.msgpack.decode(payload, type=CatalogFrame)))
                elif part.kind == b"R":
                    self.times.append(ROW.unpack_from(self._data, part.start - 1)[1])
        except (msgspec.MsgspecError, struct.error, IndexError, ValueError) as error:
            raise SegmentError(self.path, f"a frame's checksum is right but its contents are not: {error}") from error
        return layouts

    def _layout(self, frame: CatalogFrame) -> Layout:
        for row in frame.new:
            self._table.add(row.series())
        groups = [np.frombuffer(raw, "<u4").tolist() for raw in (frame.counters, frame.gauges, frame.histograms)]
        numbers = [number for group in groups for number in group]
        catalog = Catalog(*(tuple(self._table.series[number] for number in group) for group in groups))
        return Layout(catalog, tuple(numbers), partial(self._table.slots, numbers))

    def _row(self, part: _Part, layout: Layout, values: U64) -> Row:
        try:
            _, time_ns, monotonic_ns, duration_ns, count = ROW.unpack_from(self._data, part.start - 1)
            at = part.start - 1 + ROW.size
            positions = np.frombuffer(self._data, "<u4", count, at)
            values[positions] = np.frombuffer(self._data, "<u8", count, at + 4 * count)
        except (struct.error, ValueError, IndexError) as error:
            raise SegmentError(self.path, f"a row contradicts its catalog: {error}") from error
        return Row(time_ns, monotonic_ns, duration_ns, layout, values, positions)
