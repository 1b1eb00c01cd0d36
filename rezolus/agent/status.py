"""What `/status` and `/samplers` say: per sampler its hooks, its health, what it measures and what it costs.

The form is in `rezolus.agent.report`.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence

from dsl.schema import Sampler
from rezolus import __version__
from rezolus.agent.agent import Agent
from rezolus.agent.costs import Cost
from rezolus.agent.handover import Handover, Problem, ProgramReport, SamplerBrief
from rezolus.agent.report import (
    AgentStatus,
    ClockStatus,
    CostStatus,
    EventStatus,
    Health,
    ProgramStatus,
    ReadingStatus,
    SamplerStatus,
    SourceStatus,
)
from rezolus.agent.rows import OTHER
from rezolus.agent.running import Running
from rezolus.agent.selfmetrics import DISCARDS
from rezolus.reading import Reading


def agent_status(agent: Agent, *, ttl_seconds: int = 0) -> AgentStatus:
    """Everything there is to say now."""
    now = agent.statistics()
    running = agent.running
    reading = agent.latest
    handover = None if running is None else running.handover
    return AgentStatus(
        version=__version__,
        uptime_seconds=int(now.uptime),
        ttl_seconds=ttl_seconds,
        samplers=sampler_statuses(running, reading),
        user=_user(),
        privileged_helper=now.helper_alive,
        bpf=handover is not None and handover.privileged,
        stats=agent.options.stats,
        clock=ClockStatus(
            interval_seconds=agent.interval, ticks=now.clock.ticks, late=now.clock.late, skipped=now.clock.skipped
        ),
        map_memory_bytes=sum(now.maps.values()),
        maps=now.maps,
        reading=None if reading is None else _reading_status(reading),
        loading=agent.loading,
        error=agent.load_error or "",
        problems=() if handover is None else tuple(p for p in handover.problems if not p.sampler),
        sources=tuple(SourceStatus(source=p.source, path=p.path, message=p.message) for p in now.sources),
        load_seconds={} if handover is None else handover.seconds,
        external=agent.pushed.status(),
    )


def sampler_statuses(running: Running | None, reading: Reading | None) -> tuple[SamplerStatus, ...]:
    """All samplers by name, those that do not run too."""
    if running is None:
        return ()
    handover = running.handover
    found = [_active(sampler, running, reading) for sampler in handover.schema.samplers]
    present = {sampler.name for sampler in handover.schema.samplers}
    found.extend(_absent(brief, handover) for brief in handover.absent if brief.name not in present)
    return tuple(sorted(found, key=lambda status: status.name))


def _active(sampler: Sampler, running: Running, reading: Reading | None) -> SamplerStatus:
    handover = running.handover
    programs = [program for program in handover.programs if sampler.name in program.samplers]
    problems = tuple(problem for problem in handover.problems if problem.sampler == sampler.name)
    health = _health(sampler, programs, problems)
    error = problems[0] if problems else next((p.error for p in programs if p.error is not None), None)
    cost = running.costs.sampler(sampler.name)
    return SamplerStatus(
        name=sampler.name,
        state="failed" if health == "failed" else "active",
        health=health,
        error="" if error is None else str(error),
        help=sampler.help,
        file=sampler.file,
        line=sampler.line,
        metrics=sum(metric.sampler == sampler.name for metric in handover.schema.metrics),
        series=0 if reading is None else count_series(reading, sampler.name),
        events=tuple(
            EventStatus(
                event=use.event,
                line=use.line,
                hook=None if use.hook is None else str(use.hook),
                missing=use.missing,
            )
            for use in sampler.events
        ),
        programs=tuple(_program(program, sampler.name, running) for program in programs),
        cost=_cost(cost) if programs and running.costs.windows else None,
        discards={} if reading is None else discards(reading, sampler.name),
        overflows=() if reading is None else overflows(reading, sampler.name),
        problems=problems,
    )


def _absent(brief: SamplerBrief, handover: Handover) -> SamplerStatus:
    problems = tuple(problem for problem in handover.problems if problem.sampler == brief.name)
    return SamplerStatus(
        name=brief.name,
        state=brief.state,
        health="failed" if brief.state == "failed" else None,
        error=str(problems[0]) if problems else "",
        file=brief.file,
        line=brief.line,
        problems=problems,
    )


def _health(sampler: Sampler, programs: Sequence[ProgramReport], problems: Sequence[Problem]) -> Health:
    """failed: nothing works; degraded: something that should does not; unsupported: this kernel lacks a hook."""
    broken = sum(program.error is not None for program in programs)
    if (programs and broken == len(programs)) or (problems and not programs):
        return "failed"
    if broken or problems:
        return "degraded"
    return "unsupported" if any(use.hook is None for use in sampler.events) else "healthy"


def _program(program: ProgramReport, sampler: str, running: Running) -> ProgramStatus:
    costs = running.costs
    attached = program.error is None
    return ProgramStatus(
        name=program.function,
        attached=attached,
        hook=str(program.hook),
        verdict="ok" if attached else "broken",
        error="" if program.error is None else str(program.error),
        shared_with=tuple(name for name in program.samplers if name != sampler),
        cost=_cost(costs.program(program.function)) if attached and costs.windows else None,
        recursion_misses=costs.recursion_misses(program.function) if attached else 0,
    )


def _cost(cost: Cost) -> CostStatus:
    return CostStatus(
        events_per_second=round(cost.runs, 1), ns_per_event=round(cost.ns_per_run, 1), cpu_share=round(cost.share, 6)
    )


def count_series(reading: Reading, sampler: str) -> int:
    """How many series of a reading belong to a sampler."""
    catalog = reading.catalog
    groups = (catalog.counters, catalog.gauges, catalog.histograms)
    return sum(series.sampler == sampler for group in groups for series in group)


def discards(reading: Reading, sampler: str) -> dict[str, int]:
    """What a sampler threw away so far, by reason, where it is not nothing."""
    return {
        series.labels["reason"]: int(value)
        for series, value in zip(reading.catalog.counters, reading.counters, strict=True)
        if series.name == DISCARDS[0] and series.sampler == sampler and value
    }


def overflows(reading: Reading, sampler: str) -> tuple[str, ...]:
    """Metrics of a sampler that have a series `(other)`."""
    catalog = reading.catalog
    names = {
        series.name: None
        for group in (catalog.counters, catalog.gauges, catalog.histograms)
        for series in group
        if series.sampler == sampler and OTHER in series.labels.values()
    }
    return tuple(names)


def _reading_status(reading: Reading) -> ReadingStatus:
    return ReadingStatus(
        time_ns=reading.time_ns,
        duration_ns=reading.duration_ns,
        counters=len(reading.catalog.counters),
        gauges=len(reading.catalog.gauges),
        histograms=len(reading.catalog.histograms),
    )


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
