"""Pushed series of one kind, packed: their values lie one after the other, as a reading has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rezolus.agent.external.updates import Labels, Shape
from rezolus.reading import I64, U64, Series

Key = tuple[str, Labels]
"""Name and labels."""

T = TypeVar("T", bound=np.generic)

FEW = 64
"""Room that an array begins with."""


@dataclass(slots=True)
class Contributor:
    """A connection: how many of the series that are there it brought."""

    series: int = 0


class Column:
    """A series keeps its position; without some of them it is another column."""

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.shapes: list[Shape] = []
        self.contributors: list[Contributor] = []
        self.size = 0
        """Values."""
        self._keys: list[Key] = []
        self._at: dict[Key, int] = {}
        self._starts: list[int] = []
        self._values: U64 = np.zeros(FEW, np.uint64)
        self._times: I64 = np.zeros(FEW, np.int64)

    @property
    def values(self) -> U64:
        """Of all series; a view, good until something is added."""
        return self._values[: self.size]

    @property
    def times(self) -> I64:
        """When each series was pushed last."""
        return self._times[: len(self.series)]

    def find(self, key: Key) -> int | None:
        """The position of a series."""
        return self._at.get(key)

    def put(self, at: int, value: int, buckets: U64 | None, now: int) -> None:
        """Another value of the series at a position."""
        start = self._starts[at]
        if buckets is None:
            self._values[start] = value
        else:
            self._values[start : start + buckets.size] = buckets
        self._times[at] = now

    def add(self, key: Key, series: Series, shape: Shape, by: Contributor) -> int:
        """A new series, whose value is to be put; its position."""
        at, width = len(self.series), series.buckets if series.kind == "histogram" else 1
        self._times = _with_room(self._times, at + 1)
        self._values = _with_room(self._values, self.size + width)
        self._at[key] = at
        self._keys.append(key)
        self._starts.append(self.size)
        self.series.append(series)
        self.shapes.append(shape)
        self.contributors.append(by)
        self.size += width
        return at

    def of_those(self, mask: npt.NDArray[np.bool_]) -> Column:
        """A column of the series where the mask is true."""
        kept = Column()
        rows = zip(self._keys, self.series, self.shapes, self.contributors, mask.tolist(), strict=True)
        for key, series, shape, by, stays in rows:
            if stays:
                kept.add(key, series, shape, by)
        widths = np.diff([*self._starts, self.size])
        kept.values[:] = self.values[np.repeat(mask, widths)]
        kept.times[:] = self.times[mask]
        return kept

    def positions(self, chosen: Sequence[int]) -> npt.NDArray[np.intp]:
        """Where the values of the chosen series lie."""
        starts = [*self._starts, self.size]
        pieces = [np.arange(starts[at], starts[at + 1]) for at in chosen]
        return np.concatenate(pieces).astype(np.intp) if pieces else np.empty(0, np.intp)


def _with_room(array: npt.NDArray[T], size: int) -> npt.NDArray[T]:
    """The same array, or one of at least that size, twice as long, that begins with it."""
    if size <= array.size:
        return array
    longer = np.zeros(max(size, 2 * array.size), array.dtype)
    longer[: array.size] = array
    return longer
