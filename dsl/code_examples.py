"""For each diagnostic code a text that gets it, and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Example:
    """`wrong` is a whole file that gets the code; `right` says the same without it, empty where that is obvious."""

    wrong: str
    right: str = ""


EXAMPLES: Mapping[str, Example] = MappingProxyType({})
