"""Reader of BTF, the kernel's own description of its types (`Documentation/bpf/btf.rst`).

A kernel has 126,000 types of which a set of samplers uses some dozens. So parsing only walks the records to
note where each begins (about 30 ms); a type is decoded when it is asked for, and the names of a kind are indexed
when the first of them is looked up.

Split BTF, that of modules, continues the ids and string offsets of its base.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from dsl.kernel.btf_blob import MAX_DEPTH, Blob, BtfError
from dsl.kernel.btf_types import (
    Array,
    Composite,
    Const,
    Datasec,
    DeclTag,
    Enum,
    Enumerator,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Kind,
    Member,
    Param,
    Ptr,
    Qualifier,
    Restrict,
    SectionVar,
    Struct,
    Type,
    Typedef,
    TypeTag,
    Union,
    Var,
    Void,
    Volatile,
)

__all__ = [
    "Array",
    "Btf",
    "BtfError",
    "Composite",
    "Const",
    "Datasec",
    "DeclTag",
    "Enum",
    "Enumerator",
    "Float",
    "Func",
    "FuncProto",
    "Fwd",
    "Int",
    "Kind",
    "Member",
    "Param",
    "Ptr",
    "Qualifier",
    "Restrict",
    "SectionVar",
    "Struct",
    "Type",
    "TypeTag",
    "Typedef",
    "Union",
    "Var",
    "Void",
    "Volatile",
]

POINTER_SIZE: Final = 8
"""Both supported architectures are 64-bit; BTF itself does not say."""

_KINDS_OF: Final[Mapping[type, frozenset[int]]] = {
    Int: frozenset({Kind.INT}),
    Float: frozenset({Kind.FLOAT}),
    Struct: frozenset({Kind.STRUCT}),
    Union: frozenset({Kind.UNION}),
    Enum: frozenset({Kind.ENUM, Kind.ENUM64}),
    Fwd: frozenset({Kind.FWD}),
    Typedef: frozenset({Kind.TYPEDEF}),
    TypeTag: frozenset({Kind.TYPE_TAG}),
    DeclTag: frozenset({Kind.DECL_TAG}),
    Func: frozenset({Kind.FUNC}),
    Var: frozenset({Kind.VAR}),
    Datasec: frozenset({Kind.DATASEC}),
}

Named = TypeVar("Named", Int, Float, Struct, Union, Enum, Fwd, Typedef, TypeTag, DeclTag, Func, Var, Datasec)


class Btf(Blob):
    """The types of a kernel or of one of its modules.

    Made by `parse`. Everything asked of it is answered from memory; the only exception raised is `BtfError`.
    """

    def __init__(self, data: bytes, base: Btf | None) -> None:
        super().__init__(data, base)
        self._index: dict[type, dict[bytes, int]] = {}
        self._enumerators: dict[bytes, int] | None = None

    @classmethod
    def parse(cls, data: bytes, base: Btf | None = None) -> Btf:
        """Read a raw BTF blob of either byte order, as `/sys/kernel/btf/vmlinux` and `/sys/kernel/btf/MODULE` hold it.

        `base` is the kernel's BTF when `data` is a module's. Raises `BtfError`.
        """
        return cls(bytes(data), base)

    def __reduce__(self) -> tuple[type[Btf], tuple[bytes, Btf | None]]:
        return (Btf, (self.data, self.base))

    def __repr__(self) -> str:
        return f"<Btf of {self.count} types>"

    def find(self, name: str, kind: type[Named]) -> Named | None:
        """The first type of that class and name: `find("task_struct", Struct)`; a module's before its base's."""
        type_id = self.find_id(name, kind)
        if type_id is None:
            return None
        found = self.types(type_id)
        assert isinstance(found, kind)
        return found

    def find_id(self, name: str, kind: type[Named]) -> int | None:
        """Id of the first type of that class and name."""
        owner: Btf | None = self
        while owner is not None:
            found = owner.ids_by_name(kind).get(name.encode())
            if found is not None:
                return found
            owner = owner.base
        return None

    def names(self, kind: type[Named]) -> list[str]:
        """Names of all types of a class, those of the base not included; for suggestions."""
        return [name.decode(errors="backslashreplace") for name in self.ids_by_name(kind)]

    def enum_value(self, name: str) -> tuple[int, Enum] | None:
        """Value of an enumerator of any enum, and that enum; the first one when several have that name."""
        found = self._by_enumerator().get(name.encode())
        if found is None:
            return self.base.enum_value(name) if self.base else None
        enum = self.types(found)
        assert isinstance(enum, Enum)
        return next(entry.value for entry in enum.values if entry.name == name), enum

    def enumerators(self) -> list[str]:
        """Names of all enumerators, those of the base not included; for suggestions."""
        return [name.decode(errors="backslashreplace") for name in self._by_enumerator()]

    def ids_by_name(self, kind: type) -> dict[bytes, int]:
        """Name -> id of the first type of that class."""
        index = self._index.get(kind)
        if index is None:
            index = {}
            found = self.of_kinds(_KINDS_OF[kind])
            names = self.names_at([self.words[position] for _, position in found])
            for name, (type_id, _) in zip(names, found, strict=True):
                index.setdefault(name, type_id)
            index.pop(b"", None)
            self._index[kind] = index
        return index

    def _by_enumerator(self) -> dict[bytes, int]:
        """Name -> id of the first enum that has an enumerator of that name."""
        if self._enumerators is None:
            index: dict[bytes, int] = {}
            for type_id, position in self.of_kinds(_KINDS_OF[Enum]):
                info = self.words[position + 1]
                width = 3 if info >> 24 & 0x1F == Kind.ENUM64 else 2
                for name in self.names_at(self.words[position + 3 : position + 3 + width * (info & 0xFFFF) : width]):
                    index.setdefault(name, type_id)
            self._enumerators = index
        return self._enumerators

    def resolve(self, type_id: int) -> Type:
        """The type without typedefs, `const`, `volatile`, `restrict` and type tags on the outside."""
        return self.types(self.strip(type_id))

    def size_of(self, type_id: int) -> int:
        """Size in bytes. Raises `BtfError` for what has none: `void`, functions, declarations."""
        count = 1
        for _ in range(MAX_DEPTH):
            match self.resolve(type_id):
                case Int(size=size) | Float(size=size) | Struct(size=size) | Union(size=size):
                    return count * size
                case Enum(size=size) | Datasec(size=size):
                    return count * size
                case Ptr():
                    return count * POINTER_SIZE
                case Array(type_id=element, count=length):
                    count, type_id = count * length, element
                case Var(type_id=inner):
                    type_id = inner
                case _:
                    raise BtfError(f"'{self.type_name(type_id)}' has no size")
        raise BtfError(f"array type {type_id} is nested more than {MAX_DEPTH} deep")

    def member_path(self, struct: Composite, name: str) -> tuple[Member, ...] | None:
        """How to reach a member: the anonymous structs and unions on the way, then the member itself.

        The member's offset in `struct` is the sum of the steps' `bit_offset`. None when there is no such member.
        """
        return self._find_member(struct, name, MAX_DEPTH)

    def _find_member(self, struct: Composite, name: str, depth: int) -> tuple[Member, ...] | None:
        if depth == 0:
            raise BtfError(f"struct {struct.id} is nested more than {MAX_DEPTH} deep")
        for member in struct.members:
            if member.name == name:
                return (member,)
        for member, inner in self._anonymous(struct):
            path = self._find_member(inner, name, depth - 1)
            if path:
                return (member, *path)
        return None

    def _anonymous(self, struct: Composite) -> Iterable[tuple[Member, Composite]]:
        for member in struct.members:
            if not member.name:
                inner = self.resolve(member.type_id)
                if isinstance(inner, Struct | Union):
                    yield member, inner

    def member_names(self, struct: Composite) -> tuple[str, ...]:
        """Names that can follow a dot, those in anonymous members included."""
        return self._list_members(struct, MAX_DEPTH)

    def _list_members(self, struct: Composite, depth: int) -> tuple[str, ...]:
        if depth == 0:
            raise BtfError(f"struct {struct.id} is nested more than {MAX_DEPTH} deep")
        names = [member.name for member in struct.members if member.name]
        for _, inner in self._anonymous(struct):
            names.extend(self._list_members(inner, depth - 1))
        return tuple(names)

    def type_name(self, type_id: int) -> str:
        """The type as C writes it: `struct task_struct *`, `const char[16]`, `int (*)(struct sock *)`."""
        return self._declare(type_id, "", MAX_DEPTH)

    def _declare(self, type_id: int, inner: str, depth: int) -> str:
        """A declaration of `inner`, which is what stands around the name so far (`*`, `[4]`)."""
        if depth == 0:
            return "..." + inner
        depth -= 1
        found = self.types(type_id)
        match found:
            case Ptr():
                if self.kind(found.type_id) in (Kind.ARRAY, Kind.FUNC_PROTO):
                    return self._declare(found.type_id, f"(*{inner})", depth)
                return self._declare(found.type_id, f"*{inner}", depth)
            case Array():
                return self._declare(found.type_id, f"{inner}[{found.count or ''}]", depth)
            case FuncProto():
                params = [self._declare(param.type_id, "", depth) for param in found.params]
                params += ["..."] if found.variadic else []
                return self._declare(found.return_id, f"{inner}({', '.join(params) or 'void'})", depth)
            case Const() | Volatile() | Restrict():
                word = type(found).__name__.lower()
                if self.kind(found.type_id) == Kind.PTR:
                    return self._declare(found.type_id, f" {word} {inner}".rstrip(), depth)
                return f"{word} {self._declare(found.type_id, inner, depth)}"
            case TypeTag() | DeclTag() | Var() | Func():
                return self._declare(found.type_id, inner, depth)
            case _:
                base = _base_name(found)
                # `int *`, `char[16]`, but `int (*)(void)` and `void (int)`.
                return f"{base} {inner}" if inner and inner[0] not in "[ " else base + inner


def _base_name(found: Type) -> str:
    match found:
        case Struct(name=name):
            return f"struct {name or '(anonymous)'}"
        case Union(name=name):
            return f"union {name or '(anonymous)'}"
        case Enum(name=name):
            return f"enum {name or '(anonymous)'}"
        case Fwd(name=name, union=union):
            return f"{'union' if union else 'struct'} {name}"
        case Int(name=name) | Float(name=name) | Typedef(name=name) | Datasec(name=name):
            return name
        case _:
            return "void"
