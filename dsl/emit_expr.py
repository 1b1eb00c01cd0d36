"""Values as C: each evaluated once, at the place `dsl.fuse` has chosen or where it is first needed.

A value that can fail is *checked* where a statement uses it (`use`): the checks jump to the statement's end and count the
reason. What is evaluated ahead of its checks, because several statements share it, guards itself: it is 0 where
evaluating it would trap, and no statement looks at it then, since each makes the check itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import assert_never

from dsl import ir
from dsl.diagnostics import CompilerBug
from dsl.emit_types import ABSENT, constant, ctype, fits, number_type, operation, text_words, words_of
from dsl.fuse import Block
from dsl.names import Names
from dsl.number import Bound, Memory, Value, failures, root
from dsl.plan import BTF_KINDS, STACK_WORDS, Plan, Program, is_plain
from dsl.registers import RETURN_VALUE, Place, argument, usdt_place
from dsl.storage import TableLayout
from dsl.structures import Structures
from dsl.writer import Writer

Fail = Callable[[str, ir.DiscardReason], None]
"""Writes: where this condition holds, give up for this reason."""


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

    # Scopes

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

    def _lazy(self, value: Value) -> tuple[str, str] | None:
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
            elif self._lazy(value) is None:
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
        if any(_can_fail(choice) for choice in value.choices):
            flag = self.names.unique(f"{name}_failed")
            self.out.line(f"u32 {flag} = 0;")
            self.scopes[-1].failed[value] = flag

    def _failure(self, value: Value) -> str | None:
        return next((scope.failed[value] for scope in reversed(self.scopes) if value in scope.failed), None)

    def define_argument(self, value: Value) -> None:
        """Declare an argument at the start of the program, if the context has it in one word."""
        text = self._expression(value)
        if text is not None:
            name = self._name(value)
            self.out.line(f"{self._declaration(value, name)} = {text};")
            self.scopes[0].values[value] = name

    def keep(self, value: Value) -> None:
        """Give a value that is known to be sound a variable, so that it is not written out again."""
        if self.known(value) is None and not isinstance(value.node, ir.Const | Bound):
            self._define(value, checked=True)

    # Using values

    def use(self, value: Value) -> str:
        """A value for a statement: everything that can fail on the way to it is checked first."""
        if isinstance(value.node, ir.Element):
            self.use(value.operands[0])
            if "null" in value.reasons:
                self._check(value, "null")
            self.use(value.operands[1])
            self._check(value, "range")
            return self.need(value)
        for operand in value.required:
            self.use(operand)
        if value.choices and any(_can_fail(choice) for choice in value.choices):
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
        if known is None and self._lazy(value) is None:
            return self._define(value, checked=True)
        text = known or self.need(value)
        flag = self._failure(value)
        if flag is not None and not self._has_passed(value, "range"):
            for number, reason in _numbered(value):
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
        lazy = self._lazy(value)
        if lazy is not None:
            return self._demand(value, *lazy)
        text = self._simple(value)
        return text if text is not None else self._define(value, checked=False)

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
        if isinstance(node, ir.Convert) and self.known(value) is None and self._is_tracked(value.operands[0]):
            return f"({ctype(node.type)})REZOLUS_ADDRESS({self.need(value.operands[0])})"
        if self._is_tracked(value):
            return f"REZOLUS_ADDRESS({self.need(value)})"
        return self.need(value)

    def address(self, value: Value) -> str:
        """A pointer as the argument of a helper."""
        return f"(void *){self.need(value)}"

    # Defining values

    def _name(self, value: Value) -> str:
        return self.names.unique(_default_name(value, self.program.fused.graph.hints))

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
            return "void *" if self._is_tracked(value) else "u64"
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
            text = None if self._guards(value, checked=checked) else self._expression(value)
            if text is not None:
                self.out.line(f"{self._declaration(value, name)} = {bare(text)};")
                self._must_be_there(value, name)
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
                self._compute(value, name, checked=checked)
        else:
            self._compute(value, name, checked=checked)

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

    def _compute(self, value: Value, name: str, *, checked: bool) -> None:
        text = self._expression(value)
        if text is not None:
            self.out.line(f"{name} = {bare(text)};")
            self._must_be_there(value, name)
            return
        node = value.node
        match node:
            case ir.Load():
                self._read(value, name)
            case ir.Select() | ir.Binary():
                self._choose(value, name, checked=checked)
            case ir.TableLookup():
                self._look_up(value, node, name)
            case ir.Remap():
                self._switch(value.operands[0], node.pairs, name)
            case ir.UsdtArg():
                self._register(usdt_place(self.plan.target.arch, node.notation), name)
            case ir.Arg() | ir.ReturnValue():
                self._register(self._argument_place(node), name)
            case _ if isinstance(value.type, ir.Text):
                self._text(value, name, checked=checked)
            case _:
                raise CompilerBug(f"no C for {type(node).__name__}")

    # Expressions without statements

    def _simple(self, value: Value) -> str | None:
        """A cheap value as an expression that may be written out again."""
        node = value.node
        match node:
            case (
                ir.Const() | ir.Convert() | ir.Unary() | ir.Elapsed() | ir.Offset() | ir.Reinterpret() | ir.TextEqual()
            ):
                return self._expression(value)
            case ir.Element():
                return self._expression(value)
            case ir.Binary(op=op) if op not in ("/", "%"):
                return self._expression(value)
            case ir.Select():
                return self._expression(value) if not isinstance(value.type, ir.Text) else None
            case Bound():
                raise CompilerBug(f"{node.local.name} is not bound")
            case _:
                return None

    def _expression(self, value: Value) -> str | None:
        """A value whose operands are known as one C expression; None when it takes statements."""
        node = value.node
        operands = value.operands
        match node:
            case ir.Const():
                return constant(node)
            case ir.Convert():
                return f"({ctype(node.type)}){self._operand(operands[0], node.type)}"
            case ir.Unary():
                text = self.scalar(operands[0])
                parts = ("0", "-", text) if node.op == "-" else None
                return operation(node.type, f"{node.op}{text}", parts)
            case ir.Elapsed():
                return f"({self.scalar(operands[0])} - {self.scalar(operands[1])})"
            case ir.Offset():
                return self._offset(value, node)
            case ir.Element():
                index = self.scalar(operands[1])
                return f"({self.scalar(operands[0])} + (u64){index} * {node.stride})"
            case ir.Reinterpret():
                return self._reinterpret(value)
            case ir.TextEqual():
                return self._text_equal(self.need(operands[0]), operands[0], node.literal)
            case ir.Binary():
                return self._binary(value, node)
            case ir.Select():
                if isinstance(value.type, ir.Text) or not all(self._is_ready(choice) for choice in value.choices):
                    return None
                chosen = " : ".join(self._cast(choice, value) for choice in value.choices)
                return f"({self.need(operands[0])} ? {chosen})"
            case ir.Builtin():
                return self._builtin(node)
            case ir.Load():
                return self._plain_load(value, node)
            case ir.RecordField():
                if isinstance(node.type, ir.Text):
                    return None
                return f"*({ctype(node.type)} *)((u8 *)ctx + {node.offset})"
            case ir.Arg() | ir.ReturnValue():
                place = self._argument_place(node)
                return None if place.memory else self._from_word(f"ctx[{place.base}]", value)
            case ir.UsdtArg():
                place = usdt_place(self.plan.target.arch, node.notation)
                if place.memory:
                    return None
                word = f"ctx[{place.base}]" if place.base is not None else f"{place.displacement}LL"
                return self._from_word(word, value)
            case Memory():
                return self._find(value, node)
            case _:
                return None

    def _operand(self, value: Value, type_: ir.Int) -> str:
        """The operand of a conversion. Keeping a pointer as 64 bits is no arithmetic."""
        return self.need(value) if type_.width == 64 else self.scalar(value)

    def _cast(self, choice: Value, value: Value) -> str:
        text = self.need(choice)
        return f"({self.ctype(value)}){text}" if isinstance(value.type, ir.Pointer) else text

    def _is_ready(self, value: Value) -> bool:
        """Whether a value is known, or cheap to write out and unable to fail."""
        if self.known(value) is not None or isinstance(value.node, ir.Const):
            return not _can_fail(value)
        if value.reasons or self._lazy(value) is not None or isinstance(value.type, ir.Text):
            return False
        match value.node:
            case (
                ir.Convert() | ir.Unary() | ir.Offset() | ir.Reinterpret() | ir.Binary() | ir.Select() | ir.TextEqual()
            ):
                return all(self._is_ready(operand) or self._known_text(operand) for operand in value.operands)
            case _:
                return False

    def _known_text(self, value: Value) -> bool:
        return isinstance(value.type, ir.Text) and self.known(value) is not None and not _can_fail(value)

    def _binary(self, value: Value, node: ir.Binary) -> str | None:
        left, right = value.operands
        if node.op in ("&&", "||"):
            if not self._is_ready(right):
                return None
            return f"({self.need(left)} {node.op} {self.need(right)})"
        type_ = left.type if node.op in ("==", "!=", "<", "<=", ">", ">=") else node.type
        if node.op in ("==", "!="):
            first, second = self.need(left), self.need(right)
            if isinstance(left.type, ir.Pointer) or isinstance(right.type, ir.Pointer):
                first, second = f"(u64){first}", f"(u64){second}"
            text = f"({first} {node.op} {second})"
            return f"REZOLUS_TRUTH{text}" if self._is_tracked(left) or self._is_tracked(right) else text
        if isinstance(type_, ir.Pointer):
            return f"((u64){self.scalar(left)} {node.op} (u64){self.scalar(right)})"
        if node.op in ("<<", ">>"):
            return self._shift(node, left, right)
        first, second = self.scalar(left), self.scalar(right)
        if node.op in ("<", "<=", ">", ">="):
            return f"({first} {node.op} {second})"
        if node.op in ("/", "%") and node.type.signed:
            function = "rezolus_divide" if node.op == "/" else "rezolus_remainder"
            return f"({ctype(node.type)}){function}({first}, {second})"
        return operation(node.type, f"{first} {node.op} {second}", (first, node.op, second))

    def _shift(self, node: ir.Binary, left: Value, right: Value) -> str:
        mask = node.type.width - 1
        count = str(right.node.value & mask) if isinstance(right.node, ir.Const) else f"({self.scalar(right)} & {mask})"
        first = self.scalar(left)
        if node.op == ">>":
            return operation(node.type, f"{first} >> {count}")
        unsigned = ctype(ir.Int(max(node.type.width, 32), False))
        return f"({ctype(node.type)})(({unsigned}){first} << {count})"

    def _offset(self, value: Value, node: ir.Offset) -> str:
        base = self.need(value.operands[0])
        kind = self.ctype(value)
        if kind == "u64":
            return f"((u64){base} + {node.offset})" if node.offset >= 0 else f"((u64){base} - {-node.offset})"
        return f"(({kind})((u8 *){base} + {node.offset}))"

    def _reinterpret(self, value: Value) -> str:
        kind = self.ctype(value)
        return f"(({kind}){self.need(value.operands[0])})"

    def _from_word(self, word: str, value: Value) -> str:
        kind = self.ctype(value)
        return word if kind == "u64" else f"({kind}){word}"

    def _builtin(self, node: ir.Builtin) -> str | None:
        match node.name:
            case "now":
                return "bpf_ktime_get_ns()"
            case "cpu":
                return "bpf_get_smp_processor_id()"
            case "pid":
                return "(u32)(bpf_get_current_pid_tgid() >> 32)"
            case "tid":
                return "(u32)bpf_get_current_pid_tgid()"
            case "uid":
                return "(u32)bpf_get_current_uid_gid()"
            case "current":
                if self.plan.target.current_task_btf:
                    self.structures.mention("task_struct")
                    return "bpf_get_current_task_btf()"
                return "bpf_get_current_task()"
            case "comm":
                return None
            case _:
                assert_never(node.name)

    # Reading memory

    def _plain_load(self, value: Value, node: ir.Load) -> str | None:
        base = value.operands[0]
        if not is_plain(base, self.program.fused.hook.kind, self.plan.target):
            return None
        kind = self.ctype(value)
        target = base.type.target if isinstance(base.type, ir.Pointer) else ""
        member = self.structures.member(target, node.path, node.offset, kind) if target else None
        pointer = self.need(base)
        text = f"{pointer}->{member}" if member is not None else f"*({kind} *)((u8 *){pointer} + {node.offset})"
        return self._bits(node, text)

    def _bits(self, node: ir.Load, text: str) -> str:
        """A bit field out of the integer around it."""
        if not node.bits or not isinstance(node.type, ir.Int):
            return text
        kind = ctype(node.type)
        if not node.type.signed:
            return f"({kind})(({text} >> {node.bit}) & {(1 << node.bits) - 1:#x}U{'LL' if node.bits > 32 else ''})"
        wide = max(node.type.width, 32)
        unsigned, signed = ctype(ir.Int(wide, False)), ctype(ir.Int(wide, True))
        return f"({kind})(({signed})(({unsigned}){text} << {wide - node.bit - node.bits}) >> {wide - node.bits})"

    def _read(self, value: Value, name: str) -> None:
        """A load through a pointer that only a helper may follow."""
        node = value.node
        if not isinstance(node, ir.Load):
            raise CompilerBug("not a load")
        base = value.operands[0]
        helper = "bpf_probe_read_user" if _is_user(base) else "bpf_probe_read_kernel"
        comment = f" /* {node.path} */" if node.path else ""
        where = (
            f"(u8 *){self.need(base)} + {node.offset}"
            if node.offset >= 0
            else f"(u8 *){self.need(base)} - {-node.offset}"
        )
        self.out.line(f"{helper}(&{name}, sizeof({name}), {where});{comment}")
        if node.bits:
            self.out.line(f"{name} = {self._bits(node, name)};")

    def _argument_place(self, node: ir.Arg | ir.ReturnValue) -> Place:
        kind, arch = self.program.fused.hook.kind, self.plan.target.arch
        if isinstance(node, ir.ReturnValue):
            return Place(False, node.nargs if kind in BTF_KINDS else RETURN_VALUE[arch])
        if kind in BTF_KINDS or kind == "raw_tp":
            return Place(False, node.index)
        return argument(arch, node.index)

    def _register(self, place: Place, name: str) -> None:
        """An argument that lies in memory."""
        user = self.program.fused.hook.kind in ("uprobe", "uretprobe", "usdt")
        helper = "bpf_probe_read_user" if user else "bpf_probe_read_kernel"
        parts = [f"ctx[{place.base}]"] if place.base is not None else []
        if place.index is not None:
            parts.append(f"ctx[{place.index}] * {place.scale}")
        parts.append(str(place.displacement))
        self.out.line(f"{helper}(&{name}, sizeof({name}), (void *)({' + '.join(parts)}));")

    def _find(self, value: Value, node: Memory) -> str:
        """The address of memory."""
        operands = value.operands
        match node.kind:
            case "row":
                index = self.need(operands[0]) if operands else "0"
                bank = self.plan.bank(node.name).bank
                if bank.axis == "stripe" and self.plan.target.possible_cpus > bank.rows:
                    index = f"{index} % {bank.rows}"
                return f"{node.name}_row_at({index})"
            case "cgroup":
                group, identity, serial = operands
                return f"rezolus_cgroup_row((u64){self.need(group)}, {self.need(identity)}, {self.need(serial)})"
            case "task":
                return f"task_find({self.task(operands[0])})"
            case "tables":
                return "tables_at(0)"
            case _:
                assert_never(node.kind)

    def _must_be_there(self, value: Value, name: str) -> None:
        """A row is always found, but the verifier wants it said."""
        if isinstance(value.node, Memory) and value.node.kind != "task":
            self.out.line(f"if (!{name})")
            self.out.line("    return 0;")

    def task(self, value: Value) -> str:
        """A task as the argument of `task_find` and its like."""
        storage = self.plan.tasks is not None and self.plan.tasks.kind == "storage"
        return self.need(value) if storage else f"(u64){self.need(value)}"

    # Choices

    def _choose(self, value: Value, name: str, *, checked: bool) -> None:
        """A value of which only one alternative may be evaluated."""
        node = value.node
        flag = "" if checked else self._failure(value) or ""
        condition = self.need(value.operands[0])
        if isinstance(node, ir.Binary):
            if node.op == "||":
                self.out.line(f"{name} = {condition} != 0;")
            with self.out.braces(f"if ({'!' if node.op == '||' else ''}{condition})"):
                self._alternative(value, value.choices[0], name, flag)
            return
        with self.out.braces(f"if ({condition})"):
            self._alternative(value, value.choices[0], name, flag)
        with self.out.braces("else"):
            self._alternative(value, value.choices[1], name, flag)

    def _alternative(self, value: Value, choice: Value, name: str, flag: str) -> None:
        label = self.names.unique(f"{name}_end") if flag else ""
        used = False

        def fail(condition: str, reason: ir.DiscardReason) -> None:
            nonlocal used
            used = True
            number = next(number for number, other in _numbered(value) if other == reason)
            with self.out.braces(f"if (unlikely(REZOLUS_TRUTH({condition})))"):
                self.out.line(f"{flag} = {number};")
                self.out.line(f"goto {label};")

        with self.scope(fail if flag else None):
            if isinstance(value.type, ir.Text):
                self._copy_text(choice, name, words_of(value.type))
            else:
                text = self.use(choice)
                boolean = isinstance(value.node, ir.Binary)
                self.out.line(f"{name} = {text}{' != 0' if boolean else ''};")
        if used:
            self.out.line(f"{label}:;")

    def _look_up(self, value: Value, node: ir.TableLookup, name: str) -> None:
        table = next(item for item in self.plan.unit.tables if item.name == node.table)
        layout: TableLayout | None = next((item for item in self.plan.tables if item.table == node.table), None)
        operand = self.scalar(value.operands[0])
        default = ABSENT if table.default is None else str(table.default)
        if layout is None:
            self._switch(value.operands[0], table.mapping, name, default)
            return
        tables = self.need(value.operands[1])
        number = self.names.unique(f"{name}_number")
        self.out.line(f"u64 {number} = {operand};")
        self.out.line(f"REZOLUS_OPAQUE({number});")
        self.out.line(f"{name} = {default};")
        with self.out.braces(f"if ({number} < {len(layout.entries)})"):
            self.out.line(f"REZOLUS_INDEX({number}, {(1 << (len(layout.entries) - 1).bit_length()) - 1});")
            self.out.line(f"{name} = {tables}->{node.table}[{number}];")
            if table.default is None:
                self.out.line(f"if ({name} == {layout.absent})")
                self.out.line(f"    {name} = {ABSENT};")

    def _switch(self, operand: Value, pairs: tuple[tuple[int, int], ...], name: str, default: str = ABSENT) -> None:
        type_ = number_type(operand.type)
        groups: dict[int, list[int]] = {}
        for number, symbol in dict(reversed(pairs)).items():
            if fits(number, type_):
                groups.setdefault(symbol, []).append(number)
        text = self.scalar(operand)
        self.out.line(f"{name} = {default};")
        with self.out.braces(f"switch ({bare(text)})"):
            for symbol in sorted(groups):
                for number in sorted(groups[symbol]):
                    self.out.line(f"case {constant(ir.Const(number, type_))}:")
                self.out.line(f"    {name} = {symbol};")
                self.out.line("    break;")

    # Texts

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

    def _text(self, value: Value, name: str, *, checked: bool) -> None:
        """Fill a buffer with a text; what lies behind its NUL stays 0."""
        node = value.node
        if not isinstance(value.type, ir.Text):
            raise CompilerBug("not a text")
        words = words_of(value.type)
        if words > STACK_WORDS:
            self.out.line(f"__builtin_memset({name}, 0, {8 * words});")
        size = value.type.size
        match node:
            case ir.TextConst():
                for index, word in enumerate(text_words(node.value, size)):
                    self.out.line(f"{name}[{index}] = {word:#x}ULL;")
            case ir.Builtin():
                self.out.line(f"bpf_get_current_comm({name}, {size});")
            case ir.Chars():
                helper = "bpf_probe_read_user_str" if _is_user(value.operands[0]) else "bpf_probe_read_kernel_str"
                base = self.need(value.operands[0])
                self.out.line(f"{helper}({name}, {size}, (u8 *){base} + {node.offset}); /* {node.path} */")
            case ir.CString():
                helper = "bpf_probe_read_user_str" if _is_user(value.operands[0]) else "bpf_probe_read_kernel_str"
                self.out.line(f"{helper}({name}, {size}, {self.address(value.operands[0])});")
            case ir.RecordField():
                self.out.line(
                    f"bpf_probe_read_kernel_str({name}, {size}, (u8 *)ctx + {node.offset}); /* {node.name} */"
                )
            case ir.Select():
                self._choose(value, name, checked=checked)
            case _:
                raise CompilerBug(f"no text from {type(node).__name__}")

    def _copy_text(self, value: Value, name: str, words: int) -> None:
        source = self.use(value)
        for index in range(min(words, words_of(value.type))):
            self.out.line(f"{name}[{index}] = {source}[{index}];")

    def _text_equal(self, name: str, value: Value, literal: str) -> str:
        if not isinstance(value.type, ir.Text) or len(literal.encode()) >= value.type.size:
            return "0"
        words = text_words(literal, len(literal.encode()) + 1)
        return f"({' && '.join(f'{name}[{index}] == {word:#x}ULL' for index, word in enumerate(words))})"

    def _is_tracked(self, value: Value) -> bool:
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
                return self._is_tracked(value.operands[0])
            case ir.Select():
                return any(self._is_tracked(choice) for choice in value.choices)
            case _:
                return False


def bottom(value: Value) -> Value:
    """The object an address lies in."""
    while isinstance(value.node, ir.Reinterpret | ir.Offset | ir.Element):
        value = value.operands[0]
    return value


def _can_fail(value: Value) -> bool:
    return bool(value.reasons) or any(_can_fail(operand) for operand in value.operands)


def _is_user(value: Value) -> bool:
    return isinstance(value.type, ir.Pointer) and value.type.user


def _numbered(value: Value) -> list[tuple[int, ir.DiscardReason]]:
    """The reasons for which the alternatives of a value can fail, numbered from 1."""
    found = sorted({reason for choice in value.choices for reason in failures(choice)})
    return list(enumerate(found, start=1))


def bare(text: str) -> str:
    """Without the outermost parentheses, if they belong together."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0 and index < len(text) - 1:
            return text
    return text[1:-1]


def _default_name(value: Value, hints: Mapping[Value, str]) -> str:
    """A name a reader understands: the source's, else `prev_pid`, `now`, `cpu_row`."""
    if value in hints:
        return hints[value]
    node = value.node
    match node:
        case Memory(kind="task"):
            return f"{_default_name(value.operands[0], hints)}_entry"
        case Memory(kind="cgroup"):
            return f"{_default_name(bottom(value.operands[0].operands[0]), hints)}_cgroup"
        case Memory(kind="tables"):
            return "lookup"
        case Memory(name=name):
            return f"{name}_row"
        case ir.Builtin(name="cpu"):
            return "this_cpu"
        case ir.Builtin(name=name):
            return name
        case Bound(local=local):
            return local.name
        case ir.Load(path=path) | ir.Chars(path=path):
            base, member = _default_name(value.operands[0], hints), path.strip("_").replace(".", "_")
            return f"{base}_{member}" if len(base) + len(member) < 32 else member or base
        case ir.Reinterpret() | ir.Offset() | ir.Convert():
            return _default_name(value.operands[0], hints)
        case ir.RecordField(name=name):
            return name
        case ir.Arg(index=index):
            return f"arg{index}"
        case ir.ReturnValue():
            return "result"
        case ir.UsdtArg(index=index):
            return f"arg{index}"
        case ir.TableLookup(table=table):
            return table
        case ir.Elapsed():
            return "elapsed"
        case ir.Select() | ir.Binary():
            return "value"
        case ir.CString():
            return f"{_default_name(value.operands[0], hints)}_text"
        case _:
            return "value"
