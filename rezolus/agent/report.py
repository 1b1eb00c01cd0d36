"""The form of what `/status` and `/samplers` say, for who says it and for who reads it.

The layout is that of Rezolus (`version`, `uptime_seconds`, `ttl_seconds`, `samplers` with `name`, `state`, `health`, `programs`) and
goes on from there; a field without content is left out, and what an agent of Rezolus does not say need not be there.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from rezolus.agent.handover import Problem

Health = Literal["healthy", "unsupported", "degraded", "failed"]


class CostStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What programs cost in the last window in which the kernel timed them."""

    events_per_second: float
    ns_per_event: float
    cpu_share: float
    """Of one CPU; 0.01 is one percent."""


class ProgramStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A program on a hook; shared programs appear with every sampler."""

    name: str
    attached: bool
    hook: str = ""
    verdict: Literal["ok", "unsupported", "broken", "not_applicable"]
    """The second and the last come from agents of Rezolus only."""
    error: str = ""
    shared_with: tuple[str, ...] = ()
    cost: CostStatus | None = None
    """Of the whole program."""
    recursion_misses: int = 0


class EventStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An `on` clause: what was chosen for it."""

    event: str
    line: int
    hook: str | None
    """None when this kernel has no alternative of it."""
    missing: tuple[tuple[str, str], ...] = ()
    """(alternative, why it is not available)."""


class SamplerStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sampler."""

    name: str
    state: Literal["active", "disabled", "failed"]
    health: Health | None = None
    error: str = ""
    help: str = ""
    file: str = ""
    line: int = 0
    metrics: int = 0
    """How many it defines."""
    series: int = 0
    """How many it has now."""
    events: tuple[EventStatus, ...] = ()
    programs: tuple[ProgramStatus, ...] = ()
    cost: CostStatus | None = None
    """Its share of its programs, by the work done for it."""
    discards: dict[str, int] = {}
    """Samples thrown away, by reason; reasons that never occurred are left out."""
    overflows: tuple[str, ...] = ()
    """Metrics of which some values are counted under `(other)`."""
    problems: tuple[Problem, ...] = ()


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Something that cannot be read now."""

    source: str
    path: str
    message: str


class ClockStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The sampling clock."""

    interval_seconds: float
    ticks: int
    late: int
    skipped: int


NO_CLOCK = ClockStatus(interval_seconds=0, ticks=0, late=0, skipped=0)
"""Of an agent that samples when it is asked only."""


class ReadingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The last reading."""

    time_ns: int
    duration_ns: int
    counters: int
    gauges: int
    histograms: int


class ExternalStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Metrics that other programs push."""

    socket: str
    listening: bool
    connections: int = 0
    """Now."""
    series: int = 0
    """Now."""
    updates: int = 0
    """Values that were taken."""
    rejected: dict[str, int] = {}
    """Values that were not, by reason; reasons that never occurred are left out."""
    refused: dict[str, int] = {}
    """Connections that were closed, by reason."""
    problem: str = ""
    """What was wrong with the last one that was closed for what it sent."""
    last_rejected: str = ""
    """The last value that was not taken, whose it was, and why."""


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The agent as a whole."""

    version: str
    uptime_seconds: int
    ttl_seconds: int
    samplers: tuple[SamplerStatus, ...]
    user: str = ""
    privileged_helper: bool | None = None
    """Whether the root helper is there, so that definitions can be loaded again."""
    bpf: bool | None = None
    """Whether BPF programs could be loaded at all."""
    stats: str = ""
    clock: ClockStatus = NO_CLOCK
    map_memory_bytes: int = 0
    maps: dict[str, int] = {}
    """Kernel memory of each map, bytes."""
    reading: ReadingStatus | None = None
    loading: bool = False
    """Whether definitions are being compiled and attached."""
    error: str = ""
    """Why the last loader brought nothing."""
    problems: tuple[Problem, ...] = ()
    """Of no sampler in particular."""
    sources: tuple[SourceStatus, ...] = ()
    load_seconds: dict[str, float] = {}
    external: ExternalStatus | None = None
    """None where nothing is taken from other programs."""
