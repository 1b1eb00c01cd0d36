"""Expressions and targets as canonical text, with the parentheses that a reader needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import assert_never

from dsl.syntax import ast
from dsl.syntax.precedence import PRECEDENCE
from dsl.syntax.tokens import number_parts

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)[A-Za-z]*")

_ANY = 0
_NO_CONDITIONAL = 1
_OPERAND = max(PRECEDENCE.values()) + 2
_BASE = _OPERAND + 1
"""How tightly an expression holds together: binary operators lie between at `PRECEDENCE` + 1."""

_BITS = frozenset({"|", "^", "&", "<<", ">>"})
"""Operators whose precedence few people remember: they are never mixed with others without parentheses."""

_SHORT = 60
"""Characters up to which a list or an expression is kept in one piece."""


def format_string(value: str) -> str:
    """A quoted string."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def format_name(name: str) -> str:
    """A name of a field or symbol, quoted when it is no word."""
    return name if _IDENTIFIER.fullmatch(name) else format_string(name)


def format_list(items: Iterable[str]) -> str:
    """Items between commas."""
    return ", ".join(items)


def braced(items: Sequence[str]) -> list[str]:
    """`{ a, b }` in the pieces between which a line may be broken."""
    if not items:
        return ["{}"]
    whole = f"{{ {format_list(items)} }}"
    if len(whole) <= _SHORT or len(items) == 1:
        return [whole]
    first, *middle, last = items
    return [f"{{ {first},", *(f"{item}," for item in middle), f"{last} }}"]


def expression_pieces(node: ast.Expr) -> list[str]:
    """An expression in the pieces between which a line may be broken."""
    whole = format_expression(node)
    if len(whole) <= _SHORT:
        return [whole]
    if isinstance(node, ast.Conditional):
        condition, then = _at(node.condition, _NO_CONDITIONAL), _at(node.then, _NO_CONDITIONAL)
        rest = expression_pieces(node.otherwise)
        return [f"if {condition}", f"then {then}", f"else {rest[0]}", *rest[1:]]
    if isinstance(node, ast.Binary) and node.op in {"&&", "||"}:
        left = node.left
        same = isinstance(left, ast.Binary) and left.op == node.op
        level = PRECEDENCE[node.op] + 1
        begin = expression_pieces(left) if same else [_binary_side(node, left, level)]
        return [*begin, f"{node.op} {_binary_side(node, node.right, level + 1)}"]
    return [whole]


def format_target(node: ast.MetricRef) -> str:
    """`metric[key]{label: value}`."""
    keys = f"[{format_list(map(format_expression, node.keys))}]" if node.keys else ""
    labels = format_list(f"{label.name}: {format_expression(label.value)}" for label in node.labels)
    return node.name + keys + (f"{{{labels}}}" if labels else "")


def format_value(node: ast.Value) -> str:
    """What a test gives to an event: an expression or a record."""
    if not isinstance(node, ast.Record):
        return format_expression(node)
    fields = [f"{name}: {format_value(value)}" for name, value in node.fields]
    return f"{{ {format_list(fields)} }}" if fields else "{}"


def format_expression(node: ast.Expr) -> str:
    """An expression on one line."""
    match node:
        case ast.Number():
            return _format_number(node)
        case ast.String(_, value):
            return format_string(value)
        case ast.Boolean(_, value):
            return "true" if value else "false"
        case ast.Name(_, name):
            return name
        case ast.Field(_, base, names):
            found = format_name(names[0]) if len(names) == 1 else f"({' | '.join(names)})"
            return f"{_at(base, _BASE)}.{found}"
        case ast.Index(_, base, keys):
            return f"{_at(base, _BASE)}[{format_list(map(format_expression, keys))}]"
        case ast.Call(_, name, _, args):
            return f"{name}({format_list(map(format_expression, args))})"
        case ast.Enclosing(_, operand, type_name, _, member):
            return f"enclosing({format_expression(operand)}, {type_name}, {'.'.join(member)})"
        case ast.Take(_, read):
            return f"take {format_expression(read)}"
        case ast.OrElse(_, read, default):
            return f"{format_expression(read)} or {_at(default, _OPERAND)}"
        case ast.Cast(_, operand, type_name):
            return f"{_at(operand, _BASE)} as {type_name}"
        case ast.After(_, operand, type_name):
            return f"{_at(operand, _BASE)} after {type_name}"
        case ast.CgroupOf(_, task):
            return "cgroup" if task is None else f"cgroup of {_at(task, _BASE)}"
        case ast.Unary(_, op, operand):
            return op + _at(operand, _BASE)
        case ast.Binary(_, op, left, right):
            level = PRECEDENCE[op] + 1
            return f"{_binary_side(node, left, level)} {op} {_binary_side(node, right, level + 1)}"
        case ast.Conditional(_, condition, then, otherwise):
            begin = f"if {_at(condition, _NO_CONDITIONAL)} then {_at(then, _NO_CONDITIONAL)}"
            return f"{begin} else {_at(otherwise, _ANY)}"
        case _:
            assert_never(node)


def _at(node: ast.Expr, least: int) -> str:
    """An expression where only those of some level may stand bare."""
    text = format_expression(node)
    return text if _level(node) >= least else f"({text})"


def _level(node: ast.Expr) -> int:
    match node:
        case ast.Conditional():
            return _ANY
        # These bind tightly but look as if they did not.
        case ast.OrElse() | ast.Cast() | ast.After():
            return _NO_CONDITIONAL
        case ast.Binary(_, op):
            return PRECEDENCE[op] + 1
        case ast.CgroupOf(_, task) if task is None:
            return _BASE
        case ast.Unary() | ast.Take() | ast.CgroupOf():
            return _OPERAND
        case _:
            return _BASE


def _binary_side(parent: ast.Binary, side: ast.Expr, least: int) -> str:
    if isinstance(side, ast.Binary) and side.op != parent.op:
        mixed = parent.op in _BITS or side.op in _BITS or (parent.op, side.op) == ("||", "&&")
        least = _BASE if mixed else least
    return _at(side, least)


def _format_number(node: ast.Number) -> str:
    """As it was written, so that hexadecimal stays so."""
    written = node.span.text
    if _NUMBER.fullmatch(written) and number_parts(written) == (node.value, node.suffix):
        return written
    return f"{node.value}{node.suffix}"
