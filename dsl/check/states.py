"""Reading state within an expression: the read is a statement of its own, placed before the one being checked."""

from __future__ import annotations

from dsl import ir
from dsl.check.arithmetic import convert, integer_type
from dsl.check.scope import Body
from dsl.check.values import Value
from dsl.source import Span


def read_or(state: ir.State, key: ir.Expr, default: Value, *, take: bool, span: Span, body: Body) -> Value:
    """`state[key] or default`: appends the read to the body, returns the local that holds the result."""
    type_ = state.fields[0].type
    local = body.local(state.name, type_)
    body.used.add(local.name)
    body.out.append(ir.ReadState(span, state, key, take, (local,), (), (), default=convert(default, type_).expr))
    unit = body.sampler.state_units.get(state.name, "")
    integer_type(default)
    return Value(local, unit)
