"""Value numbering: the expressions of all handlers of a program as one graph in which equal expressions are one node.

Expressions are pure during one event (`dsl.ir`), so a node needs to be evaluated at most once; where, is `dsl.plan.fuse`'s
decision. Variables bound by `Let` disappear here, they are names of nodes; variables bound by reading state are
nodes of their own. Beside the expressions of the source there are the addresses of memory that statements write to
(`Memory`): the row of a bank, the entry of a task; finding them costs a lookup, which is shared in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from dsl import ir

MemoryKind = Literal["row", "cgroup", "task", "tables"]


@dataclass(frozen=True, slots=True)
class Memory:
    """The address of something a statement reads or writes.

    `row`: this CPU's row of the bank `name`; `cgroup`: the row of a cgroup (operands: its task group, css id, serial
    number); `task`: what is remembered of a task (operand: the task); `tables`: the lookup tables.
    """

    kind: MemoryKind
    name: str = ""


@dataclass(frozen=True, slots=True)
class Bound:
    """A variable of a handler that reading state has bound."""

    handler: int
    local: ir.Local


Node = ir.Expr | Memory | Bound


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A node. Operands have smaller ids than what is made of them."""

    id: int
    node: Node
    operands: tuple[Value, ...]
    optional: int
    """How many of the last operands are evaluated only when the first one asks for it."""
    reasons: tuple[ir.DiscardReason, ...]
    """Ways this node itself, not its operands, can fail."""
    fallible: bool
    """Whether it or an operand can fail."""
    depth: int
    """How many operations stand on one another in it."""

    @property
    def required(self) -> tuple[Value, ...]:
        """The operands that are always evaluated."""
        return self.operands[: len(self.operands) - self.optional]

    @property
    def choices(self) -> tuple[Value, ...]:
        """The operands that are evaluated only on some condition."""
        return self.operands[len(self.operands) - self.optional :]

    @property
    def type(self) -> ir.Type:
        """Of the value; memory is an address."""
        match self.node:
            case Memory():
                return ir.Pointer()
            case Bound(local=local):
                return local.type
            case ir.CString() | ir.Chars() | ir.TextConst():
                return self.node.type
            case _:
                return self.node.type


_CHILDREN: Mapping[type, tuple[str, ...]] = {
    ir.Load: ("base",),
    ir.Chars: ("base",),
    ir.CString: ("pointer",),
    ir.Offset: ("base",),
    ir.Element: ("base", "index"),
    ir.Reinterpret: ("operand",),
    ir.Convert: ("operand",),
    ir.Unary: ("operand",),
    ir.Binary: ("left", "right"),
    ir.Elapsed: ("left", "right"),
    ir.TextEqual: ("left",),
    ir.Select: ("condition", "then", "otherwise"),
    ir.TableLookup: ("operand",),
    ir.Remap: ("operand",),
}

_FOR_READERS = frozenset(("path", "name"))
"""Attributes that say nothing about the value, on the nodes of `_NAMED`."""
_NAMED = (ir.Load, ir.Chars, ir.Offset, ir.RecordField)


def _attributes(node: Node) -> tuple[object, ...]:
    skip = {*_CHILDREN.get(type(node), ()), *(_FOR_READERS if isinstance(node, _NAMED) else ())}
    if isinstance(node, ir.UsdtArg):
        skip.add("index")
    return tuple(getattr(node, item.name) for item in fields(node) if item.name not in skip)


def is_address_zero_impossible(value: Value) -> bool:
    """An address inside an object whose own address was checked."""
    node = value.node
    if isinstance(node, ir.Reinterpret):
        return is_address_zero_impossible(value.operands[0])
    return isinstance(node, ir.Offset | ir.Element)


def _reasons(node: Node, operands: tuple[Value, ...], tables: Mapping[str, ir.Table]) -> tuple[ir.DiscardReason, ...]:
    match node:
        case ir.Load() | ir.Chars() | ir.CString() | ir.Offset():
            return () if is_address_zero_impossible(operands[0]) else ("null",)
        case ir.Element():
            return ("range",) if is_address_zero_impossible(operands[0]) else ("null", "range")
        case Memory(kind="task"):
            return () if is_address_zero_impossible(operands[0]) else ("null",)
        case ir.Elapsed():
            return ("clock",)
        case ir.Binary(op="/" | "%"):
            divisor = operands[1].node
            return () if isinstance(divisor, ir.Const) and divisor.value else ("zero",)
        case ir.TableLookup():
            return ("range",) if tables[node.table].default is None else ()
        case ir.Remap():
            return ("range",)
        case _:
            return ()


@dataclass(slots=True)
class Graph:
    """All values of one program. Numbering the same expression twice gives the same node."""

    tables: Mapping[str, ir.Table]
    arrays: frozenset[str] = frozenset()
    """Tables kept as arrays, which are looked up in the memory `tables`."""
    values: list[Value] = field(default_factory=list)
    hints: dict[Value, str] = field(default_factory=dict)
    """What the source calls a value."""
    _index: dict[tuple[object, ...], Value] = field(default_factory=dict)

    def number(self, expr: ir.Expr, env: Mapping[str, Value]) -> Value:
        """The node of an expression; `env` has the variables in scope."""
        if isinstance(expr, ir.Local):
            return env[expr.name]
        operands = tuple(self.number(getattr(expr, name), env) for name in _CHILDREN.get(type(expr), ()))
        if isinstance(expr, ir.TableLookup) and expr.table in self.arrays:
            operands = (*operands, self.node(Memory("tables")))
        return self.node(expr, operands)

    def node(self, node: Node, operands: tuple[Value, ...] = ()) -> Value:
        """The node with these operands."""
        key = (type(node), _attributes(node), tuple(operand.id for operand in operands))
        found = self._index.get(key)
        if found is None:
            lazy = isinstance(node, ir.Binary) and node.op in ("&&", "||")
            optional = 2 if isinstance(node, ir.Select) else 1 if lazy else 0
            reasons = _reasons(node, operands, self.tables)
            depth = 1 + max((operand.depth for operand in operands), default=0)
            fallible = bool(reasons) or any(operand.fallible for operand in operands)
            found = self._index[key] = Value(len(self.values), node, operands, optional, reasons, fallible, depth)
            self.values.append(found)
        return found

    def bind(self, handler: int, local: ir.Local) -> Value:
        """The node of a variable that a statement binds."""
        value = self.node(Bound(handler, local))
        self.hints.setdefault(value, local.name)
        return value


def root(value: Value) -> Value:
    """The pointer itself, whatever type it is taken for."""
    while isinstance(value.node, ir.Reinterpret):
        value = value.operands[0]
    return value


def bottom(value: Value) -> Value:
    """The object an address lies in."""
    while isinstance(value.node, ir.Reinterpret | ir.Offset | ir.Element):
        value = value.operands[0]
    return value


def closure(values: Iterable[Value]) -> list[Value]:
    """Values with all they are made of, operands first."""
    seen: set[Value] = set()
    todo = list(values)
    while todo:
        item = todo.pop()
        if item not in seen:
            seen.add(item)
            todo.extend(item.operands)
    return sorted(seen, key=lambda value: value.id)


def failures(value: Value) -> Iterator[ir.DiscardReason]:
    """All reasons for which evaluating a value may fail, with repetitions."""
    for item in closure([value]):
        yield from item.reasons


def numbered(value: Value) -> list[tuple[int, ir.DiscardReason]]:
    """The reasons for which the alternatives of a value can fail, numbered from 1."""
    found = sorted({reason for choice in value.choices for reason in failures(choice)})
    return list(enumerate(found, start=1))
