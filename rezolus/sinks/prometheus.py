"""Readings as Prometheus text (exposition format 0.0.4).

All that does not change between readings - names, labels, HELP and TYPE lines - is made once per catalog, so a scrape
only formats numbers: all counters by one `%`, all gauges by another.

Names and labels are those Rezolus uses. Counters and gauges are themselves. A histogram is, as configured, `summary`: five
gauges with the label `percentile` over what happened between the last two readings, each the highest value of its
bucket; and `buckets`: `<name>_distribution`, a histogram since the sampler was attached. There are no timestamps: what a
scrape gets is the latest reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rezolus.histogram import bucket_bounds, bucket_index
from rezolus.reading import ABSENT_GAUGE, U64, Catalog, Reading, Series, histogram_buckets

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PERCENTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)
DISTRIBUTION = "_distribution"

HistogramForm = Literal["summary", "buckets", "both", "none"]
Rows = npt.NDArray[np.intp]

_NOT_IN_METRIC = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_IN_LABEL = re.compile(r"[^a-zA-Z0-9_]")


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family that is not part of a reading: values of the daemon itself."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: tuple[tuple[Mapping[str, str], float], ...]


class Renderer:
    """Renders readings; keeps what is common to readings of one catalog."""

    def __init__(self, histograms: HistogramForm = "summary", grouping_power: int = 3) -> None:
        self._form = histograms
        self._power = grouping_power
        self._page: _Page | None = None

    def render(self, reading: Reading, previous: Reading | None) -> bytes:
        """The exposition of `reading`; percentiles are of the time since `previous`, without it there are none."""
        page = self._page
        if page is None or page.catalog is not reading.catalog:
            page = self._page = _Page(reading.catalog, self._form, self._power, before=page)
        return page.render(reading, previous).encode("utf-8", "replace")


def render_families(families: Iterable[Family]) -> bytes:
    """The exposition of values that belong to no reading."""
    return "".join(map(_family_text, families)).encode("utf-8", "replace")


class _Page:
    """The text of one catalog with holes for the numbers."""

    def __init__(self, catalog: Catalog, form: HistogramForm, power: int, *, before: _Page | None) -> None:
        self.catalog = catalog
        taken: dict[str, str] = {}
        self._counters = _Scalars(_own(catalog.counters, taken), "counter")
        self._gauges = _Scalars(_own(catalog.gauges, taken), "gauge")
        groups = _by_power(_own(catalog.histograms, taken))
        offsets = catalog.histogram_offsets
        self._summaries = [_Summaries(group, offsets) for group in groups] if form in ("summary", "both") else []
        highest = before.highest() if before else {}
        self._distributions = (
            [_Distributions(group, offsets, power, highest) for group in groups] if form in ("buckets", "both") else []
        )

    def render(self, reading: Reading, previous: Reading | None) -> str:
        parts = [self._counters.render(reading.counters), self._gauges.render(reading.gauges)]
        if previous is not None:
            parts += [summaries.render(reading, previous) for summaries in self._summaries]
        parts += [distributions.render(reading) for distributions in self._distributions]
        return "".join(parts)

    def highest(self) -> dict[str, int]:
        return {key: top for distributions in self._distributions for key, top in distributions.highest().items()}


@dataclass(frozen=True, slots=True)
class _Placed:
    """A series, where its value is among those of its kind, and its labels as text."""

    position: int
    series: Series
    name: str


def _own(group: Sequence[Series], taken: dict[str, str]) -> list[_Placed]:
    """The series whose names no other kind has taken, families together.

    A family has one type. Definitions with one name for two kinds do not compile, but remote agents may send any.
    """
    placed = []
    for position, series in enumerate(group):
        name = metric_name(series.name)
        if taken.setdefault(name, series.kind) == series.kind:
            placed.append(_Placed(position, series, name))
    return sorted(placed, key=lambda entry: (entry.name, label_text(entry.series)))


def _by_power(placed: Sequence[_Placed]) -> list[list[_Placed]]:
    """Histograms of the same size together; a family whose members differ goes to its first member's group only."""
    groups: dict[int, list[_Placed]] = {}
    powers: dict[str, int] = {}
    for entry in placed:
        power = powers.setdefault(entry.name, entry.series.power)
        if power == entry.series.power:
            groups.setdefault(power, []).append(entry)
    return list(groups.values())


class _Scalars:
    """All counters or all gauges."""

    def __init__(self, placed: Sequence[_Placed], kind: str) -> None:
        self._placed = placed
        self._kind = kind
        self._rows: Rows = np.array([entry.position for entry in placed], np.intp)
        self._lines = [f"{entry.name}{label_text(entry.series)} ".replace("%", "%%") + "%d\n" for entry in placed]
        self._absent = np.zeros(len(placed), bool)
        self._template = self._make()

    def render(self, values: npt.NDArray[np.uint64] | npt.NDArray[np.int64]) -> str:
        mine = values[self._rows]
        if self._kind == "gauge":
            absent = mine == ABSENT_GAUGE
            if not np.array_equal(absent, self._absent):
                self._absent = absent
                self._template = self._make()
            if absent.any():
                mine = mine[~absent]
        return self._template % tuple(mine.tolist())

    def _make(self) -> str:
        parts = []
        family = None
        for entry, line, absent in zip(self._placed, self._lines, self._absent.tolist(), strict=True):
            if absent:
                continue
            if entry.name != family:
                family = entry.name
                parts.append(_header(family, self._kind, entry.series.help).replace("%", "%%"))
            parts.append(line)
        return "".join(parts)


class _Summaries:
    """Percentiles of histograms of one size over the time between two readings."""

    def __init__(self, placed: Sequence[_Placed], offsets: Sequence[int]) -> None:
        self._placed = placed
        self._offsets = offsets
        power = placed[0].series.power
        self._buckets = histogram_buckets(power)
        self._uppers = [bucket_bounds(at, power)[1] for at in range(self._buckets)]
        self._positions = _positions(placed, offsets, self._buckets)
        self._prefixes = [
            [f"{entry.name}{label_text(entry.series, percentile=f'{q:g}')} " for q in PERCENTILES] for entry in placed
        ]
        self._headers = [
            _header(entry.name, "gauge", f"{_sentence(entry.series.help)} Percentiles of the last interval.".lstrip())
            for entry in placed
        ]
        self._paired_with: Catalog | None = None
        self._pairs: tuple[npt.NDArray[np.bool_], Rows] = (np.empty(0, bool), np.empty((0, 0), np.intp))

    def render(self, reading: Reading, previous: Reading) -> str:
        if not previous.catalog.histograms:
            return ""
        have, before = self._previous_positions(reading.catalog, previous.catalog)
        now = reading.histograms[self._positions]
        past = previous.histograms[before]
        delta = now - past
        running = np.cumsum(delta, axis=1, dtype=np.uint64)
        totals = running[:, -1].astype(np.float64)
        # A bucket that went backwards is a new start of the sampler: nothing is known about this interval.
        usable = have & (totals > 0) & ~(now < past).any(axis=1)
        ranks = np.maximum(1.0, np.ceil(np.outer(PERCENTILES, totals))).astype(np.uint64)
        indexes = [(running < rank[:, None]).sum(axis=1).tolist() for rank in ranks]
        parts = []
        family = None
        for row in np.flatnonzero(usable).tolist():
            if self._placed[row].name != family:
                family = self._placed[row].name
                parts.append(self._headers[row])
            for prefix, index in zip(self._prefixes[row], indexes, strict=True):
                parts.append(f"{prefix}{self._uppers[index[row]]}\n")
        return "".join(parts)

    def _previous_positions(self, catalog: Catalog, previous: Catalog) -> tuple[npt.NDArray[np.bool_], Rows]:
        """Which histograms the previous reading had, and where their buckets were; paired by identity, not by place."""
        if previous is catalog:
            return np.ones(len(self._placed), bool), self._positions
        if previous is not self._paired_with:
            at = {_key(series): number for number, series in enumerate(previous.histograms)}
            numbers = [at.get(_key(entry.series), -1) for entry in self._placed]
            starts = np.array([previous.histogram_offsets[max(0, number)] for number in numbers], np.intp)
            # A histogram that is new takes any place that exists; it is not used.
            inside = np.minimum(starts[:, None] + np.arange(self._buckets), previous.histogram_offsets[-1] - 1)
            self._paired_with = previous
            self._pairs = (np.array(numbers) >= 0, inside)
        return self._pairs


class _Distributions:
    """Histograms of one size with their buckets, at a grouping power that is at most their own."""

    def __init__(
        self, placed: Sequence[_Placed], offsets: Sequence[int], power: int, highest: Mapping[str, int]
    ) -> None:
        own = placed[0].series.power
        self._power = min(power, own)
        self._positions = _positions(placed, offsets, histogram_buckets(own))
        count = histogram_buckets(self._power)
        bounds = [bucket_bounds(at, self._power) for at in range(count)]
        self._uppers = [upper for _, upper in bounds]
        self._middles = np.array([(low + high) / 2 for low, high in bounds])
        # Coarser buckets hold whole finer ones: each begins where the coarse number changes.
        coarse = [bucket_index(bucket_bounds(at, own)[0], self._power) for at in range(histogram_buckets(own))]
        self._starts = np.searchsorted(np.array(coarse), np.arange(count))
        self._shapes = [_Shape(entry, self._uppers) for entry in placed]
        for shape in self._shapes:
            shape.top = highest.get(shape.key, -1)
        self._headers = [
            _header(entry.name + DISTRIBUTION, "histogram", f"{_sentence(entry.series.help)} Since the start.".lstrip())
            if at == 0 or placed[at - 1].name != entry.name
            else ""
            for at, entry in enumerate(placed)
        ]

    def highest(self) -> dict[str, int]:
        return {shape.key: shape.top for shape in self._shapes}

    def render(self, reading: Reading) -> str:
        counts = np.add.reduceat(reading.histograms[self._positions], self._starts, axis=1)
        running = np.cumsum(counts, axis=1, dtype=np.uint64)
        sums = (counts @ self._middles).tolist()
        nonempty = counts != 0
        tops = np.where(nonempty.any(axis=1), counts.shape[1] - 1 - np.argmax(nonempty[:, ::-1], axis=1), -1).tolist()
        parts = []
        for header, shape, top, row, total in zip(self._headers, self._shapes, tops, running, sums, strict=True):
            parts.append(header)
            parts.append(shape.render(row, top, total))
        return "".join(parts)


class _Shape:
    """The text of one distribution: every bucket up to the highest that ever held anything, so that none disappears."""

    def __init__(self, entry: _Placed, uppers: Sequence[int]) -> None:
        self.key = entry.name + label_text(entry.series)
        self.top = -1
        self._entry = entry
        self._uppers = uppers
        self._template = ""
        self._template_top = -2

    def render(self, running: U64, top: int, total: float) -> str:
        self.top = max(self.top, top)
        if self.top != self._template_top:
            self._template = self._make()
            self._template_top = self.top
        count = int(running[-1])
        return self._template % (*running[: self.top + 1].tolist(), count, total, count)

    def _make(self) -> str:
        entry = self._entry
        name = entry.name + DISTRIBUTION
        labels = label_text(entry.series)
        # `le` comes last; nothing sorts behind it that a reader would miss.
        prefix = f"{name}_bucket{{{labels[1:-1]}{',' if labels else ''}le=".replace("%", "%%")
        lines = [f'{prefix}"{upper}"}} %d\n' for upper in self._uppers[: self.top + 1]]
        lines.append(f'{prefix}"+Inf"}} %d\n')
        lines.append(f"{name}_sum{labels} ".replace("%", "%%") + "%r\n")
        lines.append(f"{name}_count{labels} ".replace("%", "%%") + "%d\n")
        return "".join(lines)


def metric_name(name: str) -> str:
    """The name with what the format does not allow replaced; names of our own definitions pass unchanged."""
    clean = _NOT_IN_METRIC.sub("_", name)
    return f"_{clean}" if clean[:1].isdigit() or not clean else clean


def label_text(series: Series, **extra: str) -> str:
    """`{key="value",...}` sorted by key, with unit and sampler; empty without labels."""
    labels = dict(series.labels)
    if series.unit:
        labels["unit"] = series.unit
    if series.sampler:
        labels["sampler"] = series.sampler
    return labels_text({**labels, **extra})


def labels_text(labels: Mapping[str, str]) -> str:
    """As `label_text`, of any labels."""
    pairs = sorted((_label_name(key), value) for key, value in labels.items())
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in pairs) + "}" if pairs else ""


def _label_name(key: str) -> str:
    clean = _NOT_IN_LABEL.sub("_", key)
    return f"_{clean}" if clean[:1].isdigit() or not clean else clean


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _header(name: str, kind: str, text: str) -> str:
    """HELP, where there is a text, and TYPE."""
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
    return (f"# HELP {name} {escaped}\n" if escaped else "") + f"# TYPE {name} {kind}\n"


def _sentence(text: str) -> str:
    return text if not text or text.endswith(".") else f"{text}."


def _family_text(family: Family) -> str:
    lines = [f"{family.name}{labels_text(labels)} {value:.17g}\n" for labels, value in family.samples]
    return _header(family.name, family.kind, family.help) + "".join(lines) if lines else ""


def _positions(placed: Sequence[_Placed], offsets: Sequence[int], buckets: int) -> Rows:
    """Where the buckets of these histograms are in a reading: histograms x buckets."""
    starts = np.array([offsets[entry.position] for entry in placed], np.intp)
    return starts[:, None] + np.arange(buckets, dtype=np.intp)


def _key(series: Series) -> tuple[str, str, int]:
    return (series.name, label_text(series), series.power)
