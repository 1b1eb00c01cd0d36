"""From mmapped banks and sources to readings.

`Sampling` is made for one schema. Making it sorts the metrics into parts (see `parts`); a reading polls
what may come and go, replaces the catalog if something did, and lets every part fill its piece of three new arrays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dsl.schema import (
    Bank,
    ByKey,
    FromDiscards,
    FromSource,
    Kind,
    Metric,
    Sampler,
    Schema,
    Slots,
)
from rezolus.agent.bases import Base
from rezolus.agent.cgroups import CgroupNames
from rezolus.agent.expressions import SourcePart
from rezolus.agent.external.part import PushedPart
from rezolus.agent.external.store import Store
from rezolus.agent.parts import DiscardsPart, Part, RowsPart, SummedPart, discards_part
from rezolus.agent.rows import CgroupRows, FixedRows, KeyRows, RowSet
from rezolus.agent.selfmetrics import DISCARDS, SelfMetric, SelfPart, counter
from rezolus.agent.sources import SourceReader
from rezolus.reading import U64, Catalog, Reading, Series

KINDS: tuple[Kind, ...] = ("counter", "gauge", "histogram")

Wanted = Callable[[str], bool]


def everything(name: str) -> bool:
    """The selection that wants every metric."""
    return bool(name)


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks a reading is stamped with, ns each."""

    wall: Callable[[], int] = time.time_ns
    boot: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    elapsed: Callable[[], int] = time.perf_counter_ns


@dataclass(frozen=True, slots=True)
class Memory:
    """What the programs write and user space reads, as views of the mmapped maps."""

    banks: Mapping[str, U64]
    """Bank name to `rows` x `words`."""
    cpus: tuple[int, ...] = ()
    """Possible CPUs: rows of a cpu bank that get series."""
    cgroup_names: U64 | None = None
    """The map `cgroup_names`, `CGROUP_ROWS` rows; there when a bank has the axis `cgroup`."""
    keys: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    """Bank name to the rows of `<bank>_keys`, `key_size` bytes each."""
    bases: Mapping[str, Base] = field(default_factory=dict)
    """Bank name to what is to be added to it."""


@dataclass(frozen=True, slots=True)
class SamplingStatistics:
    """Counts of a `Sampling` since it was made."""

    readings: int
    catalogs: int
    """How often series came or went."""
    last_duration_ns: int
    counters: int
    gauges: int
    histograms: int


class Sampling:
    """Takes readings; not to be used from two threads at once."""

    def __init__(
        self,
        schema: Schema,
        memory: Memory,
        sources: SourceReader,
        names: CgroupNames,
        *,
        wanted: Wanted = everything,
        own: Sequence[SelfMetric] = (),
        clocks: Clocks | None = None,
        before: Catalog | None = None,
        pushed: Store | None = None,
    ) -> None:
        """`before` is the catalog of readings so far: the same object goes on when the series are the same."""
        self._sources = sources
        self._names = names
        self._live = [base for base in memory.bases.values() if base.live]
        self._clocks = clocks or Clocks()
        self._row_sets: list[tuple[RowSet, list[RowsPart]]] = []
        metrics = [m for m in schema.metrics if wanted(m.name)]
        parts: list[Part] = []
        for bank in schema.banks:
            if bank.name in memory.banks:
                parts.extend(self._bank_parts(bank, memory, metrics))
        parts.extend(_discard_parts(schema, memory, metrics, wanted))
        parts.extend(SourcePart(m, m.storage, sources) for m in metrics if isinstance(m.storage, FromSource))
        for kind in KINDS:
            chosen = [s for s in own if s.series.kind == kind and wanted(s.series.name)]
            if chosen:
                parts.append(SelfPart(chosen))
            if pushed is not None:
                parts.append(PushedPart(pushed, kind, wanted))
        self._parts = {kind: [p for p in parts if p.kind == kind] for kind in KINDS}
        self._all = parts
        self._readings = self._catalogs = self._last_duration = 0
        self._catalog = self._make_catalog()
        self._before = before

    def read(self, *, aside: bool = False) -> Reading:
        """Take a reading now. One taken `aside` is not seen by all: what is about to go stays for one that is."""
        clocks = self._clocks
        wall, boot, begin = clocks.wall(), clocks.boot(), clocks.elapsed()
        self._sources.read()
        for base in self._live:
            base.refresh()
        if self._poll():
            self._catalog = self._make_catalog()
        if self._before is not None:  # rows are known only now
            self._catalog = _same(self._before, self._catalog)
            self._before = None
        counters = self._fill("counter")
        gauges = self._fill("gauge").view(np.int64)
        histograms = self._fill("histogram")
        if not aside:
            self._names.advance()
        self._readings += 1
        self._last_duration = clocks.elapsed() - begin
        return Reading(self._catalog, wall, boot, self._last_duration, counters, gauges, histograms)

    def settle(self) -> None:
        """What this memory replaced changes no more."""
        for base in self._live:
            base.settle()
        self._live.clear()

    def statistics(self) -> SamplingStatistics:
        """Counts so far."""
        catalog = self._catalog
        return SamplingStatistics(
            readings=self._readings,
            catalogs=self._catalogs,
            last_duration_ns=self._last_duration,
            counters=len(catalog.counters),
            gauges=len(catalog.gauges),
            histograms=len(catalog.histograms),
        )

    def _bank_parts(self, bank: Bank, memory: Memory, metrics: Sequence[Metric]) -> list[Part]:
        view, base = memory.banks[bank.name], memory.bases.get(bank.name)
        mine = [m for m in metrics if isinstance(m.storage, Slots) and m.storage.bank == bank.name]
        summed = [m for m in mine if m.dimension is None]
        by_row = [m for m in mine if m.dimension is not None]
        parts: list[Part] = [
            SummedPart(view, chosen, base) for kind in KINDS if (chosen := [m for m in summed if m.kind == kind])
        ]
        if by_row:
            rows = self._row_set(bank, memory, by_row[0])
            resets = bank.axis == "cgroup"
            row_parts = [
                RowsPart(view, chosen, rows, resets=resets, base=base)
                for kind in KINDS
                if (chosen := [m for m in by_row if m.kind == kind])
            ]
            self._row_sets.append((rows, row_parts))
            parts.extend(row_parts)
        return parts

    def _row_set(self, bank: Bank, memory: Memory, example: Metric) -> RowSet:
        view = memory.banks[bank.name]
        if bank.axis == "cgroup" and memory.cgroup_names is not None:
            return CgroupRows(view, memory.cgroup_names, self._names, memory.bases.get(bank.name))
        if isinstance(example.dimension, ByKey):
            return KeyRows(view, memory.keys[bank.name], example.dimension.fields)
        return FixedRows.of_cpus(memory.cpus, bank.rows)

    def _poll(self) -> bool:
        changed = False
        for rows, parts in self._row_sets:
            if rows.poll():
                changed = True
                for row_part in parts:
                    row_part.prepare()
                if isinstance(rows, CgroupRows):
                    self._names.retain(rows.serials)
        for part in self._all:
            if part.poll():
                changed = True
        return changed

    def _make_catalog(self) -> Catalog:
        self._catalogs += 1
        series: dict[Kind, tuple[Series, ...]] = {
            kind: tuple(s for part in parts for s in part.series) for kind, parts in self._parts.items()
        }
        return Catalog(series["counter"], series["gauge"], series["histogram"])

    def _fill(self, kind: Kind) -> U64:
        parts = self._parts[kind]
        out: U64 = np.empty(sum([part.size for part in parts]), dtype=np.uint64)
        begin = 0
        for part in parts:
            end = begin + part.size
            if end > begin:
                part.fill(out[begin:end])
            begin = end
        return out


def _same(before: Catalog, now: Catalog) -> Catalog:
    """The earlier of two catalogs with the same series, else the later."""
    known = (before.counters, before.gauges, before.histograms)
    return before if known == (now.counters, now.gauges, now.histograms) else now


def _discard_parts(schema: Schema, memory: Memory, metrics: Sequence[Metric], wanted: Wanted) -> list[Part]:
    cpu = next((b.name for b in schema.banks if b.axis == "cpu" and b.name in memory.banks), None)
    if cpu is None:
        return []
    parts: list[Part] = []
    base = memory.bases.get(cpu)
    if declared := [m for m in metrics if isinstance(m.storage, FromDiscards)]:
        parts.append(discards_part(memory.banks[cpu], declared, base))
    if wanted(DISCARDS[0]) and any(s.discards for s in schema.samplers):
        parts.append(own_discards(memory.banks[cpu], schema.samplers, base))
    return parts


def own_discards(bank: U64, samplers: Sequence[Sampler], base: Base | None = None) -> DiscardsPart:
    """`rezolus_discards` of every sampler and reason; one reason may be counted at several places."""
    groups: dict[tuple[str, str], list[int]] = {}
    for sampler in samplers:
        for reason, offset in sampler.discards:
            groups.setdefault((sampler.name, reason), []).append(offset)
    series = [counter(DISCARDS, int, sampler=sampler, reason=reason).series for sampler, reason in groups]
    return DiscardsPart(bank, series, list(groups.values()), base)
