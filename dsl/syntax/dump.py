"""Syntax trees as s-expressions, for tests and for looking at."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass

from dsl.source import Source, Span
from dsl.syntax.ast import Comment

_WIDTH = 100

_Sexp = str | list["_Sexp"]


def dump(node: object) -> str:
    """A node, or any frozen record of the compiler, without places in the text and without comments.

    Two trees are equal in structure exactly when their dumps are equal.
    """
    return _render(_convert(node), 0)


def _convert(value: object) -> _Sexp:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "#t" if value else "#f"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple | list):
        return ["*", *(_convert(child) for child in value if not isinstance(child, Comment))]
    assert is_dataclass(value), f"nothing to dump: {value!r}"
    assert not isinstance(value, type)
    children = (getattr(value, field.name) for field in fields(value) if not field.name.endswith(("span", "spans")))
    return [type(value).__name__, *(_convert(child) for child in children if not isinstance(child, Span | Source))]


def _render(sexp: _Sexp, indent: int) -> str:
    if isinstance(sexp, str):
        return sexp
    line = _one_line(sexp, _WIDTH - indent)
    if line is not None:
        return line
    lead, *rest = sexp
    inner = "\n" + " " * (indent + 2)
    return f"({lead}" + "".join(inner + _render(child, indent + 2) for child in rest) + ")"


def _one_line(sexp: _Sexp, room: int) -> str | None:
    """The expression on one line, None when it does not fit; gives up early, so that deep trees cost no more than big ones."""
    if isinstance(sexp, str):
        return sexp if len(sexp) <= room else None
    parts: list[str] = []
    left = room - 1
    for child in sexp:
        part = _one_line(child, left)
        if part is None:
            return None
        parts.append(part)
        left -= len(part) + 1
    return f"({' '.join(parts)})" if left >= 0 else None
