"""The records of a BTF blob: where they are, their strings, and one record decoded at a time.

`dsl.btf` adds names and relations; the two are one class in two layers.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Iterable, Mapping
from itertools import accumulate, count
from operator import add
from typing import Final, NoReturn, Self

from dsl.kernel.btf_types import (
    Array,
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

_MAGIC: Final = 0xEB9F
_HEADER_BYTES: Final = 24
MAX_DEPTH: Final = 64
"""Longest chain of typedefs, arrays or pointers followed; the kernel allows 32."""

# Words that follow a record's three: fixed, and per element of its `vlen`.
_TAIL: Final[Mapping[int, tuple[int, int]]] = {
    Kind.INT: (1, 0),
    Kind.PTR: (0, 0),
    Kind.ARRAY: (3, 0),
    Kind.STRUCT: (0, 3),
    Kind.UNION: (0, 3),
    Kind.ENUM: (0, 2),
    Kind.FWD: (0, 0),
    Kind.TYPEDEF: (0, 0),
    Kind.VOLATILE: (0, 0),
    Kind.CONST: (0, 0),
    Kind.RESTRICT: (0, 0),
    Kind.FUNC: (0, 0),
    Kind.FUNC_PROTO: (0, 2),
    Kind.VAR: (1, 0),
    Kind.DATASEC: (0, 3),
    Kind.FLOAT: (0, 0),
    Kind.DECL_TAG: (1, 0),
    Kind.TYPE_TAG: (0, 0),
    Kind.ENUM64: (0, 3),
}
_STRIPPED: Final = frozenset({Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})
_ENUMS: Final = frozenset({Kind.ENUM, Kind.ENUM64})
_REFERENCES: Final[Mapping[int, type[Ptr | Const | Volatile | Restrict]]] = {
    Kind.PTR: Ptr,
    Kind.CONST: Const,
    Kind.VOLATILE: Volatile,
    Kind.RESTRICT: Restrict,
}


class BtfError(Exception):
    """The BTF is malformed, or a type was asked for what it does not have."""

    def __init__(self, problem: str, offset: int | None = None) -> None:
        super().__init__(problem, offset)
        self.problem = problem
        self.offset = offset
        """Byte offset in the blob, where there is one."""

    def __str__(self) -> str:
        where = "" if self.offset is None else f" at byte {self.offset}"
        return f"BTF: {self.problem}{where}"


class _Steps(dict[int, int]):
    """Length of a record in words by its info word: a kernel has some hundred distinct ones."""

    def __missing__(self, info: int) -> int:
        tail = _TAIL.get(info >> 24 & 0x1F)
        if tail is None:
            raise LookupError
        step = self[info] = 3 + tail[0] + tail[1] * (info & 0xFFFF)
        return step


class Blob:
    """The records of one BTF blob, chained to those of its base."""

    base: Self | None
    """What this BTF continues; None for a kernel's own."""

    def __init__(self, data: bytes, base: Self | None) -> None:
        self.base = base
        self.data = data
        """What it was parsed from."""
        self.first_id = base.count if base else 1
        """The smallest id that is not the base's."""
        self._string_start = base.string_end if base else 0
        self.words = self._read_header()
        """The type section, in this host's byte order."""
        self._starts = self._walk()
        self._cache: dict[int, Type] = {}
        self._kinds: bytes | None = None
        self._unsigned_only: bool | None = None
        self._whole: dict[int, bytes] | None = None

    @property
    def count(self) -> int:
        """One more than the largest type id, the base's types and `void` included."""
        return self.first_id + len(self._starts)

    @property
    def string_end(self) -> int:
        """Offset behind the last string; a module's strings continue there."""
        return self._string_start + len(self._strings)

    def _read_header(self) -> array[int]:
        data = self.data
        if len(data) < _HEADER_BYTES:
            raise BtfError(f"{len(data)} bytes are too few for a header", 0)
        for order in ("little", "big"):
            if int.from_bytes(data[:2], order) == _MAGIC:
                break
        else:
            raise BtfError(f"not BTF, it begins with {data[:2].hex()}", 0)
        if data[2] != 1:
            raise BtfError(f"unknown version {data[2]}, expected 1", 2)
        header, type_at, type_bytes, string_at, string_bytes = (
            int.from_bytes(data[at : at + 4], order) for at in range(4, _HEADER_BYTES, 4)
        )
        if header < _HEADER_BYTES:
            raise BtfError(f"header length {header} is less than {_HEADER_BYTES}", 4)
        self._types_at = header + type_at
        self._strings_at = header + string_at
        if self._types_at + type_bytes > len(data) or type_bytes % 4 or type_at % 4:
            raise BtfError(f"type section of {type_bytes} bytes does not fit in {len(data)}", 8)
        if self._strings_at + string_bytes > len(data):
            raise BtfError(f"string section of {string_bytes} bytes does not fit in {len(data)}", 16)
        self._strings = data[self._strings_at : self._strings_at + string_bytes]
        # A module may have no string of its own.
        if not self._strings.endswith(b"\0") and not (self.base and not self._strings):
            raise BtfError("string section does not end with a zero byte", self._strings_at + string_bytes)
        words = array("I", data[self._types_at : self._types_at + type_bytes])
        if order != sys.byteorder:
            words.byteswap()
        return words

    def _walk(self) -> array[int]:
        """Word position of every record, in order of ids."""
        words, steps, end = self.words, _Steps(), len(self.words)
        starts: list[int] = []
        append = starts.append
        position = 0
        try:
            while position < end:
                append(position)
                position += steps[words[position + 1]]
        except LookupError:
            if position + 3 > end:
                self._malformed("record is cut off", position)
            self._malformed(f"unknown type kind {words[position + 1] >> 24 & 0x1F}", position)
        if position != end:
            self._malformed("record is cut off", starts[-1])
        return array("I", starts)

    def _malformed(self, problem: str, position: int) -> NoReturn:
        raise BtfError(problem, self._types_at + 4 * position)

    def string(self, offset: int, position: int) -> str:
        """The string at an offset that the record at `position` names."""
        return self._string(offset, position).decode(errors="backslashreplace")

    def _string(self, offset: int, position: int) -> bytes:
        if offset < self._string_start and self.base is not None:
            return self.base._string(offset, 0)  # noqa: SLF001 - one of us
        start = offset - self._string_start
        if start >= len(self._strings):
            self._malformed(f"string offset {offset} is outside of the {self.string_end} bytes of strings", position)
        return self._strings[start : self._strings.index(b"\0", start)]

    def position(self, type_id: int) -> int:
        """Where a type of this BTF, not of its base, is."""
        if not self.first_id <= type_id < self.count:
            raise BtfError(f"type id {type_id} is outside of the {self.count} types")
        return self._starts[type_id - self.first_id]

    def _words_of(self, type_id: int) -> tuple[int, int]:
        """Info word and third word (size or type) of any type but `void`."""
        owner = self.owner(type_id)
        position = owner.position(type_id)
        return owner.words[position + 1], owner.words[position + 2]

    def owner(self, type_id: int) -> Self:
        """The blob that defines a type: this one or a base."""
        owner = self
        while type_id < owner.first_id and owner.base is not None:
            owner = owner.base
        return owner

    def types(self, type_id: int) -> Type:
        """The type with this id. Raises `BtfError` for an id that does not exist or a malformed record."""
        if type_id == 0:
            return Void()
        owner = self.owner(type_id)
        if owner is not self:
            return owner.types(type_id)
        found = self._cache.get(type_id)
        if found is None:
            found = self._cache[type_id] = self._decode(type_id)
        return found

    def kind(self, type_id: int) -> Kind:
        """The kind of a type, without decoding it."""
        return Kind(self._words_of(type_id)[0] >> 24 & 0x1F) if type_id else Kind.VOID

    def _decode(self, type_id: int) -> Type:
        position = self.position(type_id)
        name_at, info, third = self.words[position : position + 3]
        kind = info >> 24 & 0x1F
        name = self.string(name_at, position) if name_at else ""
        match kind:
            case Kind.INT:
                return self._decode_int(type_id, name, position)
            case Kind.FLOAT:
                return Float(type_id, name, third)
            case Kind.ARRAY:
                return Array(type_id, *self.words[position + 3 : position + 6])
            case Kind.STRUCT:
                return Struct(type_id, name, third, self._decode_members(position))
            case Kind.UNION:
                return Union(type_id, name, third, self._decode_members(position))
            case Kind.ENUM | Kind.ENUM64:
                return self._decode_enum(type_id, name, position)
            case Kind.FWD:
                return Fwd(type_id, name, union=bool(info >> 31))
            case Kind.TYPEDEF:
                return Typedef(type_id, name, third)
            case Kind.TYPE_TAG:
                return TypeTag(type_id, name, third)
            case Kind.FUNC:
                return Func(type_id, name, third, info & 0xFFFF)
            case Kind.FUNC_PROTO:
                return self._decode_proto(type_id, position)
            case Kind.VAR:
                return Var(type_id, name, third, self.words[position + 3])
            case Kind.DATASEC:
                parts = self.words[position + 3 : position + 3 + 3 * (info & 0xFFFF)]
                return Datasec(type_id, name, third, tuple(map(SectionVar, parts[::3], parts[1::3], parts[2::3])))
            case Kind.DECL_TAG:
                return DeclTag(type_id, name, third, _signed(self.words[position + 3], 32))
            case _:
                return _REFERENCES[kind](type_id, third)

    def _decode_int(self, type_id: int, name: str, position: int) -> Int:
        size, encoding = self.words[position + 2 : position + 4]
        flags = encoding >> 24 & 0xF
        return Int(
            type_id,
            name,
            size,
            signed=bool(flags & 1),
            char=bool(flags & 2),
            boolean=bool(flags & 4),
            bits=encoding & 0xFF,
            bit_offset=encoding >> 16 & 0xFF,
        )

    def _decode_members(self, position: int) -> tuple[Member, ...]:
        info = self.words[position + 1]
        parts = self.words[position + 3 : position + 3 + 3 * (info & 0xFFFF)]
        string = self.string
        members = []
        for name_at, type_id, where in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            name = string(name_at, position) if name_at else ""
            if info >> 31:  # kind_flag: the upper byte is the bitfield's size
                members.append(Member(name, type_id, where & 0xFFFFFF, where >> 24))
            else:
                members.append(Member(name, type_id, *self._plain_member(type_id, where)))
        return tuple(members)

    def _plain_member(self, type_id: int, bit_offset: int) -> tuple[int, int]:
        """Bit offset and bitfield size where the struct has no kind_flag: a bitfield's size is then its Int's."""
        stripped = self.strip(type_id)
        if stripped == 0 or self.kind(stripped) != Kind.INT:
            return bit_offset, 0
        integer = self.types(stripped)
        assert isinstance(integer, Int)
        if integer.bits == 8 * integer.size:
            return bit_offset, 0
        return bit_offset + integer.bit_offset, integer.bits

    def _decode_enum(self, type_id: int, name: str, position: int) -> Enum:
        info, size = self.words[position + 1 : position + 3]
        wide = (info >> 24 & 0x1F) == Kind.ENUM64
        signed = bool(info >> 31) or self.lacks_enum_signs()
        width = 3 if wide else 2
        parts = self.words[position + 3 : position + 3 + width * (info & 0xFFFF)]
        values: Iterable[int] = parts[1::width]
        if wide:
            values = (low | high << 32 for low, high in zip(parts[1::3], parts[2::3], strict=True))
        if signed:
            values = (_signed(value, 64 if wide else 32) for value in values)
        names = (self.string(name_at, position) for name_at in parts[::width])
        return Enum(type_id, name, size, signed, tuple(map(Enumerator, names, values)))

    def lacks_enum_signs(self) -> bool:
        """Whether this BTF is from before 6089fb325cf7 ("bpf: Add btf enum64 support", 6.0).

        Until then no enum had the flag that says "signed", and all values were s32. A kernel without a single
        signed enum does not exist, so the absence of the flag everywhere tells.
        """
        if self._unsigned_only is None:
            if self.base is not None:
                self._unsigned_only = self.base.lacks_enum_signs()
            else:
                enums = self.of_kinds(_ENUMS)
                self._unsigned_only = not any(self.words[position + 1] >> 31 for _, position in enums)
        return self._unsigned_only

    def _decode_proto(self, type_id: int, position: int) -> FuncProto:
        info, return_id = self.words[position + 1 : position + 3]
        parts = self.words[position + 3 : position + 3 + 2 * (info & 0xFFFF)]
        params = [
            Param(self.string(name_at, position) if name_at else "", param_id)
            for name_at, param_id in zip(parts[::2], parts[1::2], strict=True)
        ]
        variadic = bool(params) and params[-1] == Param("", 0)
        return FuncProto(type_id, return_id, tuple(params[:-1] if variadic else params), variadic)

    def strip(self, type_id: int) -> int:
        """Id of what is behind typedefs, qualifiers and type tags."""
        for _ in range(MAX_DEPTH):
            if type_id == 0:
                return 0
            info, third = self._words_of(type_id)
            if info >> 24 & 0x1F not in _STRIPPED:
                return type_id
            type_id = third
        raise BtfError(f"type {type_id} is behind more than {MAX_DEPTH} typedefs and qualifiers")

    def names_at(self, offsets: Iterable[int]) -> list[bytes]:
        """The strings at these offsets: quickly where they begin behind another's end, as all do that kernels write."""
        if self._whole is None:
            strings = self._strings.split(b"\0")
            lengths = accumulate(map(len, strings), initial=self._string_start)
            self._whole = dict(zip(map(add, lengths, count()), strings, strict=False))  # each ends with a zero byte
        whole = self._whole
        return [whole[at] if at in whole else self._string(at, 0) for at in offsets]

    def of_kinds(self, kinds: frozenset[int]) -> list[tuple[int, int]]:
        """(type id, position) of this BTF's types of some kinds."""
        if self._kinds is None:
            words = self.words
            self._kinds = bytes([words[position + 1] >> 24 & 0x1F for position in self._starts])
        starts, first = self._starts, self.first_id
        wanted = re.compile(b"[" + re.escape(bytes(kinds)) + b"]")
        places = [found.start() for found in wanted.finditer(self._kinds)]
        return [(first + at, starts[at]) for at in places]


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value
