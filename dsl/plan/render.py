"""`rezolus compile --plan`: what runs at each hook and why, for people."""

from __future__ import annotations

from collections.abc import Iterator

from dsl import ir
from dsl.plan.fuse import Block, Fused, Mode, Step, is_kept
from dsl.plan.number import Bound, Memory, Value, closure
from dsl.plan.unit import Plan, Program, is_alone, is_plain, state_map
from dsl.plan.weigh import weights

__all__ = ["describe", "map_bytes", "render_plan"]


def render_plan(plan: Plan) -> str:
    """The plan as text: one paragraph per hook, then memory."""
    parts = ["\n".join(_program(plan, program)) for program in plan.programs]
    return "\n\n".join([*parts, "\n".join(_memory(plan))]) + "\n"


def map_bytes(plan: Plan) -> int:
    """Bytes of all values of the maps; task storage grows with the tasks and is not in it."""
    return sum(size for _, size, _ in _maps(plan))


def describe(value: Value, names: dict[Value, str]) -> str:
    """A value as a reader of the source would write it."""
    node = value.node
    match node:
        case Memory(kind="row", name=name):
            return f"row of bank {name}"
        case Memory(kind="cgroup"):
            return f"row of cgroup of {describe(value.operands[0].operands[0], names)}"
        case Memory(kind="task"):
            return f"state of task {describe(value.operands[0], names)}"
        case Memory(kind="tables"):
            return "lookup tables"
        case Bound(local=local):
            return local.name
        case ir.Load(path=path) | ir.Chars(path=path) | ir.Offset(path=path):
            return f"{describe(value.operands[0], names)}.{path}" if path else describe(value.operands[0], names)
        case ir.Builtin(name=name) | ir.RecordField(name=name):
            return name
        case ir.Const(value=number):
            return str(number)
        case _ if value in names:
            return names[value]
        case ir.Reinterpret() | ir.Convert():
            return describe(value.operands[0], names)
        case ir.CString():
            return f"text at {describe(value.operands[0], names)}"
        case ir.TableLookup(table=table):
            return f"{table}({describe(value.operands[0], names)})"
        case ir.Binary(op=op):
            return f"{describe(value.operands[0], names)} {op} {describe(value.operands[1], names)}"
        case ir.Element():
            return f"{describe(value.operands[0], names)}[{describe(value.operands[1], names)}]"
        case ir.Arg(index=index) | ir.UsdtArg(index=index):
            return f"argument {index}"
        case ir.ReturnValue():
            return "result"
        case _:
            return type(node).__name__.lower()


def _program(plan: Plan, program: Program) -> list[str]:
    fused = program.fused
    lines = [f"{fused.hook}  ({program.function})"]
    shares = weights(fused)
    total = sum(shares) or 1
    users = [f"{name} {100 * share // total} %" for name, share in zip(fused.samplers, shares, strict=True)]
    lines += _field("samplers", users or ["none: removes the state of tasks that the kernel frees"])
    lines += _field("reads", list(_reads(plan, fused)))
    lines += _field("updates", list(_updates(plan, program)))
    lines += _field("state", list(_states(fused)))
    found = dict.fromkeys(reason for _, reason in program.discards)
    return lines + _field("discards", [", ".join(found)] if found else [])


def _field(name: str, entries: list[str]) -> list[str]:
    return [f"  {name if index == 0 else '':<9} {entry}" for index, entry in enumerate(entries)]


def _reads(plan: Plan, fused: Fused) -> Iterator[str]:
    """Values that cost something: how, where and for whom they are read. Each is read at most once per event."""
    modes = _modes(fused.root)
    users: dict[Value, dict[str, None]] = {}
    for step in fused.steps():
        for value in closure((*step.head, *((step.default,) if step.default else ()))):
            users.setdefault(value, {})[fused.handlers[step.handler].sampler] = None
    for value in fused.graph.values:
        if value not in users or not _is_worth_telling(value):
            continue
        when = {"eager": "once, shared", "lazy": "on demand, shared"}.get(modes.get(value, ""), "where used")
        how = _how(plan, fused, value)
        text = describe(value, fused.graph.hints)
        yield f"{text:<36} {how:<14} {when:<18} {' '.join(users[value])}"


def _is_worth_telling(value: Value) -> bool:
    return is_kept(value) and not isinstance(value.node, ir.Select | ir.Binary | ir.Remap | ir.UsdtArg)


def _how(plan: Plan, fused: Fused, value: Value) -> str:
    match value.node:
        case ir.Load():
            return "load" if is_plain(value.operands[0], fused.hook.kind, plan.target) else "probe read"
        case ir.Chars() | ir.CString():
            return "string read"
        case Memory(kind="task"):
            return "task storage" if plan.tasks and plan.tasks.kind == "storage" else "hash lookup"
        case Memory() | ir.TableLookup():
            return "array lookup"
        case _:
            return "helper"


def _modes(block: Block) -> dict[Value, Mode]:
    """How the outermost place evaluates each value."""
    found: dict[Value, Mode] = {}
    for values in block.place.values():
        found |= dict(values)
    for step in block.steps:
        for inner in step.blocks:
            found = {**_modes(inner), **found}
    return found


def _updates(plan: Plan, program: Program) -> Iterator[str]:
    seen: dict[str, bool] = {}
    for step in program.fused.steps():
        if isinstance(step.statement, ir.Update):
            slot = _slot(step)
            name = step.statement.metric.schema.name
            alone = is_alone(program, plan.target) and not plan.is_shared(name, slot)
            seen[name] = seen.get(name, True) and (alone or step.statement.op == "set")
    for name, plain in seen.items():
        yield f"{name:<36} {'plain' if plain else 'atomic'}"


def _slot(step: Step) -> int | None:
    if step.slot is None:
        return 0
    return step.slot.node.value if isinstance(step.slot.node, ir.Const) else None


def _states(fused: Fused) -> Iterator[str]:
    seen: dict[str, None] = {}
    for step in fused.steps():
        match step.statement:
            case ir.StoreState(state=state):
                seen[f"store {state.sampler}.{state.name} ({state_map(state)})"] = None
            case ir.ForgetState(state=state):
                seen[f"forget {state.sampler}.{state.name} ({state_map(state)})"] = None
            case ir.ForgetKey(metric=metric):
                seen[f"forget a key of {metric.schema.name}"] = None
            case ir.ReadState(state=state, take=take):
                seen[f"{'take' if take else 'read'} {state.sampler}.{state.name} ({state_map(state)})"] = None
            case _:
                pass
    yield from seen


def _maps(plan: Plan) -> Iterator[tuple[str, int, str]]:
    for item in plan.banks:
        bank = item.bank
        yield bank.name, bank.rows * bank.words * 8, f"bank by {bank.axis}, {bank.rows} x {bank.words} words"
        if bank.axis == "key":
            yield f"{bank.name}_keys", bank.rows * bank.key_size, f"keys, {bank.key_size} bytes each"
            yield f"{bank.name}_slots", (bank.rows - 1) * (bank.key_size + 4), "rows by key"
            if bank.name in plan.forgotten:
                yield f"{bank.name}_free", bank.rows * 4, "rows without a key"
        if bank.axis == "cgroup":
            yield "cgroup_names", bank.rows * 216, "names of cgroups"
    if plan.tasks:
        size, limit = plan.tasks.entry_bytes, plan.tasks.limit
        kept = "kept with the task" if plan.tasks.kind == "storage" else f"hash of {limit}"
        yield "tasks", size * limit, f"state of tasks, {size} bytes each, {kept}"
    for sampler in plan.unit.samplers:
        for state in sampler.states:
            if state.kind == "hash":
                size = 8 + sum(item.type.width for item in state.fields) // 8
                yield state_map(state), size * state.limit, f"hash of {state.limit}"
    if plan.tables:
        yield "tables", sum(item.width * len(item.entries) for item in plan.tables), "numbers to symbols"


def _memory(plan: Plan) -> Iterator[str]:
    yield f"memory: {map_bytes(plan) / 1024:.0f} KiB of values"
    for name, size, what in _maps(plan):
        yield f"  {name:<28} {size / 1024:>9.1f} KiB  {what}"
