"""A status as `rezolus status` shows it to people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rezolus.agent.handover import Problem
from rezolus.agent.report import AgentStatus, ExternalStatus, SamplerStatus
from rezolus.remote.status import RemoteStatus
from rezolus.status import DaemonStatus, ReloadStatus, ServiceStatus, SinkStatus

_COLOURS = {"healthy": "green", "unsupported": "yellow", "degraded": "red", "failed": "bold red"}
_BAD = ("degraded", "failed")
_STATES = {"up": "green", "connecting": "yellow", "down": "red"}
_SINK_STATES = {
    (True, False): ("running", "green"),
    (True, True): ("in trouble", "bold red"),
    (False, True): ("failed", "bold red"),
    (False, False): ("done", "dim"),
}
"""By whether it runs and whether something is wrong."""


def is_bad(status: DaemonStatus) -> bool:
    """Whether something does not work that should: definitions, a sampler, a sink, a socket, the root helper.

    Sources elsewhere come and go.
    """
    samplers = any(sampler.health in _BAD for sampler in status.samplers)
    sinks = any(sink.failure for sink in status.sinks)
    deaf = status.external is not None and not status.external.listening
    problems = bool(status.error or status.problems)
    return samplers or sinks or deaf or problems or _has_lost_its_helper(status)


def _has_lost_its_helper(status: AgentStatus) -> bool:
    return bool(status.bpf) and status.privileged_helper is False


def show(status: DaemonStatus, console: Console) -> None:
    """Print it."""
    console.print(Text(_headline(status)))
    if status.error:
        console.print(Text(f"error: {status.error}", "bold red"))
    if status.samplers:
        console.print(_sampler_table(status.samplers))
    for line in _sampler_lines(status):
        console.print(line, soft_wrap=True)
    if status.external is not None:
        _print_lines(console, _external_lines(status.external))
    if status.sinks:
        console.print()
        console.print(_sink_table(status.sinks))
        _print_lines(console, ((f"{sink.name}: {sink.failure}", "red") for sink in status.sinks if sink.failure))
    if status.remotes:
        console.print()
        _show_remotes(status.remotes, console)
    if status.reload is not None:
        console.print()
        _print_lines(console, _reload_lines(status.reload))


def show_service(status: ServiceStatus, console: Console) -> None:
    """Print what there is to say of a service without an agent."""
    console.print(Text(f"{status.name} of rezolus {status.version}; no agent, /status there has the rest"))
    if status.remotes:
        console.print()
        _show_remotes(status.remotes, console)


def _show_remotes(remotes: Sequence[RemoteStatus], console: Console) -> None:
    console.print(_remote_table(remotes))
    _print_lines(console, ((f"{source.name}: {source.error}", "red") for source in remotes if source.error))
    for source in remotes:
        _print_lines(console, ((f"{source.name}: {text}", "yellow") for text in source.warnings))


def _print_lines(console: Console, lines: Iterable[tuple[str, str]]) -> None:
    for text, style in lines:
        console.print(Text(text, style), soft_wrap=True)


def _headline(status: AgentStatus) -> str:
    clock, reading = status.clock, status.reading
    parts = [f"rezolus {status.version}, up {_duration(status.uptime_seconds)}"]
    if status.user:
        parts.append(f"user {status.user}")
    if clock.interval_seconds:
        parts.append(
            f"every {clock.interval_seconds:g} s: {clock.ticks} readings, {clock.late} late, {clock.skipped} skipped"
        )
    if reading is not None:
        series = reading.counters + reading.gauges + reading.histograms
        parts.append(f"{series} series in {reading.duration_ns / 1e6:.2f} ms")
    if status.map_memory_bytes:
        parts.append(f"maps {status.map_memory_bytes / 2**20:.1f} MiB")
    if status.loading:
        parts.append("loading")
    elif status.bpf is False:
        parts.append("no eBPF")
    if _has_lost_its_helper(status):
        parts.append("root helper gone: no reload before a restart")
    return "; ".join(parts)


def _table(left: Iterable[str], right: Iterable[str], last: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    table.add_column(last, overflow="fold")
    return table


def _sampler_table(samplers: Iterable[SamplerStatus]) -> Table:
    table = _table(("sampler", "health"), ("series", "events/s", "ns/event", "CPU", "discards"), "hooks")
    for sampler in samplers:
        health = sampler.health or sampler.state
        cost = sampler.cost
        table.add_row(
            Text(sampler.name),
            Text(health, _COLOURS.get(health, "dim")),
            str(sampler.series or ""),
            f"{cost.events_per_second:,.0f}" if cost else "",
            f"{cost.ns_per_event:.0f}" if cost else "",
            f"{cost.cpu_share:.2%}" if cost else "",
            str(sum(sampler.discards.values()) or ""),
            Text(", ".join(dict.fromkeys(event.hook or f"no {event.event}" for event in sampler.events))),
        )
    return table


def _sink_table(sinks: Iterable[SinkStatus]) -> Table:
    table = _table(("sink", "type", "state"), ("every", "readings", "lost"), "from")
    for sink in sinks:
        state = _SINK_STATES[sink.running, bool(sink.failure)]
        table.add_row(
            Text(sink.name),
            sink.type,
            Text(*state),
            f"{sink.interval_seconds:g} s",
            str(sink.delivered),
            str(sink.lost or ""),
            Text(", ".join(sink.sources)),
        )
    return table


def _remote_table(sources: Iterable[RemoteStatus]) -> Table:
    table = _table(("source", "state"), ("series", "readings", "failed", "took"), "at")
    for source in sources:
        table.add_row(
            Text(source.name),
            Text(source.state, _STATES[source.state]),
            str(source.counters + source.gauges + source.histograms or ""),
            str(source.fetched),
            str(source.failed or ""),
            f"{source.fetch_seconds * 1000:.1f} ms" if source.fetched else "",
            Text(source.url),
        )
    return table


def _reload_lines(reload: ReloadStatus) -> Iterable[tuple[str, str]]:
    when = datetime.fromtimestamp(reload.time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    went = "went well" if reload.ok else "was refused" if not reload.changed else "left problems"
    changed = f"; changed: {', '.join(reload.changed)}" if reload.changed else ""
    yield f"last reload {when}: {went}{changed}", "" if reload.ok else "red"
    yield from ((problem, "red") for problem in reload.problems)
    yield from ((note, "yellow") for note in reload.notes)


def _external_lines(external: ExternalStatus) -> Iterable[tuple[str, str]]:
    """What other programs push, and what was wrong with it."""
    if external.listening:
        counts = f"{external.series} series, {external.updates} values from {external.connections} connections"
        yield f"external: {counts} at {external.socket}", ""
    else:
        yield f"external: not listening at {external.socket}", "red"
    if external.rejected:
        counts = ", ".join(f"{count} ({reason})" for reason, count in external.rejected.items())
        yield f"external: rejected {counts}; the last: {external.last_rejected}", "yellow"
    for reason, count in external.refused.items():
        last = f"; the last: {external.problem}" if reason == "malformed" else ""
        yield f"external: closed {count} connections ({reason}){last}", "yellow"


def _sampler_lines(status: AgentStatus) -> Iterable[Text]:
    """What is not as one would wish with definitions and what is read."""
    for text, names in _grouped_problems(status.samplers).items():
        yield Text(f"{names[0] if len(names) == 1 else f'{len(names)} samplers'}: {text}", "red")
    for sampler in status.samplers:
        yield from _remarks(sampler)
    for problem in status.problems:
        yield Text(str(problem), "red")
    for source in status.sources:
        yield Text(f"source {source.source}: {source.path}: {source.message}", "yellow")


def _grouped_problems(samplers: Iterable[SamplerStatus]) -> dict[str, list[str]]:
    """Problem to the samplers that have it; its place is told when only one has."""
    by_message: dict[str, list[tuple[str, Problem]]] = {}
    for sampler in samplers:
        for problem in sampler.problems:
            by_message.setdefault(problem.message, []).append((sampler.name, problem))
    return {
        (message if len(found) > 1 else str(found[0][1])): [name for name, _ in found]
        for message, found in by_message.items()
    }


def _remarks(sampler: SamplerStatus) -> Iterable[Text]:
    """What a sampler lacks or loses, one line each."""
    name = sampler.name
    yield from (
        Text(f"{name}: {program.hook or program.name}: {program.error}", "red")
        for program in sampler.programs
        if program.error
    )
    if sampler.error and not sampler.problems and not any(program.error for program in sampler.programs):
        yield Text(f"{name}: {sampler.error}", "red")
    told: set[str] = set()
    for event in sampler.events:
        for alternative, why in event.missing:
            text = f"{name}: {alternative}: {why}"
            if text not in told:
                told.add(text)
                yield Text(text, "dim" if event.hook else "yellow")
    for reason, count in sampler.discards.items():
        yield Text(f"{name}: discarded {count} ({reason})", "yellow")
    for metric in sampler.overflows:
        yield Text(f"{name}: {metric}: some values are counted under (other)", "yellow")


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(shown[:2]) or "0 s"
