"""What to say where the text stops making sense: in words of the language, not of the parser."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from lark import Token

from dsl.diagnostics import Diagnostics
from dsl.source import Source, Span
from dsl.suggest import suggest
from dsl.syntax.grammar import Grammar, is_word
from dsl.syntax.precedence import PRECEDENCE

_MEMBERS = frozenset(["COUNTER", "GAUGE", "HISTOGRAM", "STATE", "SOURCE", "TABLE", "FN", "CONST", "ON", "MEASURE"])
_ITEMS = frozenset(["USE", "TABLE", "FN", "CONST", "SAMPLER", "TEST"])
_STATEMENTS = frozenset(["LET", "IF", "FORGET"])
_STEPS = frozenset(["LET", "AT", "EXPECT"])
_EVENTS = frozenset(["EVENT", "RECORD", "CALL", "RETURN", "USER", "USDT", "SAMPLE", "PERF"])
_METRIC = frozenset(["BY", "POWER", "LBRACE", "EQUAL"])
_OPERANDS = frozenset(
    ["NUMBER", "STRING", "TRUE", "FALSE", "NAME", "CGROUP", "TAKE", "ENCLOSING", "IF", "LPAR", "MINUS", "BANG", "TILDE"]
)
_SUFFIXES = frozenset(["DOT", "LSQB", "AS", "AFTER", "OR", "OF"])

_NOUNS = {
    "NAME": "a name",
    "NEW": "a name",
    "UNIT": "a unit",
    "TYPE": "a type",
    "FIELD": "a field",
    "LABEL": "a label",
    "CHOICE": "a label value",
    "DIMENSION": "a dimension such as `cpu`",
    "COLUMN": "a name",
    "EVENT": "the name of an event",
    "PARAM": "a name",
    "NUMBER": "a number",
    "STRING": "a string",
    "$END": "the end of the file",
}
_SHOWN = 7
"""Alternatives listed in a message; a longer list helps nobody."""

_LONG = 30
"""Characters of a token that a message repeats."""

_CLAUSES = frozenset(["ELSE", "LIMIT", "BY", "POWER", "WHEN", "UNLESS", "THEN", "TO", "FROM", "CPU", "CURRENT"])

_GROUPS: tuple[tuple[frozenset[str], str, frozenset[str]], ...] = (
    (_MEMBERS, "a declaration", _CLAUSES),
    (_ITEMS, "a declaration", _CLAUSES),
    (_STATEMENTS, "a statement", frozenset({"ELSE"})),
    (_STEPS - {"LET"}, "`let`, `at` or `expect`", _CLAUSES),
    (_EVENTS - {"EVENT"}, "an event", _CLAUSES),
    (frozenset({"NAME", "HISTOGRAM", "SAMPLER"}), "a name", frozenset()),
)
"""Terminals that together are one thing to a user, its name, and words that are not part of it."""

_OTHER_LANGUAGES = {
    "and": "write `&&`",
    "or": "write `||`",
    "not": "write `!`",
    "elif": "write `else if`",
    "var": "write `let`",
    "return": "the value of a `fn` is the expression behind its `=`",
    "for": "there are no loops",
    "while": "there are no loops",
}


@dataclass(frozen=True, slots=True)
class SyntaxErrorSite:
    """The place where a text stops making sense, with what `report` needs to find words for it."""

    source: Source
    grammar: Grammar
    tokens: Sequence[Token]
    index: int
    """Of the token that cannot stand where it is."""
    accepted: AbstractSet[str]
    """The terminals that could."""

    def report(self, diags: Diagnostics) -> None:
        """Say what was expected, what was found, and what was probably meant."""
        if self._report_misspelling(diags) or self._report_misplaced(diags):
            return
        token = self.tokens[self.index]
        message = f"expected {describe_expected(self.grammar, self.accepted)}, found {describe_found(token)}"
        diags.error("syntax", message, self._span(token), hint=self._hint())

    def _report_misspelling(self, diags: Diagnostics) -> bool:
        """A word meant as a keyword: the unexpected one, or the one before it, taken for the end of what was before."""
        keywords = self.grammar.keywords
        beginnings = {text for text, name in keywords.items() if name in _MEMBERS | _ITEMS | _STATEMENTS | _STEPS}
        possible = {text for text, name in keywords.items() if name in self.accepted}
        for place, candidates in ((self.index - 1, beginnings), (self.index, possible)):
            token = self.tokens[place] if place >= 0 else None
            if token is None or not is_word(token) or token in keywords or token in _OTHER_LANGUAGES:
                continue
            if place < self.index and not (is_word(self.tokens[self.index]) and self._begins_line(place)):
                continue
            meant = suggest(token, candidates)
            if meant is not None:
                code = "unknown-keyword" if keywords[meant] in _MEMBERS | _ITEMS else "syntax"
                message = f"expected a keyword, found `{token}`"
                diags.error(code, message, self._span(token), hint=f"did you mean `{meant}`?")
                return True
        return False

    def _report_misplaced(self, diags: Diagnostics) -> bool:
        """A declaration of another level."""
        place = self.index
        # A block takes the keyword of a declaration for the name of a metric, and stumbles over what follows.
        in_block = "FORGET" in self.accepted
        if place and is_word(self.tokens[place]) and self.grammar.operators["+="] in self.accepted:
            place, in_block = place - 1, True
        token = self.tokens[place]
        name = self.grammar.keywords.get(token)
        if name is None or not self._begins_line(place):
            return False
        if name in _MEMBERS and "SAMPLER" in self.accepted:
            message, hint = f"`{token}` belongs inside a sampler", "open one with `sampler name {`"
        elif name in _MEMBERS | _ITEMS and in_block:
            message, hint = f"`{token}` cannot be inside a block of statements", "is a `}` missing above?"
        elif name in _ITEMS and "MEASURE" in self.accepted:
            message, hint = f"`{token}` cannot be inside a sampler", "is a `}` missing above?"
        elif name in _STATEMENTS and "MEASURE" in self.accepted:
            message, hint = f"`{token}` belongs inside an event's block", "open one with `on event(...) {`"
        else:
            return False
        diags.error("misplaced-item", message, self._span(token), hint=hint)
        return True

    def _hint(self) -> str | None:
        token = self.tokens[self.index]
        text = str(token)
        before = str(self.tokens[self.index - 1]) if self.index else ""
        operators = self.grammar.operators
        if text == "=" and before in {"-", "*", "/", "+", "|", "&"}:
            return f"there is no `{before}=`: a counter is updated with `+=`, anything else with `=`"
        if text == "=" and "STAR" in self.accepted:
            return "`==` compares, `=` sets a value"
        if text == "=" and before == "==":
            return "there is no `===`"
        if text == "==" and "EQUAL" in self.accepted:
            return "`=` sets a value, `==` compares"
        if text in {"+", "-"} and operators["+="] in self.accepted:
            return "a counter is updated with `+= 1`, a gauge with `=`"
        if text == "=" and before in {"<", ">", "!"}:
            return f"`{before}=` is written without a space"
        if text == "{" and "THEN" in self.accepted:
            return "inside an expression write `if c then a else b`"
        if text == "if" and "NUMBER" in self.accepted:
            return "put the inner `if ... then ... else ...` into parentheses"
        if "POWER" in self.accepted and "UNIT" not in self.accepted and is_word(token):
            return "the unit stands directly behind the name of the metric"
        if text == ":" and "EQUAL" in self.accepted:
            return "types come from the kernel and are not declared here"
        return _OTHER_LANGUAGES.get(text) or _OTHER_LANGUAGES.get(before)

    def _span(self, token: Token) -> Span:
        return Span(self.source, token.start_pos or 0, token.end_pos or 0)

    def _begins_line(self, place: int) -> bool:
        if place <= 0:
            return place == 0
        return "\n" in self.source.text[self.tokens[place - 1].end_pos or 0 : self.tokens[place].start_pos]


def describe_found(token: Token) -> str:
    """A token as a message names it."""
    text = str(token) if len(token) <= _LONG else token[:_LONG] + "..."
    nouns = {"NUMBER": f"the number `{text}`", "STRING": f"the string `{text}`", "$END": "the end of the file"}
    return nouns.get(token.type, f"`{text}`")


def describe_expected(grammar: Grammar, accepted: AbstractSet[str]) -> str:
    """A set of terminals as a list of what a user could write."""
    rest = set(accepted)
    nouns: list[str] = []
    if {"NUMBER", "BANG", "LPAR"} <= rest:
        rest -= _OPERANDS
        nouns.append("an expression")
    operators = {"STAR", "PLUS"} <= rest
    if operators:
        rest -= {grammar.operators[text] for text in PRECEDENCE} | _SUFFIXES | {"LPAR"}
    if rest >= _METRIC:
        rest -= _METRIC | {"STRING"}
        nouns.append("a clause (`by`, `{`, `power`, `=`, a help text)")
    words = {"NAME", "EVENT", *grammar.keywords.values()}
    for marks, noun, also in _GROUPS:
        if marks <= rest:
            rest -= words - also
            nouns.append(noun)
    # "}" alone tells nothing when a whole declaration may follow.
    listed = sorted(_NOUNS.get(terminal) or f"`{grammar.spellings[terminal]}`" for terminal in rest)
    found = [*dict.fromkeys(listed), *nouns]
    if operators and not nouns:
        found.append("an operator")
    if len(found) > _SHOWN:
        found = [*found[: _SHOWN - 1], "something else that fits"]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"
