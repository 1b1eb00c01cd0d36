"""What is pushed as parts of a reading."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rezolus.agent.external.store import Store
from rezolus.agent.selfmetrics import SelfMetric
from rezolus.reading import U64, Kind, Series


class PushedPart:
    """The series of one kind, and before them what the store tells of itself.

    Made anywhere, it looks into the store at readings only: a reload makes it in another thread.
    """

    def __init__(self, store: Store, kind: Kind, wanted: Callable[[str], bool]) -> None:
        self.kind = kind
        self.series: tuple[Series, ...] = ()
        self.size = 0
        self._store = store
        self._wanted = wanted
        self._version = 0
        self._own: tuple[SelfMetric, ...] = ()
        self._index: npt.NDArray[np.intp] | None = None
        """Which values are wanted; None for all."""

    def poll(self) -> bool:
        """As of `Part`; other series than before only when they are others for who wants them."""
        self._store.expire()
        if self._store.version == self._version:
            return False
        self._version = self._store.version
        before, wanted = self.series, self._wanted
        column = self._store.columns[self.kind]
        self._own = tuple(m for m in self._store.metrics if m.series.kind == self.kind and wanted(m.series.name))
        names = {name: wanted(name) for name in {series.name for series in column.series}}
        chosen = [at for at, series in enumerate(column.series) if names[series.name]]
        self._index = None if len(chosen) == len(column.series) else column.positions(chosen)
        self.series = (*(m.series for m in self._own), *(column.series[at] for at in chosen))
        self.size = len(self._own) + (column.size if self._index is None else self._index.size)
        return self.series != before

    def fill(self, out: U64) -> None:
        """As of `Part`."""
        own = len(self._own)
        for at, metric in enumerate(self._own):
            out[at] = metric.value()
        values = self._store.columns[self.kind].values
        if self._index is None:
            out[own:] = values
        else:
            values.take(self._index, out=out[own:], mode="clip")
