"""Messages and descriptors arrive at the other end of a socket, or nothing does."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dsl.hooks import Hook
from rezolus.bpf.handover import HandoverError, receive, send
from rezolus.bpf.load import Outcome


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_more_descriptors_than_one_message_holds_arrive_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    files = {f"file {number}": os.memfd_create(str(number)) for number in range(620)}
    for number, fd in enumerate(files.values()):
        os.write(fd, str(number).encode())
    outcome = Outcome(function="f", hook=Hook(kind="tp_btf", name="sched_switch"))
    sender = threading.Thread(target=send, args=(left, [outcome] * 5000, files))
    sender.start()
    message, received = receive(right, list[Outcome])
    sender.join()
    assert message == [outcome] * 5000
    assert list(received) == list(files)
    assert [os.pread(fd, 9, 0).decode() for fd in received.values()] == [str(number) for number in range(620)]
    assert not any(os.get_inheritable(fd) for fd in received.values())
    for fd in (*files.values(), *received.values()):
        os.close(fd)


def test_messages_follow_one_another(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    fd = os.memfd_create("one")
    send(left, "first", {"map:a": fd})
    send(left, {"second": 2})
    os.close(fd)
    first, fds = receive(right, str)
    second = receive(right, dict[str, int])
    assert (first, list(fds), second) == ("first", ["map:a"], ({"second": 2}, {}))
    os.close(fds["map:a"])


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"", "before its message was complete"),
        (struct.pack("=II", 100, 0) + b"abc", "before its message was complete"),
        (struct.pack("=II", 2**31, 0), "is not a loader of ours"),
        (struct.pack("=II", 3, 0) + b"abc", "something else"),
        (struct.pack("=II", 3, 1) + msgspec.msgpack.encode((["a"], 1)), "before its"),
    ],
)
def test_half_a_message_is_an_error(pair: tuple[socket.socket, socket.socket], sent: bytes, problem: str) -> None:
    left, right = pair
    left.sendall(sent)
    left.close()
    with pytest.raises(HandoverError, match=problem):
        receive(right, int)


def test_descriptors_of_a_message_that_does_not_fit_are_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    fd = os.memfd_create("one")
    before = descriptors()
    send(left, "text", {"a": fd})
    with pytest.raises(HandoverError, match="something else"):
        receive(right, int)
    assert descriptors() == before
    os.close(fd)
