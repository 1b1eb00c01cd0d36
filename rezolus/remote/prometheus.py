"""From the page of a Prometheus endpoint to a reading, by the rules with which Rezolus records one.

Counters and gauges lose their fractions, a summary is a gauge per quantile, `_sum` and `_count` are counters, a histogram becomes
an H2 histogram of grouping power 7 with each bucket's count at its upper bound. What the samples of a page become
is worked out once (`_Plan`) and used for the next page that has the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rezolus.reading import ABSENT_GAUGE, I64, U64, Catalog, Reading, Series
from rezolus.remote.distribution import Buckets, Distribution
from rezolus.remote.exposition import Exposition, Number, PageError, Sample, parse_key, parse_page
from rezolus.wire.messages import BUCKETS_TOGETHER, MOST_SERIES

RESERVED = frozenset({"metric", "metric_type"})
"""Labels that say something else in recordings; kept as `exported_<label>`."""
NO_LABELS = frozenset({"unit", "sampler", "grouping_power", "max_value_power"})
"""Labels on the pages of Rezolus' exporter that are fields of a series, or say nothing of what the page has."""
UNTYPED_COUNTERS = ("_total", "_sum", "_count")

Role = Literal["counter", "gauge", "bucket"]


@dataclass(frozen=True, slots=True)
class Scrape:
    """A page as a reading."""

    reading: Reading
    """All its times are 0: whoever fetched the page knows them."""
    problems: tuple[str, ...]
    """What had to be left out, a sentence each."""


class PageDecoder:
    """Decodes the pages of one endpoint, one after the other.

    Pages with the same series one after the other give the same `Catalog`, other pages the same `Series` for the same ones.
    """

    def __init__(self) -> None:
        self._plan: _Plan | None = None

    def decode(self, body: bytes, *, openmetrics: bool) -> Scrape:
        """Raises PageError for what is no page of metrics, for one without any and for one with too many."""
        page = parse_page(body, openmetrics=openmetrics)
        if not page.keys:
            raise PageError("it has no samples")
        plan = self._plan
        if plan is None or not plan.fits(page):
            plan = _Plan(page, plan)
            self._plan = plan
        return Scrape(plan.reading(page.values), plan.problems)

    @property
    def helps(self) -> Mapping[str, str]:
        """Help by metric, of the last page."""
        return {} if self._plan is None else self._plan.helps


@dataclass(frozen=True, slots=True)
class _Scalar:
    """What a sample that is no bucket becomes, and what it was made of beside its own words."""

    facts: tuple[Role, str, str, str]
    """Role, and of the family name, help and unit."""
    series: Series
    key: object
    """The same for samples that mean the same series, of which a page has one."""
    identity: object
    """The same for series that are equal, on whichever page."""


class _Plan:
    """What the samples of a page become. `before`: that of the page before, whose samples and series go on."""

    def __init__(self, page: Exposition, before: _Plan | None) -> None:
        self._page = page
        known: Mapping[str, Sample] = {} if before is None else before.samples
        self.samples: dict[str, Sample] = {key: known.get(key) or parse_key(key) for key in page.keys}
        self._known: Mapping[object, Series] = {} if before is None else before.series
        self._known_scalars: Mapping[str, _Scalar] = {} if before is None else before.scalars
        self.series: dict[object, Series] = {}
        self.scalars: dict[str, _Scalar] = {}
        self.problems: tuple[str, ...] = ()
        self.helps: dict[str, str] = {}
        self._roles: dict[str, tuple[Role, str]] = {}
        self._counters: dict[object, tuple[Series, int]] = {}
        self._gauges: dict[object, tuple[Series, int]] = {}
        self._distributions: dict[object, Distribution] = {}
        self._strict: list[int] = []
        for at, key in enumerate(page.keys):
            self._enter(at, key, self.samples[key])
            if len(self._counters) + len(self._gauges) + len(self._distributions) > MOST_SERIES:
                raise PageError(f"it has more than {MOST_SERIES} series")
        self._unusable = self._find_unusable(page.values)
        self._finish(frozenset(self._unusable))
        self._known, self._known_scalars = {}, {}

    def fits(self, page: Exposition) -> bool:
        """Whether the page has the same samples, and the same of them are usable."""
        mine = self._page
        same = page.keys == mine.keys and page.types == mine.types and page.helps == mine.helps
        return same and page.units == mine.units and self._find_unusable(page.values) == self._unusable

    def reading(self, values: Sequence[Number]) -> Reading:
        """The reading of these values."""
        return Reading(
            catalog=self._catalog,
            time_ns=0,
            monotonic_ns=0,
            duration_ns=0,
            counters=_u64(values, self._counters_at),
            gauges=_i64(values, self._gauges_at),
            histograms=self._buckets.counts(_u64(values, self._buckets.at)),
        )

    def _find_unusable(self, values: Sequence[Number]) -> list[int]:
        """Where a counter or a bucket has a value that neither can have: not a number, negative, beyond 64 bits."""
        return [at for at in self._strict if not 0 <= values[at] < 1 << 64]

    def _enter(self, at: int, words: str, sample: Sample) -> None:
        """Sort in one sample."""
        found = self._roles.get(sample.name)
        if found is None:
            found = self._roles[sample.name] = _role(sample.name, self._page.types)
        role, family = found
        if role == "bucket":
            labels = {name: value for name, value in sample.labels.items() if name != "le"}
            key = (family, frozenset(labels.items()))
            if key not in self._distributions:
                self._distributions[key] = Distribution(self._series(family, family, labels, histogram=True))
            self._distributions[key].add(sample, at)
        else:
            scalar = self.scalars[words] = self._scalar(words, sample, role, family)
            group = self._counters if role == "counter" else self._gauges
            group[scalar.key] = (scalar.series, at)  # of two samples of one series the last counts
        if role != "gauge":
            self._strict.append(at)

    def _scalar(self, words: str, sample: Sample, role: Role, family: str) -> _Scalar:
        facts = (role, family, self._page.helps.get(family, ""), self._page.units.get(family, ""))
        known = self._known_scalars.get(words)
        if known is None or known.facts != facts:
            series = self._same(self._series(sample.name, family, sample.labels, counter=role == "counter"))
            return _Scalar(facts, series, _key(series), _identity(series))
        if facts[2]:
            self.helps[known.series.name] = facts[2]
        self.series[known.identity] = known.series
        return known

    def _series(
        self, name: str, family: str, labels: Mapping[str, str], *, counter: bool = False, histogram: bool = False
    ) -> Series:
        own = {
            f"exported_{label}" if label in RESERVED else label: value
            for label, value in labels.items()
            if label not in NO_LABELS
        }
        name = name.replace(":", "_")
        text = self._page.helps.get(family, "")
        if text:
            self.helps[name] = text
        return Series(
            name,
            "histogram" if histogram else "counter" if counter else "gauge",
            dict(sorted(own.items())),
            unit=labels.get("unit") or self._page.units.get(family, ""),
            help=text,
            sampler=labels.get("sampler", ""),
        )

    def _finish(self, unusable: frozenset[int]) -> None:
        counters = [(series, at) for series, at in self._counters.values() if at not in unusable]
        gauges = list(self._gauges.values())
        histograms = []
        slots = left_out = 0
        for distribution in self._distributions.values():
            histogram = distribution.histogram(unusable)
            if histogram is None:
                continue
            slots += histogram.series.buckets
            if slots > BUCKETS_TOGETHER:
                slots -= histogram.series.buckets
                left_out += 1
            else:
                histograms.append(histogram)
        self._counters_at = [at for _, at in counters]
        self._gauges_at = [at for _, at in gauges]
        self._buckets = Buckets(histograms)
        self._catalog = Catalog(
            tuple(series for series, _ in counters),
            tuple(series for series, _ in gauges),
            tuple(self._same(histogram.series) for histogram in histograms),
        )
        problems = []
        if left_out:
            problems.append(
                f"{left_out} of its histograms are left out: together they have more than {BUCKETS_TOGETHER} buckets"
            )
        cut = [series.name for series, at in (*counters, *gauges) if self._has_fraction(at)]
        if cut:
            more = f" and {len(cut) - 1} more" if len(cut) > 1 else ""
            problems.append(f"fractions are cut off, since recordings have whole numbers: {cut[0]}{more}")
        self.problems = tuple(problems)

    def _has_fraction(self, at: int) -> bool:
        value = self._page.values[at]
        return isinstance(value, float) and math.isfinite(value) and not value.is_integer()

    def _same(self, series: Series) -> Series:
        """The series as the page before had it, so that what others worked out for it is worked out once."""
        identity = _identity(series)
        return self.series.setdefault(identity, self._known.get(identity, series))


def _role(name: str, types: Mapping[str, str]) -> tuple[Role, str]:
    """What samples of this name are, and the name of their family."""
    match types.get(name):
        case "counter":
            return "counter", name
        case None:
            pass
        case "untyped" | "unknown":
            return ("counter" if name.endswith(UNTYPED_COUNTERS) else "gauge"), name
        case _:
            return "gauge", name
    family, underscore, part = name.rpartition("_")
    kind = types.get(family) if underscore else None
    if kind is None:
        return ("counter" if name.endswith(UNTYPED_COUNTERS) else "gauge"), name
    if kind == "histogram" and part == "bucket":
        return "bucket", family
    summed = kind in {"histogram", "summary"} and part in {"sum", "count"}
    return ("counter" if summed or (kind == "counter" and part == "total") else "gauge"), family


def _key(series: Series) -> object:
    return (series.name, tuple(series.labels.items()), series.unit, series.sampler)


def _identity(series: Series) -> object:
    return (_key(series), series.kind, series.help, series.power, series.max_power)


def _u64(values: Sequence[Number], at: Sequence[int]) -> U64:
    return np.fromiter((int(values[one]) for one in at), np.uint64, len(at))


def _i64(values: Sequence[Number], at: Sequence[int]) -> I64:
    limit = 1 << 63
    numbers = (values[one] for one in at)
    return np.fromiter((int(n) if -limit < n < limit else ABSENT_GAUGE for n in numbers), np.int64, len(at))
