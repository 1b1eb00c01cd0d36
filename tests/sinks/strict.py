"""Strict readers of Prometheus text 0.0.4 and OpenMetrics 1.0, written from the formats' rules and not from our writers.

What breaks a rule is an AssertionError that names the line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Labels = tuple[tuple[str, str], ...]
Format = Literal["text", "openmetrics"]

NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"'
NUMBER = r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|\+Inf|-Inf|NaN"
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? ({NUMBER})(?: (-?[0-9]+(?:\.[0-9]+)?))?")
METADATA = re.compile(rf"# (HELP|TYPE|UNIT) ({NAME}) (.*)", re.DOTALL)
SUFFIXES = {
    "text": {
        "counter": ("",),
        "gauge": ("",),
        "histogram": ("_bucket", "_sum", "_count"),
        "summary": ("", "_sum", "_count"),
    },
    "openmetrics": {
        "counter": ("_total",),
        "gauge": ("",),
        "histogram": ("_bucket", "_sum", "_count"),
        "summary": ("", "_sum", "_count"),
    },
}


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    labels: Labels
    value: float
    """An int where the text has one, so that nothing is rounded."""
    time_ms: int | None


@dataclass(slots=True)
class Family:
    name: str
    kind: str = ""
    help: str = ""
    unit: str = ""
    samples: list[Sample] = field(default_factory=list)


def families(body: bytes, form: Format) -> list[Family]:
    """The families of a body that keeps all rules of its format."""
    lines = body.decode().split("\n")
    assert lines.pop() == "", "the last line has no newline"
    if form == "openmetrics":
        assert lines.pop() == "# EOF"
    found: list[Family] = []
    for line in lines:
        assert line, "empty line"
        if line.startswith("#"):
            _metadata(line, found, form)
        else:
            sample = _sample(line, form)
            assert found, line
            assert found[-1].kind, line
            suffix = sample.name.removeprefix(found[-1].name)
            assert sample.name.startswith(found[-1].name), line
            assert suffix in SUFFIXES[form][found[-1].kind], line
            found[-1].samples.append(sample)
    _check_names(found, form)
    for family in found:
        assert family.samples, family.name
        if family.kind == "histogram":
            _check_buckets(family)
        if family.kind == "counter":
            assert all(sample.value >= 0 for sample in family.samples)
    return found


def samples(body: bytes, form: Format = "text") -> dict[tuple[str, Labels], float]:
    """Every value by name of the sample and sorted labels, after `families`."""
    found = [sample for family in families(body, form) for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels))): sample.value for sample in found}


def _metadata(line: str, found: list[Family], form: Format) -> None:
    match = METADATA.fullmatch(line)
    assert match, line
    what, name, text = match.groups()
    if not found or found[-1].name != name:
        assert name not in {family.name for family in found}, f"not contiguous: {line}"
        found.append(Family(name))
    family = found[-1]
    assert not family.samples, line
    if what == "HELP":
        assert not family.help, line
        escapes = r"[^\\\n\"]|\\\\|\\n|\\\"" if form == "openmetrics" else r"[^\\\n]|\\\\|\\n"
        assert re.fullmatch(f"(?:{escapes})*", text), line
        family.help = _unescaped(text)
    elif what == "TYPE":
        assert not family.kind, line
        assert text in SUFFIXES[form], line
        family.kind = text
    else:
        assert form == "openmetrics", line
        assert not family.unit, line
        assert name.endswith(f"_{text}"), line
        family.unit = text


def _sample(line: str, form: Format) -> Sample:
    match = SAMPLE.fullmatch(line)
    assert match, line
    pairs = [(key, _unescaped(value)) for key, value in re.findall(LABEL, match[2] or "")]
    keys = [key for key, _ in pairs]
    assert len(set(keys)) == len(keys), line
    assert not any(key.startswith("__") for key in keys), line
    assert all(value for _, value in pairs), line
    number, time = match[7], match[8]
    value = int(number) if re.fullmatch("-?[0-9]+", number) else float(number.replace("Inf", "inf"))
    if time is None:
        return Sample(match[1], tuple(pairs), value, None)
    assert ("." in time) == (form == "openmetrics"), line
    return Sample(match[1], tuple(pairs), value, int(time.replace(".", "")))


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)


def _check_names(found: list[Family], form: Format) -> None:
    """No two families share a name, and no sample is there twice."""
    names = [name for family in found for name in _all_names(family, form)]
    assert len(set(names)) == len(names), sorted(names)
    keys = [(sample.name, frozenset(sample.labels)) for family in found for sample in family.samples]
    assert len(set(keys)) == len(keys)


def _all_names(family: Family, form: Format) -> set[str]:
    created = ("_created",) if form == "openmetrics" and family.kind != "gauge" else ()
    return {family.name, *(family.name + suffix for suffix in (*SUFFIXES[form][family.kind], *created))}


def _check_buckets(family: Family) -> None:
    for labels, members in _series(family):
        buckets = [(dict(sample.labels)["le"], sample.value) for sample in members if sample.name.endswith("_bucket")]
        bounds = [float(bound.replace("Inf", "inf")) for bound, _ in buckets]
        assert bounds == sorted(set(bounds)), labels
        assert bounds[-1] == math.inf, labels
        values = [value for _, value in buckets]
        assert values == sorted(values), labels
        counts = [sample.value for sample in members if sample.name.endswith("_count")]
        assert counts == values[-1:], labels
        assert sum(sample.name.endswith("_sum") for sample in members) == 1, labels
        assert len({sample.time_ms for sample in members}) == 1, labels


def _series(family: Family) -> Iterator[tuple[Labels, list[Sample]]]:
    """The samples of each labelled histogram; those of one stand together."""
    seen: dict[Labels, list[Sample]] = {}
    previous: Labels | None = None
    for sample in family.samples:
        labels = tuple(sorted(pair for pair in sample.labels if pair[0] != "le"))
        assert labels == previous or labels not in seen, f"not contiguous: {labels}"
        seen.setdefault(labels, []).append(sample)
        previous = labels
    yield from seen.items()
