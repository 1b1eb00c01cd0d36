"""The binary protocol: frames of messages, little endian.

    frame      `REZL`, u8 major version 1, u8 minor version, u16 number of messages, u32 bytes of them (at most 65,536)
    message    u8 type: 0 session: labels
                        1 counter: u64, name, labels
                        2 gauge: i64, name, labels
                        3 histogram: u8 grouping power, u8 maximum power, u16 n, n times u64, name, labels
    name       u16 length, UTF-8
    labels     u16 number, and each: u8 length, key, u8 length, value

A frame is looked at when it is whole.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from rezolus.agent.external.updates import (
    LABELS,
    MESSAGE_BYTES,
    Labels,
    PushError,
    Update,
    check_labels,
    check_name,
    check_shape,
    fill_up,
    merge,
    shown,
)

MAGIC = b"REZL"
MAJOR = 1

_HEADER = struct.Struct("<4sBBHI")
_U64 = struct.Struct("<Q")
_U16 = struct.Struct("<H")
_SHAPE = struct.Struct("<BBH")


class FrameParser:
    """Takes what comes over one connection, however it is cut into pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._frame = 1
        self._session: Labels = ()

    def feed(self, data: bytes) -> Iterator[Update]:
        """The values in the frames that are now whole; to be gone through before the next call. Raises PushError."""
        self._rest += data
        while True:
            place = f"frame {self._frame}"
            _check_magic(bytes(self._rest[: len(MAGIC)]), place)
            if len(self._rest) < _HEADER.size:
                return
            _, major, minor, count, size = _HEADER.unpack_from(self._rest)
            if major != MAJOR:
                raise PushError(f"expected version {MAJOR}, found {major}.{minor}", place)
            if size > MESSAGE_BYTES:
                raise PushError(f"expected at most {MESSAGE_BYTES} bytes, found {size}", place)
            end = _HEADER.size + size
            if len(self._rest) < end:
                return
            body = bytes(self._rest[_HEADER.size : end])
            del self._rest[:end]
            yield from self._messages(_Body(body), count, place)
            self._frame += 1

    def end(self) -> None:
        """Nothing more comes. Raises PushError: a frame that is not whole is not taken."""
        if self._rest:
            raise PushError("does not end", f"frame {self._frame}")

    def _messages(self, body: _Body, count: int, place: str) -> Iterator[Update]:
        for number in range(1, count + 1):
            try:
                update = self._message(body)
            except PushError as error:
                raise PushError(error.problem, f"{place}, message {number}") from None
            if update is not None:
                yield update
        if body.left:
            raise PushError(f"{body.left} bytes behind the last of {count} messages", place)

    def _message(self, body: _Body) -> Update | None:
        kind = body.byte()
        match kind:
            case 0:
                self._session = body.labels()
                return None
            case 1 | 2:
                (value,) = _U64.unpack(body.take(_U64.size))
                name, labels = self._whose(body)
                return Update(name, labels, "counter" if kind == 1 else "gauge", value)
            case 3:
                power, max_power, n = _SHAPE.unpack(body.take(_SHAPE.size))
                shape = check_shape(power, max_power)
                buckets = fill_up(shape, np.frombuffer(body.take(8 * n), "<u8").astype(np.uint64))
                name, labels = self._whose(body)
                return Update(name, labels, "histogram", 0, shape, buckets)
            case _:
                raise PushError(f"expected a type from 0 to 3, found {kind}")

    def _whose(self, body: _Body) -> tuple[str, Labels]:
        (length,) = _U16.unpack(body.take(_U16.size))
        name = check_name(body.text(length, "metric name"), "metric name")
        return name, merge(self._session, body.labels())


def _check_magic(begin: bytes, place: str) -> None:
    """Raises PushError at the first byte that is wrong, whether or not the others are there."""
    for size in range(1, len(begin) + 1):
        if begin[:size] != MAGIC[:size]:
            raise PushError(f"expected {MAGIC!r}, found {begin[:size]!r}", place)


class _Body:
    """The messages of a frame, read from front to end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        """The next bytes. Raises PushError."""
        if size > self.left:
            raise PushError(f"expected {size} more bytes, found {self.left}")
        self._at += size
        return self._data[self._at - size : self._at]

    def byte(self) -> int:
        """The next byte. Raises PushError."""
        return self.take(1)[0]

    def text(self, size: int, what: str) -> str:
        """The next bytes as a text, which is a `what`. Raises PushError."""
        data = self.take(size)
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise PushError(f"the {what} is not UTF-8: {shown(data)}") from None

    def labels(self) -> Labels:
        """The labels that come next. Raises PushError."""
        (count,) = _U16.unpack(self.take(_U16.size))
        if count > LABELS:
            raise PushError(f"more than {LABELS} labels")
        pairs = [(self.text(self.byte(), "label"), self.text(self.byte(), "value of a label")) for _ in range(count)]
        return check_labels(tuple(pairs))
