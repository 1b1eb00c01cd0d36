"""A Parquet file that grows by row groups and gets its footer last, so that finishing a recording costs only what is open.

`body` holds `PAR1` and the column chunks of the row groups so far; `index` holds, for each of them, the row group's
entry for the footer exactly as it will stand there, in checksummed frames like a segment's. A row group counts once its
frame is in the index; whatever else a crash leaves behind in either file is cut off by the next `open`. Then

- a segment may be deleted as soon as it was absorbed,
- finishing is: write the footer, rename the file. Nothing is copied and nothing decoded.

When series came or went the row groups have different columns, but a Parquet file has one schema. The entries are
then rebuilt for the union of the columns, and for columns a row group lacks a few bytes that say "n nulls" are added.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from rezolus.errors import UserError
from rezolus.recording import rowgroup, thrift
from rezolus.recording.output import give_name
from rezolus.recording.pages import CHUNK_META, META_PATH, PageWriter
from rezolus.recording.parquet import Column, columns_of, file_metadata, footer
from rezolus.recording.segment import FRAME, Identity, Rows, Segment, SeriesRow, identity
from rezolus.recording.store import segment_number

MAGIC = b"PAR1"
BODY = "body"
INDEX = "index"

# Field ids of a row group in parquet.thrift.
GROUP_COLUMNS, GROUP_BYTES, GROUP_ROWS, GROUP_OFFSET, GROUP_COMPRESSED, GROUP_ORDINAL = 1, 2, 3, 5, 6, 7
LEADING = (("timestamp",), ("duration",))


class BodyError(UserError):
    """The files of an unfinished recording contradict each other; the text says how."""


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
    metadata: dict[str, str]


class Body:
    """An unfinished Parquet file in a folder. One owner at a time."""

    def __init__(self, folder: Path) -> None:
        """Open or begin it, back at its last whole row group. Waits for another owner to end.

        Raises OSError and BodyError.
        """
        self._folder = folder
        self._groups: list[GroupFrame] = []
        self._series: list[list[SeriesRow]] = []
        self._body = _open_locked(folder / BODY)
        self._index = _open(folder / INDEX)
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    @property
    def rows(self) -> int:
        """Rows of all row groups."""
        return sum(group.rows for group in self._groups)

    @property
    def last_segment(self) -> int:
        """Number of the newest segment absorbed, -1 when there is none."""
        return self._groups[-1].segment if self._groups else -1

    def absorb(self, path: Path) -> int:
        """Add a segment's rows as a row group; returns how many. The segment itself is left alone.

        A segment absorbed before gives 0. Raises OSError and SegmentError; the body then is as before.
        """
        number = segment_number(path)
        if number <= self.last_segment:
            return 0
        return self.add(number, Segment(path))

    def add(self, number: int, segment: Rows) -> int:
        """Add rows as a row group of their own; `number` counts upwards. Returns how many.

        Raises OSError and SegmentError; the body then is as before.
        """
        if not segment.rows:
            return 0
        columns = columns_of(segment.series)
        begin = self._end()
        try:
            entry, end = self._write_row_group(segment, columns)
        except BaseException:
            self._body.truncate(begin)
            raise
        self._body.truncate(end)
        os.fsync(self._body.fileno())
        rows = [SeriesRow.of(series) for series in segment.series]
        rows.sort(key=lambda row: identity(row.series()))
        same = bool(self._series) and rows == self._series[-1]
        self._commit(GroupFrame(number, segment.rows, end, entry, None if same else rows, segment.metadata))
        return segment.rows

    def finish(self, output: Path) -> None:
        """Write the footer and give the file its name, replacing what has it. Raises OSError and BodyError."""
        union = {identity(series): series for rows in self._distinct() for series in (row.series() for row in rows)}
        columns = columns_of(list(union.values()))
        metadata = file_metadata(list(union.values()), self._groups[-1].metadata if self._groups else {})
        self._body.seek(self._end())
        # The groups go in as bytes: for a day of recording, taking them apart would cost seconds.
        raw = footer(columns, metadata, self.rows, list(self._entries(columns)))
        self._body.write(raw + len(raw).to_bytes(4, "little") + MAGIC)
        self._body.flush()
        os.fsync(self._body.fileno())
        give_name(self._folder / BODY, output)
        with contextlib.suppress(FileNotFoundError):
            (self._folder / INDEX).unlink()

    def close(self) -> None:
        """Close the files."""
        self._index.close()
        self._body.close()

    def _end(self) -> int:
        return self._groups[-1].end if self._groups else len(MAGIC)

    def _load(self) -> None:
        raw = self._index.read()
        at = good = 0
        while at + FRAME.size <= len(raw):
            length, checksum = FRAME.unpack_from(raw, at)
            payload = raw[at + FRAME.size : at + FRAME.size + length]
            if len(payload) != length or zlib.crc32(payload) != checksum:
                break
            group = msgspec.msgpack.decode(payload, type=GroupFrame)
            self._groups.append(group)
            self._series.append(self._series[-1] if group.series is None else group.series)
            at = good = at + FRAME.size + length
        self._index.truncate(good)
        self._index.seek(good)
        size = os.fstat(self._body.fileno()).st_size
        if size < self._end() and self._groups:
            raise BodyError(f"{self._folder / BODY}: has {size} bytes, {self._end()} were written")
        self._body.write(MAGIC)
        self._body.truncate(self._end())

    def _commit(self, group: GroupFrame) -> None:
        payload = msgspec.msgpack.encode(group)
        self._index.write(FRAME.pack(len(payload), zlib.crc32(payload)) + payload)
        self._index.flush()
        os.fsync(self._index.fileno())
        self._groups.append(group)
        self._series.append(self._series[-1] if group.series is None else group.series)

    def _write_row_group(self, segment: Rows, columns: Sequence[Column]) -> tuple[bytes, int]:
        """Write the column chunks; the row group's footer entry and where its chunks end."""
        begin = at = self._end()
        self._body.seek(begin)
        entries: list[thrift.Tree] = []
        size = 0
        paths = (*LEADING, *(column.path for column in columns))
        for chunk, path in zip(rowgroup.chunks(segment, columns), paths, strict=True):
            entries.append(chunk.entry(at, path))
            self._body.write(chunk.data)
            at += len(chunk.data)
            size += chunk.size
        self._body.flush()
        group: thrift.Tree = [
            [GROUP_COLUMNS, thrift.LIST, (thrift.STRUCT, entries)],
            [GROUP_BYTES, thrift.I64, size],
            [GROUP_ROWS, thrift.I64, segment.rows],
            [GROUP_OFFSET, thrift.I64, begin],
            [GROUP_COMPRESSED, thrift.I64, at - begin],
            [GROUP_ORDINAL, thrift.I16, len(self._groups)],
        ]
        return thrift.dump(group), at

    def _distinct(self) -> Iterator[list[SeriesRow]]:
        seen: list[SeriesRow] | None = None
        for rows in self._series:
            if rows is not seen:
                yield rows
            seen = rows

    def _entries(self, columns: Sequence[Column]) -> Iterator[bytes]:
        """Footer entries of all row groups for these columns; may append null columns to the body."""
        wanted = [identity(column.series) for column in columns]
        for group, rows in zip(self._groups, self._series, strict=True):
            own = columns_of([row.series() for row in rows])
            if [identity(column.series) for column in own] == wanted:
                yield group.entry
            else:
                yield self._widen(group, own, columns)

    def _widen(self, group: GroupFrame, own: Sequence[Column], columns: Sequence[Column]) -> bytes:
        """A row group's entry with null chunks for the columns it lacks, in the order of the schema."""
        entry = thrift.Reader(group.entry).struct()
        _, chunks = thrift.field(entry, GROUP_COLUMNS)
        having: dict[Identity, Any] = {
            identity(column.series): chunk for column, chunk in zip(own, chunks[2:], strict=True)
        }
        writer = PageWriter()
        widened = chunks[:2]
        added = [0, 0]
        for column in columns:
            chunk = having.get(identity(column.series))
            if chunk is None:
                nulls = writer.nulls(column.series.kind, group.rows)
                chunk = nulls.entry(self._body.tell(), column.path)
                self._body.write(nulls.data)
                added[0] += nulls.size
                added[1] += len(nulls.data)
            else:  # the name may have got a number behind it
                path = [part.encode() for part in column.path]
                thrift.put(thrift.field(chunk, CHUNK_META), META_PATH, thrift.LIST, (thrift.BINARY, path))
            widened.append(chunk)
        thrift.put(entry, GROUP_COLUMNS, thrift.LIST, (thrift.STRUCT, widened))
        for number, more in zip((GROUP_BYTES, GROUP_COMPRESSED), added, strict=True):
            thrift.put(entry, number, thrift.I64, thrift.field(entry, number) + more)
        return thrift.dump(entry)


def _open(path: Path) -> BinaryIO:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    return os.fdopen(fd, "r+b", buffering=1 << 18)


def _open_locked(path: Path) -> BinaryIO:
    """Open, create if need be, and lock; the owner before may have renamed the file while we waited."""
    while True:
        file = _open(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
