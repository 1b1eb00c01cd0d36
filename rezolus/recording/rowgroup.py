"""Rows as a row group: each series' values over all rows, out of the changes from row to row.

Replaying the rows once gives the changes (slot, row, value), sorted by slot. A column is then made dense by
itself, so memory follows what changed and not rows times columns, of which 600 rows of 33 histograms would be 80 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from rezolus.reading import ABSENT_GAUGE, U64
from rezolus.recording.pages import Bools, Chunk, Codes, PageWriter
from rezolus.recording.parquet import Column
from rezolus.recording.segment import Layout, Rows, identity, width_of

Positions = npt.NDArray[np.int64]


def chunks(rows: Rows, columns: Sequence[Column]) -> Iterator[Chunk]:
    """Timestamp, duration and these columns of all rows, in this order. Raises SegmentError."""
    writer = PageWriter()
    presence = _Presence(rows, columns)
    changes = _Changes(rows, presence)
    yield writer.required(changes.times)
    yield writer.optional(changes.durations)
    base = {identity(series): start for series, start in zip(rows.series, rows.bases, strict=True)}
    for at, column in enumerate(columns):
        slot = base[identity(column.series)]
        present = presence.rows[:, at]
        if not present.any():
            yield writer.nulls(column.series.kind, rows.rows)
        elif column.series.kind == "histogram":
            codes, dictionary = changes.coded(slot, slot + width_of(column.series))
            yield writer.lists(codes if present.all() else codes[present], dictionary, present)
        else:
            values = changes.column(slot)
            if column.series.kind == "gauge":
                present = present & (values.view(np.int64) != ABSENT_GAUGE)
            yield writer.optional(values, None if present.all() else present)


class _Presence:
    """Which columns have a value in a row, by the row's catalog.

    A histogram that was there keeps its last buckets while it is away: readers take a gap for an empty histogram and the
    next row for everything since boot happening at once.
    """

    def __init__(self, rows: Rows, columns: Sequence[Column]) -> None:
        order = {identity(column.series): at for at, column in enumerate(columns)}
        elsewhere = len(columns)
        self._column_of = np.array([order.get(identity(series), elsewhere) for series in rows.series], dtype=np.int64)
        self._histograms = np.array([column.series.kind == "histogram" for column in columns] + [False])
        self._layout: Layout | None = None
        self._mask: Bools = np.zeros(elsewhere + 1, dtype=bool)
        self.rows = np.zeros((rows.rows, elsewhere), dtype=bool)
        """Rows x columns, as far as `enter` was called."""

    def enter(self, row: int, layout: Layout) -> None:
        """Take note of a row; they come in order."""
        if layout is not self._layout:
            mask = self._mask & self._histograms
            mask[self._column_of[list(layout.numbers)]] = True
            self._layout, self._mask = layout, mask
        self.rows[row] = self._mask[:-1]


class _Changes:
    """When which slot got which value; each slot has an entry for the first row."""

    def __init__(self, rows: Rows, presence: _Presence) -> None:
        self._rows = rows.rows
        self.times = np.zeros(rows.rows, np.uint64)
        """Wall clock of each row, ns."""
        self.durations = np.zeros(rows.rows, np.uint64)
        slots, values, counts = [], [], []
        last: U64 | None = None
        for at, row in enumerate(rows.replay()):
            presence.enter(at, row.layout)
            self.times[at], self.durations[at] = row.time_ns, row.duration_ns
            if last is None:
                last = row.values.copy()
                changed = np.arange(len(last))
            else:
                changed = np.flatnonzero(row.values != last)
                last[changed] = row.values[changed]
            slots.append(changed.astype(np.uint32))
            values.append(last[changed])
            counts.append(len(changed))
        slot = np.concatenate(slots)
        order = np.argsort(slot, kind="stable")
        self._value = np.concatenate(values)[order]
        del values, slots
        row_of = np.repeat(np.arange(rows.rows, dtype=np.int32), counts)[order]
        slot = slot[order]
        self._begin = np.searchsorted(slot, np.arange(0 if last is None else len(last) + 1))
        # How long a value lasts: to the next one's row, or to the end.
        ends = np.full(len(slot), rows.rows, np.int32)
        ends[:-1][slot[1:] == slot[:-1]] = row_of[1:][slot[1:] == slot[:-1]]
        self._lasts = ends - row_of

    def column(self, slot: int) -> U64:
        """The slot's value in each row."""
        part = slice(self._begin[slot], self._begin[slot + 1])
        return np.repeat(self._value[part], self._lasts[part])

    def coded(self, begin: int, end: int) -> tuple[Codes, U64]:
        """These slots in each row, rows x slots, as indices into the values that occur, and those."""
        part = slice(self._begin[begin], self._begin[end])
        dictionary, codes = np.unique(self._value[part], return_inverse=True)
        narrow = codes.astype(_code_type(len(dictionary)))
        table = np.repeat(narrow, self._lasts[part]).reshape(end - begin, self._rows)
        return np.ascontiguousarray(table.T), dictionary


def _code_type(entries: int) -> type[np.uint8 | np.uint16 | np.uint32]:
    return np.uint8 if entries <= 1 << 8 else np.uint16 if entries <= 1 << 16 else np.uint32
