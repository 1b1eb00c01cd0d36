"""Checks expressions of handlers: names resolved, kernel data typed, labels and units kept.

`check_expr` returns None when it reported an error, so that callers go on with what is right and report more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from dsl import ir
from dsl.check.arithmetic import LOGIC, binary, common_type, convert, fits, integer_type, literal, negate, truth
from dsl.check.kernel_types import find_member, structure_name
from dsl.check.scope import BUILTINS, Body
from dsl.check.states import read_or
from dsl.check.values import Place, Value, as_text, at, deref, describe, member
from dsl.diagnostics import did_you_mean, did_you_mean_one_of
from dsl.kernel.constants import CONSTANTS
from dsl.source import Span
from dsl.syntax import ast
from dsl.units import FACTORS, SUFFIXES, canonical

INTEGER_TYPES: dict[str, ir.Int] = {
    str(kind): kind for kind in (ir.U8, ir.U16, ir.U32, ir.U64, ir.S8, ir.S16, ir.S32, ir.S64)
}
_MAX_CALL_DEPTH = 16
_FEW_MEMBERS = 12
_MEMBERS_OF_KERNEL = "`bpftool btf dump file /sys/kernel/btf/vmlinux format c`"


def check_expr(node: ast.Expr, body: Body, expect: Sequence[str] = ()) -> Value | Place | None:
    """The value of an expression; `expect` are the label values it may name. None after an error."""
    diags = body.sampler.diags
    match node:
        case ast.Number():
            return number(node, body)
        case ast.Boolean(value=value):
            return Value(ir.Const(int(value), ir.BOOL))
        case ast.String(value=value):
            return Value(ir.TextConst(value, ir.Text(len(value.encode()) + 1)))
        case ast.Name():
            return _name(node, body, expect)
        case ast.Field():
            return _field(node, body)
        case ast.Index():
            return _index(node, body)
        case ast.Take():
            diags.error("state-read", "`take` outside of `if let`", node.span, hint=_READ_HINT)
            return None
        case ast.OrElse():
            return _or_else(node, body)
        case ast.Unary(op=op, operand=operand):
            number_ = _integer(operand, body) if op != "!" else check_condition(operand, body)
            return negate(op, number_) if number_ else None
        case ast.Binary():
            return _binary(node, body)
        case ast.Cast():
            return _cast(node, body)
        case ast.After():
            return _after(node, body)
        case ast.Enclosing():
            return _enclosing(node, body)
        case ast.CgroupOf(span=span, task=task):
            return _cgroup_id(span, task, body)
        case ast.Call():
            return _call(node, body)
        case ast.Conditional():
            return _conditional(node, body, expect)
        case _:
            assert_never(node)


_READ_HINT = "write `if let x = take s[key] { ... }`, or give a default: `s[key] or 0`"


def check_value(node: ast.Expr, body: Body, expect: Sequence[str] = ()) -> Value | None:
    """As `check_expr`, for where a structure or array makes no sense; a character array becomes a string."""
    found = check_expr(node, body, expect)
    if isinstance(found, Place):
        text = as_text(found)
        if text is None:
            body.sampler.diags.error(
                "not-a-value", f"{describe(found)} is not a value", node.span, hint="name one of its members"
            )
        return text
    return found


def check_condition(node: ast.Expr, body: Body) -> Value | None:
    """A condition: a comparison, a number (true when not 0) or a pointer (true when not null)."""
    value = check_value(node, body)
    if value is None:
        return None
    if value.symbols or isinstance(value.type, ir.Text):
        body.sampler.diags.error("type-mismatch", f"a condition cannot be {describe(value)}", node.span)
        return None
    return truth(value)


def _integer(node: ast.Expr, body: Body) -> Value | None:
    value = check_value(node, body)
    if value is None:
        return None
    if not value.is_integer:
        body.sampler.diags.error("type-mismatch", f"expected a number, found {describe(value)}", node.span)
        return None
    return value


def number(node: ast.Number, body: Body) -> Value | None:
    """A literal in its base unit: `10ms` is 10,000,000 nanoseconds."""
    factor, unit = SUFFIXES[node.suffix] if node.suffix else (1, "")
    if not fits(node.value * factor, ir.U64):
        body.sampler.diags.error("constant-range", f"{node.span.text} does not fit 64 bits", node.span)
        return None
    return literal(node.value * factor, unit)


# Names


def _name(node: ast.Name, body: Body, expect: Sequence[str]) -> Value | Place | None:
    name, sampler = node.name, body.sampler
    if name in body.names:
        return body.names[name]
    if name in expect:
        return Value(ir.Const(tuple(expect).index(name), ir.U32), symbols=tuple(expect))
    if name in sampler.definitions.constants:
        return sampler.definitions.constants[name]
    found = _builtin(name, body)
    if found is not None:
        return found
    for values in sampler.label_sets():
        if name in values:
            return Value(ir.Const(values.index(name), ir.U32), symbols=values)
    for lookup in (CONSTANTS.get, sampler.unit.enumerator):
        value = lookup(name)
        if value is not None:
            return literal(value)
    _unknown_name(node, body, expect)
    return None


def _builtin(name: str, body: Body) -> Value | None:
    facts = body.sampler.unit.facts
    if name in BUILTINS:
        target = body.sampler.unit.structure("task_struct") if name == "current" else None
        unit = "nanoseconds" if name == "now" else ""
        return Value(BUILTINS[name], unit, target=target)
    if name in FACTORS:
        return literal(FACTORS[name])
    if name == "null":
        return literal(0)
    if name == "page_size":
        return literal(facts.page_size, "bytes")
    if name == "cpus":
        return literal(facts.possible_cpus)
    return None


def _unknown_name(node: ast.Name, body: Body, expect: Sequence[str]) -> None:
    sampler = body.sampler
    if node.name in sampler.states:
        sampler.diags.error(
            "state-read", f"the state `{node.name}` needs a key", node.span, hint=f"write `{node.name}[current]`"
        )
        return
    if node.name in sampler.metrics:
        sampler.diags.error("unknown-name", f"`{node.name}` is a metric, metrics are written and not read", node.span)
        return
    near: list[str] = [*body.names, *expect, *sampler.definitions.constants, *BUILTINS, *CONSTANTS, "cgroup"]
    for values in sampler.label_sets():
        near.extend(values)
    hint = did_you_mean(node.name, near)
    if hint is None and node.name.isupper():
        hint = did_you_mean(node.name, sampler.unit.enumerators())
    visible = ", ".join(sorted(body.names)) or "no variables"
    sampler.diags.error(
        "unknown-name",
        f"unknown name `{node.name}`",
        node.span,
        hint=hint or f"visible here: {visible}, now, cpu, current",
    )


# Kernel data


def _field(node: ast.Field, body: Body) -> Value | Place | None:
    base = check_expr(node.base, body)
    if base is None:
        return None
    place = deref(base)
    if place is None:
        body.sampler.diags.error(
            "not-a-structure",
            f"{describe(base)} has no member `{node.names[0]}`",
            node.name_spans[0],
            hint="say what it points to with `as`: `(p as sock).sk_family`"
            if isinstance(base, Value) and (isinstance(base.type, ir.Pointer) or base.type == ir.U64)
            else None,
        )
        return None
    for name in node.names:
        if find_member(place.type, name) is None:
            continue
        found = member(place, name)
        if found is None:
            type_ = find_member(place.type, name)
            body.sampler.diags.error(
                "not-a-value", f"`{name}` of type `{type_.type if type_ else ''}` cannot be read", node.span
            )
        return found
    _unknown_member(node, place, body)
    return None


def _unknown_member(node: ast.Field, place: Place, body: Body) -> None:
    composite = place.type.composite
    names = place.type.btf.member_names(composite) if composite else ()
    hint = did_you_mean_one_of(node.names[0], names) or _members(names)
    what = " or ".join(f"`{name}`" for name in node.names)
    body.sampler.diags.error("unknown-field", f"`{place.type}` has no member {what}", node.name_spans[0], hint=hint)


def _members(names: Sequence[str]) -> str | None:
    """The members of a structure if they are few; the first of many would say nothing about the others."""
    if len(names) <= _FEW_MEMBERS:
        return f"it has {', '.join(names)}" if names else None
    return f"it has {len(names)} members; {_MEMBERS_OF_KERNEL} shows those of this kernel"


def _index(node: ast.Index, body: Body) -> Value | Place | None:
    diags = body.sampler.diags
    if isinstance(node.base, ast.Name) and node.base.name in body.sampler.states:
        diags.error(
            "state-read", "a state may hold nothing, so reading it needs a plan for that", node.span, hint=_READ_HINT
        )
        return None
    base = check_expr(node.base, body)
    index = _integer(node.keys[0], body)
    if base is None or index is None:
        return None
    element, array = (base.type.element, base.type.array) if isinstance(base, Place) else (None, None)
    if not isinstance(base, Place) or element is None or array is None or len(node.keys) != 1:
        diags.error("not-an-array", f"{describe(base)} is not an array", node.base.span)
        return None
    stride = element.size
    if index.constant is not None:
        if not 0 <= index.constant < array.count:
            diags.error("constant-range", f"index {index.constant} of an array of {array.count}", node.keys[0].span)
            return None
        path = f"{base.path}[{index.constant}]"
        return at(Place(base.base, base.offset + index.constant * stride, path, element, base.walkable))
    address = base.address().expr
    pointer = ir.Pointer(structure_name(element))
    found = ir.Element(address, convert(index, ir.U64).expr, stride, array.count, pointer)
    return at(Place(found, 0, "", element, walkable=False))


def _cast(node: ast.Cast, body: Body) -> Value | None:
    found = check_expr(node.operand, body)
    value = found.address() if isinstance(found, Place) else found
    if value is None:
        return None
    diags, name = body.sampler.diags, node.type_name
    if value.is_integer and name in INTEGER_TYPES:
        return convert(value, INTEGER_TYPES[name])
    if isinstance(value.type, ir.Pointer) or value.type == ir.U64:
        target = body.sampler.unit.structure(name)
        if target is not None:
            return Value(ir.Reinterpret(value.expr, ir.Pointer(structure_name(target))), target=target)
    if isinstance(value.type, ir.Pointer):
        if name in ("u64", "address"):
            return Value(ir.Convert(value.expr, ir.U64))
        _unknown_structure(name, node.type_span, body)
        return None
    units = {metric.unit for metric in body.sampler.unit.metrics.values()} | {"ns", "bytes"}
    if value.is_integer and (name in units or canonical(name) in units):
        return Value(value.expr, canonical(name), value.literal)
    hint = did_you_mean(name, (*INTEGER_TYPES, *units))
    diags.error(
        "unknown-type", f"`{name}` is no integer type, no unit and no kernel structure", node.type_span, hint=hint
    )
    return None


def _unknown_structure(name: str, span: Span, body: Body) -> None:
    hint = did_you_mean(name, body.sampler.unit.structure_names())
    body.sampler.diags.error("unknown-type", f"this kernel has no structure `{name}`", span, hint=hint)


def _pointer(node: ast.Expr, body: Body) -> Value | None:
    value = check_expr(node, body)
    if isinstance(value, Place):
        return value.address()
    if value is not None and not isinstance(value.type, ir.Pointer):
        body.sampler.diags.error("type-mismatch", f"expected a pointer, found {describe(value)}", node.span)
        return None
    return value


def _after(node: ast.After, body: Body) -> Value | None:
    value = _pointer(node.operand, body)
    structure = body.sampler.unit.structure(node.type_name)
    if structure is None:
        _unknown_structure(node.type_name, node.type_span, body)
    if value is None or structure is None:
        return None
    return Value(ir.Offset(value.expr, structure.size, ir.Pointer(), f"after {node.type_name}"))


def _enclosing(node: ast.Enclosing, body: Body) -> Value | None:
    value = _pointer(node.operand, body)
    structure = body.sampler.unit.structure(node.type_name)
    if structure is None:
        _unknown_structure(node.type_name, node.type_span, body)
    if value is None or structure is None:
        return None
    offset, current = 0, structure
    for name in node.member:
        found = find_member(current, name)
        if found is None:
            composite = current.composite
            names = current.btf.member_names(composite) if composite else ()
            hint = did_you_mean(name, names)
            body.sampler.diags.error("unknown-field", f"`{current}` has no member `{name}`", node.span, hint=hint)
            return None
        offset, current = offset + found.offset, found.type
    path = f"enclosing {node.type_name}.{'.'.join(node.member)}"
    pointer = ir.Pointer(structure_name(structure))
    return Value(ir.Offset(value.expr, -offset, pointer, path), target=structure)


def check_task(node: ast.Expr, body: Body) -> Value | None:
    """A pointer to a task; anything else is an error that says how to name one."""
    value = check_expr(node, body)
    if value is None:
        return None
    if isinstance(value, Value) and value.target is not None and structure_name(value.target) == "task_struct":
        return value
    hint = "name the task itself, as in `prev` or `current`"
    if isinstance(node, ast.Field) and node.names[0] in ("pid", "tgid"):
        hint = f"write `{node.base.span.text}`: the task, not its number, which the kernel gives out again"
    elif isinstance(node, ast.Name) and node.name in ("pid", "tid"):
        hint = "write `current`: the task, not its number, which the kernel gives out again"
    body.sampler.diags.error("not-a-task", f"expected a task, found {describe(value)}", node.span, hint=hint)
    return None


def _cgroup_id(span: Span, task: ast.Expr | None, body: Body) -> Value | None:
    pointer = check_task(task, body) if task else check_task(ast.Name(span, "current"), body)
    found: Value | Place | None = pointer
    for name in ("sched_task_group", "css", "id"):
        place = deref(found) if found is not None else None
        found = member(place, name) if place is not None else None
    if pointer is not None and not isinstance(found, Value):
        body.sampler.diags.error("no-cgroups", "this kernel has no cpu cgroups (CONFIG_CGROUP_SCHED)", span)
        return None
    return found if isinstance(found, Value) else None


# Operators and calls


def _or_else(node: ast.OrElse, body: Body) -> Value | Place | None:
    if isinstance(node.read, ast.Name):
        if node.read.name in body.optional and node.read.name not in body.names:
            return check_expr(node.default, body)
        return check_expr(node.read, body)
    read = node.read.read if isinstance(node.read, ast.Take) else node.read
    default = _integer(node.default, body)
    is_state = isinstance(read.base, ast.Name) and read.base.name in body.sampler.states
    if not is_state:
        body.sampler.diags.error("state-read", "`or` gives a default to a state, and this is none", node.span)
        return None
    if default is None or not isinstance(read.base, ast.Name):
        return None
    state = body.sampler.states[read.base.name]
    key = check_state_key(state, read, body)
    if key is None:
        return None
    take = isinstance(node.read, ast.Take)
    return read_or(state, key, default, take=take, span=node.span, body=body)


def check_state_key(state: ir.State, node: ast.Index, body: Body) -> ir.Expr | None:
    """The key of a state: a task for `by task`, else an integer or the address of a structure."""
    diags = body.sampler.diags
    if len(node.keys) != 1:
        diags.error("state-key", f"the state `{state.name}` has one key", node.span)
        return None
    if state.kind == "task":
        task = check_task(node.keys[0], body)
        return task.expr if task else None
    value = check_value(node.keys[0], body)
    if value is None:
        return None
    wanted = body.sampler.state_structures.get(state.name, "")
    if isinstance(value.type, ir.Pointer):
        if wanted and value.target is not None and structure_name(value.target) not in ("", wanted):
            message = f"the key of `{state.name}` is a `{wanted} *`, found {describe(value)}"
            diags.error("state-key", message, node.keys[0].span, hint=_key_hint(structure_name(value.target)))
            return None
        return ir.Convert(value.expr, ir.U64)
    if wanted and value.is_integer and value.constant != 0:
        message = f"the key of `{state.name}` is a `{wanted} *`, found {describe(value)}"
        diags.error("state-key", message, node.keys[0].span, hint=f"for a number declare `by {integer_type(value)}`")
        return None
    if not value.is_integer:
        diags.error("state-key", f"a key is a number or a pointer, found {describe(value)}", node.keys[0].span)
        return None
    return convert(value, state.key_type).expr


def _key_hint(structure: str) -> str:
    return "declare `by task` for a state of each task" if structure == "task_struct" else f"declare `by {structure}`"


def _binary(node: ast.Binary, body: Body) -> Value | None:
    diags = body.sampler.diags
    if node.op in LOGIC:
        left, right = check_condition(node.left, body), check_condition(node.right, body)
        return binary(node.op, left, right, node.span, diags) if left and right else None
    left, right = _operands(node, body)
    if left is None or right is None:
        return None
    if node.op in ("==", "!="):
        texts = as_text(left), as_text(right)
        if texts[0] is not None and texts[1] is not None:
            return _text_equality(node, texts[0], texts[1], body)
        special = _equality(node, left, right)
        if special is not None:
            return special
    for value, side in ((left, node.left), (right, node.right)):
        if not value.is_integer:
            diags.error("type-mismatch", f"`{node.op}` needs numbers, found {describe(value)}", side.span)
            return None
    return binary(node.op, left, right, node.span, diags)


def _operands(node: ast.Binary, body: Body) -> tuple[Value | None, Value | None]:
    """Both sides; a bare label value on one side takes its meaning from the other."""
    if isinstance(node.left, ast.Name) and not isinstance(node.right, ast.Name):
        right = check_value(node.right, body)
        return check_value(node.left, body, right.symbols if right else ()), right
    left = check_value(node.left, body)
    return left, check_value(node.right, body, left.symbols if left else ())


def _text_equality(node: ast.Binary, left: Value, right: Value, body: Body) -> Value | None:
    """A string and a literal that it may be; None after an error."""
    diags = body.sampler.diags
    text, literal_ = (right, left.expr) if isinstance(left.expr, ir.TextConst) else (left, right.expr)
    if not isinstance(literal_, ir.TextConst):
        diags.error("type-mismatch", "a string can only be compared with one in quotes", node.span)
        return None
    if isinstance(text.type, ir.Text) and len(literal_.value.encode()) >= text.type.size:
        message = f'"{literal_.value}" is longer than the string can be ({text.type.size - 1})'
        diags.error("constant-range", message, node.span)
        return None
    equal = ir.TextEqual(text.expr, literal_.value)
    return Value(equal if node.op == "==" else ir.Unary("!", equal, ir.BOOL))


def _equality(node: ast.Binary, left: Value, right: Value) -> Value | None:
    """`==` and `!=` of label values and pointers; None when it is about numbers."""
    if left.symbols and left.symbols == right.symbols:
        return Value(ir.Binary(node.op, left.expr, right.expr, ir.BOOL))
    pointers = [isinstance(value.type, ir.Pointer) for value in (left, right)]
    if all(pointers) or (any(pointers) and 0 in (left.constant, right.constant)):
        return Value(ir.Binary(node.op, _address(left), _address(right), ir.BOOL))
    return None


def _address(value: Value) -> ir.Expr:
    return ir.Const(0, ir.U64) if value.constant == 0 else value.expr


def _call(node: ast.Call, body: Body) -> Value | Place | None:
    definitions, diags = body.sampler.definitions, body.sampler.diags
    if node.name in definitions.tables:
        return _table_lookup(node, body)
    found = definitions.functions.get(node.name)
    if found is None:
        near = (*definitions.tables, *definitions.functions)
        diags.error(
            "unknown-name",
            f"unknown function or table `{node.name}`",
            node.name_span,
            hint=did_you_mean(node.name, near),
        )
        return None
    function = found.node
    if len(node.args) != len(function.params):
        expected = ", ".join(param.name for param in function.params)
        diags.error(
            "arity",
            f"`{node.name}({expected})` takes {len(function.params)} arguments, found {len(node.args)}",
            node.span,
        )
        return None
    if node.name in body.calls or len(body.calls) >= _MAX_CALL_DEPTH:
        diags.error("recursion", f"`{node.name}` is defined by itself", node.span)
        return None
    home = replace(body.sampler, definitions=found.home)
    inner = Body(home, {}, body.out, body.used, calls=(*body.calls, node.name))
    for param, arg in zip(function.params, node.args, strict=True):
        value = check_expr(arg, body)
        if value is None or not _fits_param(param, value, arg, body):
            return None
        inner.names[param.name] = value
    return check_expr(function.body, inner)


def _fits_param(param: ast.Param, value: Value | Place, arg: ast.Expr, body: Body) -> bool:
    if not param.type_name or param.type_name in INTEGER_TYPES:
        return True
    target = value.type if isinstance(value, Place) else value.target
    if target is not None and structure_name(target) == param.type_name:
        return True
    if isinstance(value, Value) and value.is_integer and value.unit in ("", canonical(param.type_name)):
        return True
    body.sampler.diags.error(
        "type-mismatch", f"`{param.name}` takes `{param.type_name}`, found {describe(value)}", arg.span
    )
    return False


def _table_lookup(node: ast.Call, body: Body) -> Value | None:
    scope = body.sampler.definitions.tables[node.name]
    if len(node.args) != 1:
        body.sampler.diags.error("arity", f"the table `{node.name}` takes one number", node.span)
        return None
    value = _integer(node.args[0], body)
    if value is None:
        return None
    operand = convert(value, ir.S64 if integer_type(value).signed or value.literal else ir.U64)
    return Value(ir.TableLookup(scope.table.name, operand.expr), symbols=scope.values)


def _conditional(node: ast.Conditional, body: Body, expect: Sequence[str]) -> Value | None:
    condition = check_condition(node.condition, body)
    then = check_value(node.then, body, expect)
    otherwise = check_value(node.otherwise, body, expect or (then.symbols if then else ()))
    if condition is None or then is None or otherwise is None:
        return None
    if then.symbols and otherwise.symbols:
        return _merge_symbols(condition, then, otherwise)
    if then.is_integer and otherwise.is_integer:
        if then.unit and otherwise.unit and then.unit != otherwise.unit:
            body.sampler.diags.error("unit-mismatch", f"one side is {then.unit}, the other {otherwise.unit}", node.span)
            return None
        type_ = common_type(then, otherwise)
        unit = then.unit or otherwise.unit
        return Value(ir.Select(condition.expr, convert(then, type_).expr, convert(otherwise, type_).expr, type_), unit)
    same = isinstance(then.type, ir.Pointer) and then.type == otherwise.type and then.target == otherwise.target
    if same:
        return Value(ir.Select(condition.expr, then.expr, otherwise.expr, then.type), target=then.target)
    body.sampler.diags.error(
        "type-mismatch", f"one side is {describe(then)}, the other {describe(otherwise)}", node.span
    )
    return None


def _merge_symbols(condition: Value, then: Value, otherwise: Value) -> Value:
    """Label values of both sides in one list; the right side is renumbered where its own list differs."""
    values = (*then.symbols, *(name for name in otherwise.symbols if name not in then.symbols))
    return Value(ir.Select(condition.expr, then.expr, remap(otherwise, values), ir.U32), symbols=values)


def remap(value: Value, values: Sequence[str]) -> ir.Expr:
    """The index of a label value in another list; the list has all of the value's names or the rest fails as `range`."""
    if value.symbols == tuple(values)[: len(value.symbols)]:
        return value.expr
    pairs = tuple((index, tuple(values).index(name)) for index, name in enumerate(value.symbols) if name in values)
    if isinstance(value.expr, ir.Const):
        return ir.Const(dict(pairs)[value.expr.value], ir.U32)
    return ir.Remap(value.expr, pairs)
