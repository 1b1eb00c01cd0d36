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
import io
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa

from rezolus.errors import UserError
from rezolus.recording import thrift
from rezolus.recording.parquet import (
    TYPES,
    Column,
    Sink,
    column_groups,
    columns_of,
    file_metadata,
    schema_of,
    write_columns,
    writer_for,
)
from rezolus.recording.segment import FRAME, Identity, Rows, Segment, SeriesRow, identity
from rezolus.recording.store import segment_number, sync_folder

MAGIC = b"PAR1"
BODY = "body"
INDEX = "index"

# Field ids of parquet.thrift.
FILE_NUM_ROWS, FILE_ROW_GROUPS = 3, 4
GROUP_COLUMNS, GROUP_BYTES, GROUP_OFFSET, GROUP_COMPRESSED, GROUP_ORDINAL = 1, 2, 5, 6, 7
CHUNK_OFFSET, CHUNK_META = 2, 3
META_PATH, META_UNCOMPRESSED, META_COMPRESSED = 3, 6, 7
META_DATA_PAGE, META_INDEX_PAGE, META_DICTIONARY_PAGE = 9, 10, 11


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
        footer = _footer_template(columns, metadata)
        self._body.seek(self._end())
        entries = list(self._entries(columns))
        thrift.put(footer, FILE_NUM_ROWS, thrift.I64, self.rows)
        # The groups are spliced in as bytes: for a day of recording, taking them apart would cost seconds.
        marker = [[1, thrift.I64, 0x5245_5A4F]]
        thrift.put(footer, FILE_ROW_GROUPS, thrift.LIST, (thrift.STRUCT, [marker] * len(entries)))
        hole = thrift.dump(marker) * len(entries)
        before, _, after = thrift.dump(footer).partition(hole)
        raw = before + b"".join(entries) + after
        self._body.write(raw + len(raw).to_bytes(4, "little") + MAGIC)
        self._body.flush()
        os.fsync(self._body.fileno())
        _give_name(self._folder / BODY, output)
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
        """Write the column chunks some at a time; the row group's footer entry and where its chunks end."""
        at = self._end()
        entry: thrift.Tree = []
        chunks: list[thrift.Tree] = []
        sizes = [0, 0]
        for part in column_groups(segment, columns):
            self._body.seek(at)
            write_columns(segment, part, Sink(self._body, at), leading=not chunks)
            entry, end = self._take_footer()
            for chunk in thrift.field(entry, GROUP_COLUMNS)[1]:
                _move(chunk, at)
                chunks.append(chunk)
            at = end
            sizes[0] += thrift.field(entry, GROUP_BYTES)
            sizes[1] += thrift.field(entry, GROUP_COMPRESSED) or 0
        thrift.put(entry, GROUP_COLUMNS, thrift.LIST, (thrift.STRUCT, chunks))
        thrift.put(entry, GROUP_BYTES, thrift.I64, sizes[0])
        thrift.put(entry, GROUP_OFFSET, thrift.I64, self._end())
        thrift.put(entry, GROUP_COMPRESSED, thrift.I64, sizes[1])
        thrift.put(entry, GROUP_ORDINAL, thrift.I16, len(self._groups))
        return thrift.dump(entry), at

    def _take_footer(self) -> tuple[thrift.Tree, int]:
        """The row group entry of the footer just written, and where the footer begins."""
        size = self._body.tell()
        self._body.seek(size - 8)
        length = int.from_bytes(self._body.read(4), "little")
        self._body.seek(size - 8 - length)
        _, groups = thrift.field(thrift.Reader(self._body.read(length)).struct(), FILE_ROW_GROUPS)
        if len(groups) != 1:
            raise BodyError(f"{self._folder / BODY}: one row group was written, its footer lists {len(groups)}")
        return groups[0], size - 8 - length

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
        nulls = _Nulls(group.rows)
        widened = chunks[:2]
        added = [0, 0]
        for column in columns:
            chunk = having.get(identity(column.series))
            if chunk is None:
                chunk, raw, uncompressed = nulls.chunk(column.series.kind, self._body.tell())
                self._body.write(raw)
                added[0] += uncompressed
                added[1] += len(raw)
            path = [part.encode() for part in column.path]
            thrift.put(thrift.field(chunk, CHUNK_META), META_PATH, thrift.LIST, (thrift.BINARY, path))
            widened.append(chunk)
        thrift.put(entry, GROUP_COLUMNS, thrift.LIST, (thrift.STRUCT, widened))
        thrift.put(entry, GROUP_BYTES, thrift.I64, thrift.field(entry, GROUP_BYTES) + added[0])
        compressed = thrift.field(entry, GROUP_COMPRESSED)
        if compressed is not None:
            thrift.put(entry, GROUP_COMPRESSED, thrift.I64, compressed + added[1])
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


class _Nulls:
    """Column chunks of `rows` nulls, made by the library once for each kind of column."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._made: dict[str, tuple[bytes, bytes, int]] = {}

    def chunk(self, kind: str, at: int) -> tuple[thrift.Tree, bytes, int]:
        """The chunk's footer entry when it lies at `at`, its bytes, and its uncompressed size."""
        if kind not in self._made:
            self._made[kind] = self._make(kind)
        entry, raw, begin = self._made[kind]
        chunk = thrift.Reader(entry).struct()
        _move(chunk, at - begin)
        return chunk, raw, thrift.field(thrift.field(chunk, CHUNK_META), META_UNCOMPRESSED)

    def _make(self, kind: str) -> tuple[bytes, bytes, int]:
        schema = pa.schema([pa.field("x", TYPES[kind])])
        sink = io.BytesIO()
        with writer_for(schema, Sink(sink, 0), ()) as writer:
            writer.write_table(pa.table([pa.nulls(self._rows, TYPES[kind])], schema=schema))
        data = sink.getvalue()
        footer = _read_footer(data)
        _, groups = thrift.field(footer, FILE_ROW_GROUPS)
        chunk = thrift.field(groups[0], GROUP_COLUMNS)[1][0]
        meta = thrift.field(chunk, CHUNK_META)
        begin = thrift.field(meta, META_DICTIONARY_PAGE) or thrift.field(meta, META_DATA_PAGE)
        return thrift.dump(chunk), data[begin : begin + thrift.field(meta, META_COMPRESSED)], begin


def _move(chunk: thrift.Tree, by: int) -> None:
    """Say that a column chunk lies `by` bytes further on."""
    if thrift.field(chunk, CHUNK_OFFSET):
        thrift.put(chunk, CHUNK_OFFSET, thrift.I64, thrift.field(chunk, CHUNK_OFFSET) + by)
    meta = thrift.field(chunk, CHUNK_META)
    for number in (META_DATA_PAGE, META_INDEX_PAGE, META_DICTIONARY_PAGE):
        offset = thrift.field(meta, number)
        if offset is not None:
            thrift.put(meta, number, thrift.I64, offset + by)


def _read_footer(data: bytes) -> thrift.Tree:
    length = int.from_bytes(data[-8:-4], "little")
    return thrift.Reader(data[-8 - length : -8]).struct()


def _footer_template(columns: Sequence[Column], metadata: Mapping[str, str]) -> thrift.Tree:
    """Footer of a file with these columns and no rows: schema, metadata, the library's name."""
    sink = io.BytesIO()
    writer_for(schema_of(columns, metadata), Sink(sink, 0), columns).close()
    return _read_footer(sink.getvalue())


def _give_name(body: Path, output: Path) -> None:
    """Rename, or copy where the folder of `output` is not ours but the file is (made for us before privileges went)."""
    try:
        body.replace(output)
    except OSError:
        if not os.access(output, os.W_OK):
            raise
        with body.open("rb") as source, output.open("r+b") as target:
            size = os.fstat(source.fileno()).st_size
            done = 0
            while done < size:
                done += os.copy_file_range(source.fileno(), target.fileno(), size - done, done, done)
            target.truncate(size)
            os.fsync(target.fileno())
        body.unlink()
    else:
        sync_folder(output.parent)
