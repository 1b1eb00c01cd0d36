"""Checks `on` and `measure`: events become hooks of this kernel, bodies become statements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dsl import ir
from dsl.check.events import Attachment, Resolution, event_text, resolve_event
from dsl.check.expressions import check_condition, check_task, check_value
from dsl.check.scope import Body, SamplerScope
from dsl.check.statements import check_block, emit_update, find_metric, label_index, label_slot, metric_row
from dsl.check.values import Value
from dsl.hooks import Hook
from dsl.source import Span
from dsl.syntax import ast
from dsl.units import NANOSECONDS

Alternatives = tuple[ast.Event, ...]
Events = list[tuple[str, Hook | None, tuple[tuple[str, str], ...], int]]
_WITHOUT = "add `else none()` if the sampler is worth having without it"


def check_handler(node: ast.Handler, sampler: SamplerScope, events: Events) -> list[ir.Handler]:
    """A handler at each of its events; its `else on` when one of them is not to be had."""
    found = [(alternatives, resolve_event(alternatives, sampler.unit)) for alternatives in node.events]
    usable = all(resolution.chosen for _, resolution in found)
    handlers: list[ir.Handler] = []
    if usable or node.otherwise is None:
        for alternatives, resolution in found:
            _report(resolution, sampler)
            _record(alternatives, resolution, events)
            for attachment in resolution.chosen:
                event = _chosen_event(alternatives, resolution)
                body = _body(node.events, attachment, sampler)
                statements = _conditional(node.condition, node.body, body)
                _note_hooks(statements, attachment, sampler)
                handlers.append(_handler(node.span, event, attachment, statements, sampler))
        if usable and node.otherwise is not None:
            _check_unused(node.otherwise, sampler)
        return handlers
    for alternatives, resolution in found:
        if not resolution.chosen:
            _record(alternatives, resolution, events)
    return check_handler(node.otherwise, sampler, events)


def _check_unused(node: ast.Handler, sampler: SamplerScope) -> None:
    """A fallback that is not needed here is checked where its events exist all the same, and then dropped."""
    for alternatives in node.events:
        resolution = resolve_event(alternatives, sampler.unit)
        for attachment in resolution.chosen[:1]:
            body = _body(node.events, attachment, sampler)
            _conditional(node.condition, node.body, body)
    if node.otherwise is not None:
        _check_unused(node.otherwise, sampler)


def _chosen_event(alternatives: Alternatives, resolution: Resolution) -> ast.Event:
    return alternatives[len(resolution.missing)]


def _report(resolution: Resolution, sampler: SamplerScope) -> None:
    """An event that cannot be had: an error when it does not exist, a warning when the host refuses it."""
    if resolution.chosen or resolution.accepted or not resolution.missing:
        return
    last, why = resolution.missing[-1]
    refused = any(found.refused for _, found in resolution.missing)
    labels = [(event.name_span, found.reason) for event, found in resolution.missing[:-1]]
    absent = all(found.absent for _, found in resolution.missing)
    hint = why.hint or (_WITHOUT if absent else None)
    if refused:
        sampler.diags.warning("event-refused", f"{event_text(last)}: {why.reason}", last.name_span, labels=labels)
    else:
        sampler.diags.error("unknown-event", why.reason, last.name_span, labels=labels, hint=hint)


def _record(alternatives: Alternatives, resolution: Resolution, events: Events) -> None:
    missing = tuple((event_text(event), why.reason) for event, why in resolution.missing)
    hook = resolution.chosen[0].hook if resolution.chosen else None
    text = event_text(_chosen_event(alternatives, resolution)) if resolution.chosen else resolution.text
    events.append((text, hook, missing, alternatives[0].span.line))


def _body(events: Iterable[Alternatives], attachment: Attachment, sampler: SamplerScope) -> Body:
    """The scope of a handler at one of its events; what the others bind is optional."""
    names = {param.name for alternatives in events for event in alternatives for param in event.params}
    return Body(sampler, dict(attachment.names), optional=frozenset(names - set(attachment.names)))


def _narrowing(event: ast.Event, attachment: Attachment) -> ast.Expr | None:
    """`of pid N` and `of comm "x"` as a condition, where the hook itself does not narrow."""
    conditions: list[ast.Expr] = []
    span = event.span
    if event.of_pid is not None and attachment.hook.pid < 0:
        conditions.append(ast.Binary(span, "==", ast.Name(span, "pid"), ast.Number(span, event.of_pid, "")))
    if event.of_comm is not None:
        conditions.append(ast.Binary(span, "==", ast.Name(span, "comm"), ast.String(span, event.of_comm)))
    if not conditions:
        return None
    if len(conditions) == 1:
        return conditions[0]
    return ast.Binary(span, "&&", conditions[0], conditions[1])


def _conditional(condition: ast.Expr | None, block: ast.Block, body: Body) -> tuple[ir.Statement, ...]:
    if condition is None:
        return check_block(block, body)
    value = check_condition(condition, body)
    then = check_block(block, body)
    if value is None:
        return ()
    return (*body.out, ir.If(condition.span, value.expr, then, ()))


def _narrowed(
    event: ast.Event, attachment: Attachment, statements: tuple[ir.Statement, ...], sampler: SamplerScope
) -> tuple[ir.Statement, ...]:
    body = Body(sampler)
    condition = _narrowing(event, attachment)
    value = check_condition(condition, body) if condition else None
    if value is None:
        return statements
    return (ir.If(event.span, value.expr, statements, ()),)


def _handler(
    span: Span, event: ast.Event, attachment: Attachment, statements: tuple[ir.Statement, ...], sampler: SamplerScope
) -> ir.Handler:
    return ir.Handler(
        span,
        sampler.node.name,
        event_text(event),
        attachment.hook,
        _narrowed(event, attachment, statements, sampler),
        attachment.arg_names,
    )


def _note_hooks(statements: Iterable[ir.Statement], attachment: Attachment, sampler: SamplerScope) -> None:
    """Remember for each metric updated at which hook that is."""
    for node in statements:
        match node:
            case ir.Update(metric=metric):
                sampler.metrics[metric.schema.name].hooks.append(str(attachment.hook))
            case ir.If(then=then, otherwise=otherwise) | ir.ReadState(then=then, otherwise=otherwise):
                _note_hooks((*then, *otherwise), attachment, sampler)
            case _:
                pass


# measure ... from ... to ...


@dataclass(slots=True, eq=False)
class _Measurement:
    """A `measure` being lowered: its state, and which labels the start event decides."""

    node: ast.Measure
    state: ir.State
    at_start: tuple[ast.LabelArg, ...]


def check_measure(node: ast.Measure, sampler: SamplerScope, events: Events) -> list[ir.Handler]:
    """`measure` as the state and the handlers it stands for: store at the start, take and observe at the stop."""
    ends = []
    for group in (node.start, node.stop, node.unless):
        resolved = [(alternatives, resolve_event(alternatives, sampler.unit)) for alternatives in group]
        for alternatives, resolution in resolved:
            _report(resolution, sampler)
            _record(alternatives, resolution, events)
        ends.append([(a, _chosen_event(a, r), found) for a, r in resolved if r.chosen for found in r.chosen])
    starts, stops, unless = ends
    if not starts or not stops:
        return []
    measurement = _measurement(node, starts[0][2], stops[0][2], sampler)
    handlers = []
    for alternatives, event, attachment in starts:
        statements = _start(measurement, _body((alternatives,), attachment, sampler))
        handlers.append(_handler(node.span, event, attachment, statements, sampler))
    for alternatives, event, attachment in stops:
        statements = _stop(measurement, _body((alternatives,), attachment, sampler))
        _note_hooks(statements, attachment, sampler)
        handlers.append(_handler(node.span, event, attachment, statements, sampler))
    for alternatives, event, attachment in unless:
        body = _body((alternatives,), attachment, sampler)
        key = _key(measurement, body)
        if key is not None:
            body.out.append(ir.ForgetState(node.span, measurement.state, key))
        handlers.append(_handler(node.span, event, attachment, tuple(body.out), sampler))
    return handlers


def _measurement(node: ast.Measure, start: Attachment, stop: Attachment, sampler: SamplerScope) -> _Measurement:
    """The state that a measurement needs: when it began, and each label that only the start event can tell."""
    only_start = set(start.names) - set(stop.names)
    at_start = tuple(label for label in node.target.labels if _names(label.value) & only_start)
    fields = (ir.StateField("start", ir.U64), *(ir.StateField(label.name, ir.U32) for label in at_start))
    name = f"{node.target.name}_start"
    while name in sampler.states:
        name += "_"
    by_task = node.key is None
    limit = 0 if by_task else node.limit or _DEFAULT_LIMIT
    state = ir.State(
        sampler.node.name, name, "task" if by_task else "hash", fields, True, limit, ir.U64, node.span.line
    )
    sampler.states[name] = state
    sampler.state_units[name] = NANOSECONDS
    return _Measurement(node, state, at_start)


_DEFAULT_LIMIT = 10_240


def _names(node: object) -> set[str]:
    """Every name an expression mentions."""
    if isinstance(node, ast.Name):
        return {node.name}
    if isinstance(node, tuple):
        return set().union(*(_names(part) for part in node))
    if hasattr(node, "__dataclass_fields__") and not isinstance(node, Span):
        return set().union(*(_names(getattr(node, name)) for name in node.__dataclass_fields__ if name != "span"))
    return set()


def _key(measurement: _Measurement, body: Body) -> ir.Expr | None:
    node = measurement.node
    if node.key is None:
        task = check_task(ast.Name(node.span, "current"), body)
        return task.expr if task else None
    value = check_value(node.key, body)
    if value is None:
        return None
    if isinstance(value.type, ir.Pointer):
        return ir.Convert(value.expr, ir.U64)
    if not value.is_integer:
        body.sampler.diags.error("state-key", "a key is a number or a pointer", node.key.span)
        return None
    return value.expr if value.type == ir.U64 else ir.Convert(value.expr, ir.U64)


def _start(measurement: _Measurement, body: Body) -> tuple[ir.Statement, ...]:
    node, inner = measurement.node, body.inner()
    condition = check_condition(node.condition, body) if node.condition else None
    values: list[ir.Expr] = [ir.Builtin("now", ir.U64)]
    metric = find_metric(node.target, "observe", body)
    labels = {label.name: label.values for label in metric.metric.schema.labels} if metric else {}
    for label in measurement.at_start:
        index = label_index(label.value, labels.get(label.name, ()), f"`{label.name}`", inner)
        values.append(index or ir.Const(0, ir.U32))
    key = _key(measurement, inner)
    if key is None or metric is None:
        return ()
    store = (*inner.out, ir.StoreState(node.span, measurement.state, key, tuple(values)))
    if condition is None:
        return (*body.out, *store)
    return (*body.out, ir.If(node.span, condition.expr, store, ()))


def _stop(measurement: _Measurement, body: Body) -> tuple[ir.Statement, ...]:
    node, state = measurement.node, measurement.state
    key = _key(measurement, body)
    metric = find_metric(node.target, "observe", body)
    inner = body.inner()
    locals_ = tuple(inner.local(field.name, field.type) for field in state.fields)
    target = node.target
    if metric is not None:
        values = {label.name: label.values for label in metric.metric.schema.labels}
        for label, local in zip(measurement.at_start, locals_[1:], strict=True):
            inner.names[f"{label.name} at start"] = Value(local, symbols=values.get(label.name, ()))
        target = _with_stored_labels(node.target, measurement.at_start)
    slot = label_slot(target, metric, inner) if metric else None
    row = metric_row(target, metric, inner) if metric else None
    if metric is None or slot is None or key is None or row is None:
        return ()
    if metric.metric.schema.unit != NANOSECONDS:
        body.sampler.diags.error(
            "unit-mismatch",
            f"`measure` needs a histogram in ns, `{target.name}` is in {metric.metric.schema.unit or 'no unit'}",
            target.span,
        )
    elapsed = Value(ir.Elapsed(ir.Builtin("now", ir.U64), locals_[0]), NANOSECONDS)
    emit_update(node, "observe", metric, slot, row, elapsed, inner)
    body.out.append(ir.ReadState(node.span, state, key, True, locals_, tuple(inner.out), ()))
    return tuple(body.out)


def _with_stored_labels(target: ast.MetricRef, stored: tuple[ast.LabelArg, ...]) -> ast.MetricRef:
    """The target with labels decided at the start replaced by what was stored then."""
    labels = tuple(
        ast.LabelArg(label.span, label.name, label.name_span, ast.Name(label.value.span, f"{label.name} at start"))
        if label in stored
        else label
        for label in target.labels
    )
    return ast.MetricRef(target.span, target.name, target.name_span, target.keys, labels)
