"""TOML tables into typed structures, with every problem reported at its path.

A structure's fields are annotated with a `Rule`, which is both the check and the words for what is expected, or are
structures themselves. msgspec's own conversion is not used because it stops at the first problem.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints
from urllib.parse import urlsplit

import msgspec

from rezolus.units import (
    address_url,
    parse_address,
    parse_duration,
    parse_humantime,
    parse_listen,
    parse_size,
    parse_unix,
)

S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Rule:
    """How a value is read: `parse` raises ValueError or TypeError for what is not `expected`."""

    expected: str
    parse: Callable[[Any], object]


def duration(shortest: str) -> Rule:
    """A duration of at least `shortest`, as nanoseconds."""
    minimum = parse_duration(shortest)

    def parse(value: object) -> int:
        nanoseconds = parse_duration(_text(value))
        if nanoseconds < minimum:
            raise ValueError(value)
        return nanoseconds

    return Rule(f'a duration of at least {shortest}, such as "100ms", "1s" or "1h30m"', parse)


def human_duration(shortest: str) -> Rule:
    """As `duration`, in all the ways in which Rezolus takes one."""
    minimum = parse_duration(shortest)

    def parse(value: object) -> int:
        nanoseconds = parse_humantime(_text(value))
        if nanoseconds < minimum:
            raise ValueError(value)
        return nanoseconds

    return Rule(f'a duration of at least {shortest}, such as "100ms", "15min" or "1h 30m"', parse)


def one_of(*allowed: str) -> Rule:
    """One of some words."""

    def parse(value: object) -> str:
        if value not in allowed:
            raise ValueError(value)
        return str(value)

    return Rule("one of " + ", ".join(f'"{word}"' for word in allowed), parse)


def integer(low: int, high: int) -> Rule:
    """A whole number between two limits, both allowed."""

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(value)
        return value

    return Rule(f"a whole number from {low} to {high}", parse)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(value)
    return value


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(value)
    return tuple(_text(item) for item in value)


def _file(value: object) -> Path:
    return Path(_text(value))


SWITCH = Rule("true or false", _switch)
ADDRESS = Rule(
    'HOST:PORT or unix:FILE, such as "127.0.0.1:4242", "[::1]:4242" or "unix:/run/rezolus/agent.sock"',
    lambda value: parse_listen(_text(value)),
)
FILE = Rule("a file name", _file)
SOCKET = Rule(
    'the whole name of a socket file, such as "/run/rezolus/external.sock"',
    lambda value: parse_unix(_text(value)),
)


def one_or_more(expected: str) -> Rule:
    """A text or a list of texts, at least one; as a tuple."""

    def parse(value: object) -> tuple[str, ...]:
        found = (_text(value),) if isinstance(value, str) else _texts(value)
        if not found:
            raise ValueError(value)
        return tuple(dict.fromkeys(found))

    return Rule(expected, parse)


def http_url(value: object) -> str:
    """An http address without user, query or fragment. ValueError."""
    url = _text(value)
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError(value)
    if not url.isprintable() or " " in url or parts.port == 0:  # `port` raises ValueError when it is no number
        raise ValueError(value)
    return url


def host_and_port(value: object) -> str:
    """`host:port` or an http address, as the latter. ValueError."""
    found = _text(value)
    if "://" in found:
        return http_url(found)
    return address_url(parse_address(found))


def mode() -> Rule:
    """Permissions of a file: a number, or its octal digits as a text."""

    def parse(value: object) -> int:
        number = int(value, 8) if isinstance(value, str) else value
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 0o7777:
            raise ValueError(value)
        return number

    return Rule('permissions such as 0o660 or "660"', parse)


def _words(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError(value)
    return {str(key): _text(word) for key, word in value.items()}


SIZE = Rule('a size such as "512MiB" or "4GiB"', lambda value: parse_size(_text(value)))
WORDS = Rule('a table of texts, such as { node = "web1" }', _words)


def text(expected: str) -> Rule:
    """Any text that is not empty, described by `expected`."""
    return Rule(expected, _text)


def texts(expected: str) -> Rule:
    """A list of such texts."""
    return Rule(expected, _texts)


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """`; did you mean ...?` when one of `known` is near, else nothing; `likeness`: how near, 1 is the same."""
    folded = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=likeness)
    return f"; did you mean `{folded[matches[0]]}`?" if matches else ""


@dataclass(slots=True)
class TableReader:
    """Goes along the tables and collects what is wrong with them."""

    problems: list[str] = field(default_factory=list)

    def report(self, path: str, problem: str) -> None:
        """Keeps `problem` with the path of the key it is about."""
        self.problems.append(f"{path}: {problem}")

    def known_keys(self, table: Mapping[str, object], path: str, allowed: Iterable[str]) -> None:
        """Reports every key of `table` that is not allowed, with the nearest that is."""
        names = tuple(allowed)
        for key in table:
            if key not in names:
                hint = nearest(key, names) or "; allowed: " + ", ".join(names)
                self.report(_below(path, _quote(key)), f"unknown key{hint}")

    def named_tables(self, value: object, path: str) -> Iterator[tuple[str, object]]:
        """The entries of a table whose keys are names the user chose."""
        if not isinstance(value, dict):
            self.report(path, f"expected tables [{path}.NAME], found {show(value)}")
            return
        for name, table in value.items():
            if re.fullmatch(r"[A-Za-z0-9_-]+", name):
                yield name, table
            else:
                self.report(f"{path}.{_quote(name)}", "expected a name of letters, digits, `_` and `-`")

    def table(self, value: object, path: str, kind: type[S], *, skip: tuple[str, ...] = ()) -> S:
        """`value` as a `kind`; keys that are missing or wrong keep their defaults. `skip` are keys read elsewhere.

        The `path` of the whole document is empty.
        """
        if not isinstance(value, dict):
            self.report(path, f"expected a table, found {show(value)}")
            return kind()
        hints = _hints(kind)
        self.known_keys(value, path, (*skip, *hints))
        found: dict[str, Any] = {}
        for key, hint in hints.items():
            if key not in value:
                continue
            if isinstance(hint, Rule):
                self._read(value[key], _below(path, key), hint, found, key)
            else:
                found[key] = self.table(value[key], _below(path, key), hint)
        return kind(**found)

    def _read(self, value: object, path: str, rule: Rule, found: dict[str, Any], key: str) -> None:
        try:
            found[key] = rule.parse(value)
        except (ValueError, TypeError):
            self.report(path, f"expected {rule.expected}, found {show(value)}")


@cache
def _hints(kind: type[msgspec.Struct]) -> dict[str, Rule | type[msgspec.Struct]]:
    """What each key of a table holds: a value read by a rule, or another table. Fields with neither are no keys."""
    hints: dict[str, Rule | type[msgspec.Struct]] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        rules = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Rule)]
        if rules:
            hints[name] = rules[0]
        elif isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            hints[name] = hint
    return hints


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def show(value: object) -> str:
    """A TOML value as a message quotes it, shortened."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        shown = msgspec.json.encode(value).decode()
    elif isinstance(value, list):
        shown = "[" + ", ".join(show(item) for item in value) + "]"
    else:
        shown = str(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _quote(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else msgspec.json.encode(key).decode()
