"""Text to syntax tree.

The grammar is lark's LALR(1), its tokens are ours (`dsl.syntax.tokens`), and this loop feeds them one by one: it knows the parser's
state, so it can say which words are keywords where they stand, and after an error it can put the parser back to the
last place from which the text makes sense again and go on. So one run reports all errors of a file.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from lark import Token, UnexpectedToken

from dsl.diagnostics import Diagnostics
from dsl.source import Source, Span
from dsl.syntax import ast
from dsl.syntax.brackets import CLOSERS, OPENERS, balance_brackets
from dsl.syntax.build import ModuleBuilder
from dsl.syntax.errors import SyntaxErrorSite
from dsl.syntax.grammar import RESERVED, ROLES, Grammar, is_word, load_grammar
from dsl.syntax.tokens import MAXIMUM_LENGTH, scan_tokens

MAXIMUM_HEIGHT = 150
"""Nodes inside nodes. Later stages recurse, some with several frames per node; Python stops at 1000 frames."""

_MAXIMUM_STACK = 1200
"""Of the parser: more than `MAXIMUM_HEIGHT` levels of any construct need."""

_ATTEMPTS = 1000
"""To go on after an error, in all; text that is no program at all would else take minutes."""

_REPORTS = 20
"""Syntax errors after which the rest of the text is not looked at."""

_RESTARTS = frozenset(
    [
        "COUNTER",
        "GAUGE",
        "HISTOGRAM",
        "STATE",
        "SOURCE",
        "TABLE",
        "FN",
        "CONST",
        "ON",
        "MEASURE",
        "USE",
        "SAMPLER",
        "TEST",
        "LET",
        "IF",
        "FORGET",
        "AT",
        "EXPECT",
        "$END",
    ]
)
"""Terminals that begin something, so that parsing can begin there again."""


def parse(source: Source, diags: Diagnostics) -> ast.Module | None:
    """The syntax tree of a text, or None when it has errors, which are then in `diags`. Any text will do."""
    found = Diagnostics()
    module = _parse(source, found)
    for diagnostic in found.items:
        diags.add(diagnostic)
    return None if found.has_errors else module


def _parse(source: Source, diags: Diagnostics) -> ast.Module | None:
    if len(source.text) > MAXIMUM_LENGTH:
        message = f"more than {MAXIMUM_LENGTH} characters"
        diags.error("too-large", message, Span(source, 0, 0), hint="is this a metric definition?")
        return None
    grammar = load_grammar()
    tokens = scan_tokens(source, grammar.operators, diags)
    balanced = balance_brackets(source, tokens.items, diags)
    if balanced is None:
        return None
    tree = _Run(source, grammar, balanced, diags).run()
    if tree is None or diags.has_errors:
        return None
    version, items = ModuleBuilder(source, diags).build(tree)
    _check_height(items, diags)
    return ast.Module(Span(source, 0, len(source.text)), source, version, items, tokens.comments)


class _Run:
    """One pass over the tokens of a text."""

    def __init__(self, source: Source, grammar: Grammar, tokens: list[Token], diags: Diagnostics) -> None:
        end = len(source.text)
        self.source = source
        self.grammar = grammar
        self.tokens = [*tokens, Token("$END", "", start_pos=end, end_pos=end)]
        self.diags = diags
        self.parser = grammar.start()
        self.blamed = {item.span.line for item in diags.items}
        """Lines with an error already: what the parser finds there follows from it."""
        self.attempts = 0

    def run(self) -> Any:
        """The parse tree, None after an error."""
        index, restart, reports = 0, -1, 0
        result = None
        while index < len(self.tokens):
            token = self.tokens[index]
            token.type = self._terminal(token)
            try:
                result = self.parser.feed(token)
            except UnexpectedToken:
                result = None
                if index != restart and self._report(index):
                    reports += 1
                following = self._recover(index, restart) if reports < _REPORTS else None
                if following is None:
                    return None
                index = restart = following
            else:
                index += 1
            if len(self.parser.values) > _MAXIMUM_STACK:
                _report_height(self._span(token), self.diags)
                return None
        return result

    def _span(self, token: Token) -> Span:
        return Span(self.source, token.start_pos or 0, token.end_pos or 0)

    def _terminal(self, token: Token) -> str:
        """What a token is to the parser in its present state."""
        if not is_word(token):
            return token.type
        row = self.parser.row
        keyword = self.grammar.keywords.get(token)
        if keyword is not None and keyword in row:
            return keyword
        role = next((role for role in ROLES if role in row), None)
        if role is None or (role in {"NAME", "NEW", "PARAM"} and keyword in RESERVED):
            return keyword or "NAME"
        return role

    def _report(self, index: int) -> bool:
        """Report the token at which parsing cannot go on, unless that follows from an earlier error."""
        token = self.tokens[index]
        line = self.source.position(token.start_pos or 0)[0]
        if line in self.blamed or (token.start_pos == token.end_pos and token.type != "$END"):
            return False
        self.blamed.add(line)
        SyntaxErrorSite(self.source, self.grammar, self.tokens, index, self.parser.accepts()).report(self.diags)
        return True

    def _recover(self, index: int, restart: int) -> int | None:
        """Take the parser back to where the text from some later token on makes sense; the index of that token."""
        depth = around = self._open_brackets()
        for place in range(index, len(self.tokens)):
            token = self.tokens[place]
            relevant = place > restart and depth <= around and self.attempts < _ATTEMPTS
            if relevant and self._can_restart(place) and self._rewind(token, depth):
                return place
            depth += _opens(token)
        return None

    def _open_brackets(self) -> int:
        return sum(map(_opens, self.parser.values))

    def _can_restart(self, place: int) -> bool:
        token = self.tokens[place]
        if token.type in {"$END", "RBRACE"}:
            return True
        return is_word(token) and (place == 0 or self._begins_line(place) or self.tokens[place - 1].type == "RBRACE")

    def _begins_line(self, place: int) -> bool:
        between = self.source.text[self.tokens[place - 1].end_pos or 0 : self.tokens[place].start_pos]
        return "\n" in between

    def _rewind(self, token: Token, depth: int) -> bool:
        """Drop what is unfinished until the token fits, but nothing outside the brackets around it."""
        self.attempts += 1
        trial = self.parser.copy()
        original, self.parser = self.parser, trial
        opened = self._open_brackets()
        while True:
            if opened == depth and self._fits(token):
                return True
            if not trial.values:
                break
            opened -= _opens(trial.drop())
            if opened < depth:
                break
        self.parser = original
        return False

    def _fits(self, token: Token) -> bool:
        terminal = self._terminal(token)
        row = self.parser.row
        # A name begins a statement, and nothing else that is worth beginning again at.
        begins = terminal in _RESTARTS or terminal == "RBRACE" or "FORGET" in row
        if not begins or terminal not in row:
            return False
        trial = self.parser.copy()
        try:
            trial.feed(Token(terminal, "", start_pos=token.start_pos, end_pos=token.end_pos))
        except UnexpectedToken:
            return False
        return True


def _opens(value: object) -> int:
    """What a token or tree adds to the number of open brackets; a tree has closed what it opened."""
    if not isinstance(value, Token):
        return 0
    return (value.type in OPENERS) - (value.type in CLOSERS)


def _check_height(items: tuple[ast.Item, ...], diags: Diagnostics) -> None:
    """Report what later stages could not follow."""
    pending: list[tuple[Any, int]] = [(item, 1) for item in items]
    while pending:
        value, height = pending.pop()
        if isinstance(value, tuple):
            pending.extend((child, height) for child in value)
        elif is_dataclass(value) and not isinstance(value, Span | type):
            if height > MAXIMUM_HEIGHT:
                span: Span = value.span  # type: ignore[attr-defined]  # every node has one
                _report_height(span, diags)
                return
            pending.extend((getattr(value, field.name), height + 1) for field in fields(value))


def _report_height(span: Span, diags: Diagnostics) -> None:
    message = f"more than {MAXIMUM_HEIGHT} levels of expressions and statements"
    diags.error("too-deep", message, span, hint="give parts of it names with `let` or `fn`")
