"""How tightly binary operators bind, as in C; all of them group to the left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from dsl.syntax.ast import Binary, BinaryOp, Expr

_LEVELS: tuple[tuple[BinaryOp, ...], ...] = (
    ("||",),
    ("&&",),
    ("|",),
    ("^",),
    ("&",),
    ("==", "!="),
    ("<", "<=", ">", ">="),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
)

PRECEDENCE: dict[BinaryOp, int] = {op: level for level, ops in enumerate(_LEVELS, 1) for op in ops}
"""Operator to level; a higher level binds tighter."""

COMPARISONS: frozenset[BinaryOp] = frozenset({"==", "!=", "<", "<=", ">", ">="})
BITWISE: frozenset[BinaryOp] = frozenset({"|", "^", "&"})

assert set(PRECEDENCE) == set(get_args(BinaryOp))


def build_chain(operands: Sequence[Expr], operators: Sequence[BinaryOp]) -> list[Binary]:
    """The nodes of `operands[0] operators[0] operands[1] ...`, the root last; without recursion whatever the length."""
    values: list[Expr] = [operands[0]]
    pending: list[BinaryOp] = []
    made: list[Binary] = []

    def reduce() -> None:
        right, left = values.pop(), values.pop()
        made.append(Binary(left.span.to(right.span), pending.pop(), left, right))
        values.append(made[-1])

    for op, operand in zip(operators, operands[1:], strict=True):
        while pending and PRECEDENCE[pending[-1]] >= PRECEDENCE[op]:
            reduce()
        pending.append(op)
        values.append(operand)
    while pending:
        reduce()
    return made
