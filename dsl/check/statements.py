"""Checks the statements of handlers and lowers them to the checked program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, assert_never

from dsl import ir
from dsl.check.arithmetic import convert, integer_type
from dsl.check.expressions import check_condition, check_expr, check_state_key, check_task, check_value, remap
from dsl.check.scope import BUILTINS, Body, MetricScope
from dsl.check.values import Place, Value, as_text, describe
from dsl.diagnostics import did_you_mean
from dsl.schema import ByCgroup, ByCpu, ByKey
from dsl.syntax import ast

KEY_TEXT_LIMIT = 64
"""Bytes of a string in an open-ended key."""

_UpdateOp = Literal["add", "set", "observe"]


def check_block(block: ast.Block, body: Body) -> tuple[ir.Statement, ...]:
    """The statements of a block, in a scope of their own."""
    inner = body.inner()
    for statement in block.statements:
        _statement(statement, inner)
    return tuple(inner.out)


def _statement(node: ast.Statement, body: Body) -> None:
    match node:
        case ast.Let():
            _let(node, body)
        case ast.If():
            _if(node, body)
        case ast.IfLet():
            _if_let(node, body)
        case ast.Assign(target=target) if target.name in body.sampler.states:
            _store(node, body)
        case ast.Assign(target=target, value=value):
            update(node, "set", target, value, body)
        case ast.Add(target=target, value=value):
            update(node, "add", target, value, body)
        case ast.Observe(target=target, value=value):
            update(node, "observe", target, value, body)
        case ast.Forget():
            _forget(node, body)
        case _:
            assert_never(node)


def _let(node: ast.Let, body: Body) -> None:
    found = check_expr(node.value, body)
    if node.name in BUILTINS:
        body.sampler.diags.error(
            "shadowed-builtin", f"`{node.name}` is built in and cannot be a variable", node.name_span
        )
    if found is None:
        # The name exists all the same, so that its uses are not reported as well.
        body.names[node.name] = Value(ir.Const(0, ir.U64), literal=True)
        return
    if isinstance(found, Place) or found.literal:
        body.names[node.name] = found
        return
    body.names[node.name] = bind_local(node, node.name, found, body)


def bind_local(node: ast.Statement | ast.Measure, name: str, value: Value, body: Body) -> Value:
    """A `Let` of a value, and the value by its new name."""
    local = body.local(name, value.type)
    body.out.append(ir.Let(node.span, local, value.expr))
    return Value(local, value.unit, symbols=value.symbols, target=value.target)


def _otherwise(node: ast.Block | ast.If | ast.IfLet | None, body: Body) -> tuple[ir.Statement, ...]:
    if node is None:
        return ()
    if isinstance(node, ast.Block):
        return check_block(node, body)
    inner = body.inner()
    _statement(node, inner)
    return tuple(inner.out)


def _if(node: ast.If, body: Body) -> None:
    condition = check_condition(node.condition, body)
    then = check_block(node.then, body)
    otherwise = _otherwise(node.otherwise, body)
    if condition is not None:
        body.out.append(ir.If(node.span, condition.expr, then, otherwise))


def _if_let(node: ast.IfLet, body: Body) -> None:
    read = node.read.read if isinstance(node.read, ast.Take) else node.read
    state = _state(read, body)
    key = check_state_key(state, read, body) if state else None
    inner = body.inner()
    type_ = state.fields[0].type if state else ir.U64
    local = inner.local(node.name, type_)
    unit = body.sampler.state_units.get(state.name, "") if state else ""
    inner.names[node.name] = Value(local, unit)
    then = check_block(node.then, inner)
    otherwise = _otherwise(node.otherwise, body)
    if state is not None and key is not None:
        take = isinstance(node.read, ast.Take)
        body.out.append(ir.ReadState(node.span, state, key, take, (local,), then, otherwise))


def _state(read: ast.Index, body: Body) -> ir.State | None:
    states = body.sampler.states
    if isinstance(read.base, ast.Name) and read.base.name in states:
        return states[read.base.name]
    hint = did_you_mean(read.base.name, states) if isinstance(read.base, ast.Name) else None
    body.sampler.diags.error("unknown-state", f"no state `{read.base.span.text}`", read.base.span, hint=hint)
    return None


def _forget(node: ast.Forget, body: Body) -> None:
    base = node.target.base
    if isinstance(base, ast.Name) and base.name in body.sampler.metrics:
        _forget_key(node, base, body.sampler.metrics[base.name], body)
        return
    state = _state(node.target, body)
    key = check_state_key(state, node.target, body) if state else None
    if state is not None and key is not None:
        body.out.append(ir.ForgetState(node.span, state, key))


_FORGET_WORDS = 64
"""Cells of a row that can be set back in one go."""


def _forget_key(node: ast.Forget, name: ast.Name, metric: MetricScope, body: Body) -> None:
    schema, diags = metric.metric.schema, body.sampler.diags
    if not isinstance(schema.dimension, ByKey):
        diags.error("no-dimension", f"`{schema.name}` has no open-ended keys to forget", node.span)
        return
    if schema.kind == "histogram" or schema.cells > _FORGET_WORDS:
        diags.error("metric-too-large", f"keys of `{schema.name}` cannot be forgotten: too many values each", node.span)
        return
    row = metric_row(ast.MetricRef(node.target.span, schema.name, name.span, node.target.keys, ()), metric, body)
    if row is not None:
        body.out.append(ir.ForgetKey(node.span, metric.metric, row))


def _store(node: ast.Assign, body: Body) -> None:
    target, diags = node.target, body.sampler.diags
    state = body.sampler.states[target.name]
    if target.labels:
        diags.error("state-key", f"the state `{target.name}` has no labels", target.span)
    read = ast.Index(target.span, ast.Name(target.name_span, target.name), target.keys)
    key = check_state_key(state, read, body)
    value = check_value(node.value, body)
    if key is None or value is None:
        return
    unit = body.sampler.state_units.get(state.name, "")
    stored = _stored(value, state.fields[0].type, unit, node.value, body)
    if stored is not None:
        body.out.append(ir.StoreState(node.span, state, key, (stored,)))


def _stored(value: Value, type_: ir.Int, unit: str, node: ast.Expr, body: Body) -> ir.Expr | None:
    """A value in the type of what it is stored in; losing width is an error."""
    diags = body.sampler.diags
    if isinstance(value.type, ir.Pointer) and type_ == ir.U64:
        return ir.Convert(value.expr, ir.U64)
    if not value.is_integer:
        diags.error("type-mismatch", f"expected a number, found {describe(value)}", node.span)
        return None
    if not _unit_fits(value, unit, node, body, "the state"):
        return None
    if not value.literal and integer_type(value).width > type_.width:
        diags.error(
            "loses-width",
            f"a {integer_type(value)} does not fit a {type_}",
            node.span,
            hint=f"cut it off with `as {type_}`",
        )
        return None
    return convert(value, type_).expr


def _unit_fits(value: Value, unit: str, node: ast.Expr, body: Body, what: str) -> bool:
    if not value.unit or value.unit == unit:
        return True
    has = f"is in {unit}" if unit else "has no unit"
    body.sampler.diags.error(
        "unit-mismatch",
        f"{what} {has}, the value is in {value.unit}",
        node.span,
        hint=f"declare the unit, or convert: `... as {unit}`" if unit else "declare the unit behind the name",
    )
    return False


# Metric updates


def update(
    node: ast.Statement | ast.Measure, op: _UpdateOp, target: ast.MetricRef, amount: ast.Expr, body: Body
) -> None:
    """`counter += n`, `gauge = n`, `histogram << n`."""
    value = check_value(amount, body)
    metric = find_metric(target, op, body)
    if metric is None:
        return
    if value is not None and not value.is_integer:
        body.sampler.diags.error("type-mismatch", f"expected a number, found {describe(value)}", amount.span)
        value = None
    slot = label_slot(target, metric, body)
    row = metric_row(target, metric, body)
    if value is None or slot is None or row is None:
        return
    if not _unit_fits(value, metric.metric.schema.unit, amount, body, f"`{target.name}`"):
        return
    emit_update(node, op, metric, slot, row, value, body)


def emit_update(
    node: ast.Statement | ast.Measure,
    op: _UpdateOp,
    metric: MetricScope,
    slot: ir.Expr,
    row: tuple[ir.Expr, ...],
    value: Value,
    body: Body,
) -> None:
    """Append an update whose parts are checked."""
    amount = convert(value, ir.S64 if op == "set" or integer_type(value).signed else ir.U64)
    plain = isinstance(slot, ir.Const) and slot.value == 0
    body.out.append(ir.Update(node.span, metric.metric, op, None if plain else slot, row or None, amount.expr))


_VERBS = {"add": ("counter", "+= n"), "set": ("gauge", "= n"), "observe": ("histogram", "<< value")}


def find_metric(target: ast.MetricRef, op: _UpdateOp, body: Body) -> MetricScope | None:
    """The metric of an update, which must be of the kind that the operator is for."""
    sampler = body.sampler
    metric = sampler.metrics.get(target.name)
    if metric is None:
        near = (*sampler.metrics, *sampler.states)
        kind = "state" if target.name in sampler.states else "metric"
        hint = did_you_mean(target.name, near)
        if kind == "state":
            hint = f"a state is stored with `=`: `{target.name}[key] = value`"
        elif target.name in sampler.unit.metrics:
            hint = "it belongs to another sampler, and a metric is updated by its own sampler only"
        sampler.diags.error("unknown-metric", f"no metric `{target.name}` in this sampler", target.name_span, hint=hint)
        return None
    schema = metric.metric.schema
    if metric.metric.read:
        sampler.diags.error(
            "read-metric", f"`{target.name}` is read from a source, no event updates it", target.name_span
        )
        return None
    if schema.kind != _VERBS[op][0]:
        right = next(verb for kind, verb in _VERBS.values() if kind == schema.kind)
        sampler.diags.error(
            "wrong-update", f"`{target.name}` is a {schema.kind}", target.span, hint=f"write `{target.name} {right}`"
        )
        return None
    return metric


def label_slot(target: ast.MetricRef, metric: MetricScope, body: Body) -> ir.Expr | None:
    """The row-major index of the label values; None after an error. Every label of the metric must be given."""
    diags, labels = body.sampler.diags, metric.metric.schema.labels
    known = [label.name for label in labels]
    given = {}
    strangers = False
    for arg in target.labels:
        if arg.name not in known:
            strangers = True
            hint = did_you_mean(arg.name, known) or (f"it has {', '.join(known)}" if known else "it has no labels")
            diags.error("unknown-label", f"`{target.name}` has no label `{arg.name}`", arg.name_span, hint=hint)
        given[arg.name] = arg
    slot: ir.Expr | None = ir.Const(0, ir.U32)
    for label in labels:
        if label.name not in given:
            slot = None
            if not strangers:
                values = " | ".join(label.values[:6])
                message = f"`{target.name}` needs the label `{label.name}`"
                diags.error("missing-label", message, target.span, hint=f"it is one of {values}")
            continue
        index = label_index(given[label.name].value, label.values, f"`{label.name}`", body)
        slot = _scale(slot, len(label.values), index) if slot is not None and index is not None else None
    return slot


def _scale(slot: ir.Expr, count: int, index: ir.Expr) -> ir.Expr:
    if isinstance(slot, ir.Const):
        if isinstance(index, ir.Const):
            return ir.Const(slot.value * count + index.value, ir.U32)
        if slot.value == 0:
            return index
        return ir.Binary("+", ir.Const(slot.value * count, ir.U32), index, ir.U32)
    return ir.Binary("+", ir.Binary("*", slot, ir.Const(count, ir.U32), ir.U32), index, ir.U32)


def label_index(node: ast.Expr, values: Sequence[str], what: str, body: Body) -> ir.Expr | None:
    """The index among a label's values of what an expression names."""
    diags = body.sampler.diags
    if isinstance(node, ast.Name) and node.name not in body.names and node.name not in values:
        known = any(node.name in others for others in body.sampler.label_sets())
        if not known:
            hint = did_you_mean(node.name, (*values, *body.names)) or f"{what} is one of {' | '.join(values)}"
            diags.error("unknown-label-value", f"{what} has no value `{node.name}`", node.span, hint=hint)
            return None
    local = body.names.get(node.name) if isinstance(node, ast.Name) else None
    if isinstance(node, ast.Name) and node.name in values and not (isinstance(local, Value) and local.symbols):
        # A variable that holds no label value does not hide one.
        return ir.Const(values.index(node.name), ir.U32)
    value = check_value(node, body, values)
    if value is None:
        return None
    if not value.symbols:
        diags.error(
            "type-mismatch",
            f"{what} is one of {' | '.join(values)}, found {describe(value)}",
            node.span,
            hint="turn numbers into label values with a `table`",
        )
        return None
    named = _named_symbols(value)
    strangers = [name for name in named if name not in values]
    if strangers:
        hint = did_you_mean(strangers[0], values) or f"{what} is one of {' | '.join(values)}"
        diags.error("unknown-label-value", f"{what} has no value `{strangers[0]}`", node.span, hint=hint)
        return None
    return remap(value, values)


def _named_symbols(value: Value) -> Iterable[str]:
    """The label values an expression can yield: of a constant just the one."""
    if isinstance(value.expr, ir.Const):
        return (value.symbols[value.expr.value],)
    if isinstance(value.expr, ir.Select):
        sides = (value.expr.then, value.expr.otherwise)
        if all(isinstance(side, ir.Const) for side in sides):
            return tuple(value.symbols[side.value] for side in sides if isinstance(side, ir.Const))
    return value.symbols


def metric_row(target: ast.MetricRef, metric: MetricScope, body: Body) -> tuple[ir.Expr, ...] | None:
    """The key of the series: () for the default one, None after an error."""
    dimension, diags = metric.metric.schema.dimension, body.sampler.diags
    match dimension:
        case None:
            if target.keys:
                diags.error(
                    "no-dimension",
                    f"`{target.name}` has no dimension to index",
                    target.span,
                    hint="declare one with `by`",
                )
                return None
            return ()
        case ByCpu():
            return _cpu_row(target, body)
        case ByCgroup():
            return _cgroup_row(target, body)
        case ByKey():
            return _key_row(target, metric, body)
        case _:
            diags.error("read-metric", f"`{target.name}` is read from a source, no event updates it", target.name_span)
            return None


def _cpu_row(target: ast.MetricRef, body: Body) -> tuple[ir.Expr, ...] | None:
    if not target.keys:
        return ()
    value = check_value(target.keys[0], body)
    if value is None:
        return None
    if not value.is_integer or len(target.keys) != 1:
        body.sampler.diags.error("type-mismatch", f"a CPU is a number, found {describe(value)}", target.keys[0].span)
        return None
    if value.expr == BUILTINS["cpu"]:
        return ()
    return (convert(value, ir.U32).expr,)


def _cgroup_row(target: ast.MetricRef, body: Body) -> tuple[ir.Expr, ...] | None:
    if not target.keys:
        return ()
    key = target.keys[0]
    if len(target.keys) != 1 or not isinstance(key, ast.CgroupOf):
        body.sampler.diags.error(
            "cgroup-key", "the key is the cgroup of a task", key.span, hint=f"write `{target.name}[cgroup of p]`"
        )
        return None
    if key.task is None:
        return ()
    task = check_task(key.task, body)
    return (task.expr,) if task else None


def _key_row(target: ast.MetricRef, metric: MetricScope, body: Body) -> tuple[ir.Expr, ...] | None:
    dimension = metric.node.dimension
    names = dimension.names if dimension else ()
    keys = target.keys or tuple(ast.Name(target.name_span, name) for name in names)
    if len(keys) != len(names):
        body.sampler.diags.error(
            "arity", f"`{target.name}` has the keys {', '.join(names)}, found {len(keys)}", target.span
        )
        return None
    parts, types = [], []
    for key in keys:
        value = check_expr(key, body)
        part = _key_part(value, key, body) if value is not None else None
        if part is None:
            return None
        parts.append(part.expr)
        types.append(part.type)
    merged = [_merged(*pair) for pair in zip(metric.key_types or types, types, strict=True)]
    known = [type_ for type_ in merged if type_ is not None]
    if len(known) != len(merged):
        body.sampler.diags.error("key-type", f"another update of `{target.name}` has keys of other types", target.span)
        return None
    metric.key_types = known
    return tuple(parts)


def _merged(first: ir.Type, second: ir.Type) -> ir.Type | None:
    """One type for a part of a key that two updates give: the longer string; None when they do not go together."""
    if isinstance(first, ir.Text) and isinstance(second, ir.Text):
        return ir.Text(max(first.size, second.size))
    return first if first == second else None


def _key_part(value: Value | Place, node: ast.Expr, body: Body) -> Value | None:
    text = as_text(value)
    if text is not None:
        if isinstance(text.type, ir.Text) and text.type.size > KEY_TEXT_LIMIT:
            return _shortened(text)
        return text
    if isinstance(value, Value) and value.is_integer:
        type_ = ir.Int(64, integer_type(value).signed) if not value.literal else ir.U64
        return convert(value, type_)
    body.sampler.diags.error("type-mismatch", f"a key is a number or a string, found {describe(value)}", node.span)
    return None


def _shortened(text: Value) -> Value:
    limit = ir.Text(KEY_TEXT_LIMIT)
    match text.expr:
        case ir.Chars(base=base, offset=offset, path=path):
            return Value(ir.Chars(base, offset, limit, path))
        case ir.CString(pointer=pointer):
            return Value(ir.CString(pointer, limit))
        case _:
            return text
