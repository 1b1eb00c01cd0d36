"""The shipped definitions, compiled and loaded in the ways that are compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import dsl
from dsl.facts import TargetFacts
from dsl.hooks import Hook
from dsl.schema import Program
from rezolus.agent.facts import probe
from rezolus.agent.isolate import CompiledUnit, _fill_tables
from rezolus.bpf import syscall
from rezolus.bpf.attach import attach
from rezolus.bpf.load import BtfId, Loaded, Unit, load
from rezolus.bpf.stats import ProgramStats, program_stats
from rezolus.bpf.targets import kernel_btf_ids

ROOT = Path(__file__).parent.parent.parent
PROBES = tuple(sorted((ROOT / "probes").glob("*.rzl")))


@cache
def facts() -> TargetFacts:
    """This host."""
    return probe()


@cache
def btf_ids() -> BtfId:
    """BTF ids of this host."""
    return kernel_btf_ids(facts().btf)


@cache
def parsed() -> dsl.Parsed:
    """The shipped definitions."""
    return dsl.parse_files({str(path): path.read_text() for path in PROBES}, lambda path: Path(path).read_text())


def compiled(enabled: Callable[[str], bool] = lambda _: True, target: TargetFacts | None = None) -> dsl.Compiled:
    """The samplers for which `enabled` holds, as one unit."""
    target = target or facts()
    return dsl.compile_unit(dsl.check_files(parsed(), target, enabled).unit, target)


def sampler_names() -> tuple[str, ...]:
    """Samplers that have programs here."""
    return tuple(dict.fromkeys(name for program in compiled().schema.programs for name in program.samplers))


def loaded(unit: CompiledUnit, *, exchangeable: bool = False) -> Loaded:
    """The unit's programs and maps, not attached; the caller closes it. `exchangeable`: as the agent loads them."""
    whole = Unit(unit.text, unit.schema.programs, unit.schema.maps)
    programs = load(whole, btf_ids(), attached=False, exchangeable=exchangeable)
    _fill_tables(programs, unit.initial)
    for outcome in programs.outcomes:
        if outcome.failure is not None:
            raise RuntimeError(f"{outcome.function}: {outcome.failure}")
    return programs


def empty(hooks: tuple[Hook, ...]) -> Loaded:
    """A program that does nothing for each hook."""
    programs = tuple(Program(function=f"empty_{n}", hook=hook, samplers=()) for n, hook in enumerate(hooks))
    text = "".join(f"int {program.function}(unsigned long long *ctx) {{ return 0; }}\n" for program in programs)
    return load(Unit(text, programs, ()), btf_ids(), attached=False)


@contextmanager
def attached(*units: Loaded) -> Iterator[None]:
    """Programs run while the block does."""
    try:
        for unit in units:
            for outcome in unit.outcomes:
                unit.links[outcome.function] = attach(unit.programs[outcome.function], outcome.hook)
        yield
    finally:
        for unit in units:
            unit.detach()


@contextmanager
def timed() -> Iterator[None]:
    """The kernel times programs while the block runs."""
    fd = syscall.enable_stats()
    try:
        yield
    finally:
        os.close(fd)


def stats(unit: Loaded) -> dict[str, ProgramStats]:
    """Totals by function."""
    return {function: program_stats(fd) for function, fd in unit.programs.items()}


def hooks_of(unit: Loaded) -> dict[str, Hook]:
    """The hook of each function."""
    return {outcome.function: outcome.hook for outcome in unit.outcomes}


def others() -> tuple[str, ...]:
    """Processes that hold eBPF programs or their attachments: theirs are measured with ours."""
    processes = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and entry.name != str(os.getpid()))
    return tuple(filter(None, map(_name_if_bpf, processes)))


def _name_if_bpf(process: Path) -> str:
    """`NAME (PID)` of a process that holds something of eBPF, else nothing."""
    try:
        if any(str(entry.readlink()).startswith("anon_inode:bpf") for entry in (process / "fd").iterdir()):
            return f"{(process / 'comm').read_text().strip()} ({process.name})"
    except OSError:
        pass  # it has ended
    return ""
