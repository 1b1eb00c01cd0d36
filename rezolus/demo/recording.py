"""A Parquet recording as rates, quantiles and last values per metric, over its whole length.

Reads the layout of Rezolus: one row per reading, the kind of a series by its Arrow type, names and labels in the
metadata of the column.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rezolus.errors import UserError
from rezolus.histogram import quantiles
from rezolus.reading import U64

QUANTILES = (0.5, 0.9, 0.99, 1.0)
_NO_LABELS = {"metric", "metric_type", "unit", "grouping_power", "max_value_power", "sampler", "id", "source"}
"""Metadata that does not tell series of a metric apart in a summary; `id` is summed over."""
_LABEL_ORDER = ("name", "op", "state", "direction", "kind", "reason")
"""The telling ones first; others follow by name."""

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a counter grew, summed over CPUs."""

    metric: str
    unit: str
    total: float
    """Per second, over all label values."""
    parts: tuple[tuple[Labels, float], ...]
    """Per combination of label values, the largest first; those that did not grow are left out."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram counted."""

    metric: str
    unit: str
    labels: Labels
    """Empty for all label values together."""
    per_second: float
    quantiles: tuple[int, ...]
    """At `QUANTILES`: upper bounds of the buckets."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A recording in a few numbers."""

    rows: int
    columns: int
    bytes: int
    seconds: float
    """From the first reading to the last."""
    sampling_us: float
    """Median time of taking one reading."""
    rates: tuple[Rate, ...]
    distributions: tuple[Distribution, ...]
    gauges: dict[str, int]
    """Last values of the gauges that have no labels."""
    examples: dict[str, str]
    """For each counter the column that grew most."""


def summarize(path: Path) -> Summary:
    """Reads a recording; UserError when it is none or holds fewer than two readings."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: cannot be read as a recording: {error}") from None
    if not {"timestamp", "duration"} <= set(table.column_names):
        raise UserError(f"{path}: is no recording: it has no columns `timestamp` and `duration`")
    if table.num_rows < 2:
        raise UserError(f"{path}: rates need two readings, the file has {table.num_rows}")
    times = table["timestamp"].to_numpy()
    seconds = int(times[-1] - times[0]) / 1e9
    columns = [_Column(field, table[field.name]) for field in table.schema]
    columns = [column for column in columns if column.field.name not in {"timestamp", "duration"}]
    counters = [column for column in columns if column.field.type == pa.uint64()]
    histograms = [column for column in columns if pa.types.is_list(column.field.type)]
    durations = table["duration"].drop_null().to_numpy()
    return Summary(
        rows=table.num_rows,
        columns=table.num_columns,
        bytes=path.stat().st_size,
        seconds=seconds,
        sampling_us=float(np.median(durations)) / 1e3 if len(durations) else 0.0,
        rates=tuple(_rate(metric, group, seconds) for metric, group in _by_metric(counters)),
        distributions=tuple(
            distribution for metric, group in _by_metric(histograms) for distribution in _spread(metric, group, seconds)
        ),
        gauges={
            column.metric: column.last
            for column in columns
            if column.field.type == pa.int64() and not column.labels and column.last is not None
        },
        examples={
            metric: max(group, key=lambda column: int(column.increase[0])).field.name
            for metric, group in _by_metric(counters)
        },
    )


@dataclass(frozen=True, slots=True)
class _Column:
    """A series: its column's description and its values."""

    field: pa.Field
    values: pa.ChunkedArray

    def _metadata(self) -> dict[str, str]:
        return {key.decode(): value.decode() for key, value in (self.field.metadata or {}).items()}

    @property
    def metric(self) -> str:
        return self._metadata().get("metric", str(self.field.name).removesuffix(":buckets"))

    @property
    def unit(self) -> str:
        return self._metadata().get("unit", "")

    @property
    def labels(self) -> Labels:
        """Values of the labels that matter in a summary, the telling ones first."""
        metadata = self._metadata()
        keys = sorted(set(metadata) - _NO_LABELS, key=_label_rank)
        return tuple(metadata[key] for key in keys)

    @property
    def last(self) -> int | None:
        """The last value of a gauge."""
        present = self.values.drop_null()
        return int(present[-1].as_py()) if len(present) else None

    @property
    def increase(self) -> U64:
        """What was counted between the readings that have the series, as an array of one, or of a histogram's buckets.

        A series may begin anew in the middle, with an agent or under a name that returns: a smaller value, or bucket, is a
        new beginning. It counts from there, as a series does that appears later: when the counts before that reading
        were made is not known.
        """
        readings = self._readings()
        grew = (readings[1:] >= readings[:-1]).all(axis=1)
        steps: U64 = (readings[1:] - readings[:-1])[grew]  # before this selection those of a new beginning have wrapped
        total: U64 = steps.sum(axis=0, dtype=np.uint64)
        return total

    def _readings(self) -> U64:
        """The values that are there, one row each; a counter is one column wide."""
        present = self.values.drop_null().combine_chunks()
        values = present.flatten() if pa.types.is_list(self.field.type) else present
        rows: U64 = values.to_numpy().astype(np.uint64, copy=False)
        return rows.reshape(len(present), -1) if len(present) else np.zeros((1, 1), dtype=np.uint64)


def _label_rank(key: str) -> tuple[int, str]:
    return _LABEL_ORDER.index(key) if key in _LABEL_ORDER else len(_LABEL_ORDER), key


def _by_metric(columns: Iterable[_Column]) -> list[tuple[str, list[_Column]]]:
    groups: dict[str, list[_Column]] = {}
    for column in columns:
        groups.setdefault(column.metric, []).append(column)
    return sorted(groups.items())


def _by_labels(columns: Iterable[_Column]) -> dict[Labels, U64]:
    """Increase per combination of labels; what only CPUs tell apart is added up."""
    sums: dict[Labels, U64] = {}
    for column in columns:
        increase = column.increase
        known = sums.get(column.labels)
        sums[column.labels] = increase if known is None else known + increase
    return sums


def _rate(metric: str, columns: list[_Column], seconds: float) -> Rate:
    parts = [(labels, int(increase[0]) / seconds) for labels, increase in _by_labels(columns).items() if increase[0]]
    parts.sort(key=lambda part: -part[1])
    return Rate(metric=metric, unit=columns[0].unit, total=sum(rate for _, rate in parts), parts=tuple(parts))


def _spread(metric: str, columns: list[_Column], seconds: float) -> list[Distribution]:
    """The distribution over all labels, then those per combination of labels, the most frequent first."""
    groups = {labels: counts for labels, counts in _by_labels(columns).items() if counts.any()}
    if not groups:
        return []
    everything: U64 = np.stack(list(groups.values())).sum(axis=0, dtype=np.uint64)
    shown = {(): everything} | (groups if len(groups) > 1 else {})
    return sorted(
        (_distribution(metric, columns[0].unit, labels, counts, seconds) for labels, counts in shown.items()),
        key=lambda distribution: (bool(distribution.labels), -distribution.per_second),
    )


def _distribution(metric: str, unit: str, labels: Labels, counts: U64, seconds: float) -> Distribution:
    found = tuple(value for value in quantiles(counts, QUANTILES) if value is not None)
    return Distribution(metric, unit, labels, int(counts.sum()) / seconds, found)
