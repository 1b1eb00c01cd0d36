"""The kinds of BTF types as frozen records; `dsl.btf` decodes them.

Type ids are those of the `Btf` that handed the record out, 0 is `void`. Sizes and offsets are
in bytes unless the name says bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """`BTF_KIND_*` of `linux/btf.h`."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


class Member(NamedTuple):
    """A member of a struct or union; `name` is empty for an anonymous one."""

    name: str
    type_id: int
    bit_offset: int
    """From the start of the struct; for a bitfield that of its lowest bit on little endian."""
    bitfield_size: int
    """Bits; 0 when the member is not a bitfield."""


class Param(NamedTuple):
    """A parameter of a function; `name` is empty where the compiler recorded none."""

    name: str
    type_id: int


class Enumerator(NamedTuple):
    """A constant of an enum."""

    name: str
    value: int


class SectionVar(NamedTuple):
    """A variable of a data section."""

    type_id: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Void:
    """`void`, type id 0."""

    id: int = 0


@dataclass(frozen=True, slots=True)
class Int:
    """An integer; `bits` and `bit_offset` differ from the size only in bitfields of old compilers."""

    id: int
    name: str
    size: int
    signed: bool
    char: bool
    boolean: bool
    bits: int
    bit_offset: int


@dataclass(frozen=True, slots=True)
class Float:
    """A floating point number."""

    id: int
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Ptr:
    """A pointer to `type_id`."""

    id: int
    type_id: int


@dataclass(frozen=True, slots=True)
class Array:
    """`count` elements of `type_id`; 0 for a flexible array."""

    id: int
    type_id: int
    index_type_id: int
    count: int


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct; `name` is empty for an anonymous one."""

    id: int
    name: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Union:
    """A union; `name` is empty for an anonymous one."""

    id: int
    name: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum of 32 or 64 bits."""

    id: int
    name: str
    size: int
    signed: bool
    values: tuple[Enumerator, ...]


@dataclass(frozen=True, slots=True)
class Fwd:
    """A struct or union that is declared and not defined here."""

    id: int
    name: str
    union: bool


@dataclass(frozen=True, slots=True)
class Typedef:
    """Another name for `type_id`."""

    id: int
    name: str
    type_id: int


@dataclass(frozen=True, slots=True)
class Const:
    """`const` over `type_id`."""

    id: int
    type_id: int


@dataclass(frozen=True, slots=True)
class Volatile:
    """`volatile` over `type_id`."""

    id: int
    type_id: int


@dataclass(frozen=True, slots=True)
class Restrict:
    """`restrict` over `type_id`."""

    id: int
    type_id: int


@dataclass(frozen=True, slots=True)
class TypeTag:
    """An attribute of a type, such as `user`, `percpu` or `rcu`."""

    id: int
    name: str
    type_id: int


@dataclass(frozen=True, slots=True)
class DeclTag:
    """An attribute of a declaration; `component` is the member or parameter, -1 for the whole."""

    id: int
    name: str
    type_id: int
    component: int


@dataclass(frozen=True, slots=True)
class Func:
    """A function; `type_id` is its `FuncProto`. Linkage: 0 static, 1 global, 2 extern."""

    id: int
    name: str
    type_id: int
    linkage: int


@dataclass(frozen=True, slots=True)
class FuncProto:
    """A function's type."""

    id: int
    return_id: int
    params: tuple[Param, ...]
    variadic: bool


@dataclass(frozen=True, slots=True)
class Var:
    """A variable. Linkage: 0 static, 1 global, 2 extern."""

    id: int
    name: str
    type_id: int
    linkage: int


@dataclass(frozen=True, slots=True)
class Datasec:
    """A section of variables, for instance `.data..percpu`."""

    id: int
    name: str
    size: int
    vars: tuple[SectionVar, ...]


Composite = Struct | Union
Qualifier = Const | Volatile | Restrict | TypeTag
Type = (
    Void
    | Int
    | Float
    | Ptr
    | Array
    | Struct
    | Union
    | Enum
    | Fwd
    | Typedef
    | Const
    | Volatile
    | Restrict
    | TypeTag
    | DeclTag
    | Func
    | FuncProto
    | Var
    | Datasec
)
