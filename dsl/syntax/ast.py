"""The syntax tree: one frozen node per form of the language, its span first, children as tuples.

Nodes compare by identity, so that later stages can attach facts to them in side tables; compare structure with
`dsl.syntax.dump`. Names are kept as written: what they mean is the resolver's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, dataclass_transform

from dsl.source import Source, Span

_T = TypeVar("_T")


@dataclass_transform(eq_default=False, frozen_default=True)
def _node(cls: type[_T]) -> type[_T]:
    return dataclass(frozen=True, slots=True, eq=False)(cls)


# Expressions


@_node
class Number:
    """`10`, `0x1f`, `10ms`, `4KiB`."""

    span: Span
    value: int
    suffix: str
    """As written: `ms`, `KiB`, ...; empty without one. `value` is the number before the suffix."""


@_node
class String:
    """A string literal."""

    span: Span
    value: str


@_node
class Boolean:
    """`true` or `false`."""

    span: Span
    value: bool


@_node
class Name:
    """A variable, constant, kernel enumerator, label value, builtin (`now`, `cpu`, ...), source or state."""

    span: Span
    name: str


@_node
class Field:
    """`base.name`, or `base.(first | second)`: the first one that this kernel has."""

    span: Span
    base: Expr
    names: tuple[str, ...]
    name_spans: tuple[Span, ...]


@_node
class Index:
    """`base[key, ...]`: an array element, or the value of a state."""

    span: Span
    base: Expr
    keys: tuple[Expr, ...]


@_node
class Take:
    """`take state[key]`: read and forget."""

    span: Span
    read: Index


@_node
class OrElse:
    """`state[key] or default`: a state read with a value for when nothing is there.

    `name or default`: an argument that only some alternatives of the event have.
    """

    span: Span
    read: Index | Take | Name
    default: Expr


@_node
class Unary:
    """A prefix operator."""

    span: Span
    op: Literal["-", "!", "~"]
    operand: Expr


BinaryOp = Literal["||", "&&", "|", "^", "&", "==", "!=", "<", "<=", ">", ">=", "<<", ">>", "+", "-", "*", "/", "%"]


@_node
class Binary:
    """An infix operator."""

    span: Span
    op: BinaryOp
    left: Expr
    right: Expr


@_node
class Cast:
    """`sk as tcp_sock` (pointer to another kernel type), `x as u32`, `x as ns`."""

    span: Span
    operand: Expr
    type_name: str
    type_span: Span


@_node
class After:
    """`rq after request`: the address just behind an object of that type."""

    span: Span
    operand: Expr
    type_name: str
    type_span: Span


@_node
class Enclosing:
    """`enclosing(p, type, member)`: from a member to the structure that holds it."""

    span: Span
    operand: Expr
    type_name: str
    type_span: Span
    member: tuple[str, ...]


@_node
class CgroupOf:
    """`cgroup of p`; `cgroup` alone (task None) is the current task's."""

    span: Span
    task: Expr | None


@_node
class Call:
    """A `fn` or a `table` applied, or `count(source)`."""

    span: Span
    name: str
    name_span: Span
    args: tuple[Expr, ...]


@_node
class Conditional:
    """`if condition then a else b`."""

    span: Span
    condition: Expr
    then: Expr
    otherwise: Expr


Expr = (
    Number
    | String
    | Boolean
    | Name
    | Field
    | Index
    | Take
    | OrElse
    | Unary
    | Binary
    | Cast
    | After
    | Enclosing
    | CgroupOf
    | Call
    | Conditional
)


# Statements


@_node
class LabelArg:
    """`op: expr` in braces behind a metric."""

    span: Span
    name: str
    name_span: Span
    value: Expr


@_node
class MetricRef:
    """`metric[key, ...]{label: value, ...}` (keys and labels in either order)."""

    span: Span
    name: str
    name_span: Span
    keys: tuple[Expr, ...]
    labels: tuple[LabelArg, ...]


@_node
class Block:
    """`{ ... }`."""

    span: Span
    statements: tuple[Statement, ...]


@_node
class Let:
    """`let name = value`."""

    span: Span
    name: str
    name_span: Span
    value: Expr


@_node
class If:
    """`if condition { ... } else ...`."""

    span: Span
    condition: Expr
    then: Block
    otherwise: Block | If | IfLet | None


@_node
class IfLet:
    """`if let name = take state[key] { ... }`: runs only when something was there."""

    span: Span
    name: str
    name_span: Span
    read: Index | Take
    then: Block
    otherwise: Block | If | IfLet | None


@_node
class Assign:
    """`target = value`: a state (with a key) or a gauge. Which one it is, the resolver says."""

    span: Span
    target: MetricRef
    value: Expr


@_node
class Add:
    """`counter += value`."""

    span: Span
    target: MetricRef
    value: Expr


@_node
class Observe:
    """`histogram << value`."""

    span: Span
    target: MetricRef
    value: Expr


@_node
class Forget:
    """`forget state[key]`."""

    span: Span
    target: Index


Statement = Let | If | IfLet | Assign | Add | Observe | Forget


# Events


@_node
class Param:
    """A name bound by position (`_` binds nothing); user functions may give it a type: `size: bytes`."""

    span: Span
    name: str
    type_name: str
    """Empty when not given."""


EventKind = Literal[
    "tracepoint",  # `sched_switch(...)`, `sched:sched_switch(...)`
    "record",  # `record category:event(field, ...)`: the classic tracepoint, fields bound by name
    "call",
    "return",
    "user",
    "user_return",
    "usdt",
    "sample",
    "perf",
]


@_node
class Event:
    """Something to attach to, with what its arguments are called."""

    span: Span
    kind: EventKind
    name: str
    """Event, function or symbol; the perf event's name; empty for `sample`."""
    name_span: Span
    category: str = ""
    """Tracepoint category or USDT provider."""
    path: str = ""
    """Binary of a user event, as written."""
    params: tuple[Param, ...] = ()
    number: int = 0
    """Hertz of `sample`, period of `perf`."""
    of_pid: int | None = None
    of_comm: str | None = None


@_node
class Handler:
    """`on A(x) else B(x), C(x) when f { ... }`, and the handler to use when none of it is available.

    `events` holds one tuple of alternatives per comma-separated event.
    """

    span: Span
    events: tuple[tuple[Event, ...], ...]
    condition: Expr | None
    body: Block
    otherwise: Handler | None


@_node
class Measure:
    """`measure histogram{...} from A(...) to B(...) unless C(...) by KEY when f`."""

    span: Span
    target: MetricRef
    start: tuple[tuple[Event, ...], ...]
    stop: tuple[tuple[Event, ...], ...]
    unless: tuple[tuple[Event, ...], ...]
    key: Expr | None
    """None: by task."""
    limit: int | None
    condition: Expr | None
    """Evaluated at the start event."""


# Declarations


@_node
class LabelDecl:
    """`kind: involuntary | voluntary`; empty `values` with `table` set: the results of that table."""

    span: Span
    name: str
    values: tuple[str, ...]
    value_spans: tuple[Span, ...]


@_node
class Dimension:
    """`by cpu`, `by cgroup`, `by comm, uid limit 1000`."""

    span: Span
    names: tuple[str, ...]
    limit: int | None


@_node
class LabelledValue:
    """`user: self.utime` in a metric's braces of values."""

    span: Span
    label: str
    value: Expr


@_node
class Metric:
    """A metric and its dimensions."""

    span: Span
    kind: Literal["counter", "gauge", "histogram"]
    name: str
    name_span: Span
    unit: str
    """As written; empty without one."""
    power: int | None
    dimension: Dimension | None
    labels: tuple[LabelDecl, ...]
    help: str
    value: Expr | tuple[LabelledValue, ...] | None
    """For metrics that are read: an expression over sources, or one per value of the only label."""


@_node
class State:
    """Memory between two events."""

    span: Span
    name: str
    name_span: Span
    type_name: str
    """A unit (`ns`, `bytes`) or an integer type (`u32`, `s64`, ...)."""
    key: str
    """`task`, an integer type, or a kernel structure whose address is the key."""
    key_span: Span
    limit: int | None


@_node
class SourceDecl:
    """`source NAME = file "path" keys` and its kin; see `dsl.schema.Source` for the forms."""

    span: Span
    name: str
    name_span: Span
    form: Literal["keys", "value", "cpulist", "columns", "psi", "glob", "rusage", "perf", "discards"]
    path: str
    match: str
    columns: tuple[str, ...]
    """`columns`: the names of the fields after the first; `perf`: the events."""


@_node
class TableRow:
    """`read: readv, preadv`; `other: else` has no items and `is_else`."""

    span: Span
    value: str
    items: tuple[Expr, ...]
    is_else: bool


@_node
class Table:
    """A name for each group of numbers. `param_type` is `syscall` or empty (items are expressions, constants)."""

    span: Span
    name: str
    name_span: Span
    param: str
    param_type: str
    result: str
    rows: tuple[TableRow, ...]


@_node
class Function:
    """`fn name(a: type, b) = expr`: substituted where it is used."""

    span: Span
    name: str
    name_span: Span
    params: tuple[Param, ...]
    body: Expr


@_node
class Const:
    """`const NAME = value`."""

    span: Span
    name: str
    name_span: Span
    value: Expr


Member = Metric | State | SourceDecl | Table | Function | Const | Handler | Measure


@_node
class Sampler:
    """A group of metrics and what updates them."""

    span: Span
    name: str
    name_span: Span
    help: str
    members: tuple[Member, ...]


# Tests


@_node
class Record:
    """`{ pid: 7, comm: "a" }`: a kernel object of a test; fields not named read as 0."""

    span: Span
    fields: tuple[tuple[str, Value], ...]


Value = Record | Expr


@_node
class TestLet:
    """`let name = value` in a test."""

    span: Span
    name: str
    value: Value


@_node
class Fire:
    """`at 10us cpu 0 current worker sched_wakeup(worker)`."""

    span: Span
    time: Expr
    cpu: Expr | None
    current: Value | None
    event: str
    event_span: Span
    event_kind: EventKind
    args: tuple[Value, ...]


@_node
class Expect:
    """`expect metric{...} == 3`; for a histogram `expect h == [5us, 7us]`: exactly these observations."""

    span: Span
    metric: MetricRef
    values: tuple[Expr, ...]
    is_list: bool


@_node
class Test:
    """`test "name" { ... }`: events, and what the metrics must then read."""

    span: Span
    name: str
    steps: tuple[TestLet | Fire | Expect, ...]


# Files


@_node
class Use:
    """`use "common.rzl"`: tables, functions and constants of another file, by a path relative to this one."""

    span: Span
    path: str


Item = Use | Table | Function | Const | Sampler | Test


@_node
class Comment:
    """A `# ...` comment, for the formatter: `span` covers it, text without the line break."""

    span: Span
    text: str


@_node
class Module:
    """One file."""

    span: Span
    source: Source
    version: int | None
    """Of the header `rzl 1`."""
    items: tuple[Item, ...]
    comments: tuple[Comment, ...]
