"""Kernel types as the checker sees them: from a BTF type to a value of the language, one member at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

from dsl import ir
from dsl.btf import Btf
from dsl.kernel.btf_types import Array, Composite, Enum, Int, Ptr, Struct, TypeTag, Union, Void


@dataclass(frozen=True, slots=True)
class TypeRef:
    """A BTF type: its id means something only together with the BTF it is from."""

    btf: Btf
    id: int

    def __str__(self) -> str:
        return self.btf.type_name(self.id)

    @property
    def composite(self) -> Composite | None:
        """The structure or union it is, past typedefs and qualifiers."""
        found = self.btf.resolve(self.id)
        return found if isinstance(found, Struct | Union) else None

    @property
    def array(self) -> Array | None:
        found = self.btf.resolve(self.id)
        return found if isinstance(found, Array) else None

    @property
    def integer(self) -> ir.Int | None:
        """As an integer type: ints, bools, chars and enums of 1, 2, 4 or 8 bytes."""
        found = self.btf.resolve(self.id)
        if isinstance(found, Int | Enum) and found.size in (1, 2, 4, 8):
            return ir.Int(cast("Literal[8, 16, 32, 64]", found.size * 8), found.signed)
        return None

    @property
    def pointee(self) -> TypeRef | None:
        """What it points to; None when it is not a pointer."""
        found = self.btf.resolve(self.id)
        return TypeRef(self.btf, found.type_id) if isinstance(found, Ptr) else None

    @property
    def is_character(self) -> bool:
        """Whether it is an integer of one byte, as text is made of."""
        found = self.btf.resolve(self.id)
        return isinstance(found, Int) and found.size == 1

    @property
    def element(self) -> TypeRef | None:
        """The type of an array's elements; None when it is no array."""
        found = self.array
        return TypeRef(self.btf, found.type_id) if found else None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.btf.size_of(self.id)

    def tags(self) -> frozenset[str]:
        """Type tags (`user`, `percpu`, `rcu`) between the pointer and what it points to."""
        names = set()
        current = self.btf.types(self.id)
        while not isinstance(current, Void) and hasattr(current, "type_id"):
            if isinstance(current, TypeTag):
                names.add(current.name)
            if isinstance(current, Ptr | Array):
                break
            current = self.btf.types(current.type_id)
        return frozenset(names)


@dataclass(frozen=True, slots=True)
class MemberRef:
    """A member found in a structure: where it is and what it is."""

    type: TypeRef
    bit_offset: int
    bits: int
    """0 when it is not a bit field."""
    through_union: bool

    @property
    def offset(self) -> int:
        return self.bit_offset // 8


def find_member(structure: TypeRef, name: str) -> MemberRef | None:
    """A member by name, through anonymous structures and unions."""
    composite = structure.composite
    if composite is None:
        return None
    path = structure.btf.member_path(composite, name)
    if path is None:
        return None
    last = path[-1]
    through_union = isinstance(composite, Union) or any(
        isinstance(structure.btf.resolve(step.type_id), Union) for step in path[:-1]
    )
    offset = sum(step.bit_offset for step in path)
    return MemberRef(TypeRef(structure.btf, last.type_id), offset, last.bitfield_size, through_union)


def find_structure(btfs: Iterable[Btf], name: str) -> TypeRef | None:
    """A structure or union by name (`tcp_sock`), in the first BTF that defines it."""
    for btf in btfs:
        for found in (btf.find_id(name, Struct), btf.find_id(name, Union)):
            if found is not None:
                return TypeRef(btf, found)
    return None


def structure_name(ref: TypeRef) -> str:
    """The C tag of a structure, empty for anything else."""
    composite = ref.composite
    return composite.name if composite else ""


def pointer_to(target: TypeRef, *, walkable: bool) -> ir.Pointer:
    """A pointer to a BTF type; pointers into user space and per-CPU offsets are not for plain loads."""
    tags = target.tags()
    plain = walkable and bool(structure_name(target)) and not tags & {"user", "percpu", "iomem"}
    return ir.Pointer(structure_name(target), user="user" in tags, walkable=plain)
