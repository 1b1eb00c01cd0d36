"""A set of programs and sources in use: everything that was handed over, and what reads it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rezolus.agent.bases import Base, base_of
from rezolus.agent.cgroups import CgroupNames
from rezolus.agent.costs import CostMeter
from rezolus.agent.external.store import Store
from rezolus.agent.handover import Handover, Problem
from rezolus.agent.memory import map_memory
from rezolus.agent.sampling import Memory, Sampling, Wanted
from rezolus.agent.selfmetrics import SelfMetric, counter, gauge
from rezolus.agent.sources import SourceProblem, SourceReader
from rezolus.bpf.maps import map_array
from rezolus.bpf.stats import map_memory as bytes_of_map
from rezolus.reading import Catalog

log = logging.getLogger(__name__)

SOURCE_ERRORS = (
    "rezolus_source_errors",
    "",
    "Files and counters whose content could not be understood; the previous value stood",
)
MAP_MEMORY = ("rezolus_map_memory", "bytes", "Kernel memory of the agent's eBPF maps")

Sampled = Callable[[Wanted, Catalog | None], Sampling]
"""Makes the sampling of a selection; the catalog is that of the readings before."""


@dataclass(slots=True)
class Running:
    """Owns the descriptors it was made with; `close` detaches everything."""

    handover: Handover
    sampling: Sampling
    sources: SourceReader
    costs: CostMeter
    maps: dict[str, int]
    """Map name to bytes of kernel memory."""
    memory: Memory
    sampled: Sampled
    malformed: int = 0
    """Source errors of the sets that this one replaced."""
    problems: list[Problem] = field(default_factory=list)
    fds: dict[str, int] = field(default_factory=dict)
    """By the names they came with."""

    @classmethod
    def start(
        cls,
        handover: Handover,
        fds: dict[str, int],
        names: CgroupNames,
        *,
        wanted: Wanted,
        own: Sequence[SelfMetric],
        root: str = "/",
        before: Running | None = None,
        catalog: Catalog | None = None,
        pushed: Store | None = None,
    ) -> Running:
        """Map the memory, open the files. ValueError or OSError when what came does not fit together.

        `before` is what this set is to replace: it goes on with its values, and `catalog`, that of the last reading, when
        the series are the same. `pushed` is not of a set of programs and outlives it.
        """
        by_kind = _by_kind(fds)
        perf = {_perf_key(name): fd for name, fd in by_kind.get("perf", {}).items()}
        sources = SourceReader(handover.schema.sources, root=root, perf=perf, report=_log_source)
        malformed = 0 if before is None else before.malformed + before.sources.statistics().malformed
        maps = by_kind.get("map", {})
        sizes = {name: bytes_of_map(fd) for name, fd in maps.items()}
        costs = CostMeter(handover.programs, by_kind.get("prog", {}), before=None if before is None else before.costs)
        memory = map_memory(handover.schema, maps, handover.cpus) if maps else Memory(banks={}, cpus=handover.cpus)
        if before is not None:
            memory = replace(memory, bases=_bases(handover, before))
        mine = [
            *own,
            *costs.metrics(),
            counter(SOURCE_ERRORS, lambda: malformed + sources.statistics().malformed),
            gauge(MAP_MEMORY, lambda: sum(sizes.values())),
        ]

        def sampled(wanted: Wanted, catalog: Catalog | None) -> Sampling:
            return Sampling(
                handover.schema, memory, sources, names, wanted=wanted, own=mine, before=catalog, pushed=pushed
            )

        problems = list(handover.problems)
        sampling = sampled(wanted, catalog)
        return cls(handover, sampling, sources, costs, sizes, memory, sampled, malformed, problems, fds)

    def turn(self) -> None:
        """Have every event run this set's programs from now on: one store, for all hooks at once."""
        switch = self.fds.get("switch:")
        if switch is not None:
            map_array(switch, 1, 1, writable=True)[0, 0] = self.handover.turn

    def adjust(self, wanted: Wanted, catalog: Catalog | None) -> None:
        """Sample another selection of the metrics."""
        self.sampling = self.sampled(wanted, catalog)

    def close(self) -> None:
        """Detach the programs, free the maps, close the files."""
        self.sources.close()
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()


def _bases(handover: Handover, before: Running) -> Mapping[str, Base]:
    """What the banks of a new set begin with."""
    found = {}
    for bank in handover.schema.banks:
        if bank.name in handover.taken:
            base = before.memory.bases.get(bank.name)
        else:
            memory = before.memory
            base = base_of(bank, handover.schema, before.handover.schema, memory.banks, memory.bases)
        if base is not None:
            found[bank.name] = base
    return found


def _by_kind(fds: dict[str, int]) -> dict[str, dict[str, int]]:
    kinds: dict[str, dict[str, int]] = {}
    for key, fd in fds.items():
        kind, _, name = key.partition(":")
        kinds.setdefault(kind, {})[name] = fd
    return kinds


def _perf_key(name: str) -> tuple[str, str, int]:
    source, key, cpu = name.rsplit(":", 2)
    return source, key, int(cpu)


def _log_source(problem: SourceProblem) -> None:
    log.warning("source %s: %s: %s", problem.source, problem.path, problem.message)
