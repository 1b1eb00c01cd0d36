"""From a checked unit to what will run: one program per hook, the layout of everything it writes, the schema."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from dsl import ir, schema
from dsl.hooks import Hook
from dsl.plan.fuse import Fused, Step, bank_name, fuse
from dsl.plan.names import function_names
from dsl.plan.number import Memory, Value, failures
from dsl.plan.storage import STRIPES, BankLayout, TableLayout, lay_out_banks, lay_out_table
from dsl.plan.tasks import TaskLayout, lay_out_tasks
from dsl.plan.weigh import weights

__all__ = ["Plan", "Program", "Target", "plan"]

_TASKS_BY_ADDRESS = 16384
"""Entries of the hash of task state where the kernel cannot keep it with the task: about 2 MiB. With more tasks alive than
this, the youngest are not measured, which is counted as `state_full`."""

_GUARDED_ALWAYS = frozenset(("tracepoint", "kprobe", "kretprobe", "perf"))
"""The kernel runs at most one program of these kinds at a time on a CPU (`bpf_prog_active`)."""

_GUARDED_BY_PROGRAM = frozenset(("tp_btf", "raw_tp", "fentry", "fexit"))
"""The kernel keeps a program of these kinds from interrupting itself on a CPU, where `Target.recursion_safe` says so."""

BTF_KINDS = frozenset(("tp_btf", "fentry", "fexit"))
"""Programs whose arguments are typed, so that a plain load may follow them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What code generation needs to know of the machine."""

    possible_cpus: int
    pid_max: int = 32768
    arch: Literal["x86_64", "aarch64"] = "x86_64"
    page_size: int = 4096
    task_storage: bool = True
    """Maps of type TASK_STORAGE for tracing programs (5.11)."""
    current_task_btf: bool = True
    """The helper bpf_get_current_task_btf (5.11)."""
    recursion_safe: bool = True
    """A raw tracepoint's program cannot interrupt itself on a CPU (6.2, commit 05b24ff9b2cf)."""
    cgroup_offsets: Mapping[str, int] | None = None
    """Byte offsets of task_struct.sched_task_group, task_group.css, cgroup_subsys_state.{id,serial_nr,cgroup},
    cgroup.{kn,level} and kernfs_node.{name,parent,id}; None without CONFIG_CGROUP_SCHED."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A hook's program. `discards` names, for a sampler and a reason, the word of the bank `cpu` that counts."""

    function: str
    fused: Fused
    alone: bool
    """It cannot be interrupted by itself: words that only it writes need no atomic operation."""
    discards: Mapping[tuple[str, ir.DiscardReason], str]
    frees_tasks: bool = False
    """It also removes the state of the task it is about."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A unit laid out for a machine: memory, programs, and the schema that describes both to user space."""

    unit: ir.Unit
    target: Target
    schema: schema.Schema
    programs: tuple[Program, ...]
    banks: tuple[BankLayout, ...]
    tasks: TaskLayout | None
    tables: tuple[TableLayout, ...]
    shared: frozenset[tuple[str, int | None]]
    """Metrics, and which of their label combinations (None: any), whose words more than one program or CPU may write at a time."""

    @property
    def forgotten(self) -> frozenset[str]:
        """Metrics of which some program gives keys back."""
        steps = (step.statement for program in self.programs for step in program.fused.steps())
        return frozenset(item.metric.schema.name for item in steps if isinstance(item, ir.ForgetKey))

    def bank(self, name: str) -> BankLayout:
        """A bank by name."""
        return next(item for item in self.banks if item.bank.name == name)

    def is_shared(self, metric: str, slot: int | None) -> bool:
        """Whether an update of a metric must be atomic; `slot` None when it is known only at the event."""
        return any(name == metric and (slot is None or other in (None, slot)) for name, other in self.shared)


def plan(unit: ir.Unit, target: Target, before: schema.TaskMemory | None = None) -> Plan:
    """Lay out a unit for a machine. `before` is what a set that runs remembers of tasks: this one is to go on with it."""
    arrays = {table.name: layout for table in unit.tables if (layout := lay_out_table(table))}
    fused = _fuse_all(unit, target, frozenset(arrays))
    states = [state for sampler in unit.samplers for state in sampler.states]
    storage = target.task_storage and all(_keeps_with_task(item, target) for item in fused)
    limit = 0 if storage else min(target.pid_max, _TASKS_BY_ADDRESS)
    versions = {sampler.name: version_of(sampler) for sampler in unit.samplers}
    tasks = lay_out_tasks(states, "storage" if storage else "hash", limit, versions=versions, before=before)
    programs = _programs(fused, tasks)
    metrics = [metric for sampler in unit.samplers for metric in sampler.metrics if not _is_read(metric)]
    words = [word for program in programs for word in program.discards.values()]
    banks = lay_out_banks(metrics, words, target.possible_cpus)
    used = {node.table for item in fused for node in _lookups(item)}
    tables = tuple(layout for name, layout in arrays.items() if name in used)
    empty = schema.Schema(samplers=(), metrics=())
    return _described(Plan(unit, target, empty, programs, banks, tasks, tables, _shared(programs, target)))


def _described(draft: Plan) -> Plan:
    """The plan with its schema filled in."""
    described = schema.Schema(
        samplers=tuple(_sampler(draft, sampler) for sampler in draft.unit.samplers),
        metrics=tuple(_metric(draft, metric) for sampler in draft.unit.samplers for metric in sampler.metrics),
        banks=tuple(item.bank for item in draft.banks),
        sources=draft.unit.sources,
        programs=tuple(_program(program) for program in draft.programs),
        maps=_maps(draft),
        tasks=draft.tasks.memory if draft.tasks else None,
    )
    return Plan(
        draft.unit, draft.target, described, draft.programs, draft.banks, draft.tasks, draft.tables, draft.shared
    )


def _maps(draft: Plan) -> tuple[str, ...]:
    """All BPF maps by name, in the order of the C text."""
    names: list[str] = []
    for item in draft.banks:
        names.append(item.bank.name)
        if item.bank.axis == "cgroup":
            names.append(schema.CGROUP_NAMES)
        if item.bank.axis == "key":
            names += companions(item.bank.name, forgets=item.bank.name in draft.forgotten)
    if draft.tasks:
        names.append("tasks")
    names += [state_map(state) for sampler in draft.unit.samplers for state in sampler.states if state.kind == "hash"]
    if draft.tables:
        names.append("tables")
    if needs_scratch(draft):
        names.append("scratch")
    return tuple(names)


def companions(bank: str, *, forgets: bool) -> list[str]:
    """The maps beside a bank by open-ended keys: keys, rows by key, how many were given out, rows given back."""
    return [f"{bank}_keys", f"{bank}_slots", f"{bank}_next", *([f"{bank}_free"] if forgets else [])]


def state_map(state: ir.State) -> str:
    """The map of a state."""
    return "tasks" if state.kind == "task" else f"{state.sampler}_{state.name}"


def member_of(metric: ir.Metric) -> str:
    """The name of a metric's words in its bank."""
    return metric.schema.name


def reasons(step: Step) -> Iterator[ir.DiscardReason]:
    """Every reason for which a statement may be discarded."""
    for value in (*step.head, *((step.default,) if step.default else ())):
        yield from failures(value)
    match step.statement:
        case ir.StoreState():
            yield "state_full"
        case ir.Update(metric=metric, op=op):
            if isinstance(metric.schema.dimension, schema.ByKey):
                yield "key_overflow"
            if (_is_signed(step.value) and op != "set") or (
                isinstance(metric.schema.dimension, schema.ByCpu) and step.row
            ):
                yield "range"
        case _:
            pass


def _is_signed(value: Value | None) -> bool:
    return value is not None and isinstance(value.type, ir.Int) and value.type.signed


def _is_read(metric: ir.Metric) -> bool:
    return metric.read or bool(metric.discards)


def _fuse_all(unit: ir.Unit, target: Target, arrays: frozenset[str]) -> tuple[Fused, ...]:
    by_hook: dict[Hook, list[ir.Handler]] = {}
    for sampler in unit.samplers:
        for handler in sampler.handlers:
            by_hook.setdefault(handler.hook, []).append(handler)
    tables = {table.name: table for table in unit.tables}
    return tuple(
        fuse(hook, tuple(handlers), tables, arrays, target.cgroup_offsets) for hook, handlers in by_hook.items()
    )


STACK_WORDS = 8
"""A buffer of more than 64 bytes does not go to the stack, of which a program has 512: it is in the map `scratch`."""


def needs_scratch(draft: Plan) -> bool:
    """Whether a text or a key is too big for the stack."""
    keys = any(item.bank.key_size > 8 * STACK_WORDS for item in draft.banks)
    types = (value.type for program in draft.programs for value in program.fused.graph.values)
    return keys or any(isinstance(kind, ir.Text) and kind.size > 8 * STACK_WORDS for kind in types)


def is_plain(value: Value, kind: str, target: Target) -> bool:
    """Whether a pointer is one that the verifier knows, so that a plain load may follow it in a program of this kind."""
    if not (isinstance(value.type, ir.Pointer) and value.type.walkable):
        return False
    match value.node:
        case ir.Arg():
            return kind in BTF_KINDS
        case ir.Builtin(name="current"):
            return target.current_task_btf
        case ir.Load():
            return is_plain(value.operands[0], kind, target)
        case ir.Offset(offset=offset):
            return offset >= 0 and is_plain(value.operands[0], kind, target)
        case ir.Reinterpret(operand=operand, type=type_):
            # The verifier goes on seeing the type the pointer came with.
            same = isinstance(operand.type, ir.Pointer) and operand.type.target == type_.target
            return same and is_plain(value.operands[0], kind, target)
        case _:
            return False


def _keeps_with_task(fused: Fused, target: Target) -> bool:
    """Whether every task whose state this program touches is one that the storage helper takes."""
    tasks = [value.operands[0] for value in fused.graph.values if value.node == Memory("task")]
    return all(isinstance(task.node, ir.Arg | ir.Builtin) and is_plain(task, fused.hook.kind, target) for task in tasks)


def _lookups(fused: Fused) -> Iterator[ir.TableLookup]:
    for value in fused.graph.values:
        if isinstance(value.node, ir.TableLookup):
            yield value.node


def _programs(fused: tuple[Fused, ...], tasks: TaskLayout | None) -> tuple[Program, ...]:
    hooks = [item.hook for item in fused]
    frees: Hook | None = None
    if tasks is not None and tasks.kind == "hash":
        frees = next((h for h in hooks if h.name == "sched_process_free" and h.kind in ("tp_btf", "raw_tp")), None)
        if frees is None:
            frees = Hook(kind="raw_tp", name="sched_process_free")
            fused = (*fused, fuse(frees, (), {}))
            hooks.append(frees)
    names = function_names(hooks)
    return tuple(_planned(item, name, frees) for item, name in zip(fused, names, strict=True))


def _planned(fused: Fused, function: str, frees: Hook | None) -> Program:
    found: dict[tuple[str, ir.DiscardReason], str] = {}
    for step in fused.steps():
        sampler = fused.handlers[step.handler].sampler
        for reason in reasons(step):
            found.setdefault((sampler, reason), f"{function}__{sampler}__{reason}")
    alone = fused.hook.kind in _GUARDED_ALWAYS | _GUARDED_BY_PROGRAM
    return Program(function, fused, alone, found, frees is not None and fused.hook == frees)


def is_alone(program: Program, target: Target) -> bool:
    """Whether the kernel keeps a program from interrupting itself on a CPU."""
    return program.fused.hook.kind in _GUARDED_ALWAYS or (program.alone and target.recursion_safe)


def _shared(programs: tuple[Program, ...], target: Target) -> frozenset[tuple[str, int | None]]:
    writers: dict[str, list[tuple[str, int | None]]] = {}
    shared: set[tuple[str, int | None]] = set()
    for program in programs:
        for step in program.fused.steps():
            if isinstance(step.statement, ir.Update):
                name, slot = step.statement.metric.schema.name, _constant_slot(step)
                writers.setdefault(name, []).append((program.function, slot))
                if not (_own_row(step, step.statement.metric, target) and is_alone(program, target)):
                    shared.add((name, slot))
    for name, found in writers.items():
        for function, slot in found:
            if any(other != function and (at is None or slot is None or at == slot) for other, at in found):
                shared.add((name, slot))
    return frozenset(shared)


def _constant_slot(step: Step) -> int | None:
    if step.slot is None:
        return 0
    return step.slot.node.value if isinstance(step.slot.node, ir.Const) else None


def _own_row(step: Step, metric: ir.Metric, target: Target) -> bool:
    """Whether only this CPU writes the row that an update goes to."""
    bank = bank_name(metric)
    if bank == "hist":
        return target.possible_cpus <= STRIPES
    return bank == "cpu" and not (isinstance(metric.schema.dimension, schema.ByCpu) and step.row)


def _sampler(draft: Plan, sampler: ir.Sampler) -> schema.Sampler:
    return schema.Sampler(
        name=sampler.name,
        help=sampler.help,
        file=sampler.span.source.path,
        line=sampler.span.line,
        events=tuple(
            schema.EventUse(event=event, hook=hook, missing=missing, line=line)
            for event, hook, missing, line in sampler.events
        ),
        states=tuple(_state(draft, state) for state in sampler.states),
        version=version_of(sampler),
        discards=tuple(
            (reason, draft.bank("cpu").offset(word))
            for program in draft.programs
            for (name, reason), word in program.discards.items()
            if name == sampler.name
        ),
    )


def version_of(sampler: ir.Sampler) -> str:
    """A digest of a sampler's text."""
    return hashlib.blake2b(sampler.span.text.encode(), digest_size=8).hexdigest()


def _state(draft: Plan, state: ir.State) -> schema.StateMap:
    size = sum(item.type.width for item in state.fields) // 8
    limit = state.limit
    if draft.tasks and state.kind == "task":
        size, limit = draft.tasks.entry_bytes, draft.tasks.limit
    return schema.StateMap(name=state.name, map=state_map(state), kind=state.kind, limit=limit, entry_bytes=size)


def _metric(draft: Plan, metric: ir.Metric) -> schema.Metric:
    if metric.discards:
        offsets = tuple(
            draft.bank("cpu").offset(word)
            for program in draft.programs
            for (name, reason), word in program.discards.items()
            if name == metric.schema.sampler and reason in metric.discards
        )
        return msgspec.structs.replace(metric.schema, storage=schema.FromDiscards(offsets))
    if metric.read:
        return metric.schema
    bank = bank_name(metric)
    slots = schema.Slots(bank, draft.bank(bank).offset(member_of(metric)))
    return msgspec.structs.replace(metric.schema, storage=slots)


def _program(program: Program) -> schema.Program:
    fused = program.fused
    return schema.Program(function=program.function, hook=fused.hook, samplers=fused.samplers, weights=weights(fused))
