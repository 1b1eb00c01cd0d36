"""Loading so that one bad sampler does not take the others with it.

All samplers are compiled together and share programs. When the unit is refused, the samplers at fault are found, by
the `.rzl` line of the message or else by trying each alone, and everything is compiled again without them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from dsl.schema import Program, Sampler, Schema
from rezolus.agent.exchange import Standing, failure_problem
from rezolus.agent.handover import Problem, SamplerBrief
from rezolus.bpf import syscall
from rezolus.bpf.compile import BccMissingError, CompileError, Message
from rezolus.bpf.load import BtfId, Failure, Loaded, Unit, load
from rezolus.bpf.stats import read_fdinfo

Enabled = Callable[[str], bool]


class CompiledUnit(Protocol):
    """What the compiler returns."""

    @property
    def text(self) -> str:
        """BCC C."""
        ...

    @property
    def schema(self) -> Schema:
        """What the programs leave in memory."""
        ...

    @property
    def initial(self) -> Mapping[str, bytes]:
        """Contents of maps that are tables: rows one after the other."""
        ...

    @property
    def layouts(self) -> Mapping[str, str]:
        """What is in each map that lasts, as text: two maps of the same text may stand for each other."""
        ...


Compile = Callable[[Enabled], CompiledUnit]
"""Compiles the samplers for which the predicate is true. Pure: called again with fewer."""


@dataclass(slots=True)
class Isolated:
    """What could be loaded, and why the rest could not."""

    schema: Schema
    loaded: Loaded
    """Owned by the caller; nothing is attached yet."""
    layouts: Mapping[str, str] = field(default_factory=dict)
    """As of `CompiledUnit`."""
    taken: tuple[str, ...] = ()
    """Maps that are those of the running set."""
    problems: list[Problem] = field(default_factory=list)
    failed: list[SamplerBrief] = field(default_factory=list)


def load_isolated(
    compile_samplers: Compile, btf_id: BtfId, standing: Standing, *, log_fd: int | None = None
) -> Isolated:
    """Compile and load as many samplers as possible, with the maps of the running set where they fit.

    Raises BccMissingError; everything else is in the result. `log_fd` as in `compile_unit`.
    """
    faults: dict[str, Problem] = {}
    briefs: list[SamplerBrief] = []

    def attempt(enabled: Enabled) -> Loaded:
        return _load(compile_samplers(enabled), btf_id, log_fd)

    while True:
        unit = compile_samplers(lambda name: name not in faults)
        maps = standing.maps(unit.layouts)
        try:
            loaded = _load(unit, btf_id, log_fd, maps, exchangeable=standing.switch is None)
        except CompileError as error:
            found = _blame_compiler(error, unit.schema, attempt)
        else:
            found = _blame_verifier(unit.schema, loaded, attempt)
            if not found:
                _fill_tables(loaded, unit.initial)
                taken = tuple(name for name in maps if name in loaded.maps)
                layouts = {name: text for name, text in unit.layouts.items() if name in loaded.maps}
                return Isolated(unit.schema, loaded, layouts, taken, list(faults.values()), briefs)
            loaded.close()
        briefs.extend(
            SamplerBrief(name=sampler.name, state="failed", file=sampler.file, line=sampler.line)
            for sampler in unit.schema.samplers
            if sampler.name in found
        )
        faults.update(found)


def _load(
    unit: CompiledUnit,
    btf_id: BtfId,
    log_fd: int | None,
    maps: Mapping[str, int] | None = None,
    *,
    exchangeable: bool = False,
) -> Loaded:
    if not _using_programs(unit.schema):  # at most a program that looks after state nobody keeps
        return Loaded()
    whole = Unit(unit.text, unit.schema.programs, unit.schema.maps)
    return load(whole, btf_id, replace=maps, attached=False, exchangeable=exchangeable, log_fd=log_fd)


def find_crashing(compile_samplers: Compile, btf_id: BtfId) -> frozenset[str]:
    """The samplers over which the C compiler crashes, found by halving; each attempt is a process of its own."""
    names = _using_programs(compile_samplers(lambda _: True).schema)

    def search(some: tuple[str, ...]) -> frozenset[str]:
        if not some or _survives(compile_samplers, btf_id, some):
            return frozenset()
        if len(some) == 1:
            return frozenset(some)
        middle = len(some) // 2
        return search(some[:middle]) | search(some[middle:])

    return search(names)


def _survives(compile_samplers: Compile, btf_id: BtfId, names: tuple[str, ...]) -> bool:
    """Whether a process that compiles and loads just these samplers lives through it; errors do not count."""
    unit = compile_samplers(names.__contains__)
    pid = os.fork()
    if pid == 0:
        with suppress(CompileError, BccMissingError):
            _load(unit, btf_id, None)
        os._exit(0)
    return not os.WIFSIGNALED(os.waitpid(pid, 0)[1])


Attempt = Callable[[Enabled], Loaded]


def _blame_compiler(error: CompileError, schema: Schema, attempt: Attempt) -> dict[str, Problem]:
    """The samplers whose code clang refuses, each with what it said."""
    found: dict[str, Problem] = {}
    for message in error.messages:
        if message.severity != "error":
            continue
        sampler = sampler_at(schema.samplers, message.file, message.line)
        if sampler is not None and sampler not in found:
            found[sampler] = _compile_problem(sampler, message, error)
    if found:
        return found
    names = _using_programs(schema)
    for name in names:
        try:
            attempt(partial(str.__eq__, name)).close()
        except CompileError as alone:
            found[name] = _compile_problem(name, alone.messages[0] if alone.messages else None, alone)
    return found or {names[-1]: _compile_problem(names[-1], None, error)}


def _compile_problem(sampler: str, message: Message | None, error: CompileError) -> Problem:
    if message is None:
        return Problem(stage="compile", sampler=sampler, message=str(error).splitlines()[0], detail=error.log)
    return Problem(
        stage="compile",
        sampler=sampler,
        message=message.text,
        file=message.file,
        line=message.line,
        detail=error.log,
    )


def _blame_verifier(schema: Schema, loaded: Loaded, attempt: Attempt) -> dict[str, Problem]:
    """The samplers because of which the kernel refuses programs."""
    found: dict[str, Problem] = {}
    programs = {program.function: program for program in schema.programs}
    for outcome in loaded.outcomes:
        failure = outcome.failure
        if failure is not None and failure.stage == "verify":
            program = programs[outcome.function]
            for name in _at_fault(program, failure, schema, attempt):
                found.setdefault(name, failure_problem(failure, name))
    return found


def _at_fault(program: Program, failure: Failure, schema: Schema, attempt: Attempt) -> Sequence[str]:
    if len(program.samplers) == 1:
        return program.samplers
    for message in failure.messages:
        sampler = sampler_at(schema.samplers, message.file, message.line)
        if sampler in program.samplers and sampler is not None:
            return (sampler,)
    alone = [name for name in program.samplers if _refused_alone(name, program, attempt)]
    # Each is fine by itself: together they are too much, and one has to stay out.
    return alone or program.samplers[-1:]


def _refused_alone(name: str, program: Program, attempt: Attempt) -> bool:
    try:
        loaded = attempt(partial(str.__eq__, name))
    except CompileError:
        return True
    with loaded:
        return any(
            outcome.failure is not None and outcome.failure.stage == "verify" and outcome.hook == program.hook
            for outcome in loaded.outcomes
        )


def sampler_at(samplers: Sequence[Sampler], file: str, line: int) -> str | None:
    """The sampler that a line of a file belongs to: the last that begins at or before it."""
    best: Sampler | None = None
    for sampler in samplers:
        if sampler.file == file and sampler.line <= line and (best is None or sampler.line > best.line):
            best = sampler
    return None if best is None or not file else best.name


def _using_programs(schema: Schema) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for program in schema.programs for name in program.samplers))


def _fill_tables(loaded: Loaded, initial: Mapping[str, bytes]) -> None:
    """Write the contents of array maps, one row at a time, before any program runs."""
    for name, data in initial.items():
        fd = loaded.maps.get(name)
        if fd is None or not data:
            continue
        size = read_fdinfo(fd)["value_size"]
        for row in range(len(data) // size):
            syscall.map_update(fd, row.to_bytes(4, "little"), data[row * size : (row + 1) * size])
