"""What the compiler tells its user: located messages, collected while a stage runs, printed with the line they are about.

A stage reports into a `Diagnostics` sink and carries on; between stages `stop_if_errors` ends the compilation with every
error found so far. New codes go into `dsl.codes`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from dsl.codes import CODES
from dsl.source import Span
from dsl.suggest import did_you_mean, did_you_mean_one_of, suggest

__all__ = [
    "CODES",
    "CompileError",
    "CompilerBug",
    "Diagnostic",
    "Diagnostics",
    "Label",
    "Severity",
    "did_you_mean",
    "did_you_mean_one_of",
    "render",
    "render_all",
    "suggest",
]

Severity = Literal["error", "warning"]
Label = tuple[Span, str]


class CompilerBug(Exception):  # noqa: N818  the name says whose error it is
    """The compiler contradicts itself: never the fault of the text being compiled."""

    def __init__(self, detail: str, span: Span | None = None) -> None:
        super().__init__(detail, span)
        self.detail = detail
        self.span = span

    def __str__(self) -> str:
        where = f" at {self.span.source.path}:{self.span.line}:{self.span.column}" if self.span else ""
        return f"defect in the rezolus compiler{where}: {self.detail}; please report it together with the file"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing wrong with a text.

    `message` is lower case, names what was expected and what was found, and ends without a period. `labels` are other
    places that matter, each with what it says there. `hints` say what to do. An unknown `code` is a `CompilerBug`.
    """

    code: str
    message: str
    span: Span
    severity: Severity = "error"
    labels: tuple[Label, ...] = ()
    hints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise CompilerBug(f"no explanation for diagnostic code {self.code!r}", self.span)


def _position(diagnostic: Diagnostic) -> tuple[str, int, int, str, str]:
    span = diagnostic.span
    return span.source.path, span.start, span.end, diagnostic.code, diagnostic.message


class CompileError(Exception):
    """A text does not compile; `diagnostics` says why, in the order of the text, warnings included."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(sorted(diagnostics, key=_position))
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        return render_all(self.diagnostics)


@dataclass(slots=True)
class Diagnostics:
    """Collects what the stages report. The same message at the same place is kept once."""

    _items: dict[tuple[str, int, int, str, str], Diagnostic] = field(default_factory=dict)

    def add(self, diagnostic: Diagnostic) -> None:
        """Keep a diagnostic made elsewhere."""
        self._items.setdefault(_position(diagnostic), diagnostic)

    def error(
        self,
        code: str,
        message: str,
        span: Span,
        *,
        hint: str | Iterable[str] | None = None,
        labels: Iterable[Label] = (),
    ) -> None:
        """Report something that makes the text unusable."""
        self.add(Diagnostic(code, message, span, "error", tuple(labels), _hints(hint)))

    def warning(
        self,
        code: str,
        message: str,
        span: Span,
        *,
        hint: str | Iterable[str] | None = None,
        labels: Iterable[Label] = (),
    ) -> None:
        """Report something that compiles and is probably not meant."""
        self.add(Diagnostic(code, message, span, "warning", tuple(labels), _hints(hint)))

    @property
    def items(self) -> tuple[Diagnostic, ...]:
        """Everything reported, by file and position."""
        return tuple(sorted(self._items.values(), key=_position))

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The errors alone, by file and position."""
        return tuple(item for item in self.items if item.severity == "error")

    @property
    def has_errors(self) -> bool:
        """Whether `stop_if_errors` would raise."""
        return any(item.severity == "error" for item in self._items.values())

    def stop_if_errors(self) -> None:
        """End the compilation when there is an error: raises `CompileError` with all diagnostics."""
        if self.has_errors:
            raise CompileError(self._items.values())


def _hints(hint: str | Iterable[str] | None) -> tuple[str, ...]:
    if hint is None:
        return ()
    return (hint,) if isinstance(hint, str) else tuple(hint)


# As text for a terminal: place, message, the line itself, a caret, notes and hints

_WIDTH = 100
"""Columns shown of a source line; a longer one is cut around the span."""
_TAB = 4
_INDENT = "    "
_ELLIPSIS = "..."

_BOLD = "1"
_COLORS = {"error": "1;31", "warning": "1;33", "note": "1;36", "hint": "1;32"}


def render_all(diagnostics: Iterable[Diagnostic], *, color: bool = False) -> str:
    """Diagnostics one below the other, in the order given."""
    return "\n".join(render(diagnostic, color=color) for diagnostic in diagnostics)


def render(diagnostic: Diagnostic, *, color: bool = False) -> str:
    """A diagnostic as lines without a final line break.

    `FILE:LINE:COLUMN: error[CODE]: message`, the source line with the span underlined, a `note:` with its own excerpt per
    label, and the hints.
    """
    shade = _COLORS[diagnostic.severity]
    head = _paint(f"{_place(diagnostic.span)}:", _BOLD, color=color)
    kind = _paint(f"{diagnostic.severity}[{diagnostic.code}]:", shade, color=color)
    lines = [f"{head} {kind} {_visible(diagnostic.message)}"]
    lines += _excerpt(diagnostic.span, "^", shade, color=color)
    for span, text in diagnostic.labels:
        note = _paint("note:", _COLORS["note"], color=color)
        lines.append(f"{_place(span)}: {note} {_visible(text)}")
        lines += _excerpt(span, "~", _COLORS["note"], color=color)
    lines += (f"{_paint('hint:', _COLORS['hint'], color=color)} {_visible(hint)}" for hint in diagnostic.hints)
    return "\n".join(lines)


def _place(span: Span) -> str:
    line, column = span.source.position(span.start)
    return f"{_visible(span.source.path)}:{line}:{column}"


def _paint(text: str, style: str, *, color: bool) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if color else text


def _visible(text: str) -> str:
    """The text without what a terminal would obey: control characters become escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _cell(char: str) -> str:
    """What stands for one character of a source line."""
    if char == "\t":
        return " " * _TAB
    return char if char.isprintable() and not unicodedata.combining(char) else "\N{REPLACEMENT CHARACTER}"


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _excerpt(span: Span, mark: str, style: str, *, color: bool) -> list[str]:
    source = span.source
    line, column = source.position(span.start)
    text = source.line(line).rstrip("\r\n")
    if not text.strip():
        return []
    first = min(column - 1, len(text))
    last = min(first + max(span.end - span.start, 1), max(len(text), first + 1))
    low, high = _window(len(text), first, last)
    before = "".join(map(_cell, text[low:first]))
    inside = "".join(map(_cell, text[first : min(last, high)]))
    after = "".join(map(_cell, text[last:high]))
    left = _ELLIPSIS if low > 0 else ""
    right = _ELLIPSIS if high < len(text) else ""
    marks = mark + "~" * (max(_columns(inside), 1) - 1)
    underline = " " * (len(left) + _columns(before)) + _paint(marks, style, color=color)
    return [f"{_INDENT}{left}{before}{inside}{after}{right}".rstrip(), f"{_INDENT}{underline}"]


def _window(length: int, first: int, last: int) -> tuple[int, int]:
    """Which characters of a line to show so that the span's start, and its end if possible, are among them."""
    if length <= _WIDTH:
        return 0, length
    spare = max(_WIDTH - (last - first), _WIDTH // 4)
    low = max(0, min(first - spare // 2, length - _WIDTH))
    return low, min(length, low + _WIDTH)
