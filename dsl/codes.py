"""Every diagnostic code with its one-sentence explanation; a code that is not here cannot be reported."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_PARSE = {
    "syntax": "The text does not follow the grammar at this place.",
    "unclosed": "A bracket or brace is opened and never closed.",
    "unexpected-character": "A character that has no meaning in the language, outside of strings and comments.",
    "unterminated-string": "A string must end on the line it begins on.",
    "bad-string": 'A backslash in a string must be followed by one of `\\"`, `\\\\`, `\\n`, `\\t`.',
    "bad-number": "A number is too large for 64 bits, or its digits or suffix are not known.",
    "unknown-keyword": "A declaration begins with a word that no declaration begins with.",
    "misplaced-item": "A declaration that is known, at a level of the file where it does not belong.",
    "duplicate-clause": "A clause such as `by`, `power` or the help text is given twice in one declaration.",
    "unsupported-version": "The header names a version of the language that this compiler does not know.",
    "too-deep": "Expressions or blocks are nested deeper than the compiler follows.",
    "too-large": "The file is larger than any metric definition can be.",
}

CODES: Mapping[str, str] = MappingProxyType({**_PARSE})
"""Kebab-case code to what it means. One table per stage above."""
