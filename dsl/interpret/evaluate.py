"""What an expression of the checked program is worth: the reference for the emitted C, written to be read, not to be fast.

A value is an `int` (already in the range of its type), `bytes` (a text without its NUL) or a pointer. A pointer is None
(null), an object of a test, a number (an address of which nothing is known: what lies behind it reads as 0), or
a text (where a `char *` is expected).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from dsl import ir
from dsl.diagnostics import CompilerBug

Value = int | bytes | str | ir.TestObject | None

_FIRST_ADDRESS = 0xFFFF_8880_0000_0000
_ADDRESS_STEP = 0x1_0000
_U64 = (1 << 64) - 1

_ARITHMETIC: Mapping[str, Callable[[int, int], int]] = {
    "|": operator.or_,
    "^": operator.xor,
    "&": operator.and_,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Discard(Exception):  # noqa: N818 - an outcome of the program, not an error of ours
    """The expression has no value; the statement it occurs in is abandoned."""

    def __init__(self, reason: ir.DiscardReason) -> None:
        super().__init__(reason)
        self.reason = reason


def wrap(value: int, type_: ir.Int) -> int:
    """The number of type `type_` with the same lowest bits."""
    return _bits(value, type_.width, signed=type_.signed)


def _bits(value: int, width: int, *, signed: bool) -> int:
    value &= (1 << width) - 1
    return value - (1 << width) if signed and value >> (width - 1) else value


def text_bytes(value: str | bytes, size: int) -> bytes:
    """A text as the kernel's string functions would copy it to `size` bytes: up to the first NUL, room left for one."""
    data = value.encode() if isinstance(value, str) else value
    return data.split(b"\0", 1)[0][: max(size - 1, 0)]


@dataclass(slots=True)
class Objects:
    """The memory of a test: where its objects lie, and the parts of them that a program takes the address of."""

    _addresses: dict[int, int] = field(default_factory=dict)
    _parts: dict[tuple[int, int, str], ir.TestObject] = field(default_factory=dict)
    _alive: list[ir.TestObject] = field(default_factory=list)
    """Every object with an address, so that its `id` stays its own."""

    def address(self, pointer: Value) -> int:
        """The pointer as a number. Objects, and texts of different content, have different addresses."""
        match pointer:
            case None:
                return 0
            case int():
                return pointer & _U64
            case ir.TestObject():
                return self._place(pointer, _FIRST_ADDRESS + len(self._addresses) * _ADDRESS_STEP)
            case str() | bytes():
                return self.address(self._part(pointer))
            case _:
                assert_never(pointer)

    def _part(self, text: str | bytes) -> ir.TestObject:
        name = text if isinstance(text, str) else text.decode(errors="surrogateescape")
        return self._parts.setdefault((0, 0, name), ir.TestObject())

    def _place(self, item: ir.TestObject, address: int) -> int:
        if id(item) not in self._addresses:
            self._addresses[id(item)] = address
            self._alive.append(item)
        return self._addresses[id(item)]

    def member(self, base: Value, path: str) -> object:
        """What a test says is in the member `path` (`__state`, `css.id`); None where it says nothing."""
        item: object = base
        if isinstance(item, ir.TestObject) and path in item.fields:
            return item.fields[path]
        for name in path.split("."):
            item = item.fields.get(name) if isinstance(item, ir.TestObject) else None
        return item

    def part(self, base: Value, offset: int, path: str) -> Value:
        """The address `offset` bytes behind an object: the embedded object a test gave for `path`, else one of zeros."""
        if not isinstance(base, ir.TestObject):
            return (self.address(base) + offset) & _U64
        if offset == 0 and not path:
            return base
        given = self.member(base, path)
        key = (self.address(base), offset, path)
        item = given if isinstance(given, ir.TestObject) else self._parts.setdefault(key, ir.TestObject())
        self._place(item, self.address(base) + offset)
        return item


def coerce(raw: object, type_: ir.Type, objects: Objects) -> Value:
    """A value from outside the program (an argument, a field) as type `type_`; None, nothing given, is 0, null or empty."""
    match type_:
        case ir.Int():
            return wrap(raw if isinstance(raw, int) else objects.address(_value(raw)), type_)
        case ir.Pointer():
            pointer = _value(raw)
            return pointer & _U64 or None if isinstance(pointer, int) else pointer
        case ir.Text():
            return text_bytes(raw if isinstance(raw, str | bytes) else b"", type_.size)
        case _:
            assert_never(type_)


def _value(raw: object) -> Value:
    if raw is None or isinstance(raw, int | str | bytes | ir.TestObject):
        return raw
    raise CompilerBug(f"a test passes {type(raw).__name__}, which no program can hold")


@dataclass(slots=True)
class Frame:
    """One run of one handler: the event and the variables bound so far."""

    args: tuple[object, ...]
    arg_names: tuple[str, ...]
    now: int
    cpu: int
    current: ir.TestObject
    locals: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Evaluates expressions; raises `Discard` where they fail."""

    tables: Mapping[str, ir.Table]
    objects: Objects

    def number(self, expr: ir.Expr, frame: Frame) -> int:
        """An integer, or a pointer by its address."""
        value = self.value(expr, frame)
        return value if isinstance(value, int) else self.objects.address(value)

    def text(self, expr: ir.Expr, frame: Frame) -> bytes:
        """A text."""
        value = self.value(expr, frame)
        if not isinstance(value, bytes):
            raise CompilerBug(f"{type(expr).__name__} stands where a text is needed")
        return value

    def value(self, expr: ir.Expr, frame: Frame) -> Value:
        """The value of any expression. Operands are evaluated in the order in which the node lists them."""
        match expr:
            case ir.Const():
                return wrap(expr.value, expr.type)
            case ir.TextConst():
                return text_bytes(expr.value, expr.type.size)
            case ir.Local():
                return frame.locals[expr.name]
            case ir.Arg():
                return self._outside(frame.args, expr.index, expr.type)
            case ir.ReturnValue():
                return self._outside(frame.args, 0, expr.type)
            case ir.RecordField():
                return self._outside(frame.args, frame.arg_names.index(expr.name), expr.type)
            case ir.UsdtArg():
                return self._outside(frame.args, expr.index, expr.type)
            case ir.Builtin():
                return self._builtin(expr, frame)
            case ir.Load():
                return self._load(expr, frame)
            case ir.Chars():
                return coerce(self.objects.member(self._base(expr.base, frame), expr.path), expr.type, self.objects)
            case ir.CString():
                return coerce(self._base(expr.pointer, frame), expr.type, self.objects)
            case ir.Offset():
                return self.objects.part(self._base(expr.base, frame), expr.offset, expr.path)
            case ir.Element():
                return self._element(expr, frame)
            case ir.Reinterpret():
                return self.value(expr.operand, frame)
            case ir.Convert():
                return wrap(self.number(expr.operand, frame), expr.type)
            case ir.Unary():
                return self._unary(expr, frame)
            case ir.Binary():
                return self._binary(expr, frame)
            case ir.Elapsed():
                return self._elapsed(expr, frame)
            case ir.TextEqual():
                return int(self.text(expr.left, frame) == expr.literal.encode())
            case ir.Select():
                return self.value(expr.then if self.number(expr.condition, frame) else expr.otherwise, frame)
            case ir.TableLookup():
                return self._table(expr, frame)
            case ir.Remap():
                return _found(dict(expr.pairs).get(self.number(expr.operand, frame)))
            case _:
                assert_never(expr)

    def _outside(self, args: tuple[object, ...], index: int, type_: ir.Type) -> Value:
        return coerce(args[index] if index < len(args) else None, type_, self.objects)

    def _builtin(self, expr: ir.Builtin, frame: Frame) -> Value:
        current = frame.current.fields
        match expr.name:
            case "now":
                return wrap(frame.now, ir.U64)
            case "cpu":
                return frame.cpu
            case "current":
                return frame.current
            case "tid":
                return coerce(current.get("pid"), expr.type, self.objects)
            case "pid":
                return coerce(current.get("tgid", current.get("pid")), expr.type, self.objects)
            case "uid" | "comm":
                return coerce(current.get(expr.name), expr.type, self.objects)
            case _:
                assert_never(expr.name)

    def _base(self, expr: ir.Expr, frame: Frame) -> Value:
        base = self.value(expr, frame)
        if base is None or base == 0:
            raise Discard("null")
        return base

    def _load(self, expr: ir.Load, frame: Frame) -> Value:
        value = coerce(self.objects.member(self._base(expr.base, frame), expr.path), expr.type, self.objects)
        if expr.bits and isinstance(value, int) and isinstance(expr.type, ir.Int):
            # A test states the field's own value, not the integer that contains it, so `bit` does not matter here.
            return _bits(value, expr.bits, signed=expr.type.signed)
        return value

    def _element(self, expr: ir.Element, frame: Frame) -> Value:
        base = self._base(expr.base, frame)
        index = self.number(expr.index, frame)
        if not 0 <= index < expr.count:
            raise Discard("range")
        return self.objects.part(base, index * expr.stride, f"[{index}]")

    def _unary(self, expr: ir.Unary, frame: Frame) -> int:
        operand = self.number(expr.operand, frame)
        match expr.op:
            case "-":
                return wrap(-operand, expr.type)
            case "!":
                return int(operand == 0)
            case "~":
                return wrap(~operand, expr.type)
            case _:
                assert_never(expr.op)

    def _binary(self, expr: ir.Binary, frame: Frame) -> int:
        left = self.number(expr.left, frame)
        if expr.op == "&&" and not left:
            return 0
        if expr.op == "||" and left:
            return 1
        right = self.number(expr.right, frame)
        match expr.op:
            case "&&" | "||":
                return int(right != 0)
            case "==" | "!=" | "<" | "<=" | ">" | ">=":
                return int(_COMPARE[expr.op](left, right))
            case "|" | "^" | "&" | "+" | "-" | "*":
                return wrap(_ARITHMETIC[expr.op](left, right), expr.type)
            case "<<":
                return wrap(left << (right % expr.type.width), expr.type)
            case ">>":
                return wrap(left >> (right % expr.type.width), expr.type)
            case "/":
                return wrap(_divide(left, right), expr.type)
            case "%":
                return wrap(left - right * _divide(left, right), expr.type)
            case _:
                assert_never(expr.op)

    def _elapsed(self, expr: ir.Elapsed, frame: Frame) -> int:
        left, right = self.number(expr.left, frame), self.number(expr.right, frame)
        if right > left:
            raise Discard("clock")
        return left - right

    def _table(self, expr: ir.TableLookup, frame: Frame) -> int:
        table = self.tables[expr.table]
        return _found(dict(table.mapping).get(self.number(expr.operand, frame), table.default))


def _divide(left: int, right: int) -> int:
    """Towards zero, as C does. The one quotient that does not fit, of the smallest number and -1, wraps."""
    if right == 0:
        raise Discard("zero")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _found(symbol: int | None) -> int:
    if symbol is None:
        raise Discard("range")
    return symbol
