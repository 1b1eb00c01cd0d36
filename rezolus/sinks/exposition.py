"""How Prometheus text 0.0.4 and OpenMetrics 1.0 write names, labels, headers, bounds and times.

Names and labels are Rezolus' own; only what a format forbids is replaced.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from rezolus.reading import Kind, Series

FamilyKind = Literal["counter", "gauge", "histogram", "summary"]

EXACT = 2**53
"""Below, every whole number is a float."""

_NOT_IN_METRIC = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_IN_LABEL = re.compile(r"[^a-zA-Z0-9_]")
_SUFFIXES: Mapping[FamilyKind, tuple[str, ...]] = {
    "counter": ("",),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
}


@dataclass(frozen=True, slots=True)
class Syntax:
    """One of the two formats."""

    name: Literal["text", "openmetrics"]
    content_type: str
    openmetrics: bool

    @property
    def end(self) -> str:
        """What comes last."""
        return "# EOF\n" if self.openmetrics else ""

    def family(self, name: str, kind: FamilyKind) -> str:
        """The name of the family of a metric: OpenMetrics takes the suffix `_total` from counters."""
        clean = metric_name(name)
        return (clean.removesuffix("_total") or "_") if self.openmetrics and kind == "counter" else clean

    def sample(self, family: str, kind: FamilyKind) -> str:
        """The name of the samples of a counter or gauge."""
        return f"{family}_total" if self.openmetrics and kind == "counter" else family

    def claims(self, family: str, kind: FamilyKind) -> tuple[str, ...]:
        """Every name that no other family may have."""
        suffixes = _SUFFIXES[kind]
        if self.openmetrics and kind != "gauge":
            suffixes += ("_total", "_created") if kind == "counter" else ("_created",)
        return tuple(family + suffix for suffix in suffixes)

    def header(self, family: str, kind: FamilyKind, text: str, units: Collection[str] = ()) -> str:
        """HELP where there is a text, TYPE, and UNIT where the format has it and the name ends with the members' unit."""
        escaped = _readable(text).replace("\\", "\\\\").replace("\n", "\\n")
        if self.openmetrics:
            escaped = escaped.replace('"', '\\"')
        lines = f"# HELP {family} {escaped}\n" if escaped else ""
        lines += f"# TYPE {family} {kind}\n"
        if self.openmetrics and len(units) == 1:
            unit = _NOT_IN_METRIC.sub("_", next(iter(units)))
            if unit and family.endswith(f"_{unit}"):
                lines += f"# UNIT {family} {unit}\n"
        return lines

    def bound(self, upper: int) -> str:
        """The value of `le`: the bound itself, in OpenMetrics as the float that it wants there."""
        return f"{upper}.0" if self.openmetrics else str(upper)

    def time(self, time_ns: int) -> str:
        """A sample's time: milliseconds, in OpenMetrics seconds."""
        milliseconds = time_ns // 1_000_000
        if self.openmetrics:
            return f"{milliseconds // 1000}.{milliseconds % 1000:03d}"
        return str(milliseconds)


TEXT = Syntax("text", "text/plain; version=0.0.4; charset=utf-8", openmetrics=False)
OPENMETRICS = Syntax("openmetrics", "application/openmetrics-text; version=1.0.0; charset=utf-8", openmetrics=True)


@lru_cache(1024)
def metric_name(name: str) -> str:
    """The name with what the formats do not allow replaced; names of our own definitions pass unchanged."""
    clean = _NOT_IN_METRIC.sub("_", name)
    return f"_{clean}" if clean[:1].isdigit() or not clean else clean


def label_text(series: Series, reserved: str = "") -> str:
    """`key="value",...` sorted by key, with unit and sampler. `reserved`: a name that another label of the samples has."""
    labels = dict(series.labels)
    if series.unit:
        labels["unit"] = series.unit
    if series.sampler:
        labels["sampler"] = series.sampler
    return labels_text(labels, reserved)


def labels_text(labels: Mapping[str, str], reserved: str = "") -> str:
    """As `label_text`, of any labels. One without a value is as good as absent to Prometheus, and left out."""
    pairs: dict[str, str] = {}
    taken = {reserved}
    for key in sorted(labels):
        if labels[key]:
            name = _label_name(key, taken)
            taken.add(name)
            pairs[name] = labels[key]
    return ",".join(f'{key}="{_escaped(pairs[key])}"' for key in sorted(pairs))


def braces(*labels: str) -> str:
    """Texts of labels as they stand behind a name; nothing when all are empty."""
    inner = ",".join(filter(None, labels))
    return f"{{{inner}}}" if inner else ""


def written(starts: Sequence[str], values: Iterable[object], end: str) -> str:
    """A line per value: its start, the value, and `end`, which is the time and the newline."""
    parts = [end] * (3 * len(starts))
    parts[::3] = starts
    parts[1::3] = map(str, values)
    return "".join(parts)


def sentence(text: str, more: str) -> str:
    """`text` as a sentence, with another one behind it."""
    return f"{text}{'' if not text or text.endswith('.') else '.'} {more}".lstrip()


def number(value: float) -> str:
    """A value that need not be whole, as short as it can be exactly."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < EXACT else repr(value)


class Names:
    """Which family has which names: no two may share one."""

    def __init__(self, syntax: Syntax, reserved: Iterable[tuple[str, FamilyKind]] = ()) -> None:
        self._syntax = syntax
        self._owners: dict[str, tuple[str, FamilyKind, Kind]] = {}
        self._series: set[tuple[str, str]] = set()
        self._reserved = frozenset(
            claim for name, kind in reserved for claim in syntax.claims(syntax.family(name, kind), kind)
        )

    def admit(self, family: str, kind: FamilyKind, source: Kind, labels: str) -> bool:
        """Whether a series of this family, made of a metric of kind `source`, may be written.

        It may when the names of the family are free or its own, and no series before has these labels.
        """
        claims = self._syntax.claims(family, kind)
        owner = (family, kind, source)
        if not self._reserved.isdisjoint(claims) or any(self._owners.get(name, owner) != owner for name in claims):
            return False
        self._owners.update(dict.fromkeys(claims, owner))
        if (family, labels) in self._series:
            return False
        self._series.add((family, labels))
        return True


def _label_name(key: str, taken: Collection[str]) -> str:
    clean = _allowed_label(key)
    while clean in taken:
        clean += "_"
    return clean


@lru_cache(1024)
def _allowed_label(key: str) -> str:
    clean = _NOT_IN_LABEL.sub("_", key)
    if clean[:1].isdigit() or not clean:
        clean = f"_{clean}"
    # names that begin with two of them are Prometheus' own
    return f"label{clean}" if clean == "_" or clean.startswith("__") else clean


def _escaped(value: str) -> str:
    if value.isascii() and value.isprintable() and "\\" not in value and '"' not in value:
        return value
    return _readable(value).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _readable(text: str) -> str:
    """Without what UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()
