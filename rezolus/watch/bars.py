"""A distribution in one line of text: a column per power of two, and the axis above it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from rezolus.histogram import bucket_bounds
from rezolus.reading import U64, histogram_buckets
from rezolus.units import format_amount

OCTAVES = 65
"""Octave 0 holds the value 0, octave k the values from 2^(k-1) to 2^k - 1."""

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:-=+*#%"
_LEAST = 16
"""Octaves shown at least, where there is room: an axis with some marks on it."""


@cache
def _octave_of_bucket(power: int) -> npt.NDArray[np.intp]:
    """An H2 bucket never crosses a power of two."""
    numbers = [bucket_bounds(index, power)[0].bit_length() for index in range(histogram_buckets(power))]
    return np.array(numbers, dtype=np.intp)


def octaves(counts: U64, power: int) -> tuple[int, ...]:
    """The counts of an H2 histogram of this grouping power, folded by powers of two."""
    folded = np.zeros(OCTAVES, dtype=np.uint64)
    np.add.at(folded, _octave_of_bucket(power), counts)
    return tuple(folded.tolist())


@dataclass(frozen=True, slots=True)
class Axis:
    """Which octaves the columns show: `step` per column, from `first` on."""

    first: int
    columns: int
    step: int = 1

    @classmethod
    def over(cls, distributions: Sequence[Sequence[int]], room: int) -> Axis:
        """The axis that shows all of the distributions in at most `room` (at least 1) columns."""
        used = [octave for counts in distributions for octave, count in enumerate(counts) if count]
        low, high = (min(used), max(used)) if used else (0, 0)
        spare = max(0, min(room, _LEAST) - (high - low + 1))
        low = max(0, low - spare // 2)
        high = min(OCTAVES - 1, max(high, low + min(room, _LEAST) - 1))
        step = -(-(high - low + 1) // room)
        return cls(low, -(-(high - low + 1) // step), step)

    def bar(self, counts: Sequence[int], *, ascii_only: bool = False) -> str:
        """A distribution as characters, the highest column full; a column with anything in it is never blank."""
        levels = _ASCII if ascii_only else _BLOCKS
        heights = [sum(counts[begin : begin + self.step]) for begin in self._begins()]
        top = max(heights, default=0)
        full = len(levels) - 1
        return "".join(levels[-(-height * full // top) if height else 0] for height in heights)

    def marks(self, unit: str) -> str:
        """The axis' values in `unit`, each beginning at its column: as many round ones as fit at equal distances."""
        lines = [self._line(unit, stride, phase) for stride in _STRIDES for phase in range(stride)]
        fitting = [line for line in lines if line is not None]
        return max(fitting, key=lambda line: len(line.split()), default="")

    def _line(self, unit: str, stride: int, phase: int) -> str | None:
        """Every `stride`-th round value; None when two would touch."""
        line = ""
        for value in list(_round_values(unit))[phase::stride]:
            column = (value.bit_length() - self.first) // self.step
            if value.bit_length() < self.first or column >= self.columns:
                continue
            if line and column <= len(line):
                return None
            line = line.ljust(column) + format_amount(value, unit, space="")
        return line

    def _begins(self) -> Iterator[int]:
        return iter(range(self.first, self.first + self.columns * self.step, self.step))


_STRIDES = (1, 2, 3, 5, 10, 20)


def _round_values(unit: str) -> Iterator[int]:
    """Powers of two for bytes, of ten for the rest."""
    base = 2 if unit == "bytes" else 10
    value = 1
    while value < 1 << 64:
        yield value
        value *= base
