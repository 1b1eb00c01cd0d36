"""A Parquet recording read back, ours or Rezolus', as a catalog of columns and as readings.

What a column is, its Arrow type says: uint64 a counter, int64 a gauge, a list of uint64 a histogram. Its name and labels are in
the column's metadata, whatever the column itself is called. Nothing is read before it is asked for, and then in
batches of bounded size. Imports pyarrow, so the daemon does not import this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rezolus.errors import UserError
from rezolus.reading import ABSENT_GAUGE, U64, Catalog, Kind, Reading, Series, histogram_buckets
from rezolus.recording.parquet import RESERVED_NAMES, RESERVED_SUFFIXES, Column, parse_descriptions
from rezolus.recording.segment import Identity, identity

BATCH_BYTES = 16 << 20
"""How much is decoded at a time."""
SUFFIX = ":buckets"
_NOT_LABELS = frozenset({"metric", "metric_type", "unit", "sampler", "grouping_power", "max_value_power"})
_ARROW_SCHEMA = b"ARROW:schema"

Bools = npt.NDArray[np.bool_]


class RecordingError(UserError):
    """The file is no recording or is damaged; the text says which and what is wrong."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A stretch of rows, as the footer tells it."""

    rows: int
    first_ns: int
    """Wall clock of the earliest and the latest reading; without statistics in the file 0 and the highest number."""
    last_ns: int


class Recording:
    """An open recording; a context manager."""

    def __init__(self, path: Path) -> None:
        """Read the footer. Raises OSError and RecordingError."""
        self.path = path
        with path.open("rb"):
            pass  # an error of the system's as such; the library wraps them
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise RecordingError(f"{path}: is no Parquet file: {error}") from None
        try:
            self._enter(self._file.schema_arrow)
        except BaseException:
            self._file.close()
            raise

    def _enter(self, schema: pa.Schema) -> None:
        raw: Mapping[bytes, bytes] = self._file.metadata.metadata or {}
        self.metadata = {_text(key): _text(value) for key, value in raw.items() if key != _ARROW_SCHEMA}
        """The file's own: `source`, `version`, `sampling_interval_ms`, `systeminfo`, ..."""
        timestamp = schema.field("timestamp").type if "timestamp" in schema.names else None
        if timestamp != pa.uint64():
            raise RecordingError(f"{self.path}: is no recording: it has no column `timestamp` of type uint64")
        self.skipped: dict[str, str] = {}
        """Columns that are no series of the recording, and why."""
        self.columns = tuple(self._columns(schema))
        self._has_duration = "duration" in schema.names and schema.field("duration").type == pa.uint64()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def rows(self) -> int:
        """Number of readings."""
        return int(self._file.metadata.num_rows)

    def row_groups(self) -> tuple[RowGroup, ...]:
        """All row groups in order of the file."""
        metadata = self._file.metadata
        leaf = next(n for n in range(metadata.num_columns) if metadata.schema.column(n).path == "timestamp")
        groups = []
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            found = group.column(leaf).statistics
            known = found is not None and found.has_min_max
            groups.append(RowGroup(group.num_rows, found.min if known else 0, found.max if known else 2**64 - 1))
        return tuple(groups)

    def readings(self, start_ns: int = 0, end_ns: int = 2**64 - 1) -> Iterator[Reading]:
        """The readings whose wall clock lies between the two, both included.

        A counter or histogram that is null is not in the catalog of that reading; a gauge is `ABSENT_GAUGE`. There is no
        monotonic clock in a recording: the wall clock stands in for it. Raises RecordingError when the file is damaged.
        """
        slots = sum(_width(column) for column in self.columns) + 2
        wanted = [
            n for n, group in enumerate(self.row_groups()) if group.first_ns <= end_ns and group.last_ns >= start_ns
        ]
        names = ["timestamp", *(["duration"] if self._has_duration else []), *(column.name for column in self.columns)]
        assemble = _Assembler(self.columns)
        rows = max(1, BATCH_BYTES // (8 * slots))
        try:
            for batch in self._file.iter_batches(rows, row_groups=wanted, columns=names, use_threads=False):
                for reading in assemble.readings(batch):
                    if start_ns <= reading.time_ns <= end_ns:
                        yield reading
        except (pa.ArrowException, OSError) as error:
            raise RecordingError(f"{self.path}: is damaged: {error}") from None

    def _columns(self, schema: pa.Schema) -> Iterator[Column]:
        """The series among the columns; notes the others in `skipped`."""
        helps = parse_descriptions(self.metadata.get("descriptions", ""))
        seen: dict[Identity, str] = {}
        for field in schema:
            if field.name in RESERVED_NAMES:
                continue
            series = _series(field, helps)
            if isinstance(series, str):
                self.skipped[field.name] = series
            elif first := seen.get(identity(series)):
                self.skipped[field.name] = f"has the name and labels of column {first}"
            else:
                seen[identity(series)] = field.name
                yield Column(field.name, series)


def _series(field: pa.Field, helps: Mapping[str, str]) -> Series | str:
    """What a column holds, or why it is nothing of ours."""
    if field.name.endswith(RESERVED_SUFFIXES):
        return "belongs to another column"
    kind = _kind(field.type)
    if kind is None:
        return f"has the type {field.type}, which no series has"
    texts = {_text(key): _text(value) for key, value in (field.metadata or {}).items()}
    powers = (3, 64)
    if kind == "histogram":
        found = texts.get("grouping_power", ""), texts.get("max_value_power", "")
        if not all(text.isdecimal() and len(text) <= 2 for text in found):
            return "is a list without grouping_power and max_value_power"
        powers = (int(found[0]), int(found[1]))
        if not powers[0] < powers[1] <= 64:
            return f"has impossible powers: grouping_power {powers[0]}, max_value_power {powers[1]}"
    name = texts.get("metric") or field.name.removesuffix(SUFFIX)
    labels = {key: texts[key] for key in sorted(texts) if key not in _NOT_LABELS}
    return Series(
        name, kind, labels, texts.get("unit", ""), helps.get(name, ""), texts.get("sampler", ""), powers[0], powers[1]
    )


def _kind(kind: pa.DataType) -> Kind | None:
    if kind == pa.uint64():
        return "counter"
    if kind == pa.int64():
        return "gauge"
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and kind.value_type == pa.uint64():
        return "histogram"
    return None


def _width(column: Column) -> int:
    return column.series.buckets if column.series.kind == "histogram" else 1


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


class _Assembler:
    """From batches of columns to readings; readings with the same columns present share a catalog."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._of: dict[Kind, list[Column]] = {"counter": [], "gauge": [], "histogram": []}
        for column in columns:
            self._of[column.series.kind].append(column)
        self._gauges = tuple(column.series for column in self._of["gauge"])
        self._catalogs: dict[bytes, Catalog] = {}

    def readings(self, batch: pa.RecordBatch) -> Iterator[Reading]:
        """One per row."""
        rows = batch.num_rows
        times = batch.column("timestamp").to_numpy(zero_copy_only=False)
        durations = np.zeros(rows, np.uint64)
        if "duration" in batch.schema.names:
            durations, _ = _scalars(batch.column("duration"))
        counters, counted = self._matrix(batch, "counter")
        levels, known = self._matrix(batch, "gauge")
        gauges = levels.view(np.int64)
        gauges[~known] = ABSENT_GAUGE
        histograms = [_lists(batch.column(column.name), column.series) for column in self._of["histogram"]]
        filled = np.array([mask for _, mask in histograms], dtype=bool).reshape(len(histograms), rows)
        for at in range(rows):
            there = filled[:, at]
            parts = [values[at] for (values, _), present in zip(histograms, there, strict=True) if present]
            yield Reading(
                catalog=self._catalog(counted[:, at], there),
                time_ns=int(times[at]),
                monotonic_ns=int(times[at]),
                duration_ns=int(durations[at]),
                counters=counters[counted[:, at], at],
                gauges=gauges[:, at].copy(),
                histograms=np.concatenate(parts) if parts else np.empty(0, np.uint64),
            )

    def _matrix(self, batch: pa.RecordBatch, kind: Kind) -> tuple[U64, Bools]:
        """Columns x rows of a kind, and where there is a value."""
        columns = self._of[kind]
        values = np.zeros((len(columns), batch.num_rows), np.uint64)
        present = np.zeros(values.shape, dtype=bool)
        for at, column in enumerate(columns):
            values[at], present[at] = _scalars(batch.column(column.name))
        return values, present

    def _catalog(self, counters: Bools, histograms: Bools) -> Catalog:
        key = np.packbits(np.concatenate((counters, histograms))).tobytes()
        if key not in self._catalogs:
            self._catalogs[key] = Catalog(
                _chosen(self._of["counter"], counters), self._gauges, _chosen(self._of["histogram"], histograms)
            )
        return self._catalogs[key]


def _chosen(columns: Sequence[Column], mask: Bools) -> tuple[Series, ...]:
    return tuple(column.series for column, present in zip(columns, mask.tolist(), strict=True) if present)


def _scalars(array: pa.Array) -> tuple[U64, Bools]:
    present = array.is_valid().to_numpy(zero_copy_only=False)
    return array.fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64), present


def _lists(array: pa.ListArray, series: Series) -> tuple[U64, Bools]:
    """Rows x buckets; a list of the wrong length is as good as none."""
    buckets = histogram_buckets(series.power, series.max_power)
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    present = lengths == buckets
    values = np.zeros((len(array), buckets), np.uint64)
    whole = array if present.all() else array.filter(pa.array(present))
    values[present] = whole.flatten().fill_null(0).to_numpy(zero_copy_only=False).reshape(-1, buckets)
    return values, present
