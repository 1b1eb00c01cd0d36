"""Values as C: each evaluated once, at the place `dsl.plan.fuse` has chosen or where it is first needed.

A value that can fail is *checked* where a statement uses it (`use`): the checks jump to the statement's end and count the
reason. What is evaluated ahead of its checks, because several statements share it, guards itself: it is 0 where
evaluating it would trap, and no statement looks at it then, since each makes the check itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dsl import ir
from dsl.diagnostics import CompilerBug
from dsl.emit.blocks import compute
from dsl.emit.nodes import expression, simple
from dsl.emit.structures import Structures
from dsl.emit.types import ABSENT, bare, ctype, words_of
from dsl.emit.value_names import value_name
from dsl.emit.writer import Writer
from dsl.plan.fuse import Block
from dsl.plan.names import Names
from dsl.plan.number import Bound, Memory, Value, bottom, closure, numbered, root
from dsl.plan.unit import BTF_KINDS, STACK_WORDS, Plan, Program, is_plain

Fail = Callable[[str, ir.DiscardReason], None]
"""Writes: where this condition holds, give up for this reason."""


_LONG = 160
"""Characters of an expression that are written out wherever it is needed."""


_DEEP = 40
"""Operations on one another, after which a part of an expression gets a name of its own."""


@dataclass(slots=True)
class Scope:
    """What is known between two braces of the C text."""

    fail: Fail | None = None
    values: dict[Value, str] = field(default_factory=dict)
    lazy: dict[Value, tuple[str, str]] = field(default_factory=dict)
    """Declared, evaluated on demand: the variable, and the expression that is true once it is known."""
    failed: dict[Value, str] = field(default_factory=dict)
    """Of a value evaluated ahead that fails only on some condition: the variable that has the number of the reason, or 0."""
    passed: set[tuple[Value, ir.DiscardReason]] = field(default_factory=set)
    """Checks that have been made. A null check is known by the pointer."""
    sound: set[Value] = field(default_factory=set)
    """Values for which all checks have been made."""


@dataclass(slots=True)
class Expressions:
    """Writes the values of one program."""

    plan: Plan
    program: Program
    structures: Structures
    out: Writer
    names: Names
    scopes: list[Scope] = field(default_factory=lambda: [Scope()])
    scratch: list[tuple[str, int]] = field(default_factory=list)
    """Buffers too big for the stack: name and words."""

    @contextmanager
    def scope(self, fail: Fail | None = None) -> Iterator[Scope]:
        """Values evaluated inside are not known outside."""
        self.scopes.append(Scope(fail or self.scopes[-1].fail))
        yield self.scopes[-1]
        self.scopes.pop()

    def known(self, value: Value) -> str | None:
        """The variable that has a value already."""
        for scope in reversed(self.scopes):
            if value in scope.values:
                return scope.values[value]
        return None

    def known_tasks(self) -> list[tuple[Value, str]]:
        """The entries of tasks that have been looked for, with their variables."""
        found = {value: name for scope in self.scopes for value, name in scope.values.items()}
        return [(value, name) for value, name in found.items() if value.node == Memory("task")]

    def lazy(self, value: Value) -> tuple[str, str] | None:
        return next((scope.lazy[value] for scope in reversed(self.scopes) if value in scope.lazy), None)

    def _has_passed(self, value: Value, reason: ir.DiscardReason) -> bool:
        return any((value, reason) in scope.passed for scope in self.scopes)

    def place(self, block: Block, index: int) -> None:
        """Evaluate, or declare, what the planner wants known before a step of a block."""
        for value, mode in block.place.get(index, ()):
            if self.known(value) is not None:
                continue
            if mode == "eager":
                self.need(value)
                if self.known(value) is None:
                    self._define(value, checked=False)
            elif self.lazy(value) is None:
                self._declare_lazy(value)

    def _declare_lazy(self, value: Value) -> None:
        if isinstance(value.type, ir.Text):
            name = self._buffer(value)
        else:
            name = self._name(value)
            self.out.line(f"{self._declaration(value, name)} = 0;")
        # Times and addresses of memory are never 0, so they say themselves whether they are known.
        flag = name
        if not isinstance(value.node, Memory) and value.node != ir.Builtin("now", ir.U64):
            flag = self.names.unique(f"{name}_known")
            self.out.line(f"bool {flag} = false;")
        self._declare_failure(value, name)
        self.scopes[-1].lazy[value] = (name, flag)

    def _declare_failure(self, value: Value, name: str) -> None:
        """The variable that says whether and why an alternative failed, for a value evaluated before its checks."""
        if any(choice.fallible for choice in value.choices):
            flag = self.names.unique(f"{name}_failed")
            self.out.line(f"u32 {flag} = 0;")
            self.scopes[-1].failed[value] = flag

    def failure(self, value: Value) -> str | None:
        return next((scope.failed[value] for scope in reversed(self.scopes) if value in scope.failed), None)

    def define_argument(self, value: Value) -> None:
        """Declare an argument at the start of the program, if the context has it in one word."""
        text = expression(self, value)
        if text is not None:
            name = self._name(value)
            self.out.line(f"{self._declaration(value, name)} = {text};")
            self.scopes[0].values[value] = name

    def keep(self, value: Value) -> None:
        """Give a value that is known to be sound a variable, so that it is not written out again."""
        if self.known(value) is None and not isinstance(value.node, ir.Const | Bound):
            self._define(value, checked=True)

    def use(self, value: Value) -> str:
        """A value for a statement: everything that can fail on the way to it is checked first."""
        self._break_up(value)
        if not value.fallible or any(value in scope.sound for scope in self.scopes):
            return self.need(value)
        text = self._use_unchecked(value)
        self.scopes[-1].sound.add(value)
        return text

    def _break_up(self, value: Value) -> None:
        """Give names to parts of an expression so deep that it can neither be written out nor walked at once."""
        if value.depth < _DEEP or self.known(value) is not None:
            return
        for part in closure([value]):
            if part.depth % _DEEP == 0 and not part.fallible and not isinstance(part.type, ir.Text):
                self.need(part)
                self.keep(part)

    def _use_unchecked(self, value: Value) -> str:
        if isinstance(value.node, ir.Element):
            self.use(value.operands[0])
            if "null" in value.reasons:
                self._check(value, "null")
            self.use(value.operands[1])
            self._check(value, "range")
            return self.need(value)
        for operand in value.required:
            self.use(operand)
        if value.choices and any(choice.fallible for choice in value.choices):
            return self._use_choice(value)
        if value.reasons and value.reasons[0] in ("null", "zero", "clock"):
            for reason in value.reasons:
                self._check(value, reason)
            return self.need(value)
        text = self.need(value)
        for reason in value.reasons:
            self._check(value, reason)
        return text

    def _use_choice(self, value: Value) -> str:
        """A value one of whose alternatives can fail."""
        known = self.known(value)
        if known is None and self.lazy(value) is None:
            return self._define(value, checked=True)
        text = known or self.need(value)
        flag = self.failure(value)
        if flag is not None and not self._has_passed(value, "range"):
            for number, reason in numbered(value):
                self._fail(f"{flag} == {number}", reason)
            self.scopes[-1].passed.add((value, "range"))
        return text

    def _check(self, value: Value, reason: ir.DiscardReason) -> None:
        subject = root(value.operands[0]) if reason == "null" else value
        if not self._has_passed(subject, reason):
            self._fail(self._condition(value, reason), reason)
            self.scopes[-1].passed.add((subject, reason))

    def _fail(self, condition: str, reason: ir.DiscardReason) -> None:
        fail = self.scopes[-1].fail
        if fail is None:
            raise CompilerBug(f"{reason} outside of a statement")
        fail(condition, reason)

    def _condition(self, value: Value, reason: ir.DiscardReason) -> str:
        """When a node fails."""
        operands = value.operands
        match reason:
            case "null":
                return f"!{self.need(operands[0])}"
            case "zero":
                return f"!{self.scalar(operands[1])}"
            case "clock":
                return f"{self.scalar(operands[1])} > {self.scalar(operands[0])}"
            case "range" if isinstance(value.node, ir.Element):
                return f"(u64){self.scalar(operands[1])} >= {value.node.count}"
            case "range":
                return f"{self.need(value)} == {ABSENT}"
            case _:
                raise CompilerBug(f"{type(value.node).__name__} does not fail with {reason}")

    def need(self, value: Value) -> str:
        """A value as a C expression, evaluated now unless it is known."""
        found = self.known(value)
        if found is not None:
            return found
        lazy = self.lazy(value)
        if lazy is not None:
            return self._demand(value, *lazy)
        text = simple(self, value)
        if text is None:
            return self._define(value, checked=False)
        # What is long is given a name, or an expression of expressions, each used twice, would grow without bounds.
        return text if len(text) <= _LONG else self._hold(value, text)

    def _hold(self, value: Value, text: str) -> str:
        name = self._name(value)
        self.out.line(f"{self._declaration(value, name)} = {bare(text)};")
        self.scopes[-1].values[value] = name
        return name

    def _demand(self, value: Value, name: str, flag: str) -> str:
        with self.out.braces(f"if (!{flag})"), self.scope():
            if flag != name:
                self.out.line(f"{flag} = true;")
            self._assign(value, name, checked=False)
        self.scopes[-1].values[value] = name
        return name

    def scalar(self, value: Value) -> str:
        """A value to calculate with: not a pointer in the verifier's eyes."""
        node = value.node
        if isinstance(node, ir.Convert) and self.known(value) is None and self.is_tracked(value.operands[0]):
            return f"({ctype(node.type)})REZOLUS_ADDRESS({self.need(value.operands[0])})"
        if self.is_tracked(value):
            return f"REZOLUS_ADDRESS({self.need(value)})"
        return self.need(value)

    def address(self, value: Value) -> str:
        """A pointer as the argument of a helper."""
        return f"(void *){self.need(value)}"

    def _name(self, value: Value) -> str:
        return self.names.unique(value_name(value, self.program.fused.graph.hints))

    def _declaration(self, value: Value, name: str) -> str:
        kind = self.ctype(value)
        return f"{kind}{'' if kind.endswith('*') else ' '}{name}"

    def ctype(self, value: Value) -> str:
        """The C type of the variable for a value that is not a text."""
        match value.node:
            case Memory(kind="row", name=bank):
                return f"struct {bank}_row *"
            case Memory(kind="cgroup"):
                return "struct cgroup_row *"
            case Memory(kind="task"):
                return "struct task_state *"
            case Memory(kind="tables"):
                return "struct tables *"
            case ir.TableLookup() | ir.Remap():
                return "u32"
            case _:
                pass
        if isinstance(value.type, ir.Pointer):
            if is_plain(value, self.program.fused.hook.kind, self.plan.target) and value.type.target:
                return self.structures.mention(value.type.target)
            return "void *" if self.is_tracked(value) else "u64"
        if isinstance(value.type, ir.Text):
            raise CompilerBug("a text has no C type")
        return ctype(value.type)

    def _define(self, value: Value, *, checked: bool) -> str:
        """Declare a variable and give it its value."""
        if isinstance(value.type, ir.Text):
            name = self._buffer(value)
            if not checked:
                self._declare_failure(value, name)
            self._assign(value, name, checked=checked)
        else:
            name = self._name(value)
            if not checked:
                self._declare_failure(value, name)
            text = None if self._guards(value, checked=checked) else expression(self, value)
            if text is not None:
                self.out.line(f"{self._declaration(value, name)} = {bare(text)};")
                self.must_be_there(value, name)
            else:
                always = isinstance(value.node, ir.Remap | ir.TableLookup)
                self.out.line(f"{self._declaration(value, name)}{'' if always else ' = 0'};")
                self._assign(value, name, checked=checked)
        self.scopes[-1].values[value] = name
        return name

    def _assign(self, value: Value, name: str, *, checked: bool) -> None:
        """Give a declared variable its value; where that would trap it stays 0."""
        guards = self._guards(value, checked=checked)
        if guards:
            with self.out.braces(f"if ({' && '.join(guards)})"), self.scope():
                compute(self, value, name, checked=checked)
        else:
            compute(self, value, name, checked=checked)

    def _guards(self, value: Value, *, checked: bool) -> list[str]:
        """What must hold for the evaluation not to trap, as far as it has not been checked."""
        if checked:
            return []
        if isinstance(value.node, ir.Binary):
            divides = "zero" in value.reasons and not self._has_passed(value, "zero")
            return [self.scalar(value.operands[1])] if divides else []
        if isinstance(value.node, ir.Load | ir.Chars | ir.CString) or value.node == Memory("task"):
            base = bottom(value.operands[0])
            if not self._has_passed(root(base), "null"):
                return [self.need(base)]
        return []

    def must_be_there(self, value: Value, name: str) -> None:
        """A row is always found, but the verifier wants it said."""
        if isinstance(value.node, Memory) and value.node.kind != "task":
            self.out.line(f"if (!{name})")
            self.out.line("    return 0;")

    def task(self, value: Value) -> str:
        """A task as the argument of `task_find` and its like."""
        storage = self.plan.tasks is not None and self.plan.tasks.kind == "storage"
        return self.need(value) if storage else f"(u64){self.need(value)}"

    def _buffer(self, value: Value) -> str:
        if not isinstance(value.type, ir.Text):
            raise CompilerBug("not a text")
        return self.buffer(self._name(value), words_of(value.type))

    def buffer(self, name: str, words: int) -> str:
        """Declare zeroed words, on the stack or, when there are many, in this CPU's scratch row."""
        if words <= STACK_WORDS:
            self.out.line(f"u64 {name}[{words}] = {{}};")
            return name
        member = f"{self.program.function}_{name}"
        self.scratch.append((member, words))
        self.out.line(f"struct scratch_row *{name}_row = scratch_row_at(0);")
        self.out.line(f"if (!{name}_row)")
        self.out.line("    return 0;")
        self.out.line(f"u64 *{name} = {name}_row->{member};")
        return name

    def is_tracked(self, value: Value) -> bool:
        """Whether the verifier knows a value as a kernel pointer and so refuses to calculate with it."""
        if not isinstance(value.type, ir.Pointer):
            return False
        target = self.plan.target
        match value.node:
            case ir.Arg():
                return self.program.fused.hook.kind in BTF_KINDS
            case ir.Builtin():
                return target.current_task_btf
            case ir.Load():
                return is_plain(value.operands[0], self.program.fused.hook.kind, target)
            case ir.Offset() | ir.Reinterpret():
                return self.is_tracked(value.operands[0])
            case ir.Select():
                return any(self.is_tracked(choice) for choice in value.choices)
            case _:
                return False
