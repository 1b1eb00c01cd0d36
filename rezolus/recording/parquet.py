"""The Parquet layout of a recording: names, types and metadata of its columns, and a segment's rows written as them.

Imports pyarrow (30 MB, 0.2 s), so only the finishing child and tools that read recordings import this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rezolus.reading import ABSENT_GAUGE, Series
from rezolus.recording.segment import Layout, Rows, identity, width_of

DENSE_BYTES = 8 << 20
"""How much of a segment is made dense at a time; 900 rows of 33 histograms would be 120 MB at once."""

KIND_ORDER = {"counter": 0, "gauge": 1, "histogram": 2}
LEADING_LABELS = ("name", "op", "state", "direction")
RESERVED_SUFFIXES = (":window_begin", ":window_width")
RESERVED_NAMES = ("timestamp", "duration", ":wall_offset")
TYPES = {"counter": pa.uint64(), "gauge": pa.int64(), "histogram": pa.list_(pa.field("item", pa.uint64()))}
LEAVES = {"counter": (), "gauge": (), "histogram": ("list", "item")}
"""Parquet path below the column."""


@dataclass(frozen=True, slots=True)
class Column:
    """A series as a column of the file."""

    name: str
    series: Series

    @property
    def path(self) -> tuple[str, ...]:
        """The column's leaf in the Parquet schema."""
        return (self.name, *LEAVES[self.series.kind])


class Sink:
    """What pyarrow writes to: a file from a position on, which it may not close."""

    def __init__(self, file: IO[bytes], begin: int) -> None:
        self._file = file
        self._begin = begin
        self.closed = False

    def write(self, data: bytes) -> int:
        """Write at the file's position."""
        return self._file.write(data)

    def tell(self) -> int:
        """Position counted from where the sink begins."""
        return self._file.tell() - self._begin

    def flush(self) -> None:
        """Pass on to the file."""
        self._file.flush()

    def close(self) -> None:
        """Leave the file open."""
        self.closed = True


def canonical_name(series: Series) -> str:
    """Metric and label values joined by `/`: name, op, state, direction, the others by key, id last."""
    labels = series.labels
    keys = [key for key in LEADING_LABELS if key in labels]
    keys += sorted(key for key in labels if key not in LEADING_LABELS and key != "id")
    keys += ["id"] if "id" in labels else []
    return "/".join([series.name, *(labels[key] for key in keys)])


def columns_of(series: Sequence[Series]) -> list[Column]:
    """Columns for these series in the order of the file: counters, gauges, histograms, each by name.

    Two series whose label values read the same get `#2`, ... after the name.
    """
    taken = set(RESERVED_NAMES)
    columns = []
    for entry in sorted(series, key=identity):
        suffix = ":buckets" if entry.kind == "histogram" else ""
        stem = name = canonical_name(entry)
        copies = 1
        while name + suffix in taken or name.endswith(RESERVED_SUFFIXES):
            copies += 1
            name = f"{stem}#{copies}"
        taken.add(name + suffix)
        columns.append(Column(name + suffix, entry))
    return sorted(columns, key=lambda column: (KIND_ORDER[column.series.kind], column.name))


def schema_of(columns: Sequence[Column], metadata: Mapping[str, str]) -> pa.Schema:
    """Arrow schema with the field and file metadata readers look for."""
    fields = [
        pa.field("timestamp", pa.uint64(), False, {"metric_type": "timestamp", "unit": "nanoseconds"}),
        pa.field("duration", pa.uint64(), True, {"metric_type": "duration", "unit": "nanoseconds"}),
    ]
    fields += [
        pa.field(column.name, TYPES[column.series.kind], True, _field_metadata(column.series)) for column in columns
    ]
    return pa.schema(fields, dict(metadata))


def file_metadata(series: Sequence[Series], metadata: Mapping[str, str]) -> dict[str, str]:
    """The recording's own metadata and the description of each metric."""
    descriptions = {entry.name: entry.help for entry in sorted(series, key=identity) if entry.help}
    return {"source": "rezolus", **metadata, "descriptions": json.dumps(descriptions, ensure_ascii=False)}


def writer_for(schema: pa.Schema, sink: Sink, columns: Sequence[Column]) -> pq.ParquetWriter:
    """A Parquet writer with the settings of a recording.

    Bucket counts repeat from row to row, where a dictionary halves the file; other columns rarely repeat.
    Statistics are for `timestamp`, from which readers take the time range.
    """
    return pq.ParquetWriter(
        pa.PythonFile(sink, mode="w"),
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[".".join(column.path) for column in columns if column.series.kind == "histogram"],
        write_statistics=["timestamp"],
        use_compliant_nested_type=False,
        data_page_size=256 * 1024,
        version="2.6",
        write_page_index=False,
    )


def column_groups(segment: Rows, columns: Sequence[Column]) -> Iterator[Sequence[Column]]:
    """The columns in portions that `write_columns` can make dense in bounded memory."""
    budget = max(1, DENSE_BYTES // 8 // max(1, segment.rows))
    group: list[Column] = []
    slots = 0
    for column in columns:
        width = width_of(column.series)
        if group and slots + width > budget:
            yield group
            group, slots = [], 0
        group.append(column)
        slots += width
    yield group


def write_columns(segment: Rows, columns: Sequence[Column], sink: Sink, *, leading: bool) -> None:
    """Write these columns of all rows as one row group (and a footer) to where `sink` stands.

    `leading`: with timestamp and duration before them. Positions in the footer are those of `sink`, whatever lies
    before. Raises OSError and SegmentError.
    """
    schema = schema_of(columns, {})
    block = _Block(segment, columns)
    block.fill()
    arrays = [*(pa.array(times) for times in block.times), *block.arrays(columns)]
    if not leading:
        schema = pa.schema(list(schema)[2:])
        arrays = arrays[2:]
    with writer_for(schema, sink, columns) as writer:
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=segment.rows)


def _field_metadata(series: Series) -> dict[str, str]:
    metadata = {**series.labels, "metric": series.name, "metric_type": series.kind}
    if series.unit:
        metadata["unit"] = series.unit
    if series.sampler:
        metadata["sampler"] = series.sampler
    if series.kind == "histogram":
        metadata["grouping_power"] = str(series.power)
        metadata["max_value_power"] = str(series.max_power)
    return metadata


class _Presence:
    """Which columns have a value in a row, by the row's catalog.

    A histogram that was there keeps its last buckets while it is away: readers take a gap for an empty histogram and the
    next row for everything since boot happening at once.
    """

    def __init__(self, segment: Rows, columns: Sequence[Column]) -> None:
        order = {identity(column.series): at for at, column in enumerate(columns)}
        elsewhere = len(columns)
        self._column_of = np.array(
            [order.get(identity(series), elsewhere) for series in segment.series], dtype=np.int64
        )
        self._histograms = np.array([column.series.kind == "histogram" for column in columns] + [False])
        self._layout: Layout | None = None
        self._mask: npt.NDArray[np.bool_] = np.zeros(elsewhere + 1, dtype=bool)

    def of(self, layout: Layout) -> npt.NDArray[np.bool_]:
        """Mask over the columns; not to be changed."""
        if layout is not self._layout:
            mask = self._mask & self._histograms
            mask[self._column_of[list(layout.numbers)]] = True
            self._layout, self._mask = layout, mask
        return self._mask[:-1]


class _Block:
    """Some columns of a segment, dense: the scalars as one array, columns x rows, each histogram as rows x buckets."""

    def __init__(self, segment: Rows, columns: Sequence[Column]) -> None:
        base = {identity(series): start for series, start in zip(segment.series, segment.bases, strict=True)}
        starts = [base[identity(column.series)] for column in columns]
        wide = [column.series.kind == "histogram" for column in columns]
        rows = segment.rows
        self._segment = segment
        self._presence = _Presence(segment, columns)
        self._present = np.zeros((len(columns), rows), bool)
        scalar = [start for start, is_wide in zip(starts, wide, strict=True) if not is_wide]
        self._scalar_slots = np.array(scalar, dtype=np.int64)
        self._scalars = np.empty((len(scalar), rows), np.uint64)
        self._histograms = [
            (start, start + width_of(column.series), np.empty((rows, width_of(column.series)), np.uint64))
            for start, column, is_wide in zip(starts, columns, wide, strict=True)
            if is_wide
        ]
        self.times = np.zeros((2, rows), np.uint64)
        """Wall clock and duration of each row, ns."""

    def fill(self) -> None:
        """Replay the segment into the block. Raises SegmentError."""
        for at, row in enumerate(self._segment.replay()):
            self._scalars[:, at] = row.values[self._scalar_slots]
            for begin, end, buckets in self._histograms:
                buckets[at] = row.values[begin:end]
            self._present[:, at] = self._presence.of(row.layout)
            self.times[:, at] = row.time_ns, row.duration_ns

    def arrays(self, columns: Sequence[Column]) -> Iterator[Any]:
        """The columns as Arrow arrays; `columns` as given to the constructor."""
        scalars = iter(self._scalars)
        histograms = iter(self._histograms)
        for column, present in zip(columns, self._present, strict=True):
            absent = ~present
            if column.series.kind == "histogram":
                begin, end, buckets = next(histograms)
                offsets = pa.array(np.arange(0, buckets.size + 1, end - begin, dtype=np.int32))
                mask = pa.array(absent) if absent.any() else None
                yield pa.ListArray.from_arrays(
                    offsets, pa.array(buckets.reshape(-1)), type=TYPES["histogram"], mask=mask
                )
            elif column.series.kind == "gauge":
                signed = next(scalars).view(np.int64)
                yield pa.array(signed, mask=absent | (signed == ABSENT_GAUGE))
            else:
                yield pa.array(next(scalars), mask=absent)
