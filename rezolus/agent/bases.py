"""What a bank's words had counted in the banks that it replaced.

When metrics come or go, the words of a bank move, and a reload makes a new bank that begins at 0. What stood in the old one
is then a base, which every reading adds: series go on. Programs that were running when the switch was turned may still
count into the old bank, so it is read anew at each reading until it is settled, which is when the kernel has said that none
of them runs any more. Bases of bases are added up, so there is at most one for each bank.

Gauges have none: programs set them, and the loader has put their last values in place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dsl.schema import Bank, Label, Sampler, Schema, Slots
from rezolus.agent.rows import Index
from rezolus.reading import U64, histogram_buckets

Cell = tuple[object, ...]
"""What two words must agree in to count the same."""

AXES = frozenset(("cpu", "stripe", "one", "cgroup"))
"""Of banks that metrics share; one by key holds one metric, and is new only if that is another one."""


class Base:
    """In the shape of the bank that it belongs to. Memory is touched only for rows in which something was counted."""

    def __init__(self, bank: Bank, old: U64, below: Base | None, moves: tuple[Index, Index]) -> None:
        self._by_cgroup = bank.axis == "cgroup"
        self._old: U64 | None = old
        self._below = below
        self._target, self._source = moves
        self.rows: Index = np.zeros(0, dtype=np.intp)
        """Those that are not all zero."""
        self.values: U64 = np.zeros((bank.rows, bank.words), dtype=np.uint64)
        self.sums: U64 = np.zeros(bank.words, dtype=np.uint64)
        """Over all rows."""
        self.serials: U64 = np.zeros(bank.rows, dtype=np.uint64)
        """Of a bank by cgroup, whose base each row is."""
        self.refresh()

    @property
    def live(self) -> bool:
        """Whether the old bank may still change."""
        return self._old is not None

    def refresh(self) -> None:
        """Take over what the old bank holds now."""
        old, below = self._old, self._below
        if old is None:
            return
        used: npt.NDArray[np.bool_] = np.any(old, axis=1)
        if self._by_cgroup:
            self.serials = old[:, 0].copy() if below is None else below.expire(old[:, 0].copy())
        if below is not None:
            used[below.rows] = True
        rows = np.flatnonzero(used)
        found: U64 = old[np.ix_(rows, self._source)]
        if below is not None:
            found = found + below.values[np.ix_(rows, self._source)]
        piece: U64 = np.zeros((rows.size, self.values.shape[1]), dtype=np.uint64)
        # Several old words may count what is now one.
        np.add.at(piece.T, self._target, found.T)
        self.values[self.rows] = 0
        self.values[rows] = piece
        self.rows = rows
        np.add.reduce(piece, axis=0, out=self.sums)

    def settle(self) -> None:
        """The old bank changes no more: it is read for the last time and let go."""
        self.refresh()
        self._old = self._below = None

    def expire(self, serials: U64) -> U64:
        """Drop the base of rows that belong to another cgroup by now; returns the serials of all rows.

        A row that has not been touched since the bank was made is still that of the cgroup it belonged to before.
        """
        mine = self.serials
        stale = (mine != serials) & (serials != 0) & (mine != 0)
        if stale.any():
            self.values[stale] = 0
            mine[stale] = 0
            np.add.reduce(self.values[self.rows], axis=0, out=self.sums)
        owners: U64 = np.where(serials == 0, mine, serials)
        return owners


def base_of(
    bank: Bank, now: Schema, before: Schema, banks: Mapping[str, U64], bases: Mapping[str, Base]
) -> Base | None:
    """The base of a bank that is new, from the banks (and their bases) of the schema before; None when nothing stays."""
    old = next((known for known in before.banks if known.name == bank.name), None)
    if old is None or bank.name not in banks or bank.axis not in AXES or old.rows != bank.rows:
        return None
    known = dict(_cells(bank.name, before))
    target: list[int] = []
    source: list[int] = []
    for cell, words in _cells(bank.name, now):
        old_words = known.get(cell, ())
        for number, word in enumerate(old_words):
            source.append(word)
            target.append(words[min(number, len(words) - 1)])
    if not target:
        return None
    moves = (np.array(target, dtype=np.intp), np.array(source, dtype=np.intp))
    return Base(bank, banks[bank.name], bases.get(bank.name), moves)


def _cells(bank: str, schema: Schema) -> Iterator[tuple[Cell, Sequence[int]]]:
    """Everything that is counted in a bank, with the words that do."""
    for metric in schema.metrics:
        match metric.storage:
            case Slots(bank=name, offset=offset) if name == bank and metric.kind != "gauge":
                width = histogram_buckets(metric.power) if metric.kind == "histogram" else 1
                for number, cell in enumerate(_labels(metric.labels)):
                    what = (metric.name, metric.kind, width, metric.dimension, cell)
                    yield what, range(offset + number * width, offset + (number + 1) * width)
            case _:
                pass
    if bank == "cpu":
        yield from _discards(schema.samplers)


def _discards(samplers: Sequence[Sampler]) -> Iterator[tuple[Cell, Sequence[int]]]:
    """Counts of discards: of one reason there may be several words, and only their sum is shown.

    A metric of a sampler's discards sums some of the same words, hence nothing is to be done for it.
    """
    for sampler in samplers:
        words: dict[str, list[int]] = {}
        for reason, offset in sampler.discards:
            words.setdefault(reason, []).append(offset)
        for reason, found in words.items():
            yield ("discards", sampler.name, reason), found


def _labels(labels: Sequence[Label]) -> Iterator[Cell]:
    """Combinations of label values in row-major order, each in an order that does not depend on how they are declared."""
    names = [label.name for label in labels]
    for values in itertools.product(*(label.values for label in labels)):
        yield tuple(sorted(zip(names, values, strict=True)))
