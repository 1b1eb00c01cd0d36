"""Runs generated programs in the kernel and in the interpreter and compares everything they leave behind."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from dsl import ir, schema
from dsl.btf import Btf, Struct
from dsl.emit.unit import emit
from dsl.facts import TargetFacts
from dsl.hooks import Hook
from dsl.interpret.machine import OVERFLOW, Machine, Row
from dsl.interpret.testing import series_name
from dsl.pipeline import target_of
from dsl.plan.unit import plan
from rezolus.agent.formats import parse_cpulist
from rezolus.bpf import syscall
from rezolus.bpf.load import Loaded, Unit, load
from rezolus.bpf.maps import map_array, map_bytes
from rezolus.bpf.targets import kernel_btf_ids
from tests.ir_strategies import CURRENT, TASK_FIELDS, Case, Firing, merge, task_object

COMM: Final = "oracle"
_PR_SET_NAME: Final = 15
_WHO: Final = "oracle_who"
_WHO_TEXT: Final = """
BPF_F_TABLE("array", u32, u64, oracle_who, 2, 0x400);
int oracle_who_am_i(unsigned long long *ctx)
{
    u64 task = (u64)bpf_get_current_task(), group = 0;
    u32 cgroup = 0, first = 0, second = 1;
    bpf_probe_read_kernel(&group, sizeof(group), (void *)(task + %d));
    bpf_probe_read_kernel(&cgroup, sizeof(cgroup), (void *)(group + %d));
    u64 *word = oracle_who.lookup(&first);
    if (word)
        *word = task;
    word = oracle_who.lookup(&second);
    if (word)
        *word = cgroup;
    return 0;
}
"""
"""Tells the address of the running task, which events then pass as an argument, and the id of its cgroup."""


@dataclass(frozen=True, slots=True)
class Who:
    """The running task as the kernel knows it."""

    address: int
    cgroup: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A value, or the whole program, that kernel and interpreter do not agree on."""

    where: str
    kernel: str
    interpreter: str

    def __str__(self) -> str:
        return f"{self.where}: kernel {self.kernel}, interpreter {self.interpreter}"


@cache
def possible_cpus() -> int:
    """Possible CPUs of this machine."""
    return max(parse_cpulist(Path("/sys/devices/system/cpu/possible").read_bytes())) + 1


@cache
def _kernel() -> TargetFacts:
    btf = Btf.parse(Path("/sys/kernel/btf/vmlinux").read_bytes())
    return TargetFacts.for_btf(btf, release="this", possible_cpus=possible_cpus())


@cache
def task_offsets() -> Mapping[str, int]:
    """Byte offsets in `task_struct` of the fields that generated programs read."""
    btf = _kernel().btf
    assert btf is not None
    task = btf.find("task_struct", Struct)
    assert task is not None
    offsets = {}
    for name in TASK_FIELDS:
        path = btf.member_path(task, name)
        assert path is not None
        offsets[name] = sum(member.bit_offset for member in path) // 8
    return offsets


def differences(cases: Sequence[Case], *, log_fd: int | None = None) -> list[list[Difference]]:
    """For each case, what disagrees. All are compiled as one unit, so their prefixes must differ.

    Needs root. Leaves nothing loaded. `log_fd` gets what clang says. Raises `CompileError` when the C is refused as a whole.
    """
    planned = plan(merge(cases), target_of(_kernel()))
    emitted = emit(planned)
    described = planned.schema
    offsets = planned.target.cgroup_offsets
    assert offsets is not None
    group, css = offsets["task_struct.sched_task_group"], offsets["task_group.css"]
    who_text = _WHO_TEXT % (group, css + offsets["cgroup_subsys_state.id"])
    who = schema.Program(function=f"{_WHO}_am_i", hook=Hook(kind="raw_tp", name=_WHO), samplers=())
    unit = Unit(emitted.text + who_text, (*described.programs, who), (*described.maps, _WHO))
    with load(unit, _no_btf, attached=False, log_fd=log_fd) as loaded:
        for name, image in emitted.initial.items():
            syscall.map_update(loaded.maps[name], bytes(4), image)
        task = _ask(loaded, who)
        functions = {program.hook.name: program.function for program in described.programs}
        return [_compare(case, loaded, described, functions, task, number) for number, case in enumerate(cases)]


def refusals(unit: ir.Unit, *, log_fd: int | None = None) -> dict[str, str]:
    """The programs of a unit that the verifier refuses, with what it says. Nothing is attached. Needs root."""
    planned = plan(unit, target_of(_kernel()))
    emitted = emit(planned)
    programs = planned.schema.programs
    whole = Unit(emitted.text, programs, planned.schema.maps)
    with load(whole, kernel_btf_ids(), attached=False, log_fd=log_fd) as loaded:
        return {outcome.function: str(outcome.failure) for outcome in loaded.outcomes if outcome.failure is not None}


def _no_btf(hook: Hook) -> int:
    raise KeyError(hook)


def _ask(loaded: Loaded, who: schema.Program) -> Who:
    syscall.prog_test_run(loaded.programs[who.function], [0])
    address, cgroup = map_array(loaded.maps[_WHO], 2, 1)[:, 0].tolist()
    return Who(address, cgroup)


def _compare(
    case: Case, loaded: Loaded, described: schema.Schema, functions: Mapping[str, str], task: Who, number: int
) -> list[Difference]:
    names = {sampler.name for sampler in case.unit.samplers}
    used = {functions[handler.hook.name] for sampler in case.unit.samplers for handler in sampler.handlers}
    refused = [
        Difference(outcome.function, str(outcome.failure), "accepts")
        for outcome in loaded.outcomes
        if outcome.function in used and outcome.failure is not None
    ]
    if refused:
        return refused
    cpu = number % possible_cpus()
    with _running_as(COMM, cpu):
        machine = _interpret(case, cpu, task)
        _run(case, loaded, functions, task)
    memory = _Memory(loaded, described)
    found = [
        difference
        for metric in described.metrics
        if metric.sampler in names
        for difference in memory.check(metric, machine)
    ]
    return found + [
        item for sampler in described.samplers if sampler.name in names for item in memory.discards(sampler, machine)
    ]


@contextmanager
def _running_as(comm: str, cpu: int) -> Iterator[None]:
    """This thread under another name, on one CPU."""
    libc = ctypes.CDLL(None)
    name, cpus = Path("/proc/thread-self/comm"), os.sched_getaffinity(0)
    before = name.read_bytes().rstrip(b"\n")
    libc.prctl(_PR_SET_NAME, comm.encode(), 0, 0, 0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)
        libc.prctl(_PR_SET_NAME, before, 0, 0, 0)


def _interpret(case: Case, cpu: int, task: Who) -> Machine:
    current = task_object(
        pid=threading.get_native_id(), tgid=os.getpid(), uid=os.getuid(), comm=COMM, cgroup=task.cgroup
    )
    machine = Machine(case.unit, cpus=possible_cpus())
    for firing in case.firings:
        args = [current if argument == CURRENT else argument for argument in firing.args]
        machine.fire(firing.event, args, cpu=cpu, current=current)
    return machine


def _run(case: Case, loaded: Loaded, functions: Mapping[str, str], task: Who) -> None:
    for firing in case.firings:
        if firing.event in functions:
            syscall.prog_test_run(loaded.programs[functions[firing.event]], _words(firing, task))


def _words(firing: Firing, task: Who) -> list[int]:
    return [task.address if argument == CURRENT else int(argument) for argument in firing.args]


class _Memory:
    """The banks of a loaded unit, read by its schema."""

    def __init__(self, loaded: Loaded, described: schema.Schema) -> None:
        self._loaded = loaded
        self._banks = {bank.name: bank for bank in described.banks}

    def discards(self, sampler: schema.Sampler, machine: Machine) -> Iterator[Difference]:
        counts: dict[str, int] = dict.fromkeys(machine.discards(sampler.name), 0)
        for reason, offset in sampler.discards:
            counts[reason] = counts.get(reason, 0) + sum(row[offset] for row in self._rows("cpu"))
        wanted = {str(reason): count for reason, count in machine.discards(sampler.name).items()}
        for reason, count in counts.items():
            if count != wanted.get(reason, 0):
                yield Difference(f"{sampler.name} discards for {reason}", str(count), str(wanted.get(reason, 0)))

    def check(self, metric: schema.Metric, machine: Machine) -> Iterator[Difference]:
        """What differs in the series of a metric, those without a value included."""
        assert isinstance(metric.storage, schema.Slots)
        bank = self._banks[metric.storage.bank]
        kernel = dict(self._series(metric, bank))
        rows = dict.fromkeys([*machine.rows(metric.name), *(row for _, row in kernel)])
        for slot in range(metric.cells):
            for row in rows:
                wanted = _expected(machine, metric, slot, row)
                got = kernel.get((slot, row), {})
                if got != wanted:
                    yield Difference(series_name(metric, slot, row), str(got), str(wanted))

    def _series(self, metric: schema.Metric, bank: schema.Bank) -> Iterator[tuple[tuple[int, Row], dict[int, int]]]:
        """Slot and row of each series, with its words that are not 0 by bucket (0 for a number)."""
        assert isinstance(metric.storage, schema.Slots)
        width = (64 - metric.power + 1) << metric.power if metric.kind == "histogram" else 1
        totals: dict[tuple[int, Row], dict[int, int]] = {}
        for number, words in enumerate(self._rows(bank.name)):
            if not any(words):
                continue
            row = self._row(metric, bank, number, words)
            for slot in range(metric.cells):
                start = metric.storage.offset + slot * width
                series = totals.setdefault((slot, row), {})
                for bucket in range(width):
                    if value := words[start + bucket]:
                        series[bucket] = (series.get(bucket, 0) + value) % (1 << 64)
        for place, series in totals.items():
            if metric.kind == "gauge" and series.get(0, 0) >> 63:
                series[0] -= 1 << 64
            yield place, {bucket: value for bucket, value in series.items() if value}

    def _rows(self, name: str) -> list[list[int]]:
        if name not in self._banks:
            return []
        bank = self._banks[name]
        rows: list[list[int]] = map_array(self._loaded.maps[name], bank.rows, bank.words).tolist()
        return rows

    def _row(self, metric: schema.Metric, bank: schema.Bank, number: int, words: Sequence[int]) -> Row:
        if isinstance(metric.dimension, schema.ByCpu | schema.ByCgroup):
            return number
        if isinstance(metric.dimension, schema.ByKey):
            if number == bank.rows - 1:
                return OVERFLOW
            if not words[0]:
                return (f"row {number} without a key".encode(),)
            key = map_bytes(self._loaded.maps[f"{bank.name}_keys"], bank.rows, bank.key_size)[number].tobytes()
            return tuple(_part(key, field) for field in metric.dimension.fields)
        return None


def _part(key: bytes, field: schema.KeyField) -> int | bytes:
    data = key[field.offset : field.offset + field.size]
    if field.kind == "string":
        return data.split(b"\0", 1)[0]
    return int.from_bytes(data, "little", signed=field.kind == "signed")


def _expected(machine: Machine, metric: schema.Metric, slot: int, row: Row) -> dict[int, int]:
    if metric.kind == "histogram":
        return machine.buckets(metric.name, slot, row)
    value = machine.value(metric.name, slot, row)
    return {0: value} if value else {}
