"""Statements as C: the body of one program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import assert_never

from dsl import ir
from dsl.diagnostics import CompilerBug
from dsl.emit.expressions import Expressions, Fail
from dsl.emit.types import amount, bare, ctype, words_of
from dsl.plan.fuse import CPU, Block, Step, bank_name
from dsl.plan.number import Memory, Value
from dsl.plan.storage import buckets
from dsl.plan.tasks import TaskLayout
from dsl.plan.unit import STACK_WORDS, is_alone, state_map
from dsl.schema import ByCgroup, ByCpu, ByKey, KeyField
from dsl.source import Span

__all__ = ["emit_body"]


def emit_body(x: Expressions) -> None:
    """Write the body of a program: its arguments, then its handlers one after the other."""
    for value in x.program.fused.graph.values:
        if isinstance(value.node, ir.Arg | ir.ReturnValue | ir.RecordField | ir.UsdtArg):
            x.define_argument(value)
    _Body(x, is_alone(x.program, x.plan.target)).block(x.program.fused.root, None)


@dataclass(slots=True)
class _Label:
    """Where a failure goes on; written only if something goes there."""

    name: str
    used: bool = False


@dataclass(slots=True)
class _Body:
    x: Expressions
    alone: bool

    def block(self, block: Block, end: _Label | None) -> None:
        """Statements in order. `end` is behind the last of them, for what abandons the rest; None at the root."""
        for index, step in enumerate(block.steps):
            self.x.place(block, index)
            if step.statement is None:
                self._handler(step)
            elif end is None:
                raise CompilerBug("a statement outside of a handler")
            else:
                before = len(self.x.out.lines)
                with self.x.out.at(step.statement.span):
                    self._statement(step, step.statement, end)
                if len(block.steps) > 1 and not _binds(step):
                    _wrap(self.x.out.lines, before)

    def _handler(self, step: Step) -> None:
        handler = self.x.program.fused.handlers[step.handler]
        self.x.out.line("")
        self.x.out.line(f"// {handler.sampler}")
        with self.x.out.at(handler.span):
            self._inner(step.blocks[0], "")

    def _inner(self, block: Block, opening: str) -> None:
        """A block in braces."""
        label = _Label(self.x.names.unique("end"))
        with self.x.out.braces(opening), self.x.scope():
            self.block(block, label)
            self._land(label)

    def _land(self, label: _Label) -> None:
        if label.used:
            self.x.out.line(f"{label.name}:;")

    def _failing(self, step: Step, label: _Label) -> Fail:
        def fail(condition: str, reason: ir.DiscardReason) -> None:
            label.used = True
            with self.x.out.braces(f"if (unlikely({condition}))"):
                self._count(step, reason)
                self.x.out.line(f"goto {label.name};")

        return fail

    def _count(self, step: Step, reason: ir.DiscardReason) -> None:
        """Count a discard in the word that only this program writes."""
        sampler = self.x.program.fused.handlers[step.handler].sampler
        word = self.x.program.discards[sampler, reason]
        graph = self.x.program.fused.graph
        row = self.x.known(graph.node(Memory("row", "cpu"), (graph.number(CPU, {}),)))
        if row is not None:
            self.x.out.line(self._add(f"{row}->{word}", "1", alone=self.alone))
            return
        self.x.out.line(f"{'DISCARD' if self.alone else 'DISCARD_ATOMIC'}({word});")

    @staticmethod
    def _add(place: str, value: str, *, alone: bool) -> str:
        return f"{place} += {value};" if alone else f"__sync_fetch_and_add(&{place}, {value});"

    def _statement(self, step: Step, statement: ir.Statement, end: _Label) -> None:
        match statement:
            case ir.Let():
                self._for_the_rest(step, end)
                self.x.use(step.head[0])
                self.x.keep(step.head[0])
            case ir.If():
                with self._abandonable(step):
                    condition = self.x.use(step.head[0])
                    self._branches(step, bare(condition))
            case ir.ReadState() if step.default is not None:
                self._for_the_rest(step, end)
                self._read_or(step, statement)
            case ir.ReadState():
                with self._abandonable(step):
                    self._read(step, statement)
            case ir.StoreState():
                with self._abandonable(step):
                    self._store(step, statement)
            case ir.ForgetState():
                with self._abandonable(step):
                    self._forget(step, statement.state)
            case ir.Update():
                with self._abandonable(step):
                    self._update(step, statement)
            case ir.ForgetKey():
                with self._abandonable(step):
                    key = self._build_key(step, statement.metric, [self.x.use(part) for part in step.row])
                    self.x.out.line(f"{bank_name(statement.metric)}_forget({key});")
            case _:
                assert_never(statement)

    def _for_the_rest(self, step: Step, end: _Label) -> None:
        """A failure of this statement abandons what follows in the block, which may rely on it having passed."""
        self.x.scopes[-1].fail = self._failing(step, end)

    @contextmanager
    def _abandonable(self, step: Step) -> Iterator[None]:
        """A statement of its own: a failure goes on behind it."""
        label = _Label(self.x.names.unique("skip"))
        with self.x.scope(self._failing(step, label)):
            yield
            self._land(label)

    def _branches(self, step: Step, condition: str) -> None:
        then, otherwise = step.blocks
        if then.steps or not otherwise.steps:
            self._inner(then, f"if ({condition})")
            if otherwise.steps:
                self._inner(otherwise, "else")
        else:
            self._inner(otherwise, f"if (!({condition}))")

    # State

    def _tasks(self) -> TaskLayout:
        if self.x.plan.tasks is None:
            raise CompilerBug("no layout of task state")
        return self.x.plan.tasks

    def _presence(self, state: ir.State, entry: str) -> tuple[str, str]:
        """The lvalue that says whether a task's state is there, and its bit; without a bit any value but 0 says so."""
        tasks = self._tasks()
        if state.zero_is_absent:
            first = next(item for item in tasks.of(state) if item.field is state.fields[0])
            return f"{entry}->{first.member}", ""
        number = tasks.flags[state]
        return f"{entry}->present[{number // 64}]", f"{1 << (number % 64):#x}ULL"

    def _entry(self, step: Step, state: ir.State) -> tuple[str, str]:
        """The entry of a state as a variable, and the condition that it is there. The key has been checked."""
        if step.memory is None:
            raise CompilerBug("state without a key")
        if state.kind == "task":
            entry = self.x.use(step.memory)
            place, bit = self._presence(state, entry)
            return entry, f"{entry} && ({place} & {bit})" if bit else f"{entry} && {place}"
        key = self._key(step, state)
        entry = self.x.names.unique(f"{state.name}_entry")
        name = state_map(state)
        self.x.out.line(f"struct {name}_entry *{entry} = {name}.lookup(&{key});")
        return entry, entry

    def _make(self, step: Step, entry: str) -> None:
        """Make the entry of a task that has none.

        Other entries that were not there may be the same one, of a task known by another expression as well: in
        `sched_switch`, `current` is `prev`.
        """
        mine = step.head[0]
        with self.x.out.braces(f"if (!{entry})"):
            self.x.out.line(f"{entry} = task_make({self.x.task(mine.operands[0])});")
            for other, name in self.x.known_tasks():
                if other is not mine:
                    self.x.out.line(f"if (!{name} && {self.x.need(other.operands[0])})")
                    self.x.out.line(f"    {name} = task_find({self.x.task(other.operands[0])});")

    def _key(self, step: Step, state: ir.State) -> str:
        if step.memory is None:
            raise CompilerBug("state without a key")
        value = self.x.use(step.memory)
        narrow = state.key_type.width < 64 and not isinstance(step.memory.type, ir.Pointer)
        key = self.x.names.unique(f"{state.name}_key")
        self.x.out.line(f"u64 {key} = (u64){f'({ctype(state.key_type)})' if narrow else ''}{value};")
        return key

    def _members(self, state: ir.State) -> list[str]:
        if state.kind == "hash":
            return [item.name for item in state.fields]
        layout = self._tasks().of(state)
        return [next(found.member for found in layout if found.field is item) for item in state.fields]

    def _clear(self, state: ir.State, entry: str, key: str) -> None:
        if state.kind == "hash":
            self.x.out.line(f"{state_map(state)}.delete(&{key});")
            return
        place, bit = self._presence(state, entry)
        self.x.out.line(f"{place} &= ~{bit};" if bit else f"{place} = 0;")

    def _bind(self, step: Step, statement: ir.ReadState, entry: str) -> list[tuple[str, str, str]]:
        """For each variable: C type, name, where its value comes from."""
        found = []
        for value, local, member in zip(step.locals, statement.locals, self._members(statement.state), strict=True):
            name = self.x.names.unique(local.name)
            self.x.scopes[-1].values[value] = name
            found.append((ctype(local.type), name, f"{entry}->{member}"))
        return found

    def _read(self, step: Step, statement: ir.ReadState) -> None:
        state = statement.state
        entry, present = self._entry(step, state)
        key = self._last_key(state)
        then, otherwise = step.blocks
        label = _Label(self.x.names.unique("end"))
        with self.x.out.braces(f"if ({present})"), self.x.scope():
            for kind, name, source in self._bind(step, statement, entry):
                self.x.out.line(f"{kind} {name} = {source};")
            if statement.take:
                self._clear(state, entry, key)
            self.block(then, label)
            self._land(label)
        if otherwise.steps:
            self._inner(otherwise, "else")

    def _last_key(self, state: ir.State) -> str:
        """The variable `_entry` has just declared for a key."""
        if state.kind == "task":
            return ""
        return self.x.out.lines[-1][1].rpartition("(&")[2].partition(")")[0]

    def _read_or(self, step: Step, statement: ir.ReadState) -> None:
        if step.default is None:
            raise CompilerBug("no default")
        entry, present = self._entry(step, statement.state)
        key = self._last_key(statement.state)
        ((kind, name, source),) = self._bind(step, statement, entry)
        self.x.out.line(f"{kind} {name} = 0;")
        with self.x.out.braces(f"if ({present})"):
            self.x.out.line(f"{name} = {source};")
            if statement.take:
                self._clear(statement.state, entry, key)
        if isinstance(step.default.node, ir.Const) and not step.default.node.value:
            return
        with self.x.out.braces("else"), self.x.scope():
            self.x.out.line(f"{name} = {self.x.use(step.default)};")

    def _store(self, step: Step, statement: ir.StoreState) -> None:
        state = statement.state
        if state.kind == "hash":
            self._store_hash(step, state)
            return
        entry = self.x.use(step.head[0])
        values = [self.x.use(value) for value in step.row]
        self._make(step, entry)
        with self.x.out.braces(f"if (likely({entry}))"):
            for member, value in zip(self._members(state), values, strict=True):
                self.x.out.line(f"{entry}->{member} = {value};")
            place, bit = self._presence(state, entry)
            if bit:
                self.x.out.line(f"{place} |= {bit};")
        with self.x.out.braces("else"):
            self._count(step, "state_full")

    def _store_hash(self, step: Step, state: ir.State) -> None:
        name = state_map(state)
        key = self._key(step, state)
        values = [self.x.use(value) for value in step.row]
        fields = list(zip(state.fields, values, strict=True))
        entry = self.x.names.unique(f"{state.name}_entry")
        self.x.out.line(f"struct {name}_entry *{entry} = {name}.lookup(&{key});")
        with self.x.out.braces(f"if ({entry})"):
            for item, value in fields:
                self.x.out.line(f"{entry}->{item.name} = {value};")
        with self.x.out.braces("else"):
            fresh = self.x.names.unique(f"new_{state.name}")
            self.x.out.line(f"struct {name}_entry {fresh} = {{}};")
            for item, value in fields:
                self.x.out.line(f"{fresh}.{item.name} = {value};")
            failed = self.x.names.unique("failed")
            self.x.out.line(f"long {failed} = {name}.update(&{key}, &{fresh});")
            with self.x.out.braces(f"if (unlikely({failed}))"):
                self._count(step, "state_full")

    def _forget(self, step: Step, state: ir.State) -> None:
        if state.kind == "hash":
            self.x.out.line(f"{state_map(state)}.delete(&{self._key(step, state)});")
            return
        entry = self.x.use(step.head[0])
        with self.x.out.braces(f"if ({entry})"):
            self._clear(state, entry, "")

    # Metrics

    def _update(self, step: Step, update: ir.Update) -> None:
        metric, value = update.metric, step.value
        if value is None:
            raise CompilerBug("an update without a value")
        slot = None if step.slot is None else self.x.use(step.slot)
        row = self._early_row(step, metric)
        parts = [self.x.use(part) for part in step.row] if isinstance(metric.schema.dimension, ByKey) else []
        self.x.use(value)
        number = amount(value.node) if isinstance(value.node, ir.Const) else self.x.scalar(value)
        signed = isinstance(value.type, ir.Int) and value.type.signed
        may_be_negative = not isinstance(value.node, ir.Const) or value.node.value < 0
        if update.op != "set" and signed and may_be_negative:
            self._fail(f"{number} < 0", "range")
        if isinstance(metric.schema.dimension, ByKey):
            self._update_keyed(step, update, slot, parts, number)
            return
        if row is None:
            row = self.x.use(step.memory) if step.memory else ""
        self._write(step, update, row, slot, number)

    def _fail(self, condition: str, reason: ir.DiscardReason) -> None:
        fail = self.x.scopes[-1].fail
        if fail is None:
            raise CompilerBug("a check outside of a statement")
        fail(condition, reason)

    def _early_row(self, step: Step, metric: ir.Metric) -> str | None:
        """The row of a CPU or a task that the source names: found before the value is looked at."""
        dimension = metric.schema.dimension
        if isinstance(dimension, ByCgroup) and step.memory is not None:
            return self.x.use(step.memory)
        if not (isinstance(dimension, ByCpu) and step.row):
            return None
        number = self.x.names.unique("cpu_number")
        self.x.use(step.row[0])
        self.x.out.line(f"u64 {number} = {self.x.scalar(step.row[0])};")
        self._fail(f"{number} >= {self.x.plan.target.possible_cpus}", "range")
        row = self.x.names.unique("other_row")
        self.x.out.line(f"struct cpu_row *{row} = cpu_row_at({number});")
        self.x.out.line(f"if (!{row})")
        self.x.out.line("    return 0;")
        return row

    def _write(self, step: Step, update: ir.Update, row: str, slot: str | None, number: str) -> None:
        metric = update.metric
        per_cell = buckets(metric)
        words = metric.schema.cells * per_cell
        alone = not self.x.plan.is_shared(metric.schema.name, _literal(step.slot) if update.slot else 0)
        place = f"{row}->{metric.schema.name}"
        by = bare(number)
        if update.op == "observe":
            bucket = f"rezolus_bucket({bare(number)}, {metric.schema.power})"
            index = bucket if slot is None else f"(u64){slot} * {per_cell} + {bucket}"
            by = "1"
        elif words == 1 or slot is None or _literal(step.slot) is not None:
            index = ""
            place += f"[{_literal(step.slot) or 0}]" if words > 1 else ""
        else:
            index = f"(u64){slot}"
        text = f"{place} = {by};" if update.op == "set" else None
        if not index:
            self.x.out.line(text or self._add(place, by, alone=alone))
            return
        at = self.x.names.unique("at")
        self.x.out.line(f"u64 {at} = {index};")
        self.x.out.line(f"REZOLUS_OPAQUE({at});")
        self.x.out.line(f"if ({at} < {words})")
        place = f"{place}[{at}]"
        self.x.out.line("    " + (f"{place} = {by};" if update.op == "set" else self._add(place, by, alone=alone)))

    def _update_keyed(self, step: Step, update: ir.Update, slot: str | None, parts: list[str], number: str) -> None:
        dimension = update.metric.schema.dimension
        if not isinstance(dimension, ByKey):
            raise CompilerBug("not a keyed metric")
        name = bank_name(update.metric)
        key = self._build_key(step, update.metric, parts)
        index, row = self.x.names.unique("index"), self.x.names.unique(f"{name}_row")
        self.x.out.line(f"u32 {index} = {name}_slot({key});")
        self.x.out.line(f"struct {name}_row *{row} = {name}_row_at({index});")
        self.x.out.line(f"if (!{row})")
        self.x.out.line("    return 0;")
        with self.x.out.braces(f"if (unlikely({index} == {dimension.limit}))"):
            self.x.out.line(f"{row}->used = 1;")
            self._count(step, "key_overflow")
        self._write(step, update, row, slot, number)

    def _build_key(self, step: Step, metric: ir.Metric, parts: list[str]) -> str:
        """Fill a key; returns its address."""
        name = bank_name(metric)
        dimension = metric.schema.dimension
        words = self.x.plan.bank(name).bank.key_size // 8
        key = self.x.names.unique("key")
        if words > STACK_WORDS:
            buffer = self.x.buffer(self.x.names.unique("key_words"), words)
            self.x.out.line(f"struct {name}_key *{key} = (struct {name}_key *){buffer};")
            self.x.out.line(f"__builtin_memset({key}, 0, {8 * words});")
            access, address = f"{key}->", key
        else:
            self.x.out.line(f"struct {name}_key {key} = {{}};")
            access, address = f"{key}.", f"&{key}"
        if isinstance(dimension, ByKey):
            for part, text, value in zip(dimension.fields, parts, step.row, strict=True):
                self._fill(access, part, text, value)
        return address

    def _fill(self, access: str, part: KeyField, text: str, value: Value) -> None:
        if part.kind != "string":
            self.x.out.line(f"{access}{part.label} = {text};")
            return
        room = part.size // 8
        count = min(room, words_of(value.type))
        for index in range(count):
            # A text longer than its room is cut, and the last byte stays the NUL.
            mask = " & 0xffffffffffffffULL" if index == room - 1 and words_of(value.type) >= room else ""
            self.x.out.line(f"{access}{part.label}[{index}] = {text}[{index}]{mask};")


def _binds(step: Step) -> bool:
    """Whether what a statement declares is used by those after it."""
    return isinstance(step.statement, ir.Let) or step.default is not None


def _literal(slot: Value | None) -> int | None:
    return slot.node.value if slot is not None and isinstance(slot.node, ir.Const) else None


def _wrap(lines: list[tuple[int, str, Span | None]], start: int) -> None:
    """Put braces around the lines of a statement that declares something."""
    mine = lines[start:]
    if not mine:
        return
    depth = mine[0][0]
    top = [text for level, text, _ in mine if level == depth]
    if len(mine) == 1 or (top[0].startswith("if (") and all(text.startswith(("if (", "}", "else")) for text in top)):
        return
    lines[start:] = [
        (depth, "{", mine[0][2]),
        *((level + 1, text, span) for level, text, span in mine),
        (depth, "}", mine[-1][2]),
    ]
