"""Random programs that are well typed by the rules of `dsl.ir`, and events for them.

The generator asks a `Choice` for every decision, so that Hypothesis can drive it (and shrink), and a seeded
`random.Random` can make ten thousand programs in seconds. Programs use only what a raw tracepoint run by
BPF_PROG_TEST_RUN can be given: integer arguments, a pointer to the running task or null, and the running task itself.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from hypothesis import strategies as st

from dsl import ir
from dsl.hooks import Hook
from dsl.schema import ByCgroup, ByCpu, ByKey, KeyField, Label, Slots
from dsl.schema import Metric as SchemaMetric
from dsl.source import Source, Span

T = TypeVar("T")

SOURCE = Source("generated.rzl", "\n" * 400)
NARROW = (ir.U8, ir.S8, ir.U16, ir.S16)
OPERATION = (ir.U32, ir.S32, ir.U64, ir.S64)
"""The types operations have after C's promotions."""
INTEGERS = (*NARROW, *OPERATION)
COMPARISONS: tuple[ir.BinaryOp, ...] = ("==", "!=", "<", "<=", ">", ">=")
ARITHMETIC: tuple[ir.BinaryOp, ...] = ("|", "^", "&", "<<", ">>", "+", "-", "*", "/", "%")
TASK = ir.Pointer("task_struct")
COMM = ir.Text(16)
CURRENT = "current"
TYPED_TASK = ir.Pointer("task_struct", walkable=True)
ARGUMENTS: tuple[ir.Type, ...] = (*OPERATION, *INTEGERS, TASK)
TYPED_EVENTS: Mapping[str, tuple[ir.Type, ...]] = {
    "sched_switch": (ir.U8, TYPED_TASK, TYPED_TASK, ir.U32),
    "sched_wakeup": (TYPED_TASK,),
    "sched_wakeup_new": (TYPED_TASK,),
    "sched_waking": (TYPED_TASK,),
    "sched_migrate_task": (TYPED_TASK, ir.S32),
    "sched_process_fork": (TYPED_TASK, TYPED_TASK),
    "sched_stat_runtime": (TYPED_TASK, ir.U64),
    "task_newtask": (TYPED_TASK, ir.U64),
}
"""Tracepoints of every kernel since 5.5 that are about tasks, with their arguments (those that were there then)."""
MAX_STATEMENTS = 14

TASK_FIELDS = ("pid", "tgid", "comm")
"""What programs read of a task, and at which offsets `task_struct` has it is theirs to be told."""
EXIT = "sched_process_free"
_BITS = ((0, 1), (0, 5), (3, 4), (6, 10), (1, 31))
_INNER = "inner"
"""A made-up embedded structure that begins at `pid`."""
_CHARACTERS = "characters"
"""The name in the bytes of which programs look as an array of numbers."""


def task_object(*, pid: int, tgid: int, uid: int, comm: str, cgroup: int = 0) -> ir.TestObject:
    """The running task as the interpreter sees it, with all that generated programs ask for."""
    numbers: dict[str, object] = {"pid": pid, "tgid": tgid}
    name = comm.encode().ljust(COMM.size, b"\0")
    characters = {f"[{index}]": ir.TestObject({"value": byte}) for index, byte in enumerate(name)}
    bits = {f"pid_{bit}_{bits}": pid >> bit for bit, bits in _BITS}
    parts = {_INNER: ir.TestObject(dict(numbers)), _CHARACTERS: ir.TestObject(dict(characters))}
    return ir.TestObject({**numbers, **bits, **parts, "uid": uid, "comm": comm, "cgroup": cgroup})


class Choice(Protocol):
    """Whoever decides."""

    def integer(self, low: int, high: int) -> int:
        """A number, both bounds included."""

    def pick(self, options: Sequence[T]) -> T:
        """One of them."""


@dataclass(frozen=True, slots=True)
class Seeded:
    """Decides by a pseudo-random generator."""

    random: random.Random

    def integer(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        return options[self.random.randrange(len(options))]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Decides by Hypothesis, which prefers the first options and small numbers."""

    draw: st.DrawFn

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        return self.draw(st.sampled_from(options))


@dataclass(frozen=True, slots=True)
class Firing:
    """An event: `args` are numbers, CURRENT stands for the address of the running task."""

    event: str
    args: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A program, what happens to it, and the byte offsets in `task_struct` it was made for."""

    unit: ir.Unit
    firings: tuple[Firing, ...]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Programs with one or two samplers and up to a dozen events."""
    return make_case(Drawn(draw))


def seeded_case(seed: int, *, prefix: str = "t", task_offsets: Mapping[str, int] | None = None) -> Case:
    """The case of a number; `prefix` begins the name of everything global, so that cases can be merged."""
    return make_case(Seeded(random.Random(seed)), prefix=prefix, task_offsets=task_offsets)


def make_case(choice: Choice, *, prefix: str = "t", task_offsets: Mapping[str, int] | None = None) -> Case:
    """One case. `task_offsets` gives the places of `TASK_FIELDS`; without it no program reads them."""
    maker = _Maker(choice, prefix, task_offsets or {})
    return maker.case()


def merge(cases_: Sequence[Case]) -> ir.Unit:
    """All programs as one unit, for cases made with different prefixes."""
    return ir.Unit(
        samplers=tuple(sampler for case in cases_ for sampler in case.unit.samplers),
        tables=tuple(table for case in cases_ for table in case.unit.tables),
        sources=(),
        tests=(),
    )


def typed_case(seed: int, event: str, *, prefix: str, task_offsets: Mapping[str, int]) -> Case:
    """A program for one of `TYPED_EVENTS`, whose arguments the verifier knows. It cannot be given events of one's own."""
    maker = _Maker(Seeded(random.Random(seed)), prefix, task_offsets, task=TYPED_TASK)
    return maker.case({event: TYPED_EVENTS[event]})


@dataclass(slots=True)
class _Scope:
    """What an expression may mention."""

    args: tuple[ir.Type, ...]
    locals: list[ir.Local] = field(default_factory=list)
    made: list[ir.Expr] = field(default_factory=list)
    """Expressions of this block and those around it, to be used again."""

    def inner(self) -> _Scope:
        return _Scope(self.args, list(self.locals), list(self.made))


@dataclass(slots=True)
class _Maker:
    choice: Choice
    prefix: str
    task_offsets: Mapping[str, int]
    task: ir.Pointer = TASK
    tables: list[tuple[ir.Table, int]] = field(default_factory=list)
    """With the number of symbols."""
    states: list[ir.State] = field(default_factory=list)
    metrics: list[ir.Metric] = field(default_factory=list)
    count: int = 0
    statements: int = 0
    sampler: str = ""

    def case(self, known: Mapping[str, tuple[ir.Type, ...]] | None = None) -> Case:
        """A case for events of which the arguments are known, or for made-up ones."""
        for index in range(self.choice.integer(0, 2)):
            self.tables.append(self._table(index))
        events = known or self._events()
        samplers = tuple(self._sampler(index, events) for index in range(self.choice.integer(1, 2)))
        unit = ir.Unit(samplers, tuple(table for table, _ in self.tables), (), ())
        return Case(unit, tuple(self._firing(events) for _ in range(self.choice.integer(1, 12))))

    def _events(self) -> dict[str, tuple[ir.Type, ...]]:
        return {
            f"{self.prefix}_e{index}": tuple(self.choice.pick(ARGUMENTS) for _ in range(self.choice.integer(1, 4)))
            for index in range(self.choice.integer(1, 2))
        }

    # Declarations

    def _span(self) -> Span:
        self.count += 1
        start = self.count % len(SOURCE.text)
        return Span(SOURCE, start, start)

    def _table(self, index: int) -> tuple[ir.Table, int]:
        symbols = self.choice.integer(1, 5)
        numbers = self.choice.pick((range(3), range(2, 40), range(300), (7, 70_000, 1 << 31, 1 << 40), (0, 1, 4095)))
        mapping = tuple((number, self.choice.integer(0, symbols - 1)) for number in numbers)
        default = self.choice.pick((None, 0, symbols - 1))
        names = tuple((symbol, f"s{symbol}") for symbol in range(symbols))
        table = ir.Table(f"{self.prefix}_table{index}", mapping, default, tuple(n for _, n in names), names)
        return table, symbols

    def _sampler(self, index: int, events: Mapping[str, tuple[ir.Type, ...]]) -> ir.Sampler:
        self.sampler = f"{self.prefix}_s{index}"
        self.states = [self._state(n) for n in range(self.choice.integer(0, 2))]
        self.metrics = [self._metric(n) for n in range(self.choice.integer(1, 4))]
        chosen = [event for event in events if self.choice.integer(0, 3)] or list(events)[:1]
        handlers = tuple(self._handler(event, events[event]) for event in chosen)
        used = tuple((handler.event, handler.hook, (), 1) for handler in handlers)
        return ir.Sampler(
            self._span(), self.sampler, "generated", tuple(self.metrics), tuple(self.states), handlers, used
        )

    def _state(self, index: int) -> ir.State:
        fields = tuple(
            ir.StateField(f"f{n}", self.choice.pick((ir.U64, *INTEGERS))) for n in range(self.choice.integer(1, 3))
        )
        if self.choice.integer(0, 2) == 0:
            return ir.State(self.sampler, f"m{index}", "task", fields, bool(self.choice.integer(0, 1)), line=1)
        limit = self.choice.pick((1, 2, 64))
        key_type = self.choice.pick((ir.U64, *INTEGERS))
        return ir.State(self.sampler, f"m{index}", "hash", fields, False, limit, key_type, 1)

    def _metric(self, index: int) -> ir.Metric:
        kind: Literal["counter", "gauge", "histogram"] = self.choice.pick(("counter", "gauge", "histogram"))
        dimension = self.choice.pick((None, None, ByCpu(), self._key(), ByCgroup() if self.task_offsets else None))
        if kind == "histogram" and not isinstance(dimension, ByKey):
            dimension = None
        labels = tuple(
            Label(f"l{n}", tuple(f"v{v}" for v in range(self.choice.integer(1, 4))))
            for n in range(self.choice.integer(0, 2))
        )
        schema = SchemaMetric(
            name=f"{self.sampler}_{kind}{index}",
            kind=kind,
            unit="",
            help="generated",
            sampler=self.sampler,
            labels=labels,
            dimension=dimension,
            power=self.choice.integer(0, 6),
            storage=Slots("", 0),
            file=SOURCE.path,
            line=1,
        )
        return ir.Metric(schema, read=False)

    def _key(self) -> ByKey:
        if self.choice.integer(0, 4) == 0:
            return ByKey((KeyField(label="comm", kind="string", offset=0, size=16),), 2)
        fields, offset = [], 0
        for index in range(self.choice.integer(1, 3)):
            type_ = self.choice.pick(INTEGERS)
            size = type_.width // 8
            offset = (offset + size - 1) // size * size
            kind: Literal["signed", "unsigned"] = "signed" if type_.signed else "unsigned"
            fields.append(KeyField(label=f"k{index}", kind=kind, offset=offset, size=size))
            offset += size
        return ByKey(tuple(fields), self.choice.pick((1, 2, 3, 20)))

    def _handler(self, event: str, args: tuple[ir.Type, ...]) -> ir.Handler:
        self.statements = 0
        hook = Hook(kind="tp_btf" if self.task.walkable else "raw_tp", name=event)
        body = self._block(_Scope(args), depth=0)
        return ir.Handler(self._span(), self.sampler, event, hook, body, tuple(f"a{n}" for n in range(len(args))))

    def _firing(self, events: Mapping[str, tuple[ir.Type, ...]]) -> Firing:
        if self.choice.integer(0, 9) == 9:
            return Firing(EXIT, (CURRENT,))
        event = self.choice.pick(tuple(events))
        return Firing(event, tuple(self._argument(type_) for type_ in events[event]))

    def _argument(self, type_: ir.Type) -> int | str:
        if isinstance(type_, ir.Pointer):
            return CURRENT if self.choice.integer(0, 2) else 0
        assert isinstance(type_, ir.Int)
        return self._number() & ((1 << 64) - 1)

    def _number(self) -> int:
        shape = self.choice.integer(0, 5)
        if shape <= 2:
            return self.choice.integer(0, 5)
        if shape == 3:
            return (1 << self.choice.pick((7, 8, 15, 16, 31, 32, 63, 64))) - self.choice.integer(-1, 2)
        if shape == 4:
            return -self.choice.integer(1, 300)
        return self.choice.integer(0, (1 << 64) - 1) >> self.choice.integer(0, 63)

    # Statements

    def _block(self, scope: _Scope, *, depth: int) -> tuple[ir.Statement, ...]:
        wanted = self.choice.integer(1, 5 if depth == 0 else 3)
        statements: list[ir.Statement] = []
        for _ in range(wanted):
            if self.statements >= MAX_STATEMENTS:
                break
            self.statements += 1
            statements.append(self._statement(scope, depth))
        return tuple(statements) or (self._update(scope),)

    def _statement(self, scope: _Scope, depth: int) -> ir.Statement:
        kinds = ["update", "update", "update", "let"]
        if self.states:
            kinds += ["store", "store", "read", "default", "forget"]
        keyed = [metric for metric in self.metrics if isinstance(metric.schema.dimension, ByKey)]
        if keyed:
            kinds.append("forget key")
        if depth < 3:
            kinds += ["if", "if"]
        match self.choice.pick(kinds):
            case "let":
                type_ = self.choice.pick((*INTEGERS, None))
                local = self._local(type_ or self.task)
                value = self._task(scope) if type_ is None else self._expr(scope, type_)
                statement = ir.Let(self._span(), local, value)
                scope.locals.append(local)
                return statement
            case "if":
                condition = self._expr(scope, ir.BOOL)
                then = self._block(scope.inner(), depth=depth + 1)
                otherwise = self._block(scope.inner(), depth=depth + 1) if self.choice.integer(0, 1) else ()
                return ir.If(self._span(), condition, then, otherwise)
            case "store":
                state = self.choice.pick(self.states)
                values = tuple(self._expr(scope, part.type) for part in state.fields)
                return ir.StoreState(self._span(), state, self._state_key(scope, state), values)
            case "forget":
                state = self.choice.pick(self.states)
                return ir.ForgetState(self._span(), state, self._state_key(scope, state))
            case "forget key":
                metric = self.choice.pick(keyed)
                row = self._row(scope, metric)
                assert row is not None
                return ir.ForgetKey(self._span(), metric, row)
            case "read":
                return self._read(scope, depth)
            case "default":
                return self._read_default(scope, depth)
            case _:
                return self._update(scope)

    def _local(self, type_: ir.Type) -> ir.Local:
        self.count += 1
        return ir.Local(f"x{self.count}", type_)

    def _state_key(self, scope: _Scope, state: ir.State) -> ir.Expr:
        if state.kind == "task" or (state.key_type == ir.U64 and self.choice.integer(0, 3) == 0):
            return self._task(scope)
        return self._expr(scope, state.key_type, depth=2)

    def _read(self, scope: _Scope, depth: int) -> ir.Statement:
        state = self.choice.pick(self.states)
        key = self._state_key(scope, state)
        inner = scope.inner()
        found = tuple(self._local(part.type) for part in state.fields)
        inner.locals += found
        then = self._block(inner, depth=depth + 1)
        otherwise = self._block(scope.inner(), depth=depth + 1) if self.choice.integer(0, 1) else ()
        return ir.ReadState(self._span(), state, key, bool(self.choice.integer(0, 1)), found, then, otherwise)

    def _read_default(self, scope: _Scope, depth: int) -> ir.Statement:
        single = [state for state in self.states if len(state.fields) == 1]
        if not single:
            return self._read(scope, depth)
        state = self.choice.pick(single)
        type_ = state.fields[0].type
        key, default = self._state_key(scope, state), self._expr(scope, type_, depth=2)
        local = self._local(type_)
        scope.locals.append(local)
        return ir.ReadState(self._span(), state, key, bool(self.choice.integer(0, 1)), (local,), (), (), default)

    def _update(self, scope: _Scope) -> ir.Statement:
        metric = self.choice.pick(self.metrics)
        schema = metric.schema
        op: Literal["add", "set", "observe"]
        op = "add" if schema.kind == "counter" else "set" if schema.kind == "gauge" else "observe"
        value = self._expr(scope, self.choice.pick(OPERATION + INTEGERS))
        return ir.Update(self._span(), metric, op, self._slot(scope, metric), self._row(scope, metric), value)

    def _row(self, scope: _Scope, metric: ir.Metric) -> tuple[ir.Expr, ...] | None:
        match metric.schema.dimension:
            case ByCpu() if self.choice.integer(0, 1):
                return (self._expr(scope, self.choice.pick(OPERATION), depth=2),)
            case ByKey(fields=fields):
                return tuple(self._key_part(scope, part) for part in fields)
            case ByCgroup() if self.choice.integer(0, 1):
                return (self._task(scope),)
            case _:
                return None

    def _key_part(self, scope: _Scope, part: KeyField) -> ir.Expr:
        if part.kind == "string":
            return self._text(scope)
        by_size = {1: (ir.U8, ir.S8), 2: (ir.U16, ir.S16), 4: (ir.U32, ir.S32), 8: (ir.U64, ir.S64)}
        return self._expr(scope, by_size[part.size][part.kind == "signed"], depth=2)

    def _slot(self, scope: _Scope, metric: ir.Metric) -> ir.Expr | None:
        slot: ir.Expr | None = None
        for label in metric.schema.labels:
            index = self._label(scope, len(label.values))
            if slot is None:
                slot = index
            else:
                scaled = ir.Binary("*", slot, ir.Const(len(label.values), ir.U32), ir.U32)
                slot = ir.Binary("+", scaled, index, ir.U32)
        return slot

    def _label(self, scope: _Scope, values: int) -> ir.Expr:
        fitting = [table for table, symbols in self.tables if symbols <= values]
        kinds = ["const", "remap", "select"] + (["table"] * 2 if fitting else [])
        match self.choice.pick(kinds):
            case "table":
                operand = self._expr(scope, self.choice.pick(OPERATION), depth=2)
                return ir.TableLookup(self.choice.pick(fitting).name, operand)
            case "remap":
                numbers = range(self.choice.integer(1, 4))
                pairs = tuple((number, self.choice.integer(0, values - 1)) for number in numbers)
                return ir.Remap(self._symbol(scope), pairs)
            case "select":
                sides = [ir.Const(self.choice.integer(0, values - 1), ir.U32) for _ in range(2)]
                return ir.Select(self._expr(scope, ir.BOOL, depth=2), sides[0], sides[1], ir.U32)
            case _:
                return ir.Const(self.choice.integer(0, values - 1), ir.U32)

    def _symbol(self, scope: _Scope) -> ir.Expr:
        if self.tables and self.choice.integer(0, 1):
            return ir.TableLookup(self.choice.pick(self.tables)[0].name, self._expr(scope, ir.U64, depth=2))
        return self._expr(scope, ir.U32, depth=2)

    # Expressions

    def _expr(self, scope: _Scope, type_: ir.Int, *, depth: int = 0) -> ir.Expr:
        expr = self._new_expr(scope, type_, depth)
        scope.made.append(expr)
        return expr

    def _new_expr(self, scope: _Scope, type_: ir.Int, depth: int) -> ir.Expr:
        again = [expr for expr in scope.made if expr.type == type_]
        if again and self.choice.integer(0, 3) == 0:
            return self.choice.pick(again)
        if depth >= 3 or self.choice.integer(0, 2) == 0:
            return self._leaf(scope, type_)
        deeper = depth + 1
        kinds = ["select", "convert"]
        if type_ in OPERATION:
            kinds += ["arithmetic", "arithmetic", "arithmetic", "unary"]
        if type_ == ir.BOOL:
            kinds += ["compare", "compare", "logic", "not", "comm", "null"]
        if type_ == ir.U64:
            kinds += ["elapsed"]
        match self.choice.pick(kinds):
            case "select":
                condition = self._expr(scope, ir.BOOL, depth=deeper)
                then, otherwise = (self._expr(scope, type_, depth=deeper) for _ in range(2))
                return ir.Select(condition, then, otherwise, type_)
            case "convert":
                return ir.Convert(self._expr(scope, self.choice.pick(INTEGERS), depth=deeper), type_)
            case "arithmetic":
                left, right = (self._expr(scope, type_, depth=deeper) for _ in range(2))
                return ir.Binary(self.choice.pick(ARITHMETIC), left, right, type_)
            case "unary":
                return ir.Unary(self.choice.pick(("-", "~")), self._expr(scope, type_, depth=deeper), type_)
            case "elapsed":
                return ir.Elapsed(self._expr(scope, ir.U64, depth=deeper), self._expr(scope, ir.U64, depth=deeper))
            case _ as kind:
                return self._truth(scope, kind, deeper)

    def _truth(self, scope: _Scope, kind: str, depth: int) -> ir.Expr:
        match kind:
            case "compare":
                type_ = self.choice.pick(OPERATION)
                left, right = (self._expr(scope, type_, depth=depth) for _ in range(2))
                return ir.Binary(self.choice.pick(COMPARISONS), left, right, ir.BOOL)
            case "logic":
                left, right = (self._expr(scope, ir.BOOL, depth=depth) for _ in range(2))
                op: ir.BinaryOp = self.choice.pick(("&&", "||"))
                return ir.Binary(op, left, right, ir.BOOL)
            case "comm":
                return ir.TextEqual(self._text(scope), self.choice.pick(("oracle", "oracl", "other")))
            case "null":
                pointer = self._task(scope)
                return ir.Binary(self.choice.pick(("==", "!=")), pointer, ir.Const(0, ir.U64), ir.BOOL)
            case _:
                return ir.Unary("!", self._expr(scope, ir.BOOL, depth=depth), ir.BOOL)

    def _task(self, scope: _Scope, *, depth: int = 0) -> ir.Expr:
        """A pointer to the running task, or null."""
        pointers: list[ir.Expr] = [ir.Arg(n, type_) for n, type_ in enumerate(scope.args) if type_ == self.task]
        pointers += [local for local in scope.locals if local.type == self.task]
        shape = self.choice.integer(0, 7)
        if shape == 7 and depth == 0:
            sides = [self._task(scope, depth=1) for _ in range(2)]
            return ir.Select(self._expr(scope, ir.BOOL, depth=3), sides[0], sides[1], self.task)
        if shape == 6 and depth == 0:
            return ir.Reinterpret(self._task(scope, depth=1), self.task)
        return self.choice.pick([*pointers, *pointers, ir.Builtin("current", self.task)])

    @property
    def _part(self) -> ir.Pointer:
        """Into the middle of a task."""
        return ir.Pointer("", walkable=self.task.walkable)

    def _text(self, scope: _Scope) -> ir.Expr:
        if self.task_offsets and self.choice.integer(0, 1):
            return ir.Chars(self._task(scope), self.task_offsets["comm"], COMM, "comm")
        return ir.Builtin("comm", COMM)

    def _memory(self, scope: _Scope) -> ir.Expr:
        """Something of type S32 behind a task."""
        task, pid, tgid = self._task(scope), self.task_offsets["pid"], self.task_offsets["tgid"]
        match self.choice.integer(0, 4):
            case 0:
                inner = ir.Offset(task, pid, self._part, _INNER)
                return ir.Load(inner, tgid - pid, ir.S32, "tgid")
            case 1:
                bit, bits = self.choice.pick(_BITS)
                return ir.Load(task, pid, ir.S32, f"pid_{bit}_{bits}", bit, bits)
            case 2:
                return ir.Load(task, tgid, ir.S32, "tgid")
            case _:
                return ir.Load(task, pid, ir.S32, "pid")

    def _character(self, scope: _Scope) -> ir.Expr:
        """Of type U8."""
        comm = ir.Offset(self._task(scope), self.task_offsets["comm"], self._part, _CHARACTERS)
        index = self._expr(scope, self.choice.pick(OPERATION), depth=3)
        return ir.Load(ir.Element(comm, index, 1, COMM.size, self._part), 0, ir.U8, "value")

    def _leaf(self, scope: _Scope, type_: ir.Int) -> ir.Expr:
        options: list[ir.Expr] = [ir.Const(self._constant(type_), type_)]
        options += [ir.Arg(n, arg) for n, arg in enumerate(scope.args) if arg == type_] * 2
        options += [local for local in scope.locals if local.type == type_] * 2
        if type_ == ir.U32:
            options += [ir.Builtin(name, ir.U32) for name in ("cpu", "pid", "tid", "uid")]
        if type_ == ir.S32 and self.task_offsets:
            options += [self._memory(scope)] * 2
        if type_ == ir.U8 and self.task_offsets:
            options += [self._character(scope)] * 2
        others: list[ir.Expr] = [ir.Arg(n, arg) for n, arg in enumerate(scope.args) if isinstance(arg, ir.Int)]
        others += [local for local in scope.locals if isinstance(local.type, ir.Int)]
        if others and self.choice.integer(0, 2):
            options.append(ir.Convert(self.choice.pick(others), type_))
        return self.choice.pick(options)

    def _constant(self, type_: ir.Int) -> int:
        value = self._number() & ((1 << type_.width) - 1)
        return value - (1 << type_.width) if type_.signed and value >> (type_.width - 1) else value
