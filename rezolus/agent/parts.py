"""Parts of a reading: each fills one contiguous piece of one of its three arrays.

Every metric in a bank belongs to one part; a part moves all its values with one or two numpy
operations on the whole bank. Within a part the series are ordered by metric, then label values, then row, so
that the series of one metric are neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dsl.schema import FromDiscards, Kind, Metric, Slots
from rezolus.agent.bases import Base
from rezolus.agent.rows import Index, RowSet
from rezolus.reading import U64, Series, histogram_buckets


class Part(Protocol):
    """A run of series of one kind."""

    kind: Kind
    series: tuple[Series, ...]
    size: int
    """Number of values: of series, or of all buckets of the histograms."""

    def poll(self) -> bool:
        """Prepare for the next reading; true when `series` changed."""
        ...

    def fill(self, out: U64) -> None:
        """Write the values; gauges as the same 64 bits."""
        ...


def make_series(metric: Metric, cell: Mapping[str, str], extra: Mapping[str, str]) -> Series:
    """The series of a metric at one combination of its label values and one row."""
    labels = {**cell, **extra}
    return Series(
        name=metric.name,
        kind=metric.kind,
        labels={key: labels[key] for key in sorted(labels)},
        unit=metric.unit,
        help=metric.help,
        sampler=metric.sampler,
        power=metric.power,
    )


def cell_labels(metric: Metric) -> Iterator[dict[str, str]]:
    """Label values of a metric's cells in row-major order."""
    names = [label.name for label in metric.labels]
    for values in itertools.product(*(label.values for label in metric.labels)):
        yield dict(zip(names, values, strict=True))


def cell_words(metric: Metric) -> int:
    """Words a cell of this metric has in a row."""
    return histogram_buckets(metric.power) if metric.kind == "histogram" else 1


def word_columns(metrics: Iterable[Metric]) -> Index:
    """The columns of these metrics' cells, without histogram buckets: the first word of each cell."""
    columns: list[int] = []
    for metric in metrics:
        match metric.storage:
            case Slots(offset=offset):
                width = cell_words(metric)
                columns.extend(offset + cell * width for cell in range(metric.cells))
            case _:
                raise TypeError(f"{metric.name} does not lie in a bank")
    return np.array(columns, dtype=np.intp)


def spread(starts: Index, widths: Sequence[int]) -> Index:
    """All words of cells that begin at `starts` and are `widths` long."""
    pieces = [np.arange(start, start + width) for start, width in zip(starts.tolist(), widths, strict=True)]
    return np.concatenate(pieces).astype(np.intp) if pieces else np.zeros(0, dtype=np.intp)


def as_slice(columns: Index) -> slice | Index:
    """A slice where the columns are consecutive: it reads the bank without a copy in between."""
    if columns.size and bool((np.diff(columns) == 1).all()):
        return slice(int(columns[0]), int(columns[-1]) + 1)
    return columns


class SummedPart:
    """Metrics without a dimension: their columns summed over all rows of the bank."""

    def __init__(self, bank: U64, metrics: Sequence[Metric], base: Base | None = None) -> None:
        self.kind: Kind = metrics[0].kind
        self.series = tuple(make_series(m, cell, {}) for m in metrics for cell in cell_labels(m))
        widths = [cell_words(m) for m in metrics for _ in range(m.cells)]
        columns = spread(word_columns(metrics), widths)
        self.size = columns.size
        self._bank = bank
        self._base = base
        self._columns = as_slice(columns)

    def poll(self) -> bool:
        return False

    def fill(self, out: U64) -> None:
        np.add.reduce(self._bank[:, self._columns], axis=0, out=out)
        if self._base is not None:
            np.add(out, self._base.sums[self._columns], out=out)


class RowsPart:
    """Metrics with a series per row: by CPU, by cgroup, by key."""

    def __init__(
        self, bank: U64, metrics: Sequence[Metric], rows: RowSet, *, resets: bool, base: Base | None = None
    ) -> None:
        self.kind: Kind = metrics[0].kind
        self._metrics = tuple(metrics)
        self._flat = bank.reshape(-1)
        self._base = None if base is None else base.values.reshape(-1)
        self._words = bank.shape[1]
        self._rows = rows
        self._widths = [cell_words(m) for m in metrics for _ in range(m.cells)]
        self._starts = word_columns(metrics)
        self._keep_highest = resets and self.kind != "gauge"
        self._last: U64 | None = None
        self.prepare()

    def prepare(self) -> None:
        """Take over the rows of the row set."""
        labels = self._rows.labels
        self.series = tuple(
            make_series(m, cell, row) for m in self._metrics for cell in cell_labels(m) for row in labels
        )
        base = self._rows.rows * self._words
        pieces = [
            (base[:, None] + np.arange(start, start + width)[None, :]).reshape(-1)
            for start, width in zip(self._starts.tolist(), self._widths, strict=True)
        ]
        self._index = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.intp)
        self._target = self._targets(len(labels))
        self.size = sum(self._widths) * len(labels)
        self._last = None

    def _targets(self, count: int) -> Index | None:
        """Where each value goes when several rows share a series; None when each has its own."""
        series = self._rows.series
        if series.size == count:
            return None
        pieces = []
        begin = 0
        for width in self._widths:
            pieces.append((begin + series[:, None] * width + np.arange(width)[None, :]).reshape(-1))
            begin += width * count
        return np.concatenate(pieces).astype(np.intp)

    def poll(self) -> bool:
        return False  # the row set is polled once for all its parts; see `prepare`

    def fill(self, out: U64) -> None:
        if self._target is None:
            self._flat.take(self._index, out=out, mode="clip")
            if self._base is not None:
                np.add(out, self._base.take(self._index, mode="clip"), out=out)
        else:
            out[:] = 0
            np.add.at(out, self._target, self._flat[self._index])
        if self._keep_highest:
            # The program zeroes a row before it changes the serial: until then the old series keeps its value.
            if self._last is not None:
                np.maximum(out, self._last, out=out)
            self._last = out


class DiscardsPart:
    """Counters that sum words of the cpu bank: what a sampler threw away."""

    kind: Kind = "counter"

    def __init__(
        self, bank: U64, series: Sequence[Series], offsets: Sequence[Sequence[int]], base: Base | None = None
    ) -> None:
        self.series = tuple(series)
        self.size = len(self.series)
        self._bank = bank
        self._base = base
        self._columns = np.array([o for group in offsets for o in group], dtype=np.intp)
        self._target = np.array([i for i, group in enumerate(offsets) for _ in group], dtype=np.intp)
        self._single = all(len(group) == 1 for group in offsets)

    def poll(self) -> bool:
        return False

    def fill(self, out: U64) -> None:
        sums: npt.NDArray[np.uint64] = np.add.reduce(self._bank[:, self._columns], axis=0)
        if self._base is not None:
            sums += self._base.sums[self._columns]
        if self._single:
            out[:] = sums
        else:
            out[:] = 0
            np.add.at(out, self._target, sums)


def discards_part(bank: U64, metrics: Sequence[Metric], base: Base | None = None) -> DiscardsPart:
    """The declared metrics that read their sampler's discards."""
    offsets = [metric.storage.offsets for metric in metrics if isinstance(metric.storage, FromDiscards)]
    return DiscardsPart(bank, [make_series(m, {}, {}) for m in metrics], offsets, base)
