"""Makes a failing generated case smaller: fewer events, statements and operands, as long as it still fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import assert_never

from dsl import ir
from tests.ir_strategies import Case


def reduced(case: Case, fails: Callable[[Case], bool]) -> Case:
    """A case that fails and of which no single part can be left out."""
    while True:
        for smaller in _smaller(case):
            if fails(smaller):
                case = smaller
                break
        else:
            return case


def _smaller(case: Case) -> Iterator[Case]:
    count = len(case.firings)
    step = count // 2
    while step:
        for start in range(0, count, step):
            yield dataclasses.replace(case, firings=case.firings[:start] + case.firings[start + step :])
        step //= 2
    samplers = case.unit.samplers
    for index, sampler in enumerate(samplers):
        if len(samplers) > 1:
            yield _with_samplers(case, samplers[:index] + samplers[index + 1 :])
        for smaller in _smaller_sampler(sampler):
            yield _with_samplers(case, (*samplers[:index], smaller, *samplers[index + 1 :]))


def _with_samplers(case: Case, samplers: tuple[ir.Sampler, ...]) -> Case:
    return dataclasses.replace(case, unit=dataclasses.replace(case.unit, samplers=samplers))


def _smaller_sampler(sampler: ir.Sampler) -> Iterator[ir.Sampler]:
    handlers = sampler.handlers
    for index, handler in enumerate(handlers):
        if len(handlers) > 1:
            yield dataclasses.replace(sampler, handlers=handlers[:index] + handlers[index + 1 :])
        for body in _smaller_block(handler.body):
            changed = dataclasses.replace(handler, body=body)
            yield dataclasses.replace(sampler, handlers=(*handlers[:index], changed, *handlers[index + 1 :]))


def _smaller_block(block: tuple[ir.Statement, ...]) -> Iterator[tuple[ir.Statement, ...]]:
    for index, statement in enumerate(block):
        before, after = block[:index], block[index + 1 :]
        if not _mentioned(_bound(statement), after):
            yield before + after
        if isinstance(statement, ir.If):
            yield before + statement.then + after
            yield before + statement.otherwise + after
        if isinstance(statement, ir.If | ir.ReadState):
            for then in _smaller_block(statement.then):
                yield (*before, dataclasses.replace(statement, then=then), *after)
            for otherwise in _smaller_block(statement.otherwise):
                yield (*before, dataclasses.replace(statement, otherwise=otherwise), *after)
        for changed in _simpler(statement):
            yield (*before, changed, *after)


def _bound(statement: ir.Statement) -> set[str]:
    if isinstance(statement, ir.Let):
        return {statement.local.name}
    if isinstance(statement, ir.ReadState):
        return {local.name for local in statement.locals}
    return set()


def _mentioned(names: set[str], node: object) -> bool:
    if isinstance(node, ir.Local):
        return node.name in names
    if isinstance(node, tuple):
        return any(_mentioned(names, part) for part in node)
    if dataclasses.is_dataclass(node) and type(node).__module__ == ir.__name__:
        return any(_mentioned(names, getattr(node, part.name)) for part in dataclasses.fields(node))
    return False


def _simpler(statement: ir.Statement) -> Iterator[ir.Statement]:
    """The statement with one expression in it replaced by a constant or by an operand of the same type."""
    match statement:
        case ir.Let():
            yield from (dataclasses.replace(statement, value=expr) for expr in _simpler_expr(statement.value))
        case ir.If():
            yield from (dataclasses.replace(statement, condition=expr) for expr in _simpler_expr(statement.condition))
        case ir.ReadState(default=default):
            yield from (dataclasses.replace(statement, key=expr) for expr in _simpler_expr(statement.key))
            if default is not None:
                yield from (dataclasses.replace(statement, default=expr) for expr in _simpler_expr(default))
        case ir.StoreState(values=values):
            yield from (dataclasses.replace(statement, key=expr) for expr in _simpler_expr(statement.key))
            yield from (dataclasses.replace(statement, values=changed) for changed in _simpler_tuple(values))
        case ir.ForgetState():
            yield from (dataclasses.replace(statement, key=expr) for expr in _simpler_expr(statement.key))
        case ir.Update(slot=slot, row=row):
            yield from (dataclasses.replace(statement, value=expr) for expr in _simpler_expr(statement.value))
            if slot is not None:
                yield from (dataclasses.replace(statement, slot=expr) for expr in _simpler_expr(slot))
            if row is not None:
                yield from (dataclasses.replace(statement, row=changed) for changed in _simpler_tuple(row))
        case ir.ForgetKey():
            yield from (dataclasses.replace(statement, row=changed) for changed in _simpler_tuple(statement.row))
        case _:
            assert_never(statement)


def _simpler_tuple(exprs: tuple[ir.Expr, ...]) -> Iterator[tuple[ir.Expr, ...]]:
    for index, expr in enumerate(exprs):
        for simpler in _simpler_expr(expr):
            yield (*exprs[:index], simpler, *exprs[index + 1 :])


def _simpler_expr(expr: ir.Expr) -> Iterator[ir.Expr]:
    if isinstance(expr, ir.Const):
        return
    if isinstance(expr.type, ir.Int):
        yield ir.Const(0, expr.type)
        yield ir.Const(1, expr.type)
    for part in dataclasses.fields(expr):
        operand = getattr(expr, part.name)
        if not isinstance(operand, ir.Expr):
            continue
        if operand.type == expr.type:
            yield operand
        for simpler in _simpler_expr(operand):
            replaced: ir.Expr = dataclasses.replace(expr, **{part.name: simpler})  # type: ignore[arg-type]
            yield replaced
