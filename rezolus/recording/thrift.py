"""Thrift's compact protocol as far as a Parquet footer needs it: any struct becomes a tree and back.

A tree keeps fields it knows nothing about, so a footer written by another version of the Parquet library loses nothing.
Structs are lists of `[field id, wire type, value]` in ascending order of id; lists are `(element type, values)`;
booleans live in the wire type. A struct may also be its bytes. Maps and sets do not occur in footers.
"""

from __future__ import annotations

import struct
from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 12

Field = list[Any]
Tree = list[Field]


class ThriftError(ValueError):
    """The bytes are not a struct in the compact protocol."""


class Reader:
    """Reads structs from bytes, from a position on."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def struct(self) -> Tree:
        """The struct at this position. Raises ThriftError."""
        try:
            return self._struct()
        except (IndexError, struct.error) as error:
            raise ThriftError(f"the struct ends early: {error}") from error

    def _struct(self) -> Tree:
        fields: Tree = []
        number = 0
        while True:
            head = self.data[self.at]
            self.at += 1
            if head == 0:
                return fields
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else _unzigzag(self._varint())
            fields.append([number, kind, None if kind in {TRUE, FALSE} else self._value(kind)])

    def _varint(self) -> int:
        data, at = self.data, self.at
        byte = data[at]
        at += 1
        value = byte & 127
        shift = 7
        while byte & 128:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
        self.at = at
        return value

    def _value(self, kind: int) -> Any:
        if kind in {I16, I32, I64}:
            return _unzigzag(self._varint())
        if kind == BINARY:
            length = self._varint()
            self.at += length
            if self.at > len(self.data):
                raise ThriftError("a string ends behind the end")
            return self.data[self.at - length : self.at]
        if kind == STRUCT:
            return self._struct()
        if kind == LIST:
            return self._list()
        if kind in {TRUE, FALSE, BYTE}:  # as a list element a boolean is a byte
            self.at += 1
            return self.data[self.at - 1]
        if kind == DOUBLE:
            self.at += 8
            return struct.unpack_from("<d", self.data, self.at - 8)[0]
        raise ThriftError(f"wire type {kind} does not occur in a footer")

    def _list(self) -> tuple[int, list[Any]]:
        head = self.data[self.at]
        self.at += 1
        size = head >> 4
        if size == 15:
            size = self._varint()
        kind = head & 15
        return kind, [self._value(kind) for _ in range(size)]


def dump(fields: Tree, *, after: int = 0) -> bytes:
    """The struct's bytes; or those of the fields that follow the field `after`, and the end."""
    out = bytearray()
    _dump(out, fields, after)
    return bytes(out)


def field(fields: Tree, number: int) -> Any:
    """Value of a field, None when the struct does not have it."""
    for found, _, value in fields:
        if found == number:
            return value
    return None


def put(fields: Tree, number: int, kind: int, value: Any) -> None:
    """Set a field, in its place if the struct has it."""
    for at, entry in enumerate(fields):
        if entry[0] == number:
            entry[1:] = [kind, value]
            return
        if entry[0] > number:
            fields.insert(at, [number, kind, value])
            return
    fields.append([number, kind, value])


def _unzigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def put_varint(out: bytearray, value: int) -> None:
    """Append an unsigned number of variable length."""
    while value > 127:
        out.append((value & 127) | 128)
        value >>= 7
    out.append(value)


def _dump(out: bytearray, fields: Tree, last: int = 0) -> None:
    for number, kind, value in fields:
        if 0 < number - last < 16:
            out.append((number - last) << 4 | kind)
        else:
            out.append(kind)
            put_varint(out, _zigzag(number))
        last = number
        if kind not in {TRUE, FALSE}:
            _dump_value(out, kind, value)
    out.append(0)


def _dump_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in {I16, I32, I64}:
        put_varint(out, _zigzag(value))
    elif kind == BINARY:
        put_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        if isinstance(value, bytes):
            out += value
        else:
            _dump(out, value)
    elif kind == LIST:
        element, values = value
        if len(values) < 15:
            out.append(len(values) << 4 | element)
        else:
            out.append(0xF0 | element)
            put_varint(out, len(values))
        for item in values:
            _dump_value(out, element, item)
    elif kind == DOUBLE:
        out += struct.pack("<d", value)
    else:
        out.append(value)
