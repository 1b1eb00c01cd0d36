"""Where a msgpack message ends, for messages that follow one another without anything between."""

from __future__ import annotations

import re

_SIZE = [0] * 256
"""Bytes of what begins with this byte, without elements and without what a length field says."""
_ELEMENTS = [0] * 256
"""How many messages belong to it."""
_LENGTH: dict[int, tuple[int, int]] = {}
"""Width of the length field behind the byte, and what it counts: 0 for bytes, else elements per entry."""

for _byte in range(256):
    _SIZE[_byte] = 1
    if 0x80 <= _byte <= 0x8F:
        _ELEMENTS[_byte] = 2 * (_byte & 0x0F)
    elif 0x90 <= _byte <= 0x9F:
        _ELEMENTS[_byte] = _byte & 0x0F
    elif 0xA0 <= _byte <= 0xBF:
        _SIZE[_byte] = 1 + (_byte & 0x1F)
_SIZE[0xC1] = 0  # no message begins with this byte
for _byte, _size in ((0xCA, 5), (0xCB, 9), (0xCC, 2), (0xCD, 3), (0xCE, 5), (0xCF, 9)):
    _SIZE[_byte] = _size
for _byte, _size in ((0xD0, 2), (0xD1, 3), (0xD2, 5), (0xD3, 9)):
    _SIZE[_byte] = _size
for _byte, _size in ((0xD4, 3), (0xD5, 4), (0xD6, 6), (0xD7, 10), (0xD8, 18)):
    _SIZE[_byte] = _size
for _byte, _width in ((0xC4, 1), (0xC5, 2), (0xC6, 4), (0xD9, 1), (0xDA, 2), (0xDB, 4)):
    _LENGTH[_byte] = (_width, 0)
for _byte, _width in ((0xC7, 1), (0xC8, 2), (0xC9, 4)):
    _SIZE[_byte] = 2  # the type of an extension
    _LENGTH[_byte] = (_width, 0)
for _byte, _width, _count in ((0xDC, 2, 1), (0xDD, 4, 1), (0xDE, 2, 2), (0xDF, 4, 2)):
    _LENGTH[_byte] = (_width, _count)

_SINGLE = re.compile(rb"[\x00-\x7f\xc0\xc2\xc3\xe0-\xff]+")
"""Messages of one byte, which the buckets of a histogram mostly are."""


class BadMessageError(ValueError):
    """What stands there is no whole message; the text says what is wrong."""


class CutOffError(BadMessageError):
    """The data end within it."""

    def __init__(self) -> None:
        super().__init__("the data end within it")


def message_end(data: memoryview, at: int) -> int:
    """Position after the message that begins at `at`. Raises BadMessageError."""
    end = len(data)
    open_messages = 1
    while open_messages:
        if at >= end:
            raise CutOffError
        byte = data[at]
        run = _SINGLE.match(data, at, at + open_messages)
        if run is not None:
            open_messages -= run.end() - at
            at = run.end()
            continue
        size = _SIZE[byte]
        open_messages += _ELEMENTS[byte] - 1
        if not size:
            raise BadMessageError(f"byte {at} is {byte:#04x}, with which nothing begins")
        if byte in _LENGTH:
            width, count = _LENGTH[byte]
            number = int.from_bytes(data[at + 1 : at + 1 + width], "big")
            size += width
            if count:
                open_messages += count * number
            else:
                size += number
        at += size
    if at > end:
        raise CutOffError
    return at
