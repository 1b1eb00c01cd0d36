"""From readings to what is shown: rates, values and distributions by metric, the busiest series first."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dsl.schema import ByCapture, ByCgroup, ByCpu, ByKey, Metric
from rezolus.agent.selfmetrics import DISCARDS
from rezolus.histogram import quantiles
from rezolus.reading import ABSENT_GAUGE, U64, Catalog, Reading, Series
from rezolus.watch.bars import octaves

QUANTILES = (0.5, 0.9, 0.99, 1.0)
_KEPT = 16
"""Readings kept of the window at most: the oldest is the beginning of its distributions."""

Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution over the window."""

    quantiles: tuple[int, ...]
    """At `QUANTILES`, the last one the maximum; upper bounds of buckets."""
    octaves: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One series."""

    labels: tuple[str, ...]
    """Values of the section's labels."""
    value: int
    """A gauge's value; of others what was counted since the programs were attached."""
    rate: float = 0.0
    """Per second over the last interval; 0 for gauges."""
    recent: int = 0
    """What was counted within the window: what rows are ordered by."""
    spread: Spread | None = None
    """Of histograms that counted something within the window."""


@dataclass(frozen=True, slots=True)
class Section:
    """One metric with the series that have counted something."""

    metric: Metric
    labels: tuple[str, ...]
    rows: tuple[Row, ...]
    """Empty when nothing was counted yet."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Samples that a sampler threw away."""

    sampler: str
    reason: str
    total: int
    rate: float


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything that a reading shows compared with those before it."""

    seconds: float
    """Between this reading and the one before."""
    time_ns: int
    """Wall clock of the reading."""
    duration_ns: int
    """How long taking it took."""
    sections: tuple[Section, ...]
    discards: tuple[Discard, ...]


class Window:
    """The readings of the last `length_ns`, thinned; makes frames of `metrics`, in their order."""

    def __init__(self, metrics: Sequence[Metric], length_ns: int) -> None:
        self._metrics = tuple(metrics)
        self._length = length_ns
        self._old: deque[Reading] = deque()
        self._last: Reading | None = None

    def add(self, reading: Reading) -> Frame | None:
        """What is to be seen now; None for the first reading, which there is nothing to compare with."""
        last, self._last = self._last, reading
        if not self._old or reading.monotonic_ns - self._old[-1].monotonic_ns >= self._length // _KEPT:
            self._old.append(reading)
        while len(self._old) > 1 and self._old[1].monotonic_ns <= reading.monotonic_ns - self._length:
            self._old.popleft()
        if last is None or reading.monotonic_ns <= last.monotonic_ns:
            return None
        return self._frame(last, self._old[0], reading)

    def _frame(self, last: Reading, oldest: Reading, now: Reading) -> Frame:
        seconds = (now.monotonic_ns - last.monotonic_ns) / 1e9
        change, window = Growth.between(last, now), Growth.between(oldest, now)
        rows: dict[str, list[tuple[Series, Row]]] = {metric.name: [] for metric in self._metrics}
        for series, row in _rows(now, change, window, seconds):
            if series.name in rows:
                rows[series.name].append((series, row))
        return Frame(
            seconds,
            now.time_ns,
            now.duration_ns,
            tuple(_section(metric, rows[metric.name]) for metric in self._metrics),
            tuple(_discards(now, change, seconds)),
        )


@dataclass(frozen=True, slots=True)
class Growth:
    """By how much the counters and buckets of `now` grew since an earlier reading; what is new began at 0."""

    counters: U64
    histograms: U64

    @classmethod
    def between(cls, before: Reading, now: Reading) -> Growth:
        """Series are matched by name and labels where the catalogs differ."""
        if before.catalog is now.catalog:
            return cls(_minus(now.counters, before.counters), _minus(now.histograms, before.histograms))
        counters = np.zeros_like(now.counters)
        known = {_key(series): index for index, series in enumerate(before.catalog.counters)}
        for index, series in enumerate(now.catalog.counters):
            if (at := known.get(_key(series))) is not None:
                counters[index] = before.counters[at]
        histograms = np.zeros_like(now.histograms)
        known = {_key(series): index for index, series in enumerate(before.catalog.histograms)}
        for index, series in enumerate(now.catalog.histograms):
            if (at := known.get(_key(series))) is not None:
                histograms[_slice(now.catalog, index)] = before.histograms[_slice(before.catalog, at)]
        return cls(_minus(now.counters, counters), _minus(now.histograms, histograms))


def _minus(now: U64, before: U64) -> U64:
    """The difference; a series that is lower than before began anew."""
    return np.where(now >= before, now - before, now)


def _key(series: Series) -> Key:
    return series.name, tuple(series.labels.items())


def _slice(catalog: Catalog, index: int) -> slice:
    return slice(catalog.histogram_offsets[index], catalog.histogram_offsets[index + 1])


def _rows(now: Reading, change: Growth, window: Growth, seconds: float) -> Iterator[tuple[Series, Row]]:
    """Every series that has counted something, and every gauge that has a value. Labels are filled in later."""
    catalog = now.catalog
    for index in np.flatnonzero(now.counters).tolist():
        recent, rate = int(window.counters[index]), int(change.counters[index]) / seconds
        yield catalog.counters[index], Row((), int(now.counters[index]), rate, recent)
    for index in np.flatnonzero(now.gauges != ABSENT_GAUGE).tolist():
        value = int(now.gauges[index])
        yield catalog.gauges[index], Row((), value, recent=abs(value))
    for index, series in enumerate(catalog.histograms):
        place = _slice(catalog, index)
        total = int(now.histograms[place].sum())
        if total:
            counts = window.histograms[place]
            rate = int(change.histograms[place].sum()) / seconds
            yield series, Row((), total, rate, int(counts.sum()), _spread(counts, series.power))


def _spread(counts: U64, power: int) -> Spread | None:
    values = [value for value in quantiles(counts, QUANTILES) if value is not None]
    return Spread(tuple(values), octaves(counts, power)) if values else None


def _section(metric: Metric, found: Iterable[tuple[Series, Row]]) -> Section:
    labels = _label_names(metric)
    rows = [
        Row(tuple(series.labels.get(key, "") for _, key in labels), row.value, row.rate, row.recent, row.spread)
        for series, row in found
    ]
    rows.sort(key=lambda row: (-row.recent, -row.value, row.labels))
    return Section(metric, tuple(title for title, _ in labels), tuple(rows))


def _label_names(metric: Metric) -> list[tuple[str, str]]:
    """(what the reader calls a label, what the series calls it), the dimension first."""
    match metric.dimension:
        case ByCpu():
            names = [("cpu", "id")]
        case ByCgroup():
            names = [("cgroup", "name")]
        case ByKey(fields=fields):
            names = [(field.label, field.label) for field in fields]
        case ByCapture(labels=labels):
            names = [(label, label) for label in labels]
        case None:
            names = []
    return names + [(label.name, label.name) for label in metric.labels]


def _discards(now: Reading, change: Growth, seconds: float) -> Iterator[Discard]:
    for index in np.flatnonzero(now.counters).tolist():
        series = now.catalog.counters[index]
        if series.name == DISCARDS[0]:
            rate = int(change.counters[index]) / seconds
            yield Discard(series.sampler, series.labels.get("reason", ""), int(now.counters[index]), rate)
