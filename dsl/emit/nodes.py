"""Values that are one C expression of their operands."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from dsl import ir
from dsl.diagnostics import CompilerBug
from dsl.emit.registers import RETURN_VALUE, Place, argument, usdt_place
from dsl.emit.types import constant, ctype, operation, text_words
from dsl.plan.number import Bound, Memory, Value
from dsl.plan.unit import BTF_KINDS, is_plain

if TYPE_CHECKING:
    from dsl.emit.expressions import Expressions


def simple(x: Expressions, value: Value) -> str | None:
    """A cheap value as an expression that may be written out again."""
    node = value.node
    match node:
        case ir.Const() | ir.Convert() | ir.Unary() | ir.Elapsed() | ir.Offset() | ir.Reinterpret() | ir.TextEqual():
            return expression(x, value)
        case ir.Element():
            return expression(x, value)
        case ir.Binary(op=op) if op not in ("/", "%"):
            return expression(x, value)
        case ir.Select():
            return expression(x, value) if not isinstance(value.type, ir.Text) else None
        case Bound():
            raise CompilerBug(f"{node.local.name} is not bound")
        case _:
            return None


def expression(x: Expressions, value: Value) -> str | None:
    """A value whose operands are known as one C expression; None when it takes statements."""
    node = value.node
    operands = value.operands
    match node:
        case ir.Const():
            return constant(node)
        case ir.Convert():
            return f"({ctype(node.type)}){_operand(x, operands[0], node.type)}"
        case ir.Unary():
            text = x.scalar(operands[0])
            parts = ("0", "-", text) if node.op == "-" else None
            return operation(node.type, f"{node.op}{text}", parts)
        case ir.Elapsed():
            return f"({x.scalar(operands[0])} - {x.scalar(operands[1])})"
        case ir.Offset():
            return _offset(x, value, node)
        case ir.Element():
            index = x.scalar(operands[1])
            return f"({x.scalar(operands[0])} + (u64){index} * {node.stride})"
        case ir.Reinterpret():
            return _reinterpret(x, value)
        case ir.TextEqual():
            return _text_equal(x.need(operands[0]), operands[0], node.literal)
        case ir.Binary():
            return _binary(x, value, node)
        case ir.Select():
            if isinstance(value.type, ir.Text) or not all(_is_ready(x, choice) for choice in value.choices):
                return None
            chosen = " : ".join(_cast(x, choice, value) for choice in value.choices)
            return f"({x.need(operands[0])} ? {chosen})"
        case ir.Builtin():
            return _builtin(x, node)
        case ir.Load():
            return _plain_load(x, value, node)
        case ir.RecordField():
            if isinstance(node.type, ir.Text):
                return None
            return f"*({ctype(node.type)} *)((u8 *)ctx + {node.offset})"
        case ir.Arg() | ir.ReturnValue():
            place = argument_place(x, node)
            return None if place.memory else _from_word(x, f"ctx[{place.base}]", value)
        case ir.UsdtArg():
            place = usdt_place(x.plan.target.arch, node.notation)
            if place.memory:
                return None
            word = f"ctx[{place.base}]" if place.base is not None else f"{place.displacement}LL"
            return _from_word(x, word, value)
        case Memory():
            return _find(x, value, node)
        case _:
            return None


def _operand(x: Expressions, value: Value, type_: ir.Int) -> str:
    """The operand of a conversion. Keeping a pointer as 64 bits is no arithmetic."""
    return x.need(value) if type_.width == 64 else x.scalar(value)


def _cast(x: Expressions, choice: Value, value: Value) -> str:
    text = x.need(choice)
    return f"({x.ctype(value)}){text}" if isinstance(value.type, ir.Pointer) else text


_WRITTEN_OUT = (ir.Convert, ir.Unary, ir.Offset, ir.Reinterpret, ir.Binary, ir.Select, ir.TextEqual)


def _is_ready(x: Expressions, value: Value) -> bool:
    """Whether a value is known, or cheap to write out, and unable to fail."""
    if value.fallible:
        return False
    seen: set[Value] = set()
    todo = [value]
    while todo:
        item = todo.pop()
        if item in seen or isinstance(item.node, ir.Const) or x.known(item) is not None:
            continue
        if not isinstance(item.node, _WRITTEN_OUT) or isinstance(item.type, ir.Text) or x.lazy(item) is not None:
            return False
        seen.add(item)
        todo.extend(item.operands)
    return True


def _binary(x: Expressions, value: Value, node: ir.Binary) -> str | None:
    left, right = value.operands
    if node.op in ("&&", "||"):
        if not _is_ready(x, right):
            return None
        return f"({x.need(left)} {node.op} {x.need(right)})"
    type_ = left.type if node.op in ("==", "!=", "<", "<=", ">", ">=") else node.type
    if node.op in ("==", "!="):
        first, second = x.need(left), x.need(right)
        if isinstance(left.type, ir.Pointer) or isinstance(right.type, ir.Pointer):
            first, second = _pointer(left, first), _pointer(right, second)
        text = f"({first} {node.op} {second})"
        return f"REZOLUS_TRUTH{text}" if x.is_tracked(left) or x.is_tracked(right) else text
    if isinstance(type_, ir.Pointer):
        return f"((u64){x.scalar(left)} {node.op} (u64){x.scalar(right)})"
    if node.op in ("<<", ">>"):
        return _shift(x, node, left, right)
    first, second = x.scalar(left), x.scalar(right)
    if node.op in ("<", "<=", ">", ">="):
        return f"({first} {node.op} {second})"
    if node.op in ("/", "%") and node.type.signed:
        function = "rezolus_divide" if node.op == "/" else "rezolus_remainder"
        return f"({ctype(node.type)}){function}({first}, {second})"
    return operation(node.type, f"{first} {node.op} {second}", (first, node.op, second))


def _pointer(value: Value, text: str) -> str:
    return f"REZOLUS_CHOSEN({text})" if isinstance(value.node, ir.Select) else f"(u64){text}"


def _shift(x: Expressions, node: ir.Binary, left: Value, right: Value) -> str:
    mask = node.type.width - 1
    count = str(right.node.value & mask) if isinstance(right.node, ir.Const) else f"({x.scalar(right)} & {mask})"
    first = x.scalar(left)
    if node.op == ">>":
        return operation(node.type, f"{first} >> {count}")
    unsigned = ctype(ir.Int(max(node.type.width, 32), False))
    return f"({ctype(node.type)})(({unsigned}){first} << {count})"


def _offset(x: Expressions, value: Value, node: ir.Offset) -> str:
    base = x.need(value.operands[0])
    kind = x.ctype(value)
    if kind == "u64":
        return f"((u64){base} + {node.offset})" if node.offset >= 0 else f"((u64){base} - {-node.offset})"
    return f"(({kind})((u8 *){base} + {node.offset}))"


def _reinterpret(x: Expressions, value: Value) -> str:
    kind = x.ctype(value)
    return f"(({kind}){x.need(value.operands[0])})"


def _from_word(x: Expressions, word: str, value: Value) -> str:
    kind = x.ctype(value)
    return word if kind == "u64" else f"({kind}){word}"


def _builtin(x: Expressions, node: ir.Builtin) -> str | None:
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
            if x.plan.target.current_task_btf:
                x.structures.mention("task_struct")
                return "bpf_get_current_task_btf()"
            return "bpf_get_current_task()"
        case "comm":
            return None
        case _:
            assert_never(node.name)


def _plain_load(x: Expressions, value: Value, node: ir.Load) -> str | None:
    base = value.operands[0]
    if not is_plain(base, x.program.fused.hook.kind, x.plan.target):
        return None
    kind = x.ctype(value)
    target = base.type.target if isinstance(base.type, ir.Pointer) else ""
    member = x.structures.member(target, node.path, node.offset, kind) if target else None
    pointer = x.need(base)
    text = f"{pointer}->{member}" if member is not None else f"*({kind} *)((u8 *){pointer} + {node.offset})"
    return bits(node, text)


def bits(node: ir.Load, text: str) -> str:
    """A bit field out of the integer around it."""
    if not node.bits or not isinstance(node.type, ir.Int):
        return text
    kind = ctype(node.type)
    if not node.type.signed:
        return f"({kind})(({text} >> {node.bit}) & {(1 << node.bits) - 1:#x}U{'LL' if node.bits > 32 else ''})"
    wide = max(node.type.width, 32)
    unsigned, signed = ctype(ir.Int(wide, False)), ctype(ir.Int(wide, True))
    return f"({kind})(({signed})(({unsigned}){text} << {wide - node.bit - node.bits}) >> {wide - node.bits})"


def argument_place(x: Expressions, node: ir.Arg | ir.ReturnValue) -> Place:
    """Where the context of a hook has an argument or a result."""
    kind, arch = x.program.fused.hook.kind, x.plan.target.arch
    if isinstance(node, ir.ReturnValue):
        return Place(False, node.nargs if kind in BTF_KINDS else RETURN_VALUE[arch])
    if kind in BTF_KINDS or kind == "raw_tp":
        return Place(False, node.index)
    return argument(arch, node.index)


def _find(x: Expressions, value: Value, node: Memory) -> str:
    """The address of memory."""
    operands = value.operands
    match node.kind:
        case "row":
            index = x.need(operands[0]) if operands else "0"
            bank = x.plan.bank(node.name).bank
            if bank.axis == "stripe" and x.plan.target.possible_cpus > bank.rows:
                index = f"{index} % {bank.rows}"
            return f"{node.name}_row_at({index})"
        case "cgroup":
            group, identity, serial = operands
            return f"rezolus_cgroup_row((u64){x.need(group)}, {x.need(identity)}, {x.need(serial)})"
        case "task":
            return f"task_find({x.task(operands[0])})"
        case "tables":
            return "tables_at(0)"
        case _:
            assert_never(node.kind)


def _text_equal(name: str, value: Value, literal: str) -> str:
    if not isinstance(value.type, ir.Text) or len(literal.encode()) >= value.type.size:
        return "0"
    words = text_words(literal, len(literal.encode()) + 1)
    return f"({' && '.join(f'{name}[{index}] == {word:#x}ULL' for index, word in enumerate(words))})"
