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
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from rezolus.recording import rowgroup, thrift
from rezolus.recording.groups import INDEX, Group, GroupIndex, Numbers
from rezolus.recording.output import PARQUET, give_name, sync_folder
from rezolus.recording.pages import CHUNK_META, META_PATH, Absent
from rezolus.recording.parquet import Column, columns_of, file_metadata, footer
from rezolus.recording.raw import ENDS, RAW
from rezolus.recording.segment import Rows, identity
from rezolus.recording.store import aside_of, segment_files, segment_number

BODY = "body"
ENTRIES = "entries"

# Field ids of a row group in parquet.thrift.
GROUP_COLUMNS, GROUP_BYTES, GROUP_ROWS, GROUP_OFFSET, GROUP_COMPRESSED, GROUP_ORDINAL = 1, 2, 3, 5, 6, 7
LEADING = (("timestamp",), ("duration",))


class Body:
    """An unfinished Parquet file in a folder. One owner at a time."""

    def __init__(self, folder: Path) -> None:
        """Open or begin it, back at its last whole row group. Waits for another owner to end.

        Raises OSError.
        """
        self._folder = folder
        self.problems: tuple[str, ...] = ()
        """What was found to be damaged, and where it is kept; sentences for users."""
        with contextlib.ExitStack() as stack:
            self._body = stack.enter_context(_open_locked(folder / BODY))
            self._index = GroupIndex(folder)
            stack.callback(self._index.close)
            if not self._is_ours():
                self._body = stack.enter_context(self._begin_anew())
            size = os.fstat(self._body.fileno()).st_size
            if not size and self._index.groups:  # see `was_finished`
                self._index.clear()
            elif self._is_damaged(size):
                self._mend(size)
            self._index.cut()
            self._body.write(PARQUET)
            self._body.truncate(self._end())
            stack.pop_all()

    @property
    def rows(self) -> int:
        """Rows of all row groups."""
        return sum(group.rows for group in self._index.groups)

    @property
    def last_segment(self) -> int:
        """Number of the newest segment absorbed, -1 when there is none."""
        return self._index.groups[-1].segment if self._index.groups else -1

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
            self._body.truncate(end)
            os.fsync(self._body.fileno())
        except BaseException:
            self._cut(begin)
            raise
        self._index.append(
            segment=number,
            rows=segment.rows,
            end=end,
            entry=entry,
            series=segment.series,
            metadata=segment.metadata,
        )
        if len(self._index.groups) == 1:  # the names of both files, before the segment's goes
            sync_folder(self._folder)
        return segment.rows

    def finish(self, output: Path, *, aside: Path | None = None) -> Path | None:
        """Write the footer and give the file its name; `aside` and what is returned are as of `give_name`.

        Raises OSError.
        """
        index = self._index
        columns = columns_of(index.series)
        self._body.seek(self._end())
        with (self._folder / ENTRIES).open("w+b") as entries:
            # First, because columns of nulls are added before the footer begins.
            for entry in self._entries(columns):
                entries.write(entry)
            begin = self._body.tell()
            metadata = file_metadata(index.series, index.metadata)
            head, tail = footer(columns, metadata, self.rows, len(index.groups))
            entries.seek(0)
            self._body.write(head)
            shutil.copyfileobj(entries, self._body)
            self._body.write(tail)
            length = self._body.tell() - begin
        self._body.write(length.to_bytes(4, "little") + PARQUET)
        self._body.truncate()
        self._body.flush()
        os.fsync(self._body.fileno())
        earlier = give_name(self._folder / BODY, output, aside=aside)
        for name in (INDEX, ENTRIES):
            (self._folder / name).unlink(missing_ok=True)
        return earlier

    def _is_ours(self) -> bool:
        """A body that row groups are known of is, whatever its first bytes say."""
        begin = os.pread(self._body.fileno(), len(PARQUET), 0)
        return bool(self._index.groups) or PARQUET.startswith(begin)

    def _is_damaged(self, size: int) -> bool:
        """Whether the body is too short, or the index broken: also when it breaks off and that was no kill.

        After a kill there is the segment of what follows in the body.
        """
        if self._index.damage is not None or (self._index.groups and size < self._end()):
            return True
        segments = (number for number in map(segment_number, segment_files(self._folder)) if number > self.last_segment)
        return self._index.torn and size > self._end() and next(segments, -1) != self.last_segment + 1

    def _mend(self, size: int) -> None:
        """Go on with the row groups that are whole. What they leave of both files is kept. Raises OSError."""
        index = self._index
        whole = [group for group in index.groups if group.end <= size]
        end = whole[-1].end if whole else len(PARQUET)
        kept = [aside_of(self._folder / INDEX)]
        shutil.copyfile(index.path, kept[0])
        if size > end:
            kept.append(aside_of(self._folder / BODY))
            _copy_from(self._folder / BODY, end, kept[1])
        problem = (
            f"{index.path}: is damaged at byte {index.end if index.damage is None else index.damage}"
            if len(whole) == len(index.groups)
            else f"{self._folder / BODY}: has {size} bytes, {index.groups[-1].end} were written"
        )
        index.mend(whole)
        rows = f"{len(whole)} row groups with {self.rows} readings are good"
        self.problems += (f"{problem}; {rows}; what cannot be used is kept as {' and '.join(map(str, kept))}",)

    def _begin_anew(self) -> BinaryIO:
        """Another body; what has its name and is something else is kept under another one. Raises OSError."""
        path = self._folder / BODY
        aside = aside_of(path)
        path.rename(aside)
        self._body.close()
        self.problems += (f"{path}: does not begin as the body of a recording; kept as {aside}",)
        return _open_locked(path)

    def close(self) -> None:
        """Close the files."""
        self._index.close()
        with contextlib.suppress(OSError):  # what a full disk did not take is of no use any more
            self._body.close()

    def _end(self) -> int:
        return self._index.groups[-1].end if self._index.groups else len(PARQUET)

    def _cut(self, end: int) -> None:
        """Forget what was written behind `end`. What is left in the buffer would be tried again."""
        with contextlib.suppress(OSError):
            self._body.flush()
        os.ftruncate(self._body.fileno(), end)

    def _write_row_group(self, segment: Rows, columns: Sequence[Column]) -> tuple[bytes, int]:
        """Write the column chunks; the row group's footer entry and where its chunks end."""
        begin = at = self._end()
        self._body.seek(begin)
        entries: list[bytes] = []
        size = 0
        paths = (*LEADING, *(column.path for column in columns))
        for chunk, path in zip(rowgroup.chunks(segment, columns), paths, strict=True):
            entries.append(thrift.dump(chunk.entry(at, path)))
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
            [GROUP_ORDINAL, thrift.I16, len(self._index.groups) & 0x7FFF],
        ]
        return thrift.dump(group), at

    def _entries(self, columns: Sequence[Column]) -> Iterator[bytes]:
        """Footer entries of all row groups for these columns; may append null columns to the body."""
        wanted = [identity(column.series) for column in columns]
        numbers: Numbers = ()
        own: list[Column] = []
        absent = Absent()
        for group, entry in self._index.entries():
            if group.numbers is not numbers:
                numbers = group.numbers
                own = columns_of([self._index.series[number] for number in numbers])
            if [identity(column.series) for column in own] == wanted:
                yield entry
            else:
                yield self._widen(group, entry, own, columns, absent)

    def _widen(
        self, group: Group, raw: bytes, own: Sequence[Column], columns: Sequence[Column], absent: Absent
    ) -> bytes:
        """A row group's entry with null chunks for the columns it lacks, in the order of the schema."""
        entry = thrift.Reader(raw).struct()
        _, chunks = thrift.field(entry, GROUP_COLUMNS)
        having = {identity(column.series): chunk for column, chunk in zip(own, chunks[2:], strict=True)}
        widened = chunks[:2]
        added = [0, 0]
        for column in columns:
            chunk = having.get(identity(column.series))
            if chunk is None:
                nulls = absent.chunk(column.series.kind, group.rows)
                chunk = absent.entry(nulls, self._body.tell(), column.path)
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


def was_finished(folder: Path) -> bool:
    """Whether the file has got its name, and who gave it died before the index, or the noted ends, went. Raises OSError.

    A row group is in the body, on the disk, before it is in the index: only a body that was renamed can be missing.
    """
    named = _size(folder / INDEX) > 0 and _size(folder / BODY) == 0
    return named or (_size(folder / ENDS) > 0 and not (folder / RAW).exists())


def _copy_from(source: Path, at: int, target: Path) -> None:
    """Copy what follows the first `at` bytes. Raises OSError, and then leaves nothing."""
    try:
        with source.open("rb") as whole, target.open("xb") as rest:
            whole.seek(at)
            shutil.copyfileobj(whole, rest, 1 << 20)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


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
