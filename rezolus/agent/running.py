"""A set of programs and sources in use: everything that was handed over, and what reads it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from rezolus.agent.cgroups import CgroupNames
from rezolus.agent.costs import CostMeter
from rezolus.agent.handover import Handover, Problem
from rezolus.agent.memory import map_memory
from rezolus.agent.sampling import Memory, Sampling, Wanted
from rezolus.agent.selfmetrics import SelfMetric, counter, gauge
from rezolus.agent.sources import SourceProblem, SourceReader
from rezolus.bpf.stats import map_memory as bytes_of_map

log = logging.getLogger(__name__)

SOURCE_ERRORS = (
    "rezolus_source_errors",
    "",
    "Files and counters whose content could not be understood; the previous value stood",
)
MAP_MEMORY = ("rezolus_map_memory", "bytes", "Kernel memory of the agent's eBPF maps")


@dataclass(slots=True)
class Running:
    """Owns the descriptors it was made with; `close` detaches everything."""

    handover: Handover
    sampling: Sampling
    sources: SourceReader
    costs: CostMeter
    maps: dict[str, int]
    """Map name to bytes of kernel memory."""
    problems: list[Problem] = field(default_factory=list)
    _fds: dict[str, int] = field(default_factory=dict)

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
    ) -> Running:
        """Map the memory, open the files. ValueError or OSError when what came does not fit together."""
        problems = list(handover.problems)
        by_kind = _by_kind(fds)
        perf = {_perf_key(name): fd for name, fd in by_kind.get("perf", {}).items()}
        sources = SourceReader(handover.schema.sources, root=root, perf=perf, report=_log_source)
        maps = by_kind.get("map", {})
        sizes = {name: bytes_of_map(fd) for name, fd in maps.items()}
        costs = CostMeter(handover.programs, by_kind.get("prog", {}))
        memory = map_memory(handover.schema, maps, handover.cpus) if maps else Memory(banks={}, cpus=handover.cpus)
        sampling = Sampling(
            handover.schema,
            memory,
            sources,
            names,
            wanted=wanted,
            own=[
                *own,
                *costs.metrics(),
                counter(SOURCE_ERRORS, lambda: sources.statistics().malformed),
                gauge(MAP_MEMORY, lambda: sum(sizes.values())),
            ],
        )
        return cls(handover, sampling, sources, costs, sizes, problems, fds)

    def close(self) -> None:
        """Detach the programs, free the maps, close the files."""
        self.sources.close()
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


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
