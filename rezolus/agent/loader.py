"""The loader: a short-lived root process that turns definitions into attached programs and hands them over.

It sends two messages over its socket: first what can be read from files, so that the daemon has something to
measure should the loader not survive its compiler; then the whole result with all descriptors. Nothing is kept here: when it
ends, the daemon's descriptors are the only ones.

For a reload the daemon speaks first: what runs (see `exchange`). The loader sends the whole result, waits for the daemon to
turn the switch, empties the slots that are then no longer in use, says so, and ends.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from dsl.schema import FromSource, Schema, TaskMemory
from rezolus.agent.exchange import Standing, attach_all, carry_gauges, next_value, settle
from rezolus.agent.handover import Handover, Problem, SamplerBrief
from rezolus.agent.isolate import Compile, CompiledUnit, Enabled, Isolated, find_crashing, load_isolated
from rezolus.bpf.attach import online_cpus
from rezolus.bpf.compile import BccMissingError
from rezolus.bpf.handover import HandoverError, receive, send
from rezolus.bpf.load import BtfId, Loaded
from rezolus.bpf.perf_event import PerfEvent, open_event
from rezolus.errors import UserError

NOTHING: Mapping[str, int] = {}


@dataclass(slots=True, kw_only=True)
class Prepared:
    """What was found on this host, ready to compile."""

    compile_samplers: Compile
    btf_id: BtfId
    cpus: tuple[int, ...]
    """Possible CPUs."""
    wanted: Callable[[str], bool]
    """Whether some sink takes the metric of this name."""
    problems: list[Problem] = field(default_factory=list)
    """What is wrong with the definitions themselves."""
    absent: list[SamplerBrief] = field(default_factory=list)
    """Samplers that are switched off or have errors."""
    refused: str = ""
    """Why BPF programs cannot be loaded at all; empty when they can."""
    config: bytes = b""
    """For the daemon, which may not be able to read the file."""


Prepare = Callable[[TaskMemory | None], Prepared]
"""Is told what the set that runs remembers of tasks, if there is one."""


def run_loader(channel: socket.socket, prepare: Prepare, *, careful: bool = False, reload: bool = False) -> None:
    """Do the loader's whole work and return; the process is then to end. What goes wrong is told to the daemon.

    `careful`: first find the samplers over which the compiler crashes, as it did, and leave them out. `reload`: the daemon
    says what runs, and that is replaced.
    """
    standing = Standing()
    try:
        if reload:
            standing = Standing(*receive(channel, Handover))
            standing.check()
        _run(channel, prepare, standing, careful=careful)
    except OSError as error:
        if error.errno != errno.EPIPE:  # else nobody is there to be told
            _fail(channel, f"{error.filename or 'the loader'}: {(error.strerror or str(error)).lower()}")
    except UserError as error:
        _fail(channel, str(error))
    except Exception as error:  # the daemon has to go on without us, and its user to know why
        _fail(channel, f"a defect in rezolus: {type(error).__name__}: {error}")
        if os.environ.get("REZOLUS_DEBUG"):
            raise
    finally:
        standing.close()


def _fail(channel: socket.socket, reason: str) -> None:
    send(channel, Handover(schema=Schema(samplers=(), metrics=()), failure=reason, privileged=privileged()))


def _run(channel: socket.socket, prepare: Prepare, standing: Standing, *, careful: bool) -> None:
    times = _Times()
    prepared = prepare(None if standing.handover is None else standing.handover.schema.tasks)
    times.mark("prepare")
    prepared.compile_samplers = remembering(prepared.compile_samplers)
    prepared.compile_samplers = _without_unwanted(prepared)
    if careful and not prepared.refused:
        _leave_out_crashing(prepared)
    schema = prepared.compile_samplers(lambda _: True).schema
    times.mark("compile")
    if standing.handover is None:
        send(channel, _handover(prepared, files_only(schema)))
    isolated = _load(prepared, schema, standing)
    times.mark("load")
    with isolated.loaded as loaded:
        problems = (*prepared.problems, *isolated.problems)
        refusals = standing.refusals(problems, isolated.schema)
        if refusals:
            send(channel, msgspec.structs.replace(_handover(prepared, schema), refusals=tuple(refusals)))
        else:
            _hand_over(channel, prepared, isolated, standing, times.seconds)
            if standing.handover is not None:
                _exchange(channel, loaded, standing)


def _hand_over(
    channel: socket.socket, prepared: Prepared, isolated: Isolated, standing: Standing, seconds: dict[str, float]
) -> None:
    """Attach everything and pass it on."""
    schema, loaded = isolated.schema, isolated.loaded
    carry_gauges(loaded, schema, standing, isolated.taken)
    programs = attach_all(schema.programs, loaded, prepared.btf_id, standing) if loaded.programs else ()
    perf = standing.perf(schema)
    perf |= open_perf_sources(schema, online_cpus(), isolated.problems, known=perf)
    whole = _handover(prepared, schema)
    whole = msgspec.structs.replace(
        whole,
        programs=programs,
        problems=(*prepared.problems, *isolated.problems),
        absent=(*prepared.absent, *isolated.failed),
        seconds=seconds,
        layouts=dict(isolated.layouts),
        taken=isolated.taken,
        turn=next_value(standing),
    )
    send(channel, whole, loaded.fds() | perf)


def _exchange(channel: socket.socket, loaded: Loaded, standing: Standing) -> None:
    """Wait until the daemon has turned the switch, or refused to; then nothing of the other set is left in the slots."""
    with suppress(HandoverError):
        receive(channel, bool)
    settle(loaded, standing)
    with suppress(BrokenPipeError):
        send(channel, True)


def files_only(schema: Schema) -> Schema:
    """The part of a schema that needs no programs: metrics read from files."""
    metrics = tuple(metric for metric in schema.metrics if isinstance(metric.storage, FromSource))
    names = {metric.sampler for metric in metrics}
    return Schema(
        samplers=tuple(sampler for sampler in schema.samplers if sampler.name in names),
        metrics=metrics,
        sources=schema.sources,
    )


def open_perf_sources(
    schema: Schema, cpus: list[int], problems: list[Problem], *, known: Mapping[str, int] = NOTHING
) -> dict[str, int]:
    """Open the counters of perf sources on every CPU, under the names they travel by: `perf:SOURCE:KEY:CPU`.

    Those that are `known` count already.
    """
    fds: dict[str, int] = {}
    for source in schema.sources:
        for key, kind, config in source.events:
            try:
                for cpu in cpus:
                    name = f"perf:{source.name}:{key}:{cpu}"
                    if name not in known:
                        fds[name] = open_event(PerfEvent(type=kind, config=config, cpu=cpu))
            except OSError as error:
                message = f"perf event {key} of source {source.name} cannot be counted: {error.strerror}"
                problems.append(Problem(stage="source", message=message))
    return fds


def _load(prepared: Prepared, schema: Schema, standing: Standing) -> Isolated:
    if prepared.refused:
        return _refused(schema, prepared.refused)
    try:
        return load_isolated(prepared.compile_samplers, prepared.btf_id, standing)
    except BccMissingError as error:
        return _refused(schema, str(error))


def _refused(schema: Schema, reason: str) -> Isolated:
    """Without BPF: what files give, and the same problem for every other sampler."""
    result = Isolated(files_only(schema), Loaded())
    kept = {sampler.name for sampler in result.schema.samplers}
    for sampler in schema.samplers:
        if sampler.events:
            file, line = sampler.file, sampler.line
            result.problems.append(Problem(stage="attach", sampler=sampler.name, message=reason, file=file, line=line))
            if sampler.name not in kept:
                result.failed.append(SamplerBrief(name=sampler.name, state="failed", file=file, line=line))
    return result


def remembering(compile_samplers: Compile) -> Compile:
    """The same compiler, but what it made for a set of samplers it does not make again."""
    made: dict[frozenset[str], CompiledUnit] = {}
    everything = compile_samplers(lambda _: True)
    names = frozenset(sampler.name for sampler in everything.schema.samplers)
    made[names] = everything

    def compile_once(enabled: Enabled) -> CompiledUnit:
        chosen = frozenset(name for name in names if enabled(name))
        if chosen not in made:
            made[chosen] = compile_samplers(chosen.__contains__)
        return made[chosen]

    return compile_once


def _without_unwanted(prepared: Prepared) -> Compile:
    """Leave out samplers of which no sink takes a single metric: their programs would run for nobody."""
    schema = prepared.compile_samplers(lambda _: True).schema
    wanted = {metric.sampler for metric in schema.metrics if prepared.wanted(metric.name)}
    unwanted = {sampler.name for sampler in schema.samplers} - wanted
    if not unwanted:
        return prepared.compile_samplers
    inner = prepared.compile_samplers
    prepared.absent.extend(
        SamplerBrief(name=sampler.name, state="disabled", file=sampler.file, line=sampler.line)
        for sampler in schema.samplers
        if sampler.name in unwanted
    )
    return lambda enabled: inner(lambda name: name not in unwanted and enabled(name))


def _leave_out_crashing(prepared: Prepared) -> None:
    inner = prepared.compile_samplers
    crashing = find_crashing(inner, prepared.btf_id)
    for sampler in inner(lambda _: True).schema.samplers:
        if sampler.name in crashing:
            file, line = sampler.file, sampler.line
            prepared.absent.append(SamplerBrief(name=sampler.name, state="failed", file=file, line=line))
            problem = "the C compiler crashes over this sampler; please report it together with the file"
            prepared.problems.append(
                Problem(stage="compile", sampler=sampler.name, message=problem, file=file, line=line)
            )
    prepared.compile_samplers = lambda enabled: inner(lambda name: name not in crashing and enabled(name))


def _handover(prepared: Prepared, schema: Schema) -> Handover:
    return Handover(
        schema=schema,
        problems=tuple(prepared.problems),
        absent=tuple(prepared.absent),
        cpus=prepared.cpus,
        privileged=not prepared.refused,
        config=prepared.config,
    )


class _Times:
    """Seconds between marks."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, step: str) -> None:
        now = time.monotonic()
        self.seconds[step] = round(now - self._last, 4)
        self._last = now


def privileged() -> bool:
    """Whether this process may load BPF programs; the kernel's own answer comes when it tries."""
    return os.geteuid() == 0
