"""Path patterns with captures: `/sys/class/net/{interface}/statistics/{key}`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

KEY = "key"
"""The capture that stands for a source's key, not for a label."""

_CAPTURE = re.compile(r"\{(\w+)\}|\*")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed pattern."""

    text: str
    captures: tuple[str, ...]
    """Names in order, `key` not among them."""
    per_key: bool
    """Whether each key has its own file."""

    @classmethod
    def parse(cls, text: str) -> Pattern:
        names = [match[1] for match in _CAPTURE.finditer(text) if match[1]]
        return cls(text, tuple(n for n in names if n != KEY), KEY in names)

    @property
    def fixed(self) -> bool:
        """Whether the pattern names one file (or one per key) and nothing is to be looked for."""
        return not self.captures and "*" not in self.text

    def expand(self, root: str, limit: int) -> dict[tuple[str, ...], str]:
        """Captured values to the path that still has `{key}` in it, in natural order, at most `limit`.

        Directories are followed through links, as sysfs needs; a directory that cannot be read has no matches.
        """
        parts = [part for part in self.text.split("/") if part]
        found: dict[tuple[str, ...], str] = {}
        for captured, path in _descend(root.rstrip("/"), parts, ()):
            found.setdefault(captured, path)
            if len(found) >= limit:
                break
        return dict(sorted(found.items(), key=lambda item: tuple(map(_natural, item[0]))))


def _descend(base: str, parts: list[str], captured: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if not parts:
        yield captured, base
        return
    head, rest = parts[0], parts[1:]
    if not _searches(head):
        # Up to the next part that searches there is nothing to look at; existence is seen when the file is opened.
        if any(_searches(part) for part in rest) or os.path.exists(_before_key(f"{base}/{head}", rest)):
            yield from _descend(f"{base}/{head}", rest, captured)
        return
    expression = _component(head)
    try:
        names = os.listdir(base or "/")
    except OSError:
        return
    for name in names:
        match = expression.fullmatch(name)
        if match is not None:
            yield from _descend(f"{base}/{name}", rest, captured + match.groups())


def _searches(part: str) -> bool:
    return any(match[1] != KEY for match in _CAPTURE.finditer(part))


def _before_key(path: str, rest: list[str]) -> str:
    """The longest leading path without `{key}`."""
    for part in rest:
        path = f"{path}/{part}"
    while "{key}" in path:
        path = os.path.dirname(path)
    return path or "/"


def _component(part: str) -> re.Pattern[str]:
    """A path component with captures as a regular expression; `*` matches anything and captures nothing."""
    pieces = []
    end = 0
    for match in _CAPTURE.finditer(part):
        pieces.append(re.escape(part[end : match.start()]))
        pieces.append("(.+)" if match[1] else ".*")
        end = match.end()
    pieces.append(re.escape(part[end:]))
    return re.compile("".join(pieces))


def _natural(text: str) -> tuple[tuple[bool, int, str], ...]:
    """`eth10` after `eth9`."""
    return tuple(
        (not piece.isdigit(), int(piece) if piece.isdigit() else 0, piece)
        for piece in re.split(r"(\d+)", text)
        if piece
    )
