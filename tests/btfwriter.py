"""Writes BTF blobs from a declaration, so that a test shows the types it is about and holds no binary.

    types = BtfWriter()
    number = types.integer("int", 4, signed=True)
    point = types.struct("point", 8, ("x", number, 0), ("y", number, 32))
    data = types.blob()

Each method returns the id of the type it adds. With `base`, a split BTF: ids and strings go on after those of the base.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Literal

from dsl.btf import Kind

MAGIC = 0xEB9F

Field = tuple[str, int, int] | tuple[str, int, int, int]
"""(name, type id, bit offset) or, for a bitfield, with its number of bits."""


class BtfWriter:
    """A BTF being written."""

    def __init__(self, *, order: Literal["<", ">"] = "<", base: BtfWriter | None = None) -> None:
        self._order = order
        self._base = base
        self._strings = bytearray() if base else bytearray(b"\0")
        self._records: list[bytes] = []

    @property
    def count(self) -> int:
        """One more than the last id."""
        return (self._base.count if self._base else 1) + len(self._records)

    @property
    def string_end(self) -> int:
        return (self._base.string_end if self._base else 0) + len(self._strings)

    def blob(self) -> bytes:
        types = b"".join(self._records)
        header = (MAGIC, 1, 0, 24, 0, len(types), len(types), len(self._strings))
        return struct.pack(self._order + "HBBIIIII", *header) + types + bytes(self._strings)

    def string(self, text: str) -> int:
        """Offset of a string, which is added when the blob or its base lacks it."""
        if not text:
            return 0
        known = self._find(text)
        if known is not None:
            return known
        offset = self.string_end
        self._strings += text.encode() + b"\0"
        return offset

    def _find(self, text: str) -> int | None:
        """Where a string is already. The end of another one serves too, as the format allows."""
        if self._base:
            found = self._base._find(text)
            if found is not None:
                return found
        at = self._strings.find(text.encode() + b"\0")
        return None if at < 0 else at + (self._base.string_end if self._base else 0)

    def raw(self, name: str, info: int, third: int, *words: int) -> int:
        """A record as it stands; for malformed ones too."""
        values = (self.string(name), info, third, *words)
        self._records.append(struct.pack(f"{self._order}{len(values)}I", *(value & 0xFFFFFFFF for value in values)))
        return self.count - 1

    def _add(self, kind: Kind, name: str, third: int, *words: int, vlen: int = 0, flag: bool = False) -> int:
        return self.raw(name, flag << 31 | kind << 24 | vlen, third, *words)

    def integer(
        self,
        name: str,
        size: int,
        *,
        signed: bool = False,
        boolean: bool = False,
        bits: int | None = None,
        offset: int = 0,
    ) -> int:
        flags = (1 if signed else 0) | (4 if boolean else 0)
        return self._add(Kind.INT, name, size, flags << 24 | offset << 16 | (8 * size if bits is None else bits))

    def floating(self, name: str, size: int) -> int:
        return self._add(Kind.FLOAT, name, size)

    def ptr(self, target: int) -> int:
        return self._add(Kind.PTR, "", target)

    def array(self, element: int, count: int, *, index: int = 1) -> int:
        return self._add(Kind.ARRAY, "", 0, element, index, count)

    def struct(self, name: str, size: int, *fields: Field, union: bool = False) -> int:
        """Written with kind_flag as soon as a field is a bitfield, like compilers of today."""
        flag = any(len(field) == 4 for field in fields)
        words: list[int] = []
        for field in fields:
            bits = field[3] if len(field) == 4 else 0
            words += [self.string(field[0]), field[1], bits << 24 | field[2]]
        return self._add(Kind.UNION if union else Kind.STRUCT, name, size, *words, vlen=len(fields), flag=flag)

    def union(self, name: str, size: int, *fields: Field) -> int:
        return self.struct(name, size, *fields, union=True)

    def enum(self, name: str, values: Sequence[tuple[str, int]], *, signed: bool = False, size: int = 4) -> int:
        words = [word for text, value in values for word in (self.string(text), value)]
        return self._add(Kind.ENUM, name, size, *words, vlen=len(values), flag=signed)

    def enum64(self, name: str, values: Sequence[tuple[str, int]], *, signed: bool = False) -> int:
        words = [word for text, value in values for word in (self.string(text), value, value >> 32)]
        return self._add(Kind.ENUM64, name, 8, *words, vlen=len(values), flag=signed)

    def forward(self, name: str, *, union: bool = False) -> int:
        return self._add(Kind.FWD, name, 0, flag=union)

    def typedef(self, name: str, target: int) -> int:
        return self._add(Kind.TYPEDEF, name, target)

    def const(self, target: int) -> int:
        return self._add(Kind.CONST, "", target)

    def volatile(self, target: int) -> int:
        return self._add(Kind.VOLATILE, "", target)

    def restrict(self, target: int) -> int:
        return self._add(Kind.RESTRICT, "", target)

    def type_tag(self, name: str, target: int) -> int:
        return self._add(Kind.TYPE_TAG, name, target)

    def decl_tag(self, name: str, target: int, component: int = -1) -> int:
        return self._add(Kind.DECL_TAG, name, target, component)

    def proto(self, returns: int, *params: tuple[str, int], variadic: bool = False) -> int:
        every = [*params, *([("", 0)] if variadic else [])]
        words = [word for name, target in every for word in (self.string(name), target)]
        return self._add(Kind.FUNC_PROTO, "", returns, *words, vlen=len(every))

    def func(self, name: str, proto: int, *, linkage: int = 1) -> int:
        return self._add(Kind.FUNC, name, proto, vlen=linkage)

    def var(self, name: str, target: int, *, linkage: int = 1) -> int:
        return self._add(Kind.VAR, name, target, linkage)

    def datasec(self, name: str, size: int, *variables: tuple[int, int, int]) -> int:
        words = [word for variable in variables for word in variable]
        return self._add(Kind.DATASEC, name, size, *words, vlen=len(variables))

    def tracepoint(self, name: str, *params: tuple[str, int]) -> int:
        """What a kernel's BTF holds for a tracepoint: the typedef without names and the function with them."""
        self.func(f"__traceiter_{name}", self.proto(0, ("__data", self.ptr(0)), *params))
        unnamed = self.proto(0, ("", self.ptr(0)), *(("", target) for _, target in params))
        return self.typedef(f"btf_trace_{name}", self.ptr(unnamed))
