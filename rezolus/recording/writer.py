"""Writing a segment: the form is in `rezolus.recording.segment`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from rezolus.reading import U64, Catalog, Reading, Series
from rezolus.recording.segment import (
    MAGIC,
    ROW,
    CatalogFrame,
    Identity,
    SeriesRow,
    SeriesTable,
    frame_of,
    identity,
    note_frame,
)


class SegmentWriter:
    """Appends readings to a new segment file; one owner at a time.

    Each `append` is one `write`: what it returned from survives the process. After an error the file is cut
    back to its last whole row and the writer only takes `note` and `close`.
    """

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Create the file. Raises OSError, FileExistsError included."""
        self.path = path
        self.rows = 0
        self.size = 0
        self._before = 0
        """Size before the last row."""
        self.first_ns = 0
        self.last_ns = 0
        self._table = SeriesTable()
        self._numbers: dict[Identity, int] = {}
        self._catalog: Catalog | None = None
        self._slots: U64 | None = None  # None: slot numbers are positions, the usual case
        self._last = np.zeros(0, np.uint64)
        self._values = np.zeros(0, np.uint64)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            self._write(MAGIC + frame_of(b"M" + msgspec.msgpack.encode(dict(metadata))))
        except OSError:
            self.close()
            path.unlink()  # or its name could not be taken again
            raise

    def append(self, reading: Reading) -> int:
        """Write one reading; returns the bytes it took. Raises OSError (a full disk)."""
        head = b"" if reading.catalog is self._catalog else self._enter(reading.catalog)
        values = self._values
        np.concatenate((reading.counters, reading.gauges.view(np.uint64), reading.histograms), out=values)
        slots = self._slots
        if slots is None:
            positions = changed = np.flatnonzero(values != self._last)
        else:
            changed = np.flatnonzero(values != self._last[slots])
            positions = slots[changed].astype(np.int64)
        now = values[changed]
        self._before = self.size
        row = ROW.pack(b"R", reading.time_ns, reading.monotonic_ns, reading.duration_ns, len(changed))
        written = self._write(head + frame_of(row + positions.astype("<u4").tobytes() + now.astype("<u8").tobytes()))
        self._last[positions] = now
        self.first_ns = self.first_ns or reading.time_ns
        self.last_ns = reading.time_ns
        self.rows += 1
        return written

    def describe(self, metadata: Mapping[str, str]) -> None:
        """Replace the metadata: sources say more once they have been reached. Raises OSError."""
        self._write(frame_of(b"M" + msgspec.msgpack.encode(dict(metadata))))

    def note(self, payload: bytes) -> None:
        """Write what the segment's end is to say; nothing may follow. Raises OSError."""
        self._write(note_frame(payload))

    def take_back(self) -> None:
        """Cut the last row off again, as if `append` had failed: it could not be brought to the disk. Raises OSError."""
        os.ftruncate(self._fd, self._before)
        self.size = self._before
        self.rows -= 1

    def sync(self) -> None:
        """Bring what was appended to the disk itself. Raises OSError."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _enter(self, catalog: Catalog) -> bytes:
        """Make `catalog` the current one; returns the frame that says so."""
        new: list[SeriesRow] = []
        numbers = [
            np.fromiter((self._number(series, new) for series in group), dtype="<u4", count=len(group))
            for group in (catalog.counters, catalog.gauges, catalog.histograms)
        ]
        slots = self._table.slots([int(number) for group in numbers for number in group])
        self._values = np.empty(len(slots), np.uint64)
        self._last = np.concatenate((self._last, np.zeros(self._table.width - len(self._last), np.uint64)))
        plain = len(slots) == self._table.width and np.array_equal(slots, np.arange(len(slots), dtype=np.uint64))
        self._slots = None if plain else slots
        self._catalog = catalog
        return frame_of(b"C" + msgspec.msgpack.encode(CatalogFrame(new, *(group.tobytes() for group in numbers))))

    def _number(self, series: Series, new: list[SeriesRow]) -> int:
        key = identity(series)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self._table.add(series)
            new.append(SeriesRow.of(series))
        return number

    def _write(self, data: bytes) -> int:
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        self.size += written
        return written
