"""The Prometheus text format (0.0.4) and OpenMetrics, taken apart strictly.

Our own because the page of a busy service has ten thousand samples and comes every second: prometheus_client's parser takes
15 to 30 us a line, where we take 1, and accepts some that are none. What stands before a value is looked into only when it
was not on the page before (`parse_key`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from rezolus.errors import UserError
from rezolus.wire.messages import MOST_SERIES

MAX_LINES = 3 * MOST_SERIES
"""Of a page: as many series as a snapshot may have, each with HELP and TYPE. More would take seconds to read."""
MAX_LINE = 64 << 10
"""Characters of a line. Taking longer ones apart costs a hundred times their size in memory."""
TYPES = frozenset(
    {
        "counter",
        "gauge",
        "histogram",
        "summary",
        "untyped",
        "unknown",
        "info",
        "stateset",
        "gaugehistogram",
    }
)

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"([^"\\]*(?:\\.[^"\\]*)*)"[ \t]*')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", '"': '"', "\\": "\\"}
_SHOWN = 60

Number = int | float


class PageError(UserError):
    """The page is no exposition of metrics; the text is a sentence without the address."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What stands before a value."""

    name: str
    labels: Mapping[str, str]
    """Without empty ones: to Prometheus they are not there."""


@dataclass(slots=True, eq=False)
class Exposition:
    """A page. Samples as `keys`, in their own words, and `values`, in the order of the page."""

    types: dict[str, str] = field(default_factory=dict)
    helps: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    values: list[Number] = field(default_factory=list)


def parse_page(body: bytes, *, openmetrics: bool) -> Exposition:
    """The page; keys are not looked into yet (`parse_key`). Raises PageError with the line that is wrong."""
    if not body.endswith(b"\n"):
        raise PageError("its last line has no end" if body else "it is empty")
    if body.count(b"\n") > MAX_LINES:
        raise PageError(f"it has more than {MAX_LINES} lines")
    try:
        lines = body.decode().split("\n")
    except UnicodeDecodeError as error:
        raise PageError(f"it is not UTF-8: byte {error.start} is {body[error.start]:#04x}") from None
    lines.pop()
    page = Exposition()
    ended = False
    for number, line in enumerate(lines, 1):
        if ended:
            raise PageError(f"line {number} comes after # EOF")
        if len(line) > MAX_LINE:
            raise PageError(f"line {number} has more than {MAX_LINE} characters")
        if not line.startswith("#"):
            _sample(line, page, number)
        elif openmetrics and line == "# EOF":
            ended = True
        else:
            _comment(line, page, number)
    if openmetrics and not ended:
        raise PageError("it does not end with # EOF")
    return page


def parse_key(key: str) -> Sample:
    """What a key says. Raises PageError."""
    match = _NAME.match(key)
    if match is None:
        raise PageError(f"{_show(key)} does not begin with a metric name")
    rest = key[match.end() :].strip(" \t")
    labels: dict[str, str] = {}
    if rest:
        if rest[0] != "{" or rest[-1] != "}":
            raise PageError(f"{_show(key)}: expected labels in braces after the name")
        at, end = 1, len(rest) - 1
        while label := _LABEL.match(rest, at, end):
            if label[1] in labels:
                raise PageError(f"{_show(key)}: the label {label[1]} is there twice")
            labels[label[1]] = _unescape(label[2])
            at = label.end()
            if at == end:
                break
            if rest[at] != ",":
                raise PageError(f"{_show(key)}: expected a comma after the label {label[1]}")
            at += 1
        if rest[at:end].strip(" \t"):
            raise PageError(f"{_show(key)}: expected a label, found {_show(rest[at:end])}")
    return Sample(match[0], {name: value for name, value in labels.items() if value})


def _sample(line: str, page: Exposition, number: int) -> None:
    """Add a line that is no comment. Raises PageError."""
    if " # " in line:  # an exemplar, or a label value that looks like one
        line = _without_exemplar(line)
    end = line.rfind("}") + 1
    if not end:
        end = len(line.split(None, 1)[0]) if line.strip() else 0
    words = line[end:].split()
    if not 1 <= len(words) <= 2:
        if not line.strip():
            return
        raise PageError(f"line {number} is no sample: {_show(line)}")
    try:
        page.values.append(parse_number(words[0]))
        if len(words) == 2:
            parse_number(words[1])
    except ValueError:
        raise PageError(f"line {number} has no number for a value: {_show(line)}") from None
    page.keys.append(line[:end])


def _without_exemplar(line: str) -> str:
    """The line up to the exemplar: to the first ` # ` that stands in no label value."""
    at, quoted = 0, False
    while at < len(line):
        letter = line[at]
        if quoted and letter == "\\":
            at += 1
        elif letter == '"':
            quoted = not quoted
        elif not quoted and line.startswith(" # ", at):
            return line[:at]
        at += 1
    return line


def parse_number(word: str) -> Number:
    """Whole numbers exactly. ValueError."""
    if word.isdecimal():
        return int(word)
    if "_" in word:
        raise ValueError(word)  # Python's spelling, nobody else's
    return float(word)


def _comment(line: str, page: Exposition, number: int) -> None:
    """Take in what `# TYPE`, `# HELP` and `# UNIT` say; other comments say nothing. Raises PageError."""
    words = line[1:].lstrip(" \t").split(None, 2)
    if len(words) < 2 or words[0] not in {"TYPE", "HELP", "UNIT"}:
        return
    name, text = words[1], words[2] if len(words) == 3 else ""
    match words[0]:
        case "TYPE":
            kind = text.strip()
            if kind not in TYPES:
                raise PageError(f"line {number}: {_show(kind)} is no type of metric")
            if page.types.setdefault(name, kind) != kind:
                raise PageError(f"line {number}: {_show(name)} was a {page.types[name]} before, and is a {kind} now")
        case "HELP":
            page.helps.setdefault(name, _unescape(text))
        case _:
            page.units.setdefault(name, text.strip())


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[0]), text)


def _show(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
