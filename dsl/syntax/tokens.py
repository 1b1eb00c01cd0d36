"""Text to tokens: the first half of parsing.

lark's own lexers stop at the first character they do not know and cannot tell which word is meant as a keyword from
anything but the parser's state. This one reads any text whatever, reports what is wrong with it and carries on with what was
probably meant. Words all have the type `WORD`; the parser says which are keywords.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lark import Token

from dsl.diagnostics import Diagnostics, did_you_mean
from dsl.source import Source, Span
from dsl.syntax.ast import Comment

WORD = "WORD"
NUMBER = "NUMBER"
STRING = "STRING"

SUFFIXES = ("ns", "us", "ms", "s", "KiB", "MiB", "GiB", "KB", "MB")
"""What may stand directly behind a number."""

MAXIMUM_LENGTH = 1 << 18
"""Characters of a file. The largest shipped definition has some thousands; a log file named by mistake has more than this."""

_REPORTS = 20
"""A binary file would give an error per byte."""

_SCAN = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<comment>\#[^\n]*)
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>[0-9][0-9A-Za-z_]*(?:\.[0-9][0-9A-Za-z_]*)?)
    | (?P<string>"(?:[^"\\\n]|\\[^\n])*"?)
    | (?P<quoted>'[^'\n]*')
    | (?P<foreign>//[^\n]*|/\*(?:[^*]|\*(?!/))*(?:\*/)?)
    | (?P<assign>:=)
    | (?P<operator>\+=|<<|>>|<=|>=|==|!=|&&|\|\||->|[-+*/%&|^!~<>=(){}\[\],.:])
    | (?P<stray>[^\x00-\x7f]+|[\x00-\x08\x0b\x0c\x0e-\x1f]+|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_DIGITS = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)([A-Za-z]*)")
_ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a text, their types lark terminals or `WORD`, and its comments."""

    items: list[Token]
    comments: tuple[Comment, ...]


def scan_tokens(source: Source, operators: Mapping[str, str], diags: Diagnostics) -> Tokens:
    """Cut a text into tokens; `operators` maps spelling to terminal. What does not belong in a text is reported."""
    return _Scanner(source, operators, diags).scan()


def number_parts(text: str) -> tuple[int, str]:
    """Value and suffix of a number that `scan_tokens` let pass."""
    found = _DIGITS.fullmatch(text)
    assert found is not None
    return int(found[1], 0 if found[1][:2] in {"0x", "0X"} else 10), found[2]


def string_value(text: str) -> str:
    """What a quoted string stands for."""
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), text[1:-1])


class _Scanner:
    def __init__(self, source: Source, operators: Mapping[str, str], diags: Diagnostics) -> None:
        self.source = source
        self.operators = operators
        self.diags = diags
        self.tokens: list[Token] = []
        self.comments: list[Comment] = []
        self.semicolons: list[Span] = []
        self.reports = 0

    def scan(self) -> Tokens:
        text = self.source.text
        # A byte order mark is what some editors put at the beginning of a file.
        start = 1 if text.startswith("\N{ZERO WIDTH NO-BREAK SPACE}") else 0
        for found in _SCAN.finditer(text, start):
            kind, part = found.lastgroup, found[0]
            if kind == "space":
                continue
            if kind == "word":
                self._push(WORD, part, found.start())
            elif kind == "operator":
                self._push(self.operators[part], part, found.start())
            else:
                self._scan_rest(kind, part, Span(self.source, found.start(), found.end()))
        if self.semicolons:
            count = f" ({len(self.semicolons)} times in this file)" if len(self.semicolons) > 1 else ""
            self._report(
                "unexpected-character",
                f"`;` has no meaning{count}",
                self.semicolons[0],
                "nothing stands between two statements but white space",
            )
        return Tokens(self.tokens, tuple(self.comments))

    def _scan_rest(self, kind: str | None, part: str, span: Span) -> None:
        """The rarer tokens, and whatever is no token."""
        match kind:
            case "comment":
                self.comments.append(Comment(span, part.rstrip()))
            case "number":
                self._push(NUMBER, self._checked_number(part, span), span.start, span.end)
            case "string":
                self._push(STRING, self._checked_string(part, span), span.start, span.end)
            case "quoted":
                self._report("bad-string", "a string in single quotes", span, 'strings are written in `"`')
                self._push(STRING, f'"{part[1:-1]}"', span.start, span.end)
            case "foreign":
                self._report("unexpected-character", f"`{part[:2]}` begins nothing", span, "comments begin with `#`")
            case "assign":
                self._report("unexpected-character", "`:=` has no meaning", span, "`=` sets a value")
                self._push(self.operators["="], "=", span.start, span.end)
            case _:
                self._stray(part, span)

    def _stray(self, part: str, span: Span) -> None:
        if part == ";":
            self.semicolons.append(span)
        elif part in {'"', "'"}:
            self._report("unterminated-string", "a string that does not end", span, 'strings are written in `"`')
        else:
            noun = "character" if len(part) == 1 else "characters"
            shown = part if len(part) <= 20 else part[:20] + "..."
            self._report("unexpected-character", f"unexpected {noun} `{shown}`", span, None)

    def _checked_number(self, text: str, span: Span) -> str:
        """The number, or one to go on with when it is none."""
        found = _DIGITS.fullmatch(text)
        if "." in text:
            self._report("bad-number", f"`{text}` has a fraction", span, "use a smaller unit, as in `1500us`")
        elif found is None:
            self._report("bad-number", f"`{text}` is not a number", span, "write `10`, `0x1f`, `10ms` or `4KiB`")
        elif found[2] and found[2] not in SUFFIXES:
            allowed = "a number may end in " + ", ".join(f"`{suffix}`" for suffix in SUFFIXES)
            spaced = f"write `{found[1]} hz`" if found[2].lower() == "hz" else None
            hint = spaced or did_you_mean(found[2], SUFFIXES) or allowed
            self._report("bad-number", f"unknown suffix `{found[2]}` of a number", span, hint)
        elif len(found[1]) > 20 or number_parts(text)[0] >= 1 << 64:
            self._report("bad-number", "a number that does not fit into 64 bits", span, None)
        else:
            return text
        return "1"

    def _checked_string(self, text: str, span: Span) -> str:
        if len(text) < 2 or not text.endswith('"') or _ends_escaped(text):
            self._report("unterminated-string", "a string that does not end on its line", span, 'end it with `"`')
            return '""'
        for found in re.finditer(r"\\(.)|[\x00-\x08\x0b-\x1f\x7f]", text):
            if found[1] is None or found[1] not in _ESCAPES:
                place = Span(self.source, span.start + found.start(), span.start + found.end())
                what = "a control character" if found[1] is None else f"unknown escape `{found[0]}`"
                self._report("bad-string", f"{what} in a string", place, 'there are `\\"`, `\\\\`, `\\n` and `\\t`')
        return text

    def _report(self, code: str, message: str, span: Span, hint: str | None) -> None:
        self.reports += 1
        if self.reports <= _REPORTS:
            self.diags.error(code, message, span, hint=hint)

    def _push(self, kind: str, text: str, start: int, end: int | None = None) -> None:
        token = Token(kind, text, start_pos=start, end_pos=start + len(text) if end is None else end)
        self.tokens.append(token)


def _ends_escaped(text: str) -> bool:
    """Whether the last quote belongs to an escape."""
    body = text[1:-1]
    return (len(body) - len(body.rstrip("\\"))) % 2 == 1
