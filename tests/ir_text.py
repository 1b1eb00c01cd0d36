"""A program of `dsl.ir` as text, for reading what a generated one does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from dsl import ir
from dsl.hooks import Hook
from dsl.schema import ByCgroup, ByCpu, ByKey


def unit_text(unit: ir.Unit) -> str:
    """All of a unit, one statement a line."""
    return "\n".join(_unit(unit))


def _unit(unit: ir.Unit) -> Iterator[str]:
    for table in unit.tables:
        shown = ", ".join(f"{number}: {symbol}" for number, symbol in table.mapping[:8])
        more = f", ... {len(table.mapping)} in all" if len(table.mapping) > 8 else ""
        yield f"table {table.name} {{ {shown}{more}, else: {table.default} }}"
    for sampler in unit.samplers:
        yield f"sampler {sampler.name}"
        for metric in sampler.metrics:
            schema = metric.schema
            sizes = "x".join(str(len(label.values)) for label in schema.labels)
            yield f"  {schema.kind} {schema.name} [{_dimension(metric)}] {{{sizes}}} power {schema.power}"
        for state in sampler.states:
            fields = ", ".join(f"{part.name}: {part.type}" for part in state.fields)
            yield f"  state {state.name} ({fields}) by {state.kind} {state.key_type} limit {state.limit}"
        for handler in sampler.handlers:
            yield f"  on {_hook(handler.hook)}"
            yield from _block(handler.body, "    ")


def _hook(hook: Hook) -> str:
    return f"{hook.kind} {hook.name}"


def _dimension(metric: ir.Metric) -> str:
    match metric.schema.dimension:
        case ByCpu():
            return "cpu"
        case ByCgroup():
            return "cgroup"
        case ByKey(fields=fields, limit=limit):
            return ", ".join(f"{part.kind} {part.size}" for part in fields) + f" limit {limit}"
        case _:
            return ""


def _block(statements: tuple[ir.Statement, ...], indent: str) -> Iterator[str]:
    for statement in statements:
        yield from _statement(statement, indent)


def _statement(statement: ir.Statement, indent: str) -> Iterator[str]:
    match statement:
        case ir.Let():
            yield f"{indent}let {statement.local.name}: {statement.local.type} = {expr_text(statement.value)}"
        case ir.If():
            yield f"{indent}if {expr_text(statement.condition)}"
            yield from _block(statement.then, indent + "    ")
            yield f"{indent}else"
            yield from _block(statement.otherwise, indent + "    ")
        case ir.ReadState():
            names = ", ".join(f"{local.name}: {local.type}" for local in statement.locals)
            verb = "take " if statement.take else ""
            default = f" or {expr_text(statement.default)}" if statement.default is not None else ""
            yield f"{indent}let {names} = {verb}{statement.state.name}[{expr_text(statement.key)}]{default}"
            yield from _block(statement.then, indent + "    ")
            if statement.otherwise:
                yield f"{indent}absent"
                yield from _block(statement.otherwise, indent + "    ")
        case ir.StoreState():
            values = ", ".join(expr_text(value) for value in statement.values)
            yield f"{indent}{statement.state.name}[{expr_text(statement.key)}] = {values}"
        case ir.ForgetState():
            yield f"{indent}forget {statement.state.name}[{expr_text(statement.key)}]"
        case ir.ForgetKey():
            keys = ", ".join(expr_text(part) for part in statement.row)
            yield f"{indent}forget {statement.metric.schema.name}[{keys}]"
        case ir.Update():
            row = "" if statement.row is None else f"[{', '.join(expr_text(part) for part in statement.row)}]"
            slot = "" if statement.slot is None else f"{{{expr_text(statement.slot)}}}"
            value = f"{expr_text(statement.value)}: {statement.value.type}"
            yield f"{indent}{statement.metric.schema.name}{row}{slot} {statement.op} {value}"
        case _:
            assert_never(statement)


def expr_text(expr: ir.Expr) -> str:
    """An expression in C's manner, operations marked with their type."""
    match expr:
        case ir.Const():
            return str(expr.value)
        case ir.Local():
            return expr.name
        case ir.Arg():
            return f"a{expr.index}:{expr.type}"
        case ir.Builtin():
            return expr.name
        case ir.Load():
            return f"{expr_text(expr.base)}->{expr.path}:{expr.type}"
        case ir.Chars():
            return f"{expr_text(expr.base)}->{expr.path}"
        case ir.Offset():
            return f"{expr_text(expr.base)}->&{expr.path}"
        case ir.Element():
            return f"{expr_text(expr.base)}[{expr_text(expr.index)}]"
        case ir.Reinterpret():
            return f"reinterpret({expr_text(expr.operand)})"
        case ir.Convert():
            return f"({expr.type}){expr_text(expr.operand)}"
        case ir.Unary():
            return f"{expr.op}{expr_text(expr.operand)}"
        case ir.Binary():
            left, right = expr_text(expr.left), expr_text(expr.right)
            return f"({left} {expr.op} {right})" + ("" if expr.type == ir.BOOL else f":{expr.type}")
        case ir.Elapsed():
            return f"elapsed({expr_text(expr.left)}, {expr_text(expr.right)})"
        case ir.TextEqual():
            return f"({expr_text(expr.left)} == {expr.literal!r})"
        case ir.Select():
            condition, then, otherwise = (expr_text(part) for part in (expr.condition, expr.then, expr.otherwise))
            return f"({condition} ? {then} : {otherwise})"
        case ir.TableLookup():
            return f"{expr.table}({expr_text(expr.operand)}:{expr.operand.type})"
        case ir.Remap():
            pairs = ", ".join(f"{number}: {slot}" for number, slot in expr.pairs)
            return f"remap({expr_text(expr.operand)}; {pairs})"
        case _:
            return repr(expr)
