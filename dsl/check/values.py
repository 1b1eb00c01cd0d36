"""What an expression of the language denotes: a value, or a place in kernel memory too large to be one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dsl import ir
from dsl.check.kernel_types import TypeRef, find_member, pointer_to, structure_name

CSTRING_SIZE = 64
"""Bytes kept of a string behind a `char *`."""


@dataclass(frozen=True, slots=True)
class Value:
    """A typed expression and what the checker knows of it."""

    expr: ir.Expr
    unit: str = ""
    literal: bool = False
    """An integer constant that takes the type of what it meets."""
    symbols: tuple[str, ...] = ()
    """A label value: the expression is the index of its name in here."""
    target: TypeRef | None = None
    """Of a pointer: what it points to."""

    @property
    def type(self) -> ir.Type:
        return self.expr.type

    @property
    def is_integer(self) -> bool:
        return isinstance(self.type, ir.Int) and not self.symbols

    @property
    def constant(self) -> int | None:
        return self.expr.value if isinstance(self.expr, ir.Const) else None

    def bare(self) -> Value:
        """The same number without its unit."""
        return replace(self, unit="")


@dataclass(frozen=True, slots=True)
class Place:
    """A structure, union or array `offset` bytes behind `base`."""

    base: ir.Expr
    offset: int
    path: str
    type: TypeRef
    walkable: bool

    def address(self) -> Value:
        """The address of the place as a pointer."""
        pointer = ir.Pointer(structure_name(self.type))
        if self.offset == 0 and not self.path:
            return Value(ir.Reinterpret(self.base, pointer), target=self.type)
        return Value(ir.Offset(self.base, self.offset, pointer, self.path), target=self.type)


def describe(value: Value | Place) -> str:
    """The kind of a value in a user's words."""
    if isinstance(value, Place):
        return f"`{value.type}`"
    if value.symbols:
        return f"one of the label values {' | '.join(value.symbols)}"
    match value.type:
        case ir.Text():
            return "a string"
        case ir.Pointer():
            return f"`{value.target} *`" if value.target else "a pointer"
        case kind:
            number = "a number" if value.literal else f"a number ({kind})"
            return f"{number} of unit {value.unit}" if value.unit else number


def deref(value: Value | Place) -> Place | None:
    """The structure that a pointer points to, or that is already there; None when it is neither."""
    if isinstance(value, Place):
        return value if value.type.composite else None
    if value.target is None or value.target.composite is None:
        return None
    walkable = isinstance(value.type, ir.Pointer) and value.type.walkable
    return Place(value.expr, 0, "", value.target, walkable)


def member(place: Place, name: str) -> Value | Place | None:
    """A member of a structure at a place; None when there is none of that name."""
    found = find_member(place.type, name)
    if found is None:
        return None
    path = f"{place.path}.{name}" if place.path else name
    walkable = place.walkable and not found.through_union
    if found.bits:
        return _bit_field(place, found.bit_offset, found.bits, found.type, path)
    return at(Place(place.base, place.offset + found.offset, path, found.type, walkable))


def at(place: Place) -> Value | Place | None:
    """What lies at a place: an integer or pointer is loaded, a structure or array stays where it is."""
    integer = place.type.integer
    if integer is not None:
        return Value(ir.Load(place.base, place.offset, integer, place.path))
    target = place.type.pointee
    if target is not None:
        pointer = pointer_to(target, walkable=place.walkable)
        return Value(ir.Load(place.base, place.offset, pointer, place.path), target=target)
    if place.type.composite or place.type.array:
        return place
    return None


def _bit_field(place: Place, bit_offset: int, bits: int, type_: TypeRef, path: str) -> Value | None:
    """The load of a bit field: the smallest aligned integer of its declared type's signedness that holds it."""
    declared = type_.integer
    if declared is None:
        return None
    for width in (8, 16, 32, 64):
        start = bit_offset // width * width
        if bit_offset + bits <= start + width:
            container = ir.Int(width, declared.signed)
            load = ir.Load(place.base, place.offset + start // 8, container, path, bit_offset - start, bits)
            return Value(load)
    return None


def as_text(value: Value | Place) -> Value | None:
    """As a string: a character array, a `char *`, or what is a string already."""
    if isinstance(value, Place):
        array, element = value.type.array, value.type.element
        if array is None or element is None or not element.is_character or array.count == 0:
            return None
        return Value(ir.Chars(value.base, value.offset, ir.Text(array.count), value.path))
    if isinstance(value.type, ir.Text):
        return value
    if isinstance(value.type, ir.Pointer) and value.target is not None and value.target.is_character:
        return Value(ir.CString(value.expr, ir.Text(CSTRING_SIZE)))
    return None
