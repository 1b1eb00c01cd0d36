"""The checked program: typed, resolved against one kernel, and free of names.

What the checker produces, the planner lays out, the emitter prints as C and the interpreter runs. Two rules shape it:

- **Expressions are pure values** with structural equality: equal expressions of one event have equal values,
  so a program evaluates each at most once. State is therefore read by statements (`ReadState`), which bind locals.
- **An expression may fail**: a null pointer on the way (`null`), a division by zero (`zero`), time that went backwards
  (`clock`), an index or label value out of range (`range`). The failure abandons the statement it occurs in and is
  counted for the sampler under that reason; when the statement is a `Let`, a `ReadState` key or an `If` condition,
  what depends on it (the rest of the block; both branches) is abandoned too.

Integers behave as C's after the usual arithmetic conversions, which the checker has made explicit: both operands
of a `Binary` have the operation's type, arithmetic wraps at its width, `>>` is arithmetic for signed types,
comparisons and logic yield `BOOL` (0 or 1). Shift counts are taken modulo the width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar, dataclass_transform

from dsl.hooks import Hook
from dsl.schema import Metric as SchemaMetric
from dsl.schema import Source
from dsl.source import Span

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def _value(cls: type[_T]) -> type[_T]:
    """Compared by content."""
    return dataclass(frozen=True, slots=True)(cls)


@dataclass_transform(frozen_default=True, eq_default=False)
def _node(cls: type[_T]) -> type[_T]:
    """Compared by identity: two equal statements are two statements."""
    return dataclass(frozen=True, slots=True, eq=False)(cls)


DiscardReason = Literal["clock", "null", "zero", "range", "state_full", "key_overflow"]


# Types


@_value
class Int:
    """An integer of a width in bits."""

    width: Literal[8, 16, 32, 64]
    signed: bool

    def __str__(self) -> str:
        return f"{'s' if self.signed else 'u'}{self.width}"


U8, U16, U32, U64 = Int(8, False), Int(16, False), Int(32, False), Int(64, False)
S8, S16, S32, S64 = Int(8, True), Int(16, True), Int(32, True), Int(64, True)
BOOL = U32


@_value
class Pointer:
    """An address.

    `target` is the C name of the structure it points to (`task_struct`), empty when unknown or not a structure.
    """

    target: str = ""
    user: bool = False
    """In the address space of the process, not the kernel's."""
    walkable: bool = False
    """A BTF-typed program may dereference it by a plain load: a typed argument, or a pointer loaded through one."""


@_value
class Text:
    """A string of at most `size` bytes, its terminating NUL included."""

    size: int


Type = Int | Pointer | Text


# Expressions


@_value
class Const:
    """An integer constant."""

    value: int
    type: Int


@_value
class TextConst:
    """A string constant."""

    value: str
    type: Text


@_value
class Local:
    """A variable bound by a `Let` or a `ReadState`; names are unique within a handler."""

    name: str
    type: Type


@_value
class Arg:
    """An argument of the event by position, 0-based: of the tracepoint's prototype (`void *__data` not counted) or of the function."""

    index: int
    type: Type


@_value
class ReturnValue:
    """Of a `return` event. `nargs` is the function's number of arguments (fexit keeps the value behind them)."""

    type: Type
    nargs: int


@_value
class RecordField:
    """A field of a classic tracepoint's record, `offset` bytes from its start."""

    name: str
    offset: int
    type: Type


@_value
class UsdtArg:
    """An argument of a USDT site by its assembler notation, `-4@-20(%rbp)`."""

    notation: str
    type: Type
    index: int = 0
    """Its position in the source's parameter list, by which a test passes a value."""


@_value
class Builtin:
    """What every event knows.

    `now` (U64, ns, CLOCK_MONOTONIC), `cpu` (U32), `pid` `tid` `uid` (U32; pid is the process), `current` (Pointer to
    task_struct), `comm` (Text 16).
    """

    name: Literal["now", "cpu", "pid", "tid", "uid", "current", "comm"]
    type: Type


@_value
class Load:
    """The integer or pointer `offset` bytes behind `base`; fails with `null` when `base` is 0.

    For bit fields `offset` and `type` describe the containing integer, and the value is `bits` bits from `bit` upwards
    (counted from the least significant one), sign-extended when the type is signed.
    """

    base: Expr
    offset: int
    type: Type
    path: str
    """As written in the source, `__state` or `css.id`: for readers, and for the interpreter's objects."""
    bit: int = 0
    bits: int = 0
    """0: not a bit field."""


@_value
class Chars:
    """The characters of an array `offset` bytes behind `base` (null discards)."""

    base: Expr
    offset: int
    type: Text
    path: str


@_value
class CString:
    """The string a `char *` points to; at most `type.size` bytes; null discards."""

    pointer: Expr
    type: Text


@_value
class Offset:
    """The address `offset` bytes behind `base` (an embedded structure, `after`, `enclosing`); `base` 0 discards with `null`."""

    base: Expr
    offset: int
    type: Pointer
    path: str


@_value
class Element:
    """The address of element `index` of an array of `count` elements of `stride` bytes at `base`; outside: `range`."""

    base: Expr
    index: Expr
    stride: int
    count: int
    type: Pointer


@_value
class Reinterpret:
    """The same address as a pointer of another type."""

    operand: Expr
    type: Pointer


@_value
class Convert:
    """To another integer type: truncated or extended by the operand's sign. A pointer converts to U64."""

    operand: Expr
    type: Int


@_value
class Unary:
    """A prefix operator; `!` yields BOOL."""

    op: Literal["-", "!", "~"]
    operand: Expr
    type: Int


BinaryOp = Literal["||", "&&", "|", "^", "&", "==", "!=", "<", "<=", ">", ">=", "<<", ">>", "+", "-", "*", "/", "%"]


@_value
class Binary:
    """An operation on two integers; comparisons may compare two pointers.

    `/` and `%` fail with `zero`. `||` and `&&` evaluate (and can fail on) the right side only when it decides.
    """

    op: BinaryOp
    left: Expr
    right: Expr
    type: Int


@_value
class Elapsed:
    """`left - right` of two times or durations (U64): `clock` when right is later."""

    left: Expr
    right: Expr
    type: Int = U64


@_value
class TextEqual:
    """Whether a string is exactly a literal."""

    left: Expr
    """Of type Text."""
    literal: str
    type: Int = BOOL


@_value
class Select:
    """Only the chosen side is evaluated."""

    condition: Expr
    then: Expr
    otherwise: Expr
    type: Type


@_value
class TableLookup:
    """The symbol of a number in a table (`Unit.tables`); `range` when no row has it and there is no `else`."""

    table: str
    operand: Expr
    type: Int = U32


@_value
class Remap:
    """`pairs` maps symbols to label slots; any other value: `range`."""

    operand: Expr
    pairs: tuple[tuple[int, int], ...]
    type: Int = U32


Expr = (
    Const
    | TextConst
    | Local
    | Arg
    | ReturnValue
    | RecordField
    | UsdtArg
    | Builtin
    | Load
    | Chars
    | CString
    | Offset
    | Element
    | Reinterpret
    | Convert
    | Unary
    | Binary
    | Elapsed
    | TextEqual
    | Select
    | TableLookup
    | Remap
)


# Statements


@_node
class Let:
    """Bind a local."""

    span: Span
    local: Local
    value: Expr


@_node
class If:
    """A condition that is not 0 runs `then`, else `otherwise`."""

    span: Span
    condition: Expr
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]


@_node
class ReadState:
    """Reads the fields of a state entry. Present: binds `locals` (one per field of the state) and runs `then`; absent: `otherwise`.

    `take` also forgets the entry. A state of one field may have `default`: then `otherwise` is empty, nothing is lost
    when the entry is absent (the local is the default) and `then` is empty too: the binding holds for the rest of the block.
    """

    span: Span
    state: State
    key: Expr
    """A task pointer for a task state; an integer or pointer (by its address) for a hash."""
    take: bool
    locals: tuple[Local, ...]
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]
    default: Expr | None = None


@_node
class StoreState:
    """`values` has one expression per field. A full hash drops the store and counts `state_full`."""

    span: Span
    state: State
    key: Expr
    values: tuple[Expr, ...]


@_node
class ForgetState:
    """Remove an entry; nothing happens when there is none."""

    span: Span
    state: State
    key: Expr


@_node
class Update:
    """Changes a metric.

    `add`: counter += value (a negative signed value fails with `range`); `set`: gauge = value; `observe`: the histogram's
    bucket of value += 1 (negative: `range`). `slot` is the row-major index of the label values (None: 0), always in range.

    `row` chooses the series of a metric with a dimension: for `by cpu` a CPU number (None: this CPU; not below the number
    of possible CPUs: `range`), for `by cgroup` a task pointer (None: current), for open-ended keys one expression per
    `KeyField` of the metric; past the limit the overflow row is used and `key_overflow` counted.
    """

    span: Span
    metric: Metric
    op: Literal["add", "set", "observe"]
    slot: Expr | None
    row: tuple[Expr, ...] | None
    value: Expr


@_node
class ForgetKey:
    """Give back the row of an open-ended key: its series ends, and the row can serve another key. Nothing happens without one.

    `row` is as in `Update`.
    """

    span: Span
    metric: Metric
    row: tuple[Expr, ...]


Statement = Let | If | ReadState | StoreState | ForgetState | Update | ForgetKey


# Definitions


@_node
class StateField:
    """A part of a state entry."""

    name: str
    type: Int


@_node
class State:
    """`task`: one per living task, part of the one task structure of the unit; `hash`: a map with a bound.

    A task state is *absent* when its first field is 0 if `zero_is_absent` (times are never 0), else by a presence bit.
    """

    sampler: str
    name: str
    kind: Literal["task", "hash"]
    fields: tuple[StateField, ...]
    zero_is_absent: bool
    limit: int = 0
    key_type: Int = U64
    line: int = 0


@_node
class Metric:
    """`schema` is complete but for `storage` (of BPF metrics), which the planner fills in."""

    schema: SchemaMetric
    read: bool
    """Read in user space (a source or discards): no program updates it."""
    discards: tuple[DiscardReason, ...] = ()
    """Not empty: the metric reads the sampler's own discards of these reasons; the planner makes it `FromDiscards`."""


@_node
class Table:
    """Number → symbol. `default` is the symbol of `else`, None without one."""

    name: str
    """Unique in the unit."""
    mapping: tuple[tuple[int, int], ...]
    default: int | None
    symbols: tuple[str, ...]
    """For readers: the name of each symbol number used here is `names[symbol]`."""
    names: tuple[tuple[int, str], ...] = ()


@_node
class Handler:
    """What one sampler does at one hook. Locals are unique within it."""

    span: Span
    sampler: str
    event: str
    """As the source wrote it, `sched_switch`."""
    hook: Hook
    body: tuple[Statement, ...]
    arg_names: tuple[str, ...] = ()
    """Names the source bound the arguments to ("" for `_`), for readable C."""


@_node
class TestFire:
    """An event of a test."""

    span: Span
    time_ns: int
    cpu: int
    current: object
    hook_event: str
    """Event name: every handler whose `event` is this one runs."""
    args: tuple[object, ...]
    """int, str, None (null pointer) or `TestObject`."""


@dataclass(slots=True, eq=False)
class TestObject:
    """A kernel object of a test: fields by their source path; `css.id`-like paths are nested objects."""

    fields: dict[str, object] = field(default_factory=dict)


@_node
class TestExpect:
    """What a metric of a test must read."""

    span: Span
    metric: str
    slot: int
    row: tuple[object, ...] | None
    values: tuple[int, ...]
    is_list: bool


@_node
class Test:
    """A test of the file."""

    span: Span
    name: str
    steps: tuple[TestFire | TestExpect, ...]


@_node
class Sampler:
    """A sampler without errors."""

    span: Span
    name: str
    help: str
    metrics: tuple[Metric, ...]
    states: tuple[State, ...]
    handlers: tuple[Handler, ...]
    events: tuple[tuple[str, Hook | None, tuple[tuple[str, str], ...], int], ...]
    """(event text, hook chosen, (alternative, why not) ..., line)"""


@_node
class Unit:
    """Everything of one compilation, checked."""

    samplers: tuple[Sampler, ...]
    tables: tuple[Table, ...]
    sources: tuple[Source, ...]
    tests: tuple[Test, ...]
