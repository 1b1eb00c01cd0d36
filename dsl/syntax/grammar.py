"""The grammar as lark tables, and what the parser asks about them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from lark import Lark, Token
from lark.lexer import PatternStr
from lark.parsers.lalr_interactive_parser import InteractiveParser

_GRAMMAR = Path(__file__).with_name("grammar.lark")

ROLES = ("NAME", "NEW", "UNIT", "TYPE", "FIELD", "LABEL", "CHOICE", "DIMENSION", "COLUMN", "EVENT", "PARAM")
"""Terminals that a word may be where it is no keyword; in each state of the parser at most one of them is possible."""

RESERVED = frozenset(["IF", "LET", "ELSE", "THEN", "TRUE", "FALSE", "TAKE", "FORGET", "OR", "AS", "AFTER", "ENCLOSING"])
"""Keywords that no variable or metric can have for a name; fields, labels and their values can."""


def is_word(token: Token) -> bool:
    """Whether it depends on the place what a token is: a keyword, or one of `ROLES`."""
    return token[:1].isalpha() or token[:1] == "_"


@dataclass(frozen=True, slots=True)
class Grammar:
    """The tables with their literals apart."""

    lark: Lark
    keywords: dict[str, str]
    """Word to terminal."""
    operators: dict[str, str]
    """Operator or bracket to terminal."""
    spellings: dict[str, str]
    """Terminal to what is written for it."""

    def start(self) -> Parser:
        """A parser before its first token."""
        return Parser(self.lark.parse_interactive(""))


class Parser:
    """lark's interactive parser with types, and with what recovery from errors needs of its stacks."""

    def __init__(self, inner: InteractiveParser) -> None:
        self._inner = inner
        self.values: list[Any] = inner.parser_state.value_stack
        """What has been read and not been put together yet: tokens and trees."""

    def feed(self, token: Token) -> Any:
        """Take a token in; at the end of the text returns the tree. Raises `lark.UnexpectedToken`."""
        return self._inner.feed_token(token)

    @property
    def row(self) -> Mapping[str, object]:
        """Terminals that do not fail at once, as keys among others."""
        choices: Mapping[str, object] = self._inner.choices()  # type: ignore[no-untyped-call]
        return choices

    def accepts(self) -> set[str]:
        """Terminals that can really follow."""
        accepted: set[str] = self._inner.accepts()  # type: ignore[no-untyped-call]
        return accepted

    def copy(self) -> Parser:
        """A parser in the same state that goes its own way."""
        return Parser(self._inner.copy(deepcopy_values=False))  # type: ignore[no-untyped-call]

    def drop(self) -> Any:
        """Forget the newest of `values`, and return it."""
        self._inner.parser_state.state_stack.pop()
        return self.values.pop()


@cache
def load_grammar() -> Grammar:
    """The tables, made once per process."""
    text = _GRAMMAR.read_text(encoding="utf-8")
    lark = Lark(
        text, parser="lalr", lexer="basic", start="module", propagate_positions=True, cache=_cache_file() or False
    )
    literals = {
        terminal.pattern.value: terminal.name for terminal in lark.terminals if isinstance(terminal.pattern, PatternStr)
    }
    keywords = {text: name for text, name in literals.items() if text.isalpha()}
    operators = {text: name for text, name in literals.items() if not text.isalpha()}
    return Grammar(lark, keywords, operators, {name: text for text, name in literals.items()})


def _cache_file() -> str | None:
    """Where lark keeps finished tables: computing them takes 140 ms, reading them 25.

    They lie among Python's own bytecode files of this package and are written when those are, under the same permissions:
    who can write there can change the program anyway. lark's default, a file in /tmp, is one that another user could have
    put there.
    """
    file = Path(cache_from_source(str(_GRAMMAR.with_suffix(".py")))).with_suffix(".lark")
    if file.exists() or (not sys.dont_write_bytecode and os.access(file.parent, os.W_OK)):
        return str(file)
    return None
