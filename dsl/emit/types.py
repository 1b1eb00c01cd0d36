"""Types, constants and operations in C's spelling."""

from __future__ import annotations

from dsl import ir

ABSENT = "0xffffffffU"
"""Of a table or a label: no row of it has the number."""


def ctype(type_: ir.Type) -> str:
    """An integer's C type; an address without a type the verifier knows is a number."""
    return str(type_) if isinstance(type_, ir.Int) else "u64"


def constant(node: ir.Const) -> str:
    """A number of its type, wrapped to its width."""
    width = node.type.width
    value = node.value & ((1 << width) - 1)
    if node.type.signed and value >> (width - 1):
        value -= 1 << width
    if width == 64:
        if value == -(1 << 63):
            return "(s64)0x8000000000000000ULL"
        return _signed(value, "LL") if node.type.signed else f"{value}ULL"
    if width == 32:
        if value == -(1 << 31):
            return "(s32)0x80000000U"
        return _signed(value, "") if node.type.signed else f"{value}U"
    return f"({ctype(node.type)}){_signed(value, '')}"


def _signed(value: int, suffix: str) -> str:
    """Negative numbers in parentheses: a minus before them would make a decrement."""
    return f"({value}{suffix})" if value < 0 else f"{value}{suffix}"


def amount(node: ir.Const) -> str:
    """A number to add or to set: plain where that is the same."""
    return str(node.value) if 0 <= node.value < 1 << 31 else constant(node)


def number_type(type_: ir.Type) -> ir.Int:
    """An integer's type; an address is a number of 64 bits."""
    return type_ if isinstance(type_, ir.Int) else ir.U64


def fits(value: int, type_: ir.Int) -> bool:
    """Whether a type has a number."""
    low = -(1 << (type_.width - 1)) if type_.signed else 0
    return low <= value < low + (1 << type_.width)


def operation(type_: ir.Int, text: str, parts: tuple[str, str, str] | None = None) -> str:
    """An operation that wraps at its type's width: signed overflow is undefined in C, so it is done unsigned.

    `parts`: left, operator, right of an operation that can overflow.
    """
    kind = ctype(type_)
    if parts is not None and type_.signed:
        unsigned = ctype(ir.Int(max(type_.width, 32), False))
        left, op, right = parts
        return f"({kind})(({unsigned}){left} {op} ({unsigned}){right})"
    return f"({kind})({text})"


def words_of(type_: ir.Type) -> int:
    """Words of the buffer for a text."""
    if not isinstance(type_, ir.Text):
        raise TypeError(type_)
    return -(-type_.size // 8)


def text_words(text: str, size: int) -> list[int]:
    """A text as little-endian words, NUL and padding included."""
    data = text.encode()[: max(size - 1, 0)].ljust(-(-size // 8) * 8, b"\0")
    return [int.from_bytes(data[index : index + 8], "little") for index in range(0, len(data), 8)]


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
