"""Units of values: how they are written, and what they are called on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

NANOSECONDS = "nanoseconds"
BYTES = "bytes"

_SHORT: Mapping[str, str] = MappingProxyType({"ns": NANOSECONDS, "nanoseconds": NANOSECONDS, "bytes": BYTES})

SUFFIXES: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "ns": (1, NANOSECONDS),
        "us": (1_000, NANOSECONDS),
        "ms": (1_000_000, NANOSECONDS),
        "s": (1_000_000_000, NANOSECONDS),
        "KiB": (1 << 10, BYTES),
        "MiB": (1 << 20, BYTES),
        "GiB": (1 << 30, BYTES),
        "KB": (1_000, BYTES),
        "MB": (1_000_000, BYTES),
    }
)
"""Suffix of a number: factor to the base unit, and that unit."""

FACTORS: Mapping[str, int] = MappingProxyType({"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30})
"""Factors usable as names: `meminfo.MemFree * KiB`."""


def canonical(unit: str) -> str:
    """The wire name of a unit as written (`ns` is `nanoseconds`); any other word is a unit of its own."""
    return _SHORT.get(unit, unit)
