"""Readings of several sources become one: provenance as labels, and one reading per tick that has what each source gave.

A round begins with a reading and takes those of other sources that began within half an interval of it. It is complete when
every source is there, or half an interval later: whoever is slower is missing from that round only. A source that has
missed many rounds in a row is not waited for any more, until it is heard of again. What a reading's series become is worked
out once per catalog, so a tick costs three concatenations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import trio

from rezolus.reading import Catalog, Reading, Series

Labels = Callable[[], Mapping[str, str]]
"""Labels to add. A function, because some are known only once a source was reached; asked for each new catalog."""

EXPORTED = "exported_"
"""Before the name of a series' own label that an added one takes the place of: nothing is lost, and Prometheus does the same."""
KEPT, KEPT_SERIES = 16, 200_000
"""Sets of sources that delivered together whose merged catalogs are remembered, and the series in all of these."""

PATIENCE = 10
"""Rounds in a row that a source may miss and still be waited for: one that was away for a moment loses no reading on its return."""


class SeriesChange:
    """Changes the series of catalogs one by one. The same catalog gives the same catalog, the same series the same series.

    Remembers the last catalog only. Where counters come and go with every other reading, what is new is a few series.
    """

    def __init__(self, change: Callable[[Series], Series]) -> None:
        self._change = change
        self._known: dict[int, tuple[Series, Series]] = {}
        self._before: Catalog | None = None
        self._after = Catalog((), (), ())

    def catalog(self, catalog: Catalog) -> Catalog:
        """The catalog of the changed series."""
        if catalog is not self._before:
            groups = (catalog.counters, catalog.gauges, catalog.histograms)
            known = self._known
            self._known = {
                id(series): known.get(id(series)) or (series, self._change(series))
                for group in groups
                for series in group
            }
            self._after = Catalog(*(tuple(self._known[id(series)][1] for series in group) for group in groups))
            self._before = catalog
        return self._after


class Relabel:
    """Adds labels to the series of readings. The same catalog gives the same catalog."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._added: Mapping[str, str] = {}
        self._catalog: Catalog | None = None
        self._change = SeriesChange(self._add)

    def relabel(self, reading: Reading) -> Reading:
        """The reading with the labels added; shares the arrays."""
        return replace(reading, catalog=self.catalog(reading.catalog))

    def catalog(self, catalog: Catalog) -> Catalog:
        """The catalog with the labels added."""
        if catalog is not self._catalog:
            added = dict(self._labels())
            if added != self._added:
                self._added, self._change = added, SeriesChange(self._add)
            self._catalog = catalog
        return self._change.catalog(catalog)

    def _add(self, series: Series) -> Series:
        return with_labels(series, self._added)


def with_labels(series: Series, added: Mapping[str, str]) -> Series:
    """The series with more labels; its own of the same name go on as `exported_<name>`."""
    labels = dict(series.labels)
    for name in added.keys() & labels.keys():
        free = EXPORTED + name
        while free in labels or free in added:
            free = EXPORTED + free
        labels[free] = labels.pop(name)
    labels.update(added)
    return replace(series, labels=dict(sorted(labels.items())))


@dataclass(frozen=True, slots=True)
class MergeStatistics:
    """Counts of a merger since the start."""

    rounds: int
    """Readings sent on."""
    partial: int
    """Of these, without some source that was waited for."""
    late: Mapping[str, int]
    """Readings by source that came after their round was sent, and are lost."""


@dataclass(slots=True, eq=False)
class _Round:
    """One tick while its readings come in."""

    begin_ns: int
    """CLOCK_BOOTTIME of the first of its readings to arrive."""
    expected: frozenset[str]
    deadline: float
    readings: dict[str, Reading]
    done: trio.Event


@dataclass(frozen=True, slots=True)
class _Merged:
    """What was worked out for a set of sources. A source whose series have changed never brings its old catalog again."""

    parts: tuple[Catalog, ...]
    catalog: Catalog


class Merger:
    """Takes readings of the sources in `labels` by `put` and passes merged ones to `send`; `run` must be running.

    A merged reading has the time of this host at which its round began, whatever clocks the sources have.
    """

    def __init__(self, interval_ns: int, labels: Mapping[str, Labels], send: Callable[[Reading], None]) -> None:
        self._send = send
        self._half_ns = interval_ns // 2
        self._relabels = {name: Relabel(of) for name, of in labels.items()}
        self._round: _Round | None = None
        self._opened = trio.Event()
        self._last_ns = -(2**63)
        self._extra = False
        """The next round, or this one, is out of turn."""
        self._missed = dict.fromkeys(labels, 0)
        self._merged: dict[tuple[str, ...], _Merged] = {}
        self._rounds = self._partial = 0
        self._late = dict.fromkeys(labels, 0)

    def put(self, name: str, reading: Reading) -> None:
        """A reading of one source; never waits."""
        began, current = reading.monotonic_ns, self._round
        if current is not None and (name in current.readings or began >= current.begin_ns + self._half_ns):
            self._close(current)
            current = None
        newest = self._last_ns if current is None else current.begin_ns - 2 * self._half_ns
        if began < newest + self._half_ns and not self._extra:
            self._late[name] += 1
            self._missed[name] = 0  # the next round waits for it
            return
        if current is None:
            current = self._open(reading)
        current.readings[name] = reading
        if current.expected <= current.readings.keys():
            self._close(current)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Close rounds that are not complete in time, until cancelled."""
        task_status.started()
        while True:
            await self._opened.wait()
            current = self._round
            if current is None:
                continue  # it was complete before this task had its turn
            with trio.move_on_at(current.deadline):
                await current.done.wait()
            if self._round is current:
                self._close(current)

    def expect_extra(self) -> None:
        """A round comes out of turn: however close it is to others, it is passed on, and so are they."""
        if self._round is not None:
            self._close(self._round)
        self._extra = True

    def flush(self) -> None:
        """Send what there is of the current round: no more readings come."""
        if self._round is not None:
            self._close(self._round)

    def statistics(self) -> MergeStatistics:
        """Counts so far."""
        return MergeStatistics(self._rounds, self._partial, dict(self._late))

    def _open(self, reading: Reading) -> _Round:
        self._round = _Round(
            begin_ns=reading.monotonic_ns,
            expected=frozenset(name for name, missed in self._missed.items() if missed < PATIENCE),
            deadline=trio.current_time() + self._half_ns / 1e9,
            readings={},
            done=trio.Event(),
        )
        self._opened.set()
        return self._round

    def _close(self, current: _Round) -> None:
        """Send what there is."""
        self._round = None
        self._opened = trio.Event()
        current.done.set()
        if not self._extra:
            self._last_ns = current.begin_ns
        self._extra = False
        for name in self._missed:
            self._missed[name] = 0 if name in current.readings else self._missed[name] + 1
        self._rounds += 1
        self._partial += not current.expected <= current.readings.keys()
        self._send(self._merge(current))

    def _merge(self, current: _Round) -> Reading:
        present = [(name, current.readings[name]) for name in self._relabels if name in current.readings]
        readings = [reading for _, reading in present]
        begin_ns = min(reading.monotonic_ns for reading in readings)
        return Reading(
            catalog=self._catalog(present),
            time_ns=time.time_ns() - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - begin_ns),
            monotonic_ns=begin_ns,
            duration_ns=max(reading.duration_ns for reading in readings),
            counters=np.concatenate([reading.counters for reading in readings]),
            gauges=np.concatenate([reading.gauges for reading in readings]),
            histograms=np.concatenate([reading.histograms for reading in readings]),
        )

    def _catalog(self, present: list[tuple[str, Reading]]) -> Catalog:
        """All series of these sources; the same object for the same catalogs of the same sources."""
        names = tuple(name for name, _ in present)
        parts = tuple(self._relabels[name].catalog(reading.catalog) for name, reading in present)
        known = self._merged.pop(names, None)
        if known is None or known.parts != parts:
            known = _Merged(
                parts,
                Catalog(
                    tuple(series for part in parts for series in part.counters),
                    tuple(series for part in parts for series in part.gauges),
                    tuple(series for part in parts for series in part.histograms),
                ),
            )
            self._make_room(_size(known.catalog))
        self._merged[names] = known
        return known.catalog

    def _make_room(self, size: int) -> None:
        """For a catalog of so many series, by those not used for longest."""
        kept = sum(_size(merged.catalog) for merged in self._merged.values())
        while self._merged and (len(self._merged) >= KEPT or kept + size > KEPT_SERIES):
            kept -= _size(self._merged.pop(next(iter(self._merged))).catalog)


def _size(catalog: Catalog) -> int:
    return len(catalog.counters) + len(catalog.gauges) + len(catalog.histograms)
