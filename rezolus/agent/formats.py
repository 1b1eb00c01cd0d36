"""How the bytes of a file become columns: one parser per source form.

A parser is made once per file with the keys that metrics use, and remembers where in the file they were: kernel files
keep their lines in order, so the next reading looks there first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Row = Mapping[str, int]
"""Key to value; a key that the file does not have is absent."""


class MalformedError(ValueError):
    """The bytes are not of the form that was declared."""

    def __init__(self, expected: str, found: bytes) -> None:
        super().__init__(expected, found)
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        shown = self.found[:40].decode("utf-8", "backslashreplace")
        return f"expected {self.expected}, found {shown!r}"


class KeysParser:
    """`MemFree:   123 kB`, `numa_hit 123`: a name, perhaps a colon, an integer, perhaps a unit."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [(key, key.encode()) for key in keys]
        self._lines: dict[str, int] = {}

    def parse(self, data: bytes) -> Row:
        lines = data.split(b"\n")
        row: dict[str, int] = {}
        missing = []
        for key, prefix in self._keys:
            at = self._lines.get(key, -1)
            if 0 <= at < len(lines) and _is_key(lines[at], prefix):
                row[key] = _number(lines[at][len(prefix) :])
            else:
                missing.append((key, prefix))
        if missing:
            found = self._search(lines, missing)
            row.update(found)
        return row

    def _search(self, lines: list[bytes], missing: list[tuple[str, bytes]]) -> Row:
        row: dict[str, int] = {}
        for key, prefix in missing:
            for at, line in enumerate(lines):
                if _is_key(line, prefix):
                    self._lines[key] = at
                    row[key] = _number(line[len(prefix) :])
                    break
        return row


def _is_key(line: bytes, prefix: bytes) -> bool:
    return line.startswith(prefix) and line[len(prefix) : len(prefix) + 1] in (b":", b" ", b"\t", b"=")


def _number(rest: bytes) -> int:
    fields = rest.lstrip(b":= \t").split(None, 1)
    return _integer(fields[0] if fields else b"")


def _integer(field: bytes) -> int:
    try:
        return int(field)
    except ValueError:
        raise MalformedError("an integer", field) from None


def parse_value(data: bytes) -> int:
    """The one number of a file; `0x` numbers too."""
    text = data.strip()
    try:
        return int(text, 0) if text[:2].lower() == b"0x" else int(text)
    except ValueError:
        raise MalformedError("one integer", text) from None


def parse_cpulist(data: bytes) -> tuple[int, ...]:
    """`0-3,8` as numbers; an empty list is no number."""
    numbers: list[int] = []
    for part in data.strip().split(b","):
        if not part:
            continue
        match = re.fullmatch(rb"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise MalformedError("a list like 0-3,8", data.strip())
        first = int(match[1])
        last = int(match[2] or first)
        if last < first or last - first > 1_000_000:
            raise MalformedError("a list like 0-3,8", data.strip())
        numbers.extend(range(first, last + 1))
    return tuple(numbers)


_PSI_LINE = re.compile(rb"(some|full) avg10=(\d+)\.(\d\d) avg60=(\d+)\.(\d\d) avg300=(\d+)\.(\d\d) total=(\d+)")


def parse_psi(data: bytes) -> Row:
    """Pressure stall information: `some.avg10` ... in hundredths of a percent, `some.total` in microseconds."""
    row: dict[str, int] = {}
    for line in data.strip().splitlines():
        match = _PSI_LINE.fullmatch(line.strip())
        if match is None:
            raise MalformedError("a line like some avg10=0.00 avg60=0.00 avg300=0.00 total=0", line)
        who = match[1].decode()
        for at, key in ((2, "avg10"), (4, "avg60"), (6, "avg300")):
            row[f"{who}.{key}"] = int(match[at]) * 100 + int(match[at + 1])
        row[f"{who}.total"] = int(match[8])
    return row


class ColumnsParser:
    """Lines of fields, `cpu0 1 2 3`: key `n` is the n-th field after the name, counted from 1.

    With a `match`, lines whose first field is this word followed by digits, named by the digits; without, every line, named
    by its first field.
    """

    def __init__(self, match: str, keys: Sequence[str]) -> None:
        self._match = match.encode()
        self._keys = [(key, int(key)) for key in keys]

    def parse(self, data: bytes) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        size = len(self._match)
        for line in data.split(b"\n"):
            if not line.startswith(self._match):
                continue
            fields = line.split()
            if not fields:
                continue
            name = fields[0][size:].rstrip(b":")
            if not name or (self._match and not name.isdigit()):
                continue
            rows[name.decode("utf-8", "backslashreplace")] = {
                key: _integer(fields[at]) for key, at in self._keys if at < len(fields)
            }
        return rows
