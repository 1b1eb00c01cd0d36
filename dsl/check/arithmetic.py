"""Operators on checked values: constants are folded, C's conversions made explicit, units kept honest."""

from __future__ import annotations

from dsl import ir
from dsl.check.values import Value, describe
from dsl.diagnostics import Diagnostics
from dsl.source import Span
from dsl.units import NANOSECONDS

COMPARISONS = frozenset(("==", "!=", "<", "<=", ">", ">="))
LOGIC = frozenset(("||", "&&"))
_SHIFTS = frozenset(("<<", ">>"))
_SAME_UNIT = COMPARISONS | {"+", "-", "|", "&", "^", "%"}


def fits(value: int, type_: ir.Int) -> bool:
    """Whether a number can be represented."""
    low = -(1 << (type_.width - 1)) if type_.signed else 0
    high = (1 << (type_.width - 1)) - 1 if type_.signed else (1 << type_.width) - 1
    return low <= value <= high


def literal(value: int, unit: str = "") -> Value:
    """An integer constant not yet bound to a width."""
    return Value(ir.Const(value, ir.S64 if fits(value, ir.S64) else ir.U64), unit, literal=True)


def integer_type(value: Value) -> ir.Int:
    """The type of an integer value; only for values whose type is one."""
    if not isinstance(value.type, ir.Int):
        raise TypeError(describe(value))
    return value.type


def convert(value: Value, type_: ir.Int) -> Value:
    """To another integer type, as C does it."""
    if isinstance(value.expr, ir.Const):
        wrapped = value.expr.value & ((1 << type_.width) - 1)
        if type_.signed and wrapped >> (type_.width - 1):
            wrapped -= 1 << type_.width
        return Value(ir.Const(wrapped, type_), value.unit)
    if value.type == type_:
        return Value(value.expr, value.unit)
    return Value(ir.Convert(value.expr, type_), value.unit)


def promoted(type_: ir.Int) -> ir.Int:
    """C's integer promotion: anything narrower than 32 bits fits an int."""
    return ir.S32 if type_.width < 32 else type_


def _literal_type(value: int, other: ir.Int) -> ir.Int:
    """The type a literal takes next to an operand: the operand's if it fits, else the narrowest wider one."""
    for candidate in (other, ir.Int(64, other.signed), ir.U64, ir.S64):
        if fits(value, candidate):
            return candidate
    return ir.U64


def common_type(left: Value, right: Value) -> ir.Int:
    """C's usual arithmetic conversions; a literal adapts to the other side."""
    if left.literal and not right.literal:
        return common_type(right, left)
    first = promoted(integer_type(left))
    if right.literal and right.constant is not None:
        return _literal_type(right.constant, first)
    second = promoted(integer_type(right))
    if first.width != second.width:
        return first if first.width > second.width else second
    return ir.Int(first.width, first.signed and second.signed)


def _mixes_signs(left: Value, right: Value) -> bool:
    if left.literal or right.literal:
        return False
    first, second = promoted(integer_type(left)), promoted(integer_type(right))
    return first.width == second.width and first.signed != second.signed


def common_unit(op: str, left: Value, right: Value) -> tuple[str, bool]:
    """The unit of a result, and whether the operands' units go together at all."""
    if op in _SAME_UNIT:
        agree = not (left.unit and right.unit and left.unit != right.unit)
        return ("" if op in COMPARISONS else left.unit or right.unit), agree
    if op == "*":
        return left.unit or right.unit, not (left.unit and right.unit)
    if op == "/":
        if left.unit == right.unit:
            return "", True
        return left.unit, not right.unit
    return (left.unit if op in _SHIFTS else ""), True


def binary(op: ir.BinaryOp, left: Value, right: Value, span: Span, diags: Diagnostics) -> Value | None:
    """`left op right` of two integers; None when an error was reported."""
    unit, agree = common_unit(op, left, right)
    if not agree:
        diags.error(
            "unit-mismatch",
            f"`{op}` of {left.unit} and {right.unit}",
            span,
            hint=f"bring both to one unit, or say which one is meant with `as {left.unit}`",
        )
        return None
    if left.literal and right.literal and left.constant is not None and right.constant is not None:
        return _fold(op, left.constant, right.constant, unit, span, diags)
    if op in LOGIC:
        return Value(ir.Binary(op, truth(left).expr, truth(right).expr, ir.BOOL))
    if op in _SHIFTS:
        return _shift(op, left, right, unit)
    type_ = common_type(left, right)
    if _mixes_signs(left, right) and op in COMPARISONS | {"/", "%", "-"}:
        diags.warning(
            "sign-mismatch",
            f"`{op}` of a signed and an unsigned number: both are taken as unsigned",
            span,
            hint=f"convert one side: `as {ir.Int(type_.width, not type_.signed)}`",
        )
    if op == "-" and unit == NANOSECONDS:
        return Value(ir.Elapsed(convert(left, ir.U64).expr, convert(right, ir.U64).expr), unit)
    result = ir.BOOL if op in COMPARISONS else type_
    return Value(ir.Binary(op, convert(left, type_).expr, convert(right, type_).expr, result), unit)


def _shift(op: ir.BinaryOp, left: Value, right: Value, unit: str) -> Value:
    type_ = integer_type(left) if left.literal else promoted(integer_type(left))
    return Value(ir.Binary(op, convert(left, type_).expr, convert(right, type_).expr, type_), unit)


def truth(value: Value) -> Value:
    """An integer as a condition: BOOL stays, anything else is compared with 0."""
    if value.type == ir.BOOL and isinstance(value.expr, ir.Binary | ir.Unary | ir.TextEqual | ir.Const):
        return value.bare()
    if isinstance(value.type, ir.Pointer):
        return Value(ir.Binary("!=", value.expr, ir.Const(0, ir.U64), ir.BOOL))
    type_ = integer_type(value)
    return Value(ir.Binary("!=", value.expr, ir.Const(0, type_), ir.BOOL))


def negate(op: str, value: Value) -> Value:
    """The unary operators `-`, `!` and `~`."""
    if value.literal and value.constant is not None:
        number = value.constant
        return literal({"-": -number, "!": int(not number), "~": ~number}[op], value.unit)
    if op == "!":
        return Value(ir.Unary("!", truth(value).expr, ir.BOOL))
    type_ = promoted(integer_type(value))
    if op == "-" and not type_.signed:
        type_ = ir.Int(type_.width, True)
    return Value(ir.Unary("-" if op == "-" else "~", convert(value, type_).expr, type_), value.unit)


def _fold(op: ir.BinaryOp, left: int, right: int, unit: str, span: Span, diags: Diagnostics) -> Value | None:
    if op in ("/", "%"):
        if right == 0:
            diags.error("constant-division", "division by zero", span)
            return None
        quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
        result = quotient if op == "/" else left - quotient * right
    elif op in _SHIFTS and not 0 <= right < 64:
        diags.error("constant-range", f"shift by {right} bits", span, hint="shift by 0 to 63 bits")
        return None
    else:
        result = _evaluate(op, left, right)
    if not (fits(result, ir.U64) or fits(result, ir.S64)):
        diags.error("constant-range", f"the result {result} does not fit 64 bits", span)
        return None
    return literal(result, unit)


def _evaluate(op: str, left: int, right: int) -> int:
    match op:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "<<":
            return left << right
        case ">>":
            return left >> right
        case "&":
            return left & right
        case "|":
            return left | right
        case "^":
            return left ^ right
        case "&&":
            return int(bool(left) and bool(right))
        case "||":
            return int(bool(left) or bool(right))
        case _:
            return int(
                {
                    "==": left == right,
                    "!=": left != right,
                    "<": left < right,
                    "<=": left <= right,
                    ">": left > right,
                    ">=": left >= right,
                }[op]
            )
