"""Bracket repair: whatever the text, the tokens behind this step are balanced.

A brace that is missing is best found by how the text is indented, and must be found before parsing: the parser would notice
it only at the end of the file. What is missing is reported at the bracket left alone, and put in where the indentation says
it was meant, so that one slip gives one message and the rest of the file is still read. A text whose brackets match is never
judged by its indentation.
"""

from __future__ import annotations

from lark import Token

from dsl.diagnostics import Diagnostics
from dsl.source import Source, Span

_CLOSING = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
_SPELLING = {"RPAR": ")", "RSQB": "]", "RBRACE": "}"}

OPENERS = frozenset(_CLOSING)
CLOSERS = frozenset(_SPELLING)

MAXIMUM_DEPTH = 64
"""Brackets inside brackets. Definitions written by people stay below ten."""

_REPORTS = 20
"""Unmatched brackets after which the rest of the text is not looked at."""


def balance_brackets(source: Source, tokens: list[Token], diags: Diagnostics) -> list[Token] | None:
    """The tokens with each bracket closed; what is wrong with them is reported. None when that is hopeless."""
    stack: list[str] = []
    balanced = True
    for token in tokens:
        if token.type in OPENERS:
            stack.append(_CLOSING[token.type])
            if len(stack) > MAXIMUM_DEPTH:
                _report_depth(source, token, diags)
                return None
        elif token.type in CLOSERS:
            balanced = balanced and bool(stack) and stack[-1] == token.type
            if stack:
                stack.pop()
    return tokens if balanced and not stack else _Repair(source, tokens, diags).repaired()


def _report_depth(source: Source, token: Token, diags: Diagnostics) -> None:
    span = Span(source, token.start_pos or 0, token.end_pos or 0)
    diags.error("too-deep", f"more than {MAXIMUM_DEPTH} brackets inside each other", span)


def _line_indents(source: Source, tokens: list[Token]) -> dict[int, tuple[bool, int]]:
    """For each token, by its offset: whether it is the first of its line, and how far that line is indented."""
    found: dict[int, tuple[bool, int]] = {}
    end = indent = 0
    for token in tokens:
        start = token.start_pos or 0
        first = end == 0 or "\n" in source.text[end:start]
        if first:
            indent = len(source.text[source.text.rfind("\n", 0, start) + 1 : start].expandtabs(8))
        found[start] = first, indent
        end = token.end_pos or 0
    return found


class _Repair:
    def __init__(self, source: Source, tokens: list[Token], diags: Diagnostics) -> None:
        self.source = source
        self.tokens = tokens
        self.diags = diags
        self.out: list[Token] = []
        self.open: list[int] = []
        """Indices into `out` of the brackets not closed yet."""
        self.lines = _line_indents(source, tokens)
        self.reports = 0
        counts = [sum(token.type == kind for token in tokens) for kind in ("LBRACE", "RBRACE")]
        self.missing = counts[0] > counts[1]
        self.surplus = counts[0] < counts[1]

    def repaired(self) -> list[Token] | None:
        for token in self.tokens:
            if len(self.open) > MAXIMUM_DEPTH:
                _report_depth(self.source, token, self.diags)
                return None
            if self.reports > _REPORTS:
                return None
            if token.type in OPENERS:
                self.open.append(len(self.out))
                self.out.append(token)
            elif token.type in CLOSERS:
                self._close(token)
            else:
                self.out.append(token)
        while self.open:
            self._close_top()
        return self.out

    def _close(self, token: Token) -> None:
        if not any(_CLOSING[self.out[index].type] == token.type for index in self.open) or self._is_stray(token):
            self._report(f"`{token}` closes nothing", token, None)
            return
        while _CLOSING[self.out[self.open[-1]].type] != token.type or self._closes_outer(token):
            self._close_top()
        self.open.pop()
        self.out.append(token)

    def _is_stray(self, token: Token) -> bool:
        """A brace too many: further to the right than what it would close."""
        return self.surplus and self._is_first(token) and self._indent(token) > self._indent(self.out[self.open[-1]])

    def _closes_outer(self, token: Token) -> bool:
        """A brace that stands further to the left than the innermost open one, and right below another."""
        if not self.missing or not self._is_first(token):
            return False
        indent = self._indent(token)
        outer = (self.out[index] for index in self.open[:-1])
        fits = any(other.type == "LBRACE" and self._indent(other) == indent for other in outer)
        return fits and indent < self._indent(self.out[self.open[-1]])

    def _close_top(self) -> None:
        """Report the innermost open bracket and close it where it was probably meant to end."""
        index = self.open.pop()
        opener = self.out[index]
        closing = _CLOSING[opener.type]
        self._report(f"`{opener}` is never closed", opener, f"add `{_SPELLING[closing]}`")
        place = self._meant_end(index)
        end = self.out[place - 1].end_pos
        self.out.insert(place, Token(closing, _SPELLING[closing], start_pos=end, end_pos=end))

    def _meant_end(self, index: int) -> int:
        opener = self.out[index]
        depth = 0
        for place in range(index + 1, len(self.out)):
            token = self.out[place]
            if depth == 0 and self._ends_before(opener, token, self.out[place - 1]):
                return place
            depth += (token.type in OPENERS) - (token.type in CLOSERS)
        return len(self.out)

    def _ends_before(self, opener: Token, token: Token, previous: Token) -> bool:
        if opener.type == "LBRACE":
            return self._is_first(token) and self._indent(token) <= self._indent(opener)
        if token.type == "LBRACE":
            return previous.type not in {"LPAR", "COMMA", "COLON"}
        return self._is_first(token)

    def _report(self, message: str, token: Token, hint: str | None) -> None:
        self.reports += 1
        self.diags.error("unclosed", message, Span(self.source, token.start_pos or 0, token.end_pos or 0), hint=hint)

    def _is_first(self, token: Token) -> bool:
        return self.lines.get(token.start_pos or 0, (False, 0))[0]

    def _indent(self, token: Token) -> int:
        """Of the line that a token is on."""
        return self.lines.get(token.start_pos or 0, (False, 0))[1]
