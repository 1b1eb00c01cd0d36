"""Pass a message and open descriptors to another process over a Unix stream socket.

On the wire: two u32 (length of the body, number of descriptors), the body (msgpack: names, message), then the
descriptors in batches, each with one byte of data, because the kernel takes at most 253 at a time.
Both ends block; run them in a thread or before an event loop starts.
"""

from __future__ import annotations

import os
import socket
import struct
from array import array
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

_HEADER: Final = struct.Struct("=II")
_BATCH: Final = 200
_LONGEST: Final = 1 << 30


class HandoverError(Exception):
    """The other side ended early or sent something else."""


def send(sock: socket.socket, message: object, fds: Mapping[str, int] | None = None) -> None:
    """Send a message (anything msgspec encodes) and descriptors by name; they stay open here too.

    `OSError` when the other side is gone.
    """
    names = list(fds or {})
    body = msgspec.msgpack.encode((names, message))
    sock.sendall(_HEADER.pack(len(body), len(names)) + body)
    numbers = list((fds or {}).values())
    for start in range(0, len(numbers), _BATCH):
        socket.send_fds(sock, [b"+"], numbers[start : start + _BATCH])


def receive(sock: socket.socket, of_type: type[T]) -> tuple[T, dict[str, int]]:
    """Receive what `send` sent: the message as `of_type`, and the descriptors (close-on-exec), owned by the caller.

    `HandoverError` when the other side closed or what came does not fit; no descriptor is then left open.
    """
    length, count = _HEADER.unpack(_exactly(sock, _HEADER.size))
    if length > _LONGEST:
        raise HandoverError(f"a message of {length} bytes was announced: the other side is not a loader of ours")
    body = _exactly(sock, length)
    fds = _receive_fds(sock, count)
    try:
        names, message = msgspec.msgpack.decode(body, type=tuple[list[str], msgspec.Raw])
        return msgspec.msgpack.decode(message, type=of_type), dict(zip(names, fds, strict=True))
    except ValueError as error:  # msgspec's own errors are ValueErrors too
        _close(fds)
        raise HandoverError(f"the other side sent something else: {error}") from error


def _exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = sock.recv(min(length - len(data), 1 << 20))
        if not part:
            raise HandoverError("the other side closed before its message was complete")
        data += part
    return bytes(data)


def _receive_fds(sock: socket.socket, count: int) -> list[int]:
    fds: list[int] = []
    try:
        while len(fds) < count:
            fds += _receive_batch(sock)
    except (OSError, HandoverError):
        _close(fds)
        raise
    return fds


def _receive_batch(sock: socket.socket) -> list[int]:
    numbers = array("i")
    data, ancillary, flags, _ = sock.recvmsg(1, socket.CMSG_LEN(_BATCH * numbers.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    received = list(numbers)
    if not data or flags & socket.MSG_CTRUNC or not received:
        _close(received)
        cut = "this process may not open so many files: raise the limit (LimitNOFILE)"
        raise HandoverError(cut if flags & socket.MSG_CTRUNC else "the other side closed before its descriptors came")
    return received


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
