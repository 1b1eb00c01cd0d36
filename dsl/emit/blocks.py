"""Values that take statements: reads by helpers, choices, tables, texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsl import ir
from dsl.diagnostics import CompilerBug
from dsl.emit.nodes import argument_place, bits, expression
from dsl.emit.registers import Place, usdt_place
from dsl.emit.types import ABSENT, bare, constant, fits, number_type, text_words, words_of
from dsl.plan.number import Value, numbered
from dsl.plan.storage import TableLayout
from dsl.plan.unit import STACK_WORDS

if TYPE_CHECKING:
    from dsl.emit.expressions import Expressions


def _is_user(value: Value) -> bool:
    return isinstance(value.type, ir.Pointer) and value.type.user


def compute(x: Expressions, value: Value, name: str, *, checked: bool) -> None:
    """Give a declared variable the value of a node whose operands can be had; `checked`: nothing of it can fail any more."""
    text = expression(x, value)
    if text is not None:
        x.out.line(f"{name} = {bare(text)};")
        x.must_be_there(value, name)
        return
    node = value.node
    match node:
        case ir.Load():
            _read(x, value, name)
        case ir.Select() | ir.Binary():
            _choose(x, value, name, checked=checked)
        case ir.TableLookup():
            _look_up(x, value, node, name)
        case ir.Remap():
            _switch(x, value.operands[0], node.pairs, name)
        case ir.UsdtArg():
            _register(x, usdt_place(x.plan.target.arch, node.notation), name)
        case ir.Arg() | ir.ReturnValue():
            _register(x, argument_place(x, node), name)
        case _ if isinstance(value.type, ir.Text):
            _text(x, value, name, checked=checked)
        case _:
            raise CompilerBug(f"no C for {type(node).__name__}")


def _read(x: Expressions, value: Value, name: str) -> None:
    """A load through a pointer that only a helper may follow."""
    node = value.node
    if not isinstance(node, ir.Load):
        raise CompilerBug("not a load")
    base = value.operands[0]
    helper = "bpf_probe_read_user" if _is_user(base) else "bpf_probe_read_kernel"
    comment = f" /* {node.path} */" if node.path else ""
    where = f"(u8 *){x.need(base)} + {node.offset}" if node.offset >= 0 else f"(u8 *){x.need(base)} - {-node.offset}"
    x.out.line(f"{helper}(&{name}, sizeof({name}), {where});{comment}")
    if node.bits:
        x.out.line(f"{name} = {bits(node, name)};")


def _register(x: Expressions, place: Place, name: str) -> None:
    """An argument that lies in memory."""
    user = x.program.fused.hook.kind in ("uprobe", "uretprobe", "usdt")
    helper = "bpf_probe_read_user" if user else "bpf_probe_read_kernel"
    parts = [f"ctx[{place.base}]"] if place.base is not None else []
    if place.index is not None:
        parts.append(f"ctx[{place.index}] * {place.scale}")
    parts.append(str(place.displacement))
    x.out.line(f"{helper}(&{name}, sizeof({name}), (void *)({' + '.join(parts)}));")


def _choose(x: Expressions, value: Value, name: str, *, checked: bool) -> None:
    """A value of which only one alternative may be evaluated."""
    node = value.node
    flag = "" if checked else x.failure(value) or ""
    condition = x.need(value.operands[0])
    if isinstance(node, ir.Binary):
        if node.op == "||":
            x.out.line(f"{name} = {condition} != 0;")
        with x.out.braces(f"if ({'!' if node.op == '||' else ''}{condition})"):
            _alternative(x, value, value.choices[0], name, flag)
        return
    with x.out.braces(f"if ({condition})"):
        _alternative(x, value, value.choices[0], name, flag)
    with x.out.braces("else"):
        _alternative(x, value, value.choices[1], name, flag)


def _alternative(x: Expressions, value: Value, choice: Value, name: str, flag: str) -> None:
    label = x.names.unique(f"{name}_end") if flag else ""
    used = False

    def fail(condition: str, reason: ir.DiscardReason) -> None:
        nonlocal used
        used = True
        number = next(number for number, other in numbered(value) if other == reason)
        with x.out.braces(f"if (unlikely(REZOLUS_TRUTH({condition})))"):
            x.out.line(f"{flag} = {number};")
            x.out.line(f"goto {label};")

    with x.scope(fail if flag else None):
        if isinstance(value.type, ir.Text):
            _copy_text(x, choice, name, words_of(value.type))
        else:
            text = x.use(choice)
            boolean = isinstance(value.node, ir.Binary)
            x.out.line(f"{name} = {text}{' != 0' if boolean else ''};")
    if used:
        x.out.line(f"{label}:;")


def _look_up(x: Expressions, value: Value, node: ir.TableLookup, name: str) -> None:
    table = next(item for item in x.plan.unit.tables if item.name == node.table)
    layout: TableLayout | None = next((item for item in x.plan.tables if item.table == node.table), None)
    operand = x.scalar(value.operands[0])
    default = ABSENT if table.default is None else str(table.default)
    if layout is None:
        _switch(x, value.operands[0], table.mapping, name, default)
        return
    tables = x.need(value.operands[1])
    number = x.names.unique(f"{name}_number")
    x.out.line(f"u64 {number} = {operand};")
    x.out.line(f"REZOLUS_OPAQUE({number});")
    x.out.line(f"{name} = {default};")
    with x.out.braces(f"if ({number} < {len(layout.entries)})"):
        x.out.line(f"REZOLUS_INDEX({number}, {(1 << (len(layout.entries) - 1).bit_length()) - 1});")
        x.out.line(f"{name} = {tables}->{node.table}[{number}];")
        if table.default is None:
            x.out.line(f"if ({name} == {layout.absent})")
            x.out.line(f"    {name} = {ABSENT};")


def _switch(
    x: Expressions, operand: Value, pairs: tuple[tuple[int, int], ...], name: str, default: str = ABSENT
) -> None:
    type_ = number_type(operand.type)
    groups: dict[int, list[int]] = {}
    for number, symbol in dict(reversed(pairs)).items():
        if fits(number, type_):
            groups.setdefault(symbol, []).append(number)
    text = x.scalar(operand)
    x.out.line(f"{name} = {default};")
    with x.out.braces(f"switch ({bare(text)})"):
        for symbol in sorted(groups):
            for number in sorted(groups[symbol]):
                x.out.line(f"case {constant(ir.Const(number, type_))}:")
            x.out.line(f"    {name} = {symbol};")
            x.out.line("    break;")


def _text(x: Expressions, value: Value, name: str, *, checked: bool) -> None:
    """Fill a buffer with a text; what lies behind its NUL stays 0."""
    node = value.node
    if not isinstance(value.type, ir.Text):
        raise CompilerBug("not a text")
    words = words_of(value.type)
    if words > STACK_WORDS:
        x.out.line(f"__builtin_memset({name}, 0, {8 * words});")
    size = value.type.size
    match node:
        case ir.TextConst():
            for index, word in enumerate(text_words(node.value, size)):
                x.out.line(f"{name}[{index}] = {word:#x}ULL;")
        case ir.Builtin():
            x.out.line(f"bpf_get_current_comm({name}, {size});")
        case ir.Chars():
            helper = "bpf_probe_read_user_str" if _is_user(value.operands[0]) else "bpf_probe_read_kernel_str"
            base = x.need(value.operands[0])
            x.out.line(f"{helper}({name}, {size}, (u8 *){base} + {node.offset}); /* {node.path} */")
        case ir.CString():
            helper = "bpf_probe_read_user_str" if _is_user(value.operands[0]) else "bpf_probe_read_kernel_str"
            read = f"{helper}({name}, {size}, {x.address(value.operands[0])})"
            fail = x.scopes[-1].fail
            if fail is None:
                x.out.line(f"{read};")
            else:
                # A page that is not in memory cannot be waited for here: no text is not the empty text.
                fail(f"{read} < 0", "null")
        case ir.RecordField():
            x.out.line(f"bpf_probe_read_kernel_str({name}, {size}, (u8 *)ctx + {node.offset}); /* {node.name} */")
        case ir.Select():
            _choose(x, value, name, checked=checked)
        case _:
            raise CompilerBug(f"no text from {type(node).__name__}")


def _copy_text(x: Expressions, value: Value, name: str, words: int) -> None:
    source = x.use(value)
    for index in range(min(words, words_of(value.type))):
        x.out.line(f"{name}[{index}] = {source}[{index}];")
