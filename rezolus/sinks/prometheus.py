"""Readings as Prometheus text 0.0.4 or OpenMetrics 1.0.

All that does not change between readings - names, labels, headers - is made once per catalog; a scrape only puts numbers
between such pieces. Of a histogram's buckets only those from the lowest to the highest that hold anything have numbers
of their own: the others are all zero or all the count.

A histogram is, as configured, percentiles over what happened between the last two readings (five gauges with the label
`percentile` as Rezolus has them, or a standard summary), and `<name>_distribution`, a histogram since the sampler was
attached. That has every bucket, always: bounds that come and go would make Prometheus start its native histogram anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from rezolus.reading import ABSENT_GAUGE, Catalog, Reading, Series
from rezolus.sinks.distributions import PERCENTILES, Cumulative, Group, groups_of
from rezolus.sinks.exposition import (
    TEXT,
    FamilyKind,
    Names,
    Syntax,
    braces,
    label_text,
    labels_text,
    number,
    sentence,
    written,
)

log = logging.getLogger(__name__)

DISTRIBUTION = "_distribution"
SHOWN, LONGEST, MOST_TOLD = 10, 80, 1000
"""Names in a warning, characters of each, and names that are warned of at all."""
OF_THE_INTERVAL = "Percentiles of the last interval."

T = TypeVar("T")

HistogramForm = Literal["summary", "buckets", "both", "none"]
SummaryForm = Literal["percentile", "quantile"]


@dataclass(frozen=True, slots=True)
class Style:
    """What a page looks like."""

    syntax: Syntax = TEXT
    histograms: HistogramForm = "summary"
    summaries: SummaryForm = "percentile"
    grouping_power: int = 3
    timestamps: bool = True
    """Whether samples say when they were read."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family that is not part of a reading: values of the daemon itself. Its samples have no time."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: tuple[tuple[Mapping[str, str], float], ...]


class Renderer:
    """Renders readings in one style; keeps what is common to readings of one catalog."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self._page: _Page | None = None
        self._told: set[str] = set()

    def render(self, reading: Reading | None, previous: Reading | None, families: Sequence[Family] = ()) -> bytes:
        """The exposition of `reading`, then of `families`, whose names no series may have.

        Percentiles are of the time since `previous`; without it there are none. Without a reading the families are all.
        """
        syntax = self._style.syntax
        own = "".join(_family_text(family, syntax) for family in families)
        if reading is None:
            return (own + syntax.end).encode()
        page = self._page
        if page is None or page.catalog is not reading.catalog:
            page = self._page = _Page(reading.catalog, self._style, families, before=page)
            self._tell(page.dropped)
        return (page.render(reading, previous) + own + syntax.end).encode()

    def _tell(self, dropped: frozenset[str]) -> None:
        """Warn of names that were left out, each once, and of a source that invents them without end no more than so many."""
        new = sorted(dropped - self._told)
        if not new or len(self._told) >= MOST_TOLD:
            return
        self._told.update(new[: MOST_TOLD - len(self._told)])
        names = ", ".join(name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..." for name in new[:SHOWN])
        more = f" and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
        syntax = self._style.syntax.name
        log.warning("%s: left out, for another series or family has that name: %s%s", syntax, names, more)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A series of a family, and where its value is among those of its kind."""

    position: int
    series: Series
    family: str
    labels: str
    """As text, without braces."""
    header: str
    """Of the family, for whichever of its members is written first."""


class _Page:
    """The text of one catalog with holes for the numbers."""

    def __init__(self, catalog: Catalog, style: Style, families: Iterable[Family], *, before: _Page | None) -> None:
        self.catalog = catalog
        self._style = style
        self._names = Names(style.syntax, [(family.name, family.kind) for family in families])
        self._missing: set[str] = set()
        self._counters = _Scalars(self._place(catalog.counters, "counter"), "counter", style.syntax)
        self._gauges = _Scalars(self._place(catalog.gauges, "gauge"), "gauge", style.syntax)
        self._groups = groups_of(catalog, style.grouping_power)
        self._percentiles: list[_Percentiles] = []
        self.distributions: list[_Distribution] = []
        if style.histograms in ("summary", "both"):
            kind: FamilyKind = "summary" if style.summaries == "quantile" else "gauge"
            self._percentiles = [
                _Percentiles(placed, style.summaries)
                for placed in self._place(catalog.histograms, kind, more=OF_THE_INTERVAL, reserved=style.summaries)
            ]
        if style.histograms in ("buckets", "both"):
            placed = self._place(
                catalog.histograms, "histogram", suffix=DISTRIBUTION, more="Since the start.", reserved="le"
            )
            self.distributions = self._distribute(placed, before.distributions if before else ())
        self.dropped = frozenset(self._missing)

    def render(self, reading: Reading, previous: Reading | None) -> str:
        stamp = f" {self._style.syntax.time(reading.time_ns)}\n" if self._style.timestamps else "\n"
        parts = [self._counters.render(reading.counters, stamp), self._gauges.render(reading.gauges, stamp)]
        parts += self._render_percentiles(reading, previous, stamp)
        parts += self._render_distributions(reading, stamp)
        return "".join(parts)

    def _render_percentiles(self, reading: Reading, previous: Reading | None, stamp: str) -> Iterator[str]:
        if not self._percentiles:
            return
        if self._style.summaries == "quantile":
            totals = _by_number(self._groups, [group.totals(reading) for group in self._groups])
        elif previous is None:
            return
        found: dict[int, tuple[int, ...] | None] = {}
        if previous is not None:
            found = _by_number(self._groups, [group.percentiles(reading, previous) for group in self._groups])
        family = ""
        for entry in self._percentiles:
            at = entry.placed.position
            values = found.get(at)
            if self._style.summaries == "quantile":
                text = entry.summary(values, *totals[at], stamp)
            elif values is not None:
                text = entry.gauges(values, stamp)
            else:
                continue
            yield text if entry.placed.family == family else entry.placed.header + text
            family = entry.placed.family

    def _render_distributions(self, reading: Reading, stamp: str) -> Iterator[str]:
        if not self.distributions:
            return
        found = _by_number(self._groups, [group.cumulative(reading) for group in self._groups])
        family = ""
        for entry in self.distributions:
            if entry.placed.family != family:
                family = entry.placed.family
                yield entry.placed.header
            yield entry.render(found[entry.placed.position], stamp)

    def _distribute(self, placed: Sequence[_Placed], before: Sequence[_Distribution]) -> list[_Distribution]:
        """The texts of histograms; those of an earlier page go on, for making one of five hundred lines takes long."""
        known = {entry.key: entry for entry in before}
        syntax = self._style.syntax
        bounds = {at: group.uppers for group in self._groups for at in group.numbers}
        lines: dict[tuple[int, ...], list[str]] = {}
        found = []
        for entry in placed:
            uppers = bounds[entry.position]
            if uppers not in lines:
                lines[uppers] = [f'"{syntax.bound(upper)}"}} ' for upper in uppers]
            key = (entry.family, entry.labels, uppers)
            distribution = known.get(key) or _Distribution(key, lines[uppers])
            distribution.placed = entry
            found.append(distribution)
        return found

    def _place(
        self, group: Sequence[Series], kind: FamilyKind, *, suffix: str = "", more: str = "", reserved: str = ""
    ) -> list[_Placed]:
        """The series that can be written, families together.

        A name has one family. Definitions with one name for two kinds do not compile, but other agents may send any.
        """
        syntax = self._style.syntax
        admitted = []
        members: dict[str, list[Series]] = {}
        for position, series in enumerate(group):
            family = syntax.family(series.name + suffix, kind)
            labels = label_text(series, reserved)
            if self._names.admit(family, kind, series.kind, labels):
                admitted.append((family, labels, position, series))
                members.setdefault(family, []).append(series)
            else:
                self._missing.add(family)
        headers = {}
        for family, entries in members.items():
            text = next((series.help for series in entries if series.help), "")
            units = {series.unit for series in entries}
            headers[family] = syntax.header(family, kind, sentence(text, more) if more else text, units)
        admitted.sort(key=lambda entry: entry[:2])
        return [_Placed(at, series, family, labels, headers[family]) for family, labels, at, series in admitted]


def _by_number(groups: Sequence[Group], found: Sequence[Sequence[T]]) -> dict[int, T]:
    """What was found for the members of each group, by the member's place in the catalog."""
    pairs = (zip(group.numbers, values, strict=True) for group, values in zip(groups, found, strict=True))
    return {number: value for pair in pairs for number, value in pair}


class _Scalars:
    """All counters or all gauges."""

    def __init__(self, placed: Sequence[_Placed], kind: FamilyKind, syntax: Syntax) -> None:
        self._placed = placed
        self._gauges = kind == "gauge"
        self._rows = np.array([entry.position for entry in placed], np.intp)
        self._lines = [f"{syntax.sample(entry.family, kind)}{braces(entry.labels)} " for entry in placed]
        self._absent = np.zeros(len(placed), bool)
        self._starts = self._make()

    def render(self, values: npt.NDArray[np.uint64] | npt.NDArray[np.int64], stamp: str) -> str:
        mine = values[self._rows]
        if self._gauges:
            absent = mine == ABSENT_GAUGE
            if not np.array_equal(absent, self._absent):
                self._absent = absent
                self._starts = self._make()
            if absent.any():
                mine = mine[~absent]
        return written(self._starts, mine.tolist(), stamp)

    def _make(self) -> list[str]:
        """Of those that are there; the first one of a family has the header before it."""
        starts = []
        family = None
        for entry, line, absent in zip(self._placed, self._lines, self._absent.tolist(), strict=True):
            if not absent:
                starts.append(line if entry.family == family else entry.header + line)
                family = entry.family
        return starts


class _Percentiles:
    """The text of one histogram's percentiles."""

    def __init__(self, placed: _Placed, form: SummaryForm) -> None:
        self.placed = placed
        name, labels = placed.family, placed.labels
        self._starts = [name + braces(labels, f'{form}="{q:g}"') + " " for q in PERCENTILES]
        self._totals = [f"{name}{suffix}{braces(labels)} " for suffix in ("_sum", "_count")]

    def gauges(self, values: tuple[int, ...], stamp: str) -> str:
        return written(self._starts, values, stamp)

    def summary(self, values: tuple[int, ...] | None, count: int, total: float, stamp: str) -> str:
        """Without events in the interval the quantiles are no numbers, as in every client library."""
        quantiles: Sequence[object] = ("NaN",) * len(PERCENTILES) if values is None else values
        return written(self._starts + self._totals, (*quantiles, number(total), count), stamp)


class _Distribution:
    """The text of one histogram with its buckets. `key`: family, labels and bounds; `ends`: of the buckets' lines, from `le` on."""

    placed: _Placed

    def __init__(self, key: tuple[str, str, tuple[int, ...]], ends: Sequence[str]) -> None:
        self.key = key
        family, inner, _ = key
        labels = braces(inner)
        prefix = f"{family}_bucket{braces(inner, 'le=')[:-1]}"
        self._lines = [prefix + end for end in ends]
        self._last = [f'{prefix}"+Inf"}} ', f"{family}_count{labels} "]
        self._sum = f"{family}_sum{labels} "

    def render(self, found: Cumulative, stamp: str) -> str:
        lines, first, behind = self._lines, found.first, max(found.first, found.top + 1)
        return "".join(
            (
                f"0{stamp}".join([*lines[:first], ""]),
                written(lines[first:behind], found.running, stamp),
                f"{found.count}{stamp}".join([*lines[behind:], *self._last, ""]),
                f"{self._sum}{number(found.total)}{stamp}",
            )
        )


def _family_text(family: Family, syntax: Syntax) -> str:
    if not family.samples:
        return ""
    name = syntax.family(family.name, family.kind)
    sample = syntax.sample(name, family.kind)
    lines = [f"{sample}{braces(labels_text(labels))} {number(value)}\n" for labels, value in family.samples]
    return syntax.header(name, family.kind, family.help) + "".join(lines)
