"""Runs a checked program on events of one's own: the meaning of the language, for in-language tests and as the compiler's oracle.

Written to be obviously right: one place per statement, in the order of `dsl.ir`, with Python's integers cut to their width.
Nothing here depends on how the planner lays out memory or which hooks are chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, assert_never

from dsl import ir
from dsl.diagnostics import CompilerBug
from dsl.hooks import Hook
from dsl.interpret.evaluate import Discard, Evaluator, Frame, Objects, Value, coerce, text_bytes, wrap
from dsl.schema import CGROUP_ROWS, ByCgroup, ByCpu, ByKey, KeyField

__all__ = ["CPUS", "OVERFLOW", "Machine", "Row", "bucket_index"]

CPUS = 64
"""Possible CPUs of a machine nobody says more about: the same on every host, so that tests are too."""

OVERFLOW: Literal["overflow"] = "overflow"
"""The row of all open-ended keys past the limit."""

Row = None | int | tuple[int | bytes, ...] | Literal["overflow"]
"""A series of a metric: None without a dimension, a CPU, a cgroup id, a key, or `OVERFLOW`."""

_ROOT_CGROUP = 1
_LAST_EVENT_OF_A_TASK = "sched_process_free"


def bucket_index(value: int, power: int) -> int:
    """The H2 histogram bucket of a u64: exact below `2 ** (power + 1)`, then `2 ** power` buckets for each power of two."""
    exponent = value.bit_length() - 1
    if exponent <= power:
        return value
    return ((exponent - power + 1) << power) + ((value - (1 << exponent)) >> (exponent - power))


@dataclass(slots=True)
class _Memory:
    """A state: entries by the key's number. A task state has no bound, its entries go with their tasks."""

    state: ir.State
    entries: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def read(self, key: int) -> tuple[int, ...] | None:
        values = self.entries.get(key)
        if values is not None and self.state.kind == "task" and self.state.zero_is_absent and not values[0]:
            return None
        return values

    def store(self, key: int, values: tuple[int, ...]) -> None:
        if self.state.kind == "hash" and key not in self.entries and len(self.entries) >= self.state.limit:
            raise Discard("state_full")
        self.entries[key] = values


@dataclass(slots=True)
class _Series:
    """The values of a metric. A histogram keeps what it observed, from which its buckets follow."""

    metric: ir.Metric
    values: dict[tuple[int, Row], int] = field(default_factory=dict)
    observed: dict[tuple[int, Row], list[int]] = field(default_factory=dict)
    keys: list[Row] = field(default_factory=list)
    """Open-ended keys that have a row, in order of appearance."""


@dataclass(frozen=True, slots=True)
class _World:
    """All that outlives an event."""

    cpus: int
    series: Mapping[str, _Series]
    memory: Mapping[int, _Memory]
    """By the identity of the `ir.State`."""
    discards: Mapping[str, Counter[ir.DiscardReason]]
    """By sampler."""
    objects: Objects
    evaluator: Evaluator


class Machine:
    """A program and everything it remembers.

    `cpus` is the number of possible CPUs. Metrics are read by name, label slot and row; a series nothing has happened to reads as 0.
    """

    def __init__(self, unit: ir.Unit, *, cpus: int = CPUS) -> None:
        objects = Objects()
        self._handlers = [handler for sampler in unit.samplers for handler in sampler.handlers]
        self._idle = ir.TestObject()
        self._world = _World(
            cpus,
            {metric.schema.name: _Series(metric) for sampler in unit.samplers for metric in sampler.metrics},
            {id(state): _Memory(state) for sampler in unit.samplers for state in sampler.states},
            {sampler.name: Counter() for sampler in unit.samplers},
            objects,
            Evaluator({table.name: table for table in unit.tables}, objects),
        )

    def fire(
        self,
        event: str | Hook,
        args: Sequence[object] = (),
        *,
        now: int = 0,
        cpu: int = 0,
        current: object = None,
    ) -> None:
        """Run every handler of an event, given by its name in the source or by the hook it became.

        `args` are numbers, texts, objects or None (null), by position; those not given are 0. `now` is in ns. Without
        `current` the event happens in a task of which everything is 0. After `sched_process_free` its task is gone.
        """
        task = current if isinstance(current, ir.TestObject) else self._idle
        hooks: dict[str, Hook] = {}
        for handler in self._handlers:
            happened = event == (handler.event if isinstance(event, str) else handler.hook)
            # A USDT probe has a site, and so a hook, in every function it was inlined into: an event happens at one of them.
            if happened and hooks.setdefault(handler.sampler, handler.hook) == handler.hook:
                frame = Frame(tuple(args), handler.arg_names, now, cpu, task)
                _Run(self._world, handler.sampler, frame).block(handler.body)
        if event == _LAST_EVENT_OF_A_TASK and args and isinstance(args[0], ir.TestObject):
            self.exit(args[0])

    def exit(self, task: ir.TestObject) -> None:
        """A task ends, and what is remembered of it with it."""
        address = self._world.objects.address(task)
        for memory in self._world.memory.values():
            if memory.state.kind == "task":
                memory.entries.pop(address, None)

    def value(self, metric: str, slot: int = 0, row: Row = None) -> int:
        """A counter or gauge. Without `row` the sum of a dimension's series; of a metric of discards, their number."""
        series = self._world.series[metric]
        if series.metric.discards:
            counts = self._world.discards[series.metric.schema.sampler]
            return sum(counts[reason] for reason in series.metric.discards)
        return sum(value for key, value in series.values.items() if key[0] == slot and row in (None, key[1]))

    def observations(self, metric: str, slot: int = 0, row: Row = None) -> tuple[int, ...]:
        """What a histogram has observed, ascending."""
        found = self._world.series[metric].observed.items()
        return tuple(sorted(v for key, values in found if key[0] == slot and row in (None, key[1]) for v in values))

    def buckets(self, metric: str, slot: int = 0, row: Row = None) -> dict[int, int]:
        """A histogram's buckets that are not empty, by index."""
        power = self._world.series[metric].metric.schema.power
        return dict(Counter(bucket_index(value, power) for value in self.observations(metric, slot, row)))

    def row(self, metric: str, parts: Sequence[object] | None) -> Row:
        """The row a test names by a CPU, a cgroup id or the parts of a key; None, all rows together, without parts."""
        if parts is None:
            return None
        dimension = self._world.series[metric].metric.schema.dimension
        if isinstance(dimension, ByKey):
            return tuple(_key_bytes(part, spec) for part, spec in zip(parts, dimension.fields, strict=True))
        (number,) = parts
        return number if isinstance(number, int) else None

    def rows(self, metric: str) -> tuple[Row, ...]:
        """The series of a metric that something happened to, in order of appearance."""
        series = self._world.series[metric]
        return tuple(dict.fromkeys([*series.keys, *(row for _, row in (*series.values, *series.observed))]))

    def discards(self, sampler: str) -> Mapping[ir.DiscardReason, int]:
        """How often each reason abandoned a statement of a sampler, or met a bound."""
        return self._world.discards[sampler]

    def entries(self, state: ir.State) -> int:
        """How many entries a state holds."""
        return len(self._world.memory[id(state)].entries)


@dataclass(frozen=True, slots=True)
class _Run:
    """A handler at work on one event."""

    world: _World
    sampler: str
    frame: Frame

    def block(self, statements: tuple[ir.Statement, ...]) -> None:
        """Statements in order; one that fails is counted, and what depends on it is left out."""
        for statement in statements:
            try:
                self._statement(statement)
            except Discard as discard:
                self._count(discard.reason)
                if _binds_the_rest(statement):
                    return

    def _count(self, reason: ir.DiscardReason) -> None:
        self.world.discards[self.sampler][reason] += 1

    def _statement(self, statement: ir.Statement) -> None:
        match statement:
            case ir.Let():
                self.frame.locals[statement.local.name] = self._value(statement.value)
            case ir.If():
                self.block(statement.then if self._number(statement.condition) else statement.otherwise)
            case ir.ReadState():
                self._read(statement)
            case ir.StoreState():
                key = self._key(statement.state, statement.key)
                fields = zip(statement.values, statement.state.fields, strict=True)
                self._memory(statement.state).store(key, tuple(wrap(self._number(e), f.type) for e, f in fields))
            case ir.ForgetState():
                self._memory(statement.state).entries.pop(self._key(statement.state, statement.key), None)
            case ir.Update():
                self._update(statement)
            case ir.ForgetKey():
                self._forget_key(statement)
            case _:
                assert_never(statement)

    def _forget_key(self, statement: ir.ForgetKey) -> None:
        dimension = statement.metric.schema.dimension
        if not isinstance(dimension, ByKey):
            raise CompilerBug(f"{statement.metric.schema.name} has no keys to forget", statement.span)
        row: Row = tuple(self._key_part(e, f) for e, f in zip(statement.row, dimension.fields, strict=True))
        series = self.world.series[statement.metric.schema.name]
        if row in series.keys:
            series.keys.remove(row)
            for cell in range(statement.metric.schema.cells):
                series.values.pop((cell, row), None)
                series.observed.pop((cell, row), None)

    def _read(self, statement: ir.ReadState) -> None:
        key = self._key(statement.state, statement.key)
        memory = self._memory(statement.state)
        values = memory.read(key)
        if statement.take:
            memory.entries.pop(key, None)
        if values is None and statement.default is not None:
            (local,) = statement.locals
            self.frame.locals[local.name] = self._value(statement.default)
            return
        if values is None:
            self.block(statement.otherwise)
            return
        self.frame.locals.update(zip((local.name for local in statement.locals), values, strict=True))
        self.block(statement.then)

    def _update(self, statement: ir.Update) -> None:
        metric = statement.metric
        slot = 0 if statement.slot is None else self._number(statement.slot)
        if not 0 <= slot < metric.schema.cells:
            raise CompilerBug(
                f"label slot {slot} of {metric.schema.name}, which has {metric.schema.cells}", statement.span
            )
        row = self._row(statement)
        number = self._number(statement.value)
        if number < 0 and statement.op != "set":
            raise Discard("range")
        series = self.world.series[metric.schema.name]
        if isinstance(metric.schema.dimension, ByKey):
            row = self._place(series, row, metric.schema.dimension.limit)
        match statement.op:
            case "add":
                series.values[slot, row] = wrap(series.values.get((slot, row), 0) + number, ir.U64)
            case "set":
                series.values[slot, row] = wrap(number, ir.S64)
            case "observe":
                series.observed.setdefault((slot, row), []).append(number)
            case _:
                assert_never(statement.op)

    def _place(self, series: _Series, row: Row, limit: int) -> Row:
        """The row itself if it has or gets a place, else the overflow."""
        if row not in series.keys:
            if len(series.keys) >= limit:
                self._count("key_overflow")
                return OVERFLOW
            series.keys.append(row)
        return row

    def _row(self, statement: ir.Update) -> Row:
        dimension, row = statement.metric.schema.dimension, statement.row
        match dimension:
            case None:
                return None
            case ByCpu():
                cpu = self.frame.cpu if row is None else self._number(row[0])
                if not 0 <= cpu < self.world.cpus:
                    raise Discard("range")
                return cpu
            case ByCgroup():
                return self._cgroup(None if row is None else row[0])
            case ByKey():
                return tuple(self._key_part(e, f) for e, f in zip(row or (), dimension.fields, strict=True))
            case _:
                raise CompilerBug(f"{statement.metric.schema.name} is read, not updated", statement.span)

    def _key_part(self, expr: ir.Expr, part: KeyField) -> int | bytes:
        return _key_bytes(self._text(expr) if part.kind == "string" else self._number(expr), part)

    def _cgroup(self, task: ir.Expr | None) -> int:
        """The id a test gave the task (`cgroup: 3`); the root's where it gave none, row 0 where the id has no row."""
        pointer = self.frame.current if task is None else self._value(task)
        if pointer is None:
            raise Discard("null")
        objects = self.world.objects
        number = coerce(objects.member(pointer, "cgroup"), ir.U32, objects) or _ROOT_CGROUP
        return number if isinstance(number, int) and number < CGROUP_ROWS else 0

    def _key(self, state: ir.State, expr: ir.Expr) -> int:
        number = self._number(expr)
        if state.kind == "task":
            if not number:
                raise Discard("null")
            return number
        return wrap(number, state.key_type)

    def _memory(self, state: ir.State) -> _Memory:
        return self.world.memory[id(state)]

    def _value(self, expr: ir.Expr) -> Value:
        return self.world.evaluator.value(expr, self.frame)

    def _number(self, expr: ir.Expr) -> int:
        return self.world.evaluator.number(expr, self.frame)

    def _text(self, expr: ir.Expr) -> bytes:
        return self.world.evaluator.text(expr, self.frame)


_WIDTHS: Mapping[int, Literal[8, 16, 32, 64]] = {1: 8, 2: 16, 4: 32, 8: 64}


def _key_bytes(part: object, spec: KeyField) -> int | bytes:
    """A part of a key as it fits the room the key has for it."""
    match part:
        case int():
            return wrap(part, ir.Int(_WIDTHS[spec.size], spec.kind == "signed"))
        case str() | bytes():
            return text_bytes(part, spec.size)
        case _:
            raise CompilerBug(f"{type(part).__name__} is no part of a key")


def _binds_the_rest(statement: ir.Statement) -> bool:
    """Whether the rest of the block needs what the statement binds."""
    return isinstance(statement, ir.Let) or (isinstance(statement, ir.ReadState) and statement.default is not None)
