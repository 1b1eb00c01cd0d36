"""Names of perf events: `perf_event_attr.type` and `config` of the kernel's UAPI (`linux/perf_event.h`)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_HARDWARE = (
    "cpu_cycles",
    "instructions",
    "cache_references",
    "cache_misses",
    "branch_instructions",
    "branch_misses",
    "bus_cycles",
    "stalled_cycles_frontend",
    "stalled_cycles_backend",
    "ref_cpu_cycles",
)
_SOFTWARE = (
    "cpu_clock",
    "task_clock",
    "page_faults",
    "context_switches",
    "cpu_migrations",
    "page_faults_min",
    "page_faults_maj",
    "alignment_faults",
    "emulation_faults",
)

PERF_EVENTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {name: (0, config) for config, name in enumerate(_HARDWARE)}
    | {name: (1, config) for config, name in enumerate(_SOFTWARE)}
    | {"cycles": (0, 0)}
)
"""Name → (type, config); type 0 is hardware, 1 software."""
