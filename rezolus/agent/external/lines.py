"""The line protocol: one value a line.

    requests{path="/",code="200"} counter:17
    queue_depth gauge:-3
    latency histogram:3,64:0 0 5 1
    # SESSION service="shop"

A line that begins with `# SESSION` sets the labels of all that come after it, in place of those before; other lines with `#` are
comments. There is no way to quote a quotation mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from rezolus.agent.external.updates import (
    LABELS,
    MESSAGE_BYTES,
    Labels,
    PushError,
    Update,
    check_labels,
    check_name,
    check_shape,
    fill_up,
    merge,
    shown,
)

_SESSION = re.compile(r"# SESSION(?=\s|$)")
_HEAD = re.compile(r"([^\s{]+)[ \t]*(\{)?")
_LABEL = re.compile(r'\s*([^\s="{},]+)\s*=\s*"([^"]*)"\s*')
_ENDS = {"}": re.compile(r"\s*\}"), "": re.compile(r"\s*$")}
_VALUE = re.compile(r"\s*(counter|gauge|histogram):\s*(.*)")
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_SHAPE = re.compile(r"\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*:(.*)", re.ASCII)
_BUCKETS = re.compile(r"[0-9 \t]*", re.ASCII)

U64_LIMIT = 2**64
I64_LIMIT = 2**63


class LineParser:
    """Takes what comes over one connection, however it is cut into pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._line = 0
        self._session: Labels = ()

    def feed(self, data: bytes) -> Iterator[Update]:
        """The values in the lines that are now whole; to be gone through before the next call. Raises PushError."""
        searched = len(self._rest)
        self._rest += data
        begin = 0
        while (end := self._rest.find(b"\n", max(begin, searched))) >= 0:
            line = bytes(self._rest[begin:end])
            begin = end + 1
            self._line += 1
            update = self._read(line)
            if update is not None:
                yield update
        del self._rest[:begin]
        if len(self._rest) > MESSAGE_BYTES:
            raise PushError(f"longer than {MESSAGE_BYTES} bytes", f"line {self._line + 1}")

    def end(self) -> None:
        """Nothing more comes. Raises PushError: a line without its end may lack digits, and is not taken."""
        if self._rest.strip():
            raise PushError("does not end", f"line {self._line + 1}")

    def _read(self, line: bytes) -> Update | None:
        try:
            return self._parse(line)
        except UnicodeDecodeError as error:
            raise PushError(
                f"is not UTF-8: byte {error.start} is {line[error.start]:#04x}", f"line {self._line}"
            ) from None
        except PushError as error:
            raise PushError(error.problem, f"line {self._line}") from None

    def _parse(self, line: bytes) -> Update | None:
        if len(line) > MESSAGE_BYTES:
            raise PushError(f"longer than {MESSAGE_BYTES} bytes")
        text = line.decode().strip()
        if not text:
            return None
        if text.startswith("#"):
            session = _SESSION.match(text)
            if session:
                self._session, _ = _labels(text, session.end(), "")
            return None
        head = _HEAD.match(text)
        if head is None:
            raise PushError(f"expected the name of a metric, found {shown(text)}")
        name, labels, at = check_name(head[1], "metric name"), Labels(), head.end()
        if head[2]:
            labels, at = _labels(text, at, "}")
        return _update(name, merge(self._session, labels), text[at:])


def _labels(text: str, at: int, end: str) -> tuple[Labels, int]:
    """Labels from `at` to `end`, which may be that of the text, and where that is. Raises PushError."""
    pairs: list[tuple[str, str]] = []
    while not (found := _end(text, at, end)):
        if pairs:
            if not text.startswith(",", at):
                raise PushError(f"expected a comma or the end of the labels, found {shown(text[at:])}")
            at += 1
            if found := _end(text, at, end):
                break
        label = _LABEL.match(text, at)
        if label is None:
            raise PushError(f'expected a label such as key="value", found {shown(text[at:])}')
        pairs.append((label[1], label[2]))
        at = label.end()
        if len(pairs) > LABELS:
            raise PushError(f"more than {LABELS} labels")
    return check_labels(tuple(pairs)), found.end()


def _end(text: str, at: int, end: str) -> re.Match[str] | None:
    return _ENDS[end].match(text, at)


def _update(name: str, labels: Labels, text: str) -> Update:
    value = _VALUE.fullmatch(text)
    if value is None:
        raise PushError(f"expected counter:N, gauge:N or histogram:POWER,MAXIMUM:N N ..., found {shown(text.strip())}")
    match value[1]:
        case "counter":
            return Update(name, labels, "counter", _number(value[2], 0, U64_LIMIT))
        case "gauge":
            return Update(name, labels, "gauge", _number(value[2], -I64_LIMIT, I64_LIMIT) % U64_LIMIT)
        case _:
            return _histogram(name, labels, value[2])


def _histogram(name: str, labels: Labels, text: str) -> Update:
    parts = _SHAPE.fullmatch(text)
    if parts is None or not _BUCKETS.fullmatch(parts[3]):
        raise PushError(f"expected POWER,MAXIMUM:N N ..., found {shown(text)}")
    shape = check_shape(int(parts[1]), int(parts[2]))
    numbers = [_number(word, 0, U64_LIMIT) for word in parts[3].split()]
    return Update(name, labels, "histogram", 0, shape, fill_up(shape, np.array(numbers, np.uint64)))


def _number(text: str, low: int, limit: int) -> int:
    if not _NUMBER.fullmatch(text) or not low <= (number := int(text)) < limit:
        raise PushError(f"expected a whole number from {low} to {limit - 1}, found {shown(text)}")
    return number
