"""What other programs push, whichever way they write it, and the bounds of it.

The bounds are of one message. How many series there may be is the store's business.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rezolus.reading import U64, Kind, histogram_buckets

Labels = tuple[tuple[str, str], ...]
"""Sorted by key, each key once."""

NAME_BYTES = 255
"""Of a metric's name, and of a label's key or value."""
LABELS = 64
"""Labels of a metric, and of a session."""
LABEL_BYTES = 4096
"""Of all their keys and values together."""
MESSAGE_BYTES = 65_536
"""Of a line, and of what is in a frame."""

REMEMBERED = 1024
"""Names and labels that need not be looked at again: the same ones come every second."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]*")


class PushError(Exception):
    """What came is not in the protocol; the text says what is wrong, and where in what was sent."""

    def __init__(self, problem: str, place: str = "") -> None:
        super().__init__(problem, place)
        self.problem = problem
        self.place = place

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}" if self.place else self.problem


class Shape(NamedTuple):
    """Of a histogram."""

    power: int
    max_power: int

    def __str__(self) -> str:
        return f"{self.power},{self.max_power}"


NO_SHAPE = Shape(0, 0)
"""Of what is no histogram."""


class Update(NamedTuple):
    """A value of one series."""

    name: str
    labels: Labels
    """Those of the session included."""
    kind: Kind
    value: int
    """64 bits, of a gauge in two's complement; 0 for a histogram."""
    shape: Shape = NO_SHAPE
    buckets: U64 | None = None
    """As many as the shape has; of a histogram only."""


@lru_cache(REMEMBERED)
def check_name(name: str, what: str) -> str:
    """`name`, which is that of `what`. Raises PushError."""
    if len(name) > NAME_BYTES:
        raise PushError(f"the {what} {shown(name)} is longer than {NAME_BYTES} bytes")
    if not _NAME.fullmatch(name):
        raise PushError(
            f"expected a {what} of letters, digits and `_.:/-`, not beginning with a digit, found {shown(name)}"
        )
    return name


@lru_cache(REMEMBERED)
def check_labels(pairs: Labels) -> Labels:
    """Labels that came in any order. Raises PushError."""
    found: dict[str, str] = {}
    size = 0
    for key, value in pairs:
        if check_name(key, "label") in found:
            raise PushError(f"the label {shown(key)} is there twice")
        if (length := len(value.encode())) > NAME_BYTES:
            raise PushError(f"the value of the label {shown(key)} is longer than {NAME_BYTES} bytes")
        size += len(key) + length
        found[key] = value
        if len(found) > LABELS:
            raise PushError(f"more than {LABELS} labels")
        if size > LABEL_BYTES:
            raise PushError(f"labels of more than {LABEL_BYTES} bytes")
    return tuple(sorted(found.items()))


@lru_cache(REMEMBERED)
def merge(session: Labels, own: Labels) -> Labels:
    """The labels of a metric in a session: its own win."""
    if not session:
        return own
    return tuple(sorted({**dict(session), **dict(own)}.items()))


def check_shape(power: int, max_power: int) -> Shape:
    """The shape of a histogram that a message can hold. Raises PushError."""
    shape = Shape(power, max_power)
    if not 0 <= power < max_power <= 64:
        raise PushError(f"expected a grouping power below a maximum power of at most 64, found {shape}")
    if histogram_buckets(power, max_power) * 8 > MESSAGE_BYTES:
        raise PushError(f"a histogram {shape} has more buckets than a message can hold")
    return shape


def fill_up(shape: Shape, buckets: U64) -> U64:
    """All buckets of a histogram of which the last, all zero, may have been left out. Raises PushError."""
    missing = histogram_buckets(*shape) - buckets.size
    if missing < 0:
        raise PushError(f"a histogram {shape} has {histogram_buckets(*shape)} buckets, found {buckets.size}")
    return np.concatenate((buckets, np.zeros(missing, np.uint64))) if missing else buckets


def shown(text: str | bytes) -> str:
    """Something of theirs as a message quotes it, shortened."""
    quoted = repr(text[:60])
    return quoted if len(text) <= 60 and len(quoted) <= 60 else quoted[:57] + "..."
