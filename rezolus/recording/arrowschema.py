"""The Arrow schema that a Parquet file carries under `ARROW:schema`: the only place where metadata of a column can stand.

It is a flatbuffer: tables that refer to each other by distance, each with a pointer to its *vtable*, the list of where
its fields are. Ours need six layouts, and references only go forward, so the buffer is laid out in one pass
from the message down to the strings. Strings and pairs of strings that recur (`metric_type=counter`) are there once.
Everything in it is at most four bytes wide and lies at a multiple of four.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

ArrowType = Literal["uint64", "int64", "list"]
"""Lists are of `item: uint64`."""

# A vtable: its own size, the size of a table of this kind, then where field 0, 1, ... begins in it (0: nowhere).
_MESSAGE = (12, 12, 8, 10, 4, 0)  # version, header_type, header, bodyLength
_SCHEMA = (8, 8, 0, 4)  # endianness, fields
_FIELD = (18, 24, 4, 20, 21, 8, 0, 12, 16)  # name, nullable, type_type, type, dictionary, children, custom_metadata
_INT = (8, 12, 4, 8)  # bitWidth, is_signed
_LIST = (4, 4)
_KEY_VALUE = (8, 12, 4, 8)  # key, value
_LAYOUTS = (_MESSAGE, _SCHEMA, _FIELD, _INT, _LIST, _KEY_VALUE)

_VERSION_5 = 4
_HEADER_IS_SCHEMA = 1
_TYPE_CODES = {"uint64": 2, "int64": 2, "list": 12}
_CONTINUATION = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class ArrowField:
    """A column as the schema describes it."""

    name: str
    type: ArrowType
    nullable: bool
    metadata: Mapping[str, str]


def encode(fields: Sequence[ArrowField]) -> str:
    """The value of `ARROW:schema` for these columns."""
    message = _Buffer().encode(fields)
    message += bytes(-len(message) % 8)
    return base64.b64encode(struct.pack("<II", _CONTINUATION, len(message)) + message).decode("ascii")


class _Buffer:
    def __init__(self) -> None:
        self._out = bytearray(4)  # where the message will be
        self._vtables: dict[tuple[int, ...], int] = {}
        for layout in _LAYOUTS:
            self._align()
            self._vtables[layout] = len(self._out)
            self._out += struct.pack(f"<{len(layout)}H", *layout)
        self._waiting: dict[object, list[int]] = {}
        """What is referred to and not there yet: the places of the references."""

    def encode(self, fields: Sequence[ArrowField]) -> bytes:
        self._waiting["message"] = [0]
        self._table(_MESSAGE, "message", "schema", tail=struct.pack("<hBx", _VERSION_5, _HEADER_IS_SCHEMA))
        self._table(_SCHEMA, "schema", "fields")
        self._vector("fields", range(len(fields)))
        pairs = [tuple(field.metadata.items()) for field in fields]
        for at, field in enumerate(fields):
            children = "item" if field.type == "list" else "nothing"
            self._field(at, field.name, field.type, children, ("pairs", pairs[at]), nullable=field.nullable)
        if "item" in self._waiting:
            self._vector("item", ["item field"])
            self._field("item field", "item", "uint64", "nothing", "nothing", nullable=True)
        self._vector("nothing", ())
        for name, signed in (("uint64", 0), ("int64", 1)):
            self._table(_INT, name, tail=struct.pack("<iB3x", 64, signed))
        self._table(_LIST, "list")
        for group in dict.fromkeys(pairs):
            self._vector(("pairs", group), [("pair", pair) for pair in group])
        for pair in dict.fromkeys(pair for group in pairs for pair in group):
            self._table(_KEY_VALUE, ("pair", pair), *(("text", text) for text in pair))
        for key in [key for key in self._waiting if isinstance(key, tuple)]:
            self._text(key)
        return bytes(self._out)

    def _field(
        self, key: object, name: str, kind: ArrowType, children: object, pairs: object, *, nullable: bool
    ) -> None:
        tail = struct.pack("<BB2x", nullable, _TYPE_CODES[kind])
        self._table(_FIELD, key, ("text", name), kind, children, pairs, tail=tail)

    def _table(self, layout: tuple[int, ...], key: object, *references: object, tail: bytes = b"") -> None:
        """A table called `key`: references first, then the plain values."""
        at = self._place(key)
        self._out += struct.pack("<i", at - self._vtables[layout])
        self._refer(references)
        self._out += tail

    def _vector(self, key: object, members: Sequence[object]) -> None:
        self._place(key)
        self._out += struct.pack("<I", len(members))
        self._refer(members)

    def _text(self, key: tuple[str, str]) -> None:
        raw = key[1].encode()
        self._place(key)
        self._out += struct.pack("<I", len(raw)) + raw + b"\0"

    def _refer(self, keys: Sequence[object]) -> None:
        for key in keys:
            self._waiting.setdefault(key, []).append(len(self._out))
            self._out += bytes(4)

    def _place(self, key: object) -> int:
        """`key` comes here: fill in what refers to it."""
        self._align()
        here = len(self._out)
        for place in self._waiting.pop(key, ()):
            struct.pack_into("<I", self._out, place, here - place)
        return here

    def _align(self) -> None:
        self._out += bytes(-len(self._out) % 4)
