"""Turns an event of the source into an attach point of this kernel, with typed arguments, or says why it cannot be had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dsl import ir
from dsl.check.kernel_types import TypeRef, pointer_to, structure_name
from dsl.check.scope import UnitScope
from dsl.check.values import CSTRING_SIZE, Value
from dsl.diagnostics import did_you_mean, did_you_mean_one_of
from dsl.facts import TargetFacts
from dsl.hooks import Hook, HookKind
from dsl.kernel.perf_events import PERF_EVENTS
from dsl.kernel.usdt import notation_type
from dsl.syntax import ast
from dsl.units import canonical

NONE = "none"
"""`else none()`: the event may be absent."""


@dataclass(frozen=True, slots=True, eq=False)
class Attachment:
    """A hook and what the event's parameters are bound to there."""

    hook: Hook
    names: dict[str, Value]
    arg_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unavailable:
    """An event this kernel does not offer: a mistake in the source unless another alternative serves."""

    reason: str
    hint: str | None = None
    refused: bool = False
    """The event exists, and the host does not allow or support attaching to it."""
    absent: bool = False
    """The host does not have what is named and another may. Otherwise the text is wrong wherever it is compiled, such as
    about the number of arguments, and `else none()` would only hide that."""


@dataclass(slots=True, eq=False)
class Resolution:
    """What became of one event with its alternatives."""

    text: str
    chosen: tuple[Attachment, ...] = ()
    missing: list[tuple[ast.Event, Unavailable]] = field(default_factory=list)
    accepted: bool = False
    """Ended in `else none()`."""


def event_text(event: ast.Event) -> str:
    """The event as users name it: `sched_switch`, `call tcp_sendmsg`, `user libc:malloc`."""
    where = f"{event.category}:{event.name}" if event.category else event.name
    match event.kind:
        case "tracepoint":
            return where
        case "record" | "call" | "return":
            return f"{event.kind} {where}"
        case "user" | "usdt":
            return f"{event.kind} {event.path}:{where}"
        case "user_return":
            return f"user return {event.path}:{where}"
        case "sample":
            return f"sample {event.number} hz"
        case "perf":
            return f"perf {event.name} every {event.number}"


def resolve_event(alternatives: tuple[ast.Event, ...], unit: UnitScope) -> Resolution:
    """The first alternative that can be attached, and why those before it cannot."""
    result = Resolution(event_text(alternatives[0]))
    for event in alternatives:
        if event.kind == "tracepoint" and event.name == NONE and not event.params:
            result.accepted = True
            break
        found = _resolve(event, unit)
        if isinstance(found, Unavailable):
            result.missing.append((event, found))
            continue
        result.chosen = found
        break
    return result


def _resolve(event: ast.Event, unit: UnitScope) -> tuple[Attachment, ...] | Unavailable:
    match event.kind:
        case "tracepoint":
            return _tracepoint(event, unit)
        case "record":
            return _record(event, unit.facts)
        case "call" | "return":
            return _function(event, unit)
        case "user" | "user_return":
            return _user(event, unit.facts)
        case "usdt":
            return _usdt(event, unit.facts)
        case "sample" | "perf":
            return _perf(event, unit.facts)


def _refusal(facts: TargetFacts, *kinds: str) -> Unavailable:
    reasons = "; ".join(f"{kind}: {facts.capability(kind).reason}" for kind in kinds)
    return Unavailable(f"this host refuses it ({reasons})", refused=True)


def _can(facts: TargetFacts, kind: str) -> bool:
    return facts.capability(kind).state != "no"


# Kernel events


@dataclass(frozen=True, slots=True)
class KernelArg:
    """An argument of a kernel event: its C name (may be empty) and type."""

    name: str
    type: TypeRef


def _tracepoint(event: ast.Event, unit: UnitScope) -> tuple[Attachment, ...] | Unavailable:
    facts = unit.facts
    found = facts.tracepoint_args(event.name)
    if found is None:
        if facts.btf is None:
            return Unavailable(
                "this kernel has no BTF, which types the arguments", hint="use `record CATEGORY:EVENT(field)`"
            )
        hint = did_you_mean_one_of(event.name, facts.raw_tracepoints)
        return Unavailable(f"this kernel has no tracepoint `{event.name}`", hint, absent=True)
    kind: HookKind = "tp_btf" if _can(facts, "tp_btf") else "raw_tp"
    if not _can(facts, kind):
        return _refusal(facts, "tp_btf", "raw_tp")
    args = [KernelArg(arg.name, TypeRef(arg.btf, arg.type_id)) for arg in found]
    bound = bind(event, args, walkable=True)
    if isinstance(bound, Unavailable):
        return bound
    hook = Hook(kind=kind, name=event.name, module=facts.tracepoint_module(event.name))
    return (Attachment(hook, bound, _arg_names(args)),)


def _function(event: ast.Event, unit: UnitScope) -> tuple[Attachment, ...] | Unavailable:
    facts, name = unit.facts, event.name
    proto = facts.function_proto(name)
    if proto is None:
        hint = did_you_mean(name, facts.function_names())
        return Unavailable(f"this kernel has no function `{name}` that can be probed", hint, absent=True)
    returns = event.kind == "return"
    kind: HookKind
    if _can(facts, "fentry"):
        kind = "fexit" if returns else "fentry"
    elif _can(facts, "kprobe"):
        kind = "kretprobe" if returns else "kprobe"
    else:
        return _refusal(facts, "fentry", "kprobe")
    hook = Hook(kind=kind, name=name, module=proto.module)
    if returns:
        if proto.return_type_id == 0 and event.params:
            return Unavailable(f"`{name}` returns nothing")
        ref = TypeRef(proto.btf, proto.return_type_id)
        if len(event.params) > 1:
            return Unavailable(f"a return event has one value, found {len(event.params)}")
        value = (
            value_of(ref, lambda type_: ir.ReturnValue(type_, len(proto.args)), walkable=False)
            if event.params
            else None
        )
        if event.params and value is None:
            return Unavailable(f"`{name}` returns `{ref}`, which is no number or pointer")
        names = {param.name: value for param in event.params if value is not None and param.name != "_"}
        return (Attachment(hook, names),)
    args = [KernelArg(arg.name, TypeRef(arg.btf, arg.type_id)) for arg in proto.args]
    bound = bind(event, args, walkable=True)
    if isinstance(bound, Unavailable):
        return bound
    return (Attachment(hook, bound, _arg_names(args)),)


def bind(event: ast.Event, args: list[KernelArg], *, walkable: bool) -> dict[str, Value] | Unavailable:
    """Parameters to arguments by position; a parameter with a type takes the next argument that points to that structure."""
    names: dict[str, Value] = {}
    position = 0
    for param in event.params:
        if param.type_name:
            while position < len(args) and _points_to(args[position].type) != param.type_name:
                position += 1
        if position >= len(args):
            signature = ", ".join(f"{arg.type} {arg.name}".strip() for arg in args)
            what = f"no argument `{param.type_name} *`" if param.type_name else f"no argument number {position + 1}"
            return Unavailable(f"`{event.name}({signature})` has {what}")
        index = position
        position += 1
        if param.name == "_":
            continue
        value = value_of(args[index].type, lambda type_, index=index: ir.Arg(index, type_), walkable=walkable)
        if value is None:
            return Unavailable(f"argument {index + 1} of `{event.name}`, `{args[index].type}`, is no number or pointer")
        names[param.name] = value
    return names


def _points_to(type_: TypeRef) -> str:
    pointee = type_.pointee
    return structure_name(pointee) if pointee else ""


def _arg_names(args: list[KernelArg]) -> tuple[str, ...]:
    return tuple(arg.name for arg in args)


def value_of(type_: TypeRef, make: object, *, walkable: bool) -> Value | None:
    """A value of a kernel type whose expression `make` builds from the language's type; None when it is no integer or pointer."""
    assert callable(make)
    integer = type_.integer
    if integer is not None:
        return Value(make(integer))
    target = type_.pointee
    if target is not None:
        return Value(make(pointer_to(target, walkable=walkable)), target=target)
    return None


def _record(event: ast.Event, facts: TargetFacts) -> tuple[Attachment, ...] | Unavailable:
    name = f"{event.category}:{event.name}"
    if not _can(facts, "tracepoint"):
        return _refusal(facts, "tracepoint")
    tracepoint = facts.tracepoints.get(name)
    if tracepoint is None:
        return Unavailable(f"this kernel has no tracepoint `{name}`", _record_hint(event, facts), absent=True)
    fields = {found.name: found for found in tracepoint.fields}
    names = {}
    for param in event.params:
        found = fields.get(param.name)
        if param.name == "_" or found is None:
            hint = did_you_mean(param.name, fields) or f"it has {', '.join(fields)}"
            return Unavailable(f"the record `{name}` has no field `{param.name}`", hint)
        if "[" in found.type and "__data_loc" not in found.type:
            type_: ir.Type = ir.Text(found.size)
        elif found.size in (1, 2, 4, 8) and "__data_loc" not in found.type:
            type_ = ir.Int(found.size * 8, found.signed)  # type: ignore[arg-type]
        else:
            return Unavailable(f"the field `{param.name}` of `{name}` has a type that cannot be read, `{found.type}`")
        names[param.name] = Value(ir.RecordField(found.name, found.offset, type_))
    return (Attachment(Hook(kind="tracepoint", name=name), names),)


def _record_hint(event: ast.Event, facts: TargetFacts) -> str | None:
    """Names in the category that are near or contain the one given, else what is near in another category."""
    category = f"{event.category}:"
    names = (name.removeprefix(category) for name in facts.tracepoints if name.startswith(category))
    return did_you_mean_one_of(event.name, names) or did_you_mean(f"{category}{event.name}", facts.tracepoints)


# User space


_USER_TYPES: Mapping[str, ir.Int] = {
    **{str(kind): kind for kind in (ir.U8, ir.U16, ir.U32, ir.U64, ir.S8, ir.S16, ir.S32, ir.S64)},
    "int": ir.S32,
    "long": ir.S64,
    "size_t": ir.U64,
    "pointer": ir.U64,
}


def _user_value(param: ast.Param, expr: ir.Expr, unit_of: str) -> Value:
    """A user function's argument: `string` is read at once, a unit or nothing is a u64."""
    if param.type_name == "string":
        return Value(ir.CString(ir.Reinterpret(expr, ir.Pointer(user=True)), ir.Text(CSTRING_SIZE)))
    kind = _USER_TYPES.get(param.type_name)
    if kind is not None and kind != ir.U64:
        return Value(ir.Convert(expr, kind))
    return Value(expr, unit_of)


def _user(event: ast.Event, facts: TargetFacts) -> tuple[Attachment, ...] | Unavailable:
    if not _can(facts, "uprobe"):
        return _refusal(facts, "uprobe")
    binary = facts.binaries.get(event.path)
    if binary is None:
        return Unavailable(
            f"there is no program or library `{event.path}` on this host", "give its full path", absent=True
        )
    offset = binary.symbols.get(event.name)
    if offset is None:
        hint = did_you_mean(event.name, binary.symbols)
        return Unavailable(f"`{binary.path}` has no function `{event.name}`", hint, absent=True)
    returns = event.kind == "user_return"
    hook = Hook(
        kind="uretprobe" if returns else "uprobe",
        name=event.name,
        path=binary.path,
        offset=offset,
        pid=event.of_pid if event.of_pid is not None else -1,
    )
    names = {}
    for index, param in enumerate(event.params):
        expr: ir.Expr = ir.ReturnValue(ir.U64, 0) if returns else ir.Arg(index, ir.U64)
        unit = canonical(param.type_name) if param.type_name not in _USER_TYPES else ""
        if param.name != "_":
            names[param.name] = _user_value(param, expr, unit)
    limit = 1 if returns else 6
    if len(event.params) > limit:
        return Unavailable(f"at most {limit} arguments of a user function can be read, found {len(event.params)}")
    return (Attachment(hook, names, tuple(param.name for param in event.params)),)


def _usdt(event: ast.Event, facts: TargetFacts) -> tuple[Attachment, ...] | Unavailable:
    if not _can(facts, "usdt"):
        return _refusal(facts, "usdt")
    binary = facts.binaries.get(event.path)
    if binary is None:
        return Unavailable(
            f"there is no program or library `{event.path}` on this host", "give its full path", absent=True
        )
    name = f"{event.category}:{event.name}"
    sites = binary.usdt.get(name)
    if sites is None:
        hint = did_you_mean(name, binary.usdt)
        return Unavailable(f"`{binary.path}` has no probe `{name}`", hint, absent=True)
    attachments = []
    for site in sites:
        notations = site.args.split()
        if len(event.params) > len(notations):
            return Unavailable(f"`{name}` has {len(notations)} arguments, found {len(event.params)} parameters")
        names = {}
        for index, (param, notation) in enumerate(zip(event.params, notations, strict=False)):
            type_ = notation_type(notation)
            if type_ is None:
                return Unavailable(f"an argument of `{name}` lies where it cannot be read, `{notation}`", absent=True)
            unit = canonical(param.type_name) if param.type_name not in _USER_TYPES else ""
            if param.name != "_":
                names[param.name] = _user_value(param, ir.UsdtArg(notation, type_, index), unit)
        hook = Hook(
            kind="usdt",
            name=name,
            path=binary.path,
            offset=site.offset,
            semaphore=site.semaphore,
            pid=event.of_pid if event.of_pid is not None else -1,
        )
        attachments.append(Attachment(hook, names))
    return tuple(attachments)


def _perf(event: ast.Event, facts: TargetFacts) -> tuple[Attachment, ...] | Unavailable:
    if not _can(facts, "perf"):
        return _refusal(facts, "perf")
    pid = event.of_pid if event.of_pid is not None else -1
    if event.kind == "sample":
        if not 1 <= event.number <= 10_000:
            return Unavailable(f"cannot sample at {event.number} hz", "sample at 1 to 10000 hz")
        hook = Hook(kind="perf", name="cpu_clock", perf_type=1, perf_config=0, frequency=event.number, pid=pid)
        return (Attachment(hook, {}),)
    found = PERF_EVENTS.get(event.name)
    if found is None:
        return Unavailable(f"unknown perf event `{event.name}`", did_you_mean(event.name, PERF_EVENTS))
    if event.number < 1:
        return Unavailable("the period of a perf event is at least 1")
    hook = Hook(kind="perf", name=event.name, perf_type=found[0], perf_config=found[1], period=event.number, pid=pid)
    return (Attachment(hook, {}),)


def wanted_binaries(modules: Iterable[ast.Module]) -> tuple[str, ...]:
    """Paths of user programs that events of these files name: what the host must describe before checking."""
    paths: dict[str, None] = {}
    for module in modules:
        for item in module.items:
            if isinstance(item, ast.Sampler):
                for found in _events_of(item):
                    if found.path:
                        paths[found.path] = None
    return tuple(paths)


def _events_of(sampler: ast.Sampler) -> Iterable[ast.Event]:
    for part in sampler.members:
        if isinstance(part, ast.Handler):
            current: ast.Handler | None = part
            while current is not None:
                for alternatives in current.events:
                    yield from alternatives
                current = current.otherwise
        elif isinstance(part, ast.Measure):
            for alternatives in (*part.start, *part.stop, *part.unless):
                yield from alternatives
