"""For each diagnostic code a text that gets it, and what to write instead. The texts are in `code_examples.txt`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

_FILE = Path(__file__).with_suffix(".txt")
_ENTRY = re.compile(r"^=== (\S+)\n(.*?)(?:^---\n(.*?))?(?=^===|\Z)", re.MULTILINE | re.DOTALL)
_BEGINS_FILE = re.compile(r"^(rzl|use|sampler|test) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Example:
    """Lines of a sampler, or a whole file."""

    wrong: str
    right: str = ""
    """The same without the mistake; empty where that is another file or another kernel."""


@cache
def examples() -> Mapping[str, Example]:
    """By code. Codes about sheer size have none."""
    entries = _ENTRY.findall(_FILE.read_text(encoding="utf-8"))
    return MappingProxyType({code: Example(wrong.strip("\n"), right.strip("\n")) for code, wrong, right in entries})


def as_file(text: str) -> str:
    """An example's text as a file that can be checked: lines of a sampler get one around them."""
    if _BEGINS_FILE.search(text):
        return f"{text}\n"
    inner = "".join(f"    {line}\n" if line else "\n" for line in text.splitlines())
    return f'sampler example "An example" {{\n{inner}}}\n'
