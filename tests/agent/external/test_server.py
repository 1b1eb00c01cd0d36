"""The socket on which others push."""

# ruff: noqa: ASYNC240 - files on a memory disk; nobody waits for them

from __future__ import annotations

import itertools
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from rezolus.agent.external.server import BATCH, serve_pushes
from rezolus.agent.external.store import Store
from rezolus.agent.privileges import PrivilegeError
from rezolus.config import ExternalConfig
from rezolus.sockets import ListenError
from rezolus.units import UnixAddress
from tests.agent.external.frames import counter, frame, gauge, session

Connect = Callable[[], Awaitable[trio.SocketStream]]


@asynccontextmanager
async def serving(path: Path, **limits: Any) -> AsyncIterator[Store]:
    store = Store()
    config = ExternalConfig(socket=UnixAddress(str(path)), **limits)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_pushes, store, config)
            yield store
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.005)


async def is_closed(stream: trio.SocketStream) -> bool:
    """Whether the other side ends the connection; it never says anything."""
    try:
        return await stream.receive_some(1) == b""
    except trio.BrokenResourceError:
        return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "x.sock"


@pytest.fixture
async def connect(path: Path) -> AsyncIterator[Connect]:
    opened: list[trio.SocketStream] = []

    async def connect() -> trio.SocketStream:
        opened.append(await trio.open_unix_socket(str(path)))
        return opened[-1]

    yield connect
    for stream in opened:
        await trio.aclose_forcefully(stream)


async def test_several_programs_push_in_either_protocol_and_are_not_answered(path: Path, connect: Connect) -> None:
    async with serving(path) as store:
        lines, frames = await connect(), await connect()
        await lines.send_all(b'# SESSION app="a"\nrequests counter:1\nrequests cou')
        await frames.send_all(frame(session({"app": "b"}), counter("requests", 7))[:-3])
        await until(lambda: store.accepted == 1)
        await lines.send_all(b"nter:2\n")
        await frames.send_all(frame(session({"app": "b"}), counter("requests", 7))[-3:] + frame(gauge("depth", 1)))
        await until(lambda: store.accepted == 4)
        assert store.connections == 2
        assert [dict(series.labels)["app"] for series in store.columns["counter"].series] == ["a", "b"]
        await lines.send_eof()
        assert await is_closed(lines)
        await until(lambda: store.connections == 1)
        assert len(store) == 3
        assert store.refused == {}
    assert await is_closed(frames)


@pytest.mark.parametrize(
    ("protocol", "garbage"),
    [
        ("auto", b"\0\xff\n"),
        ("auto", b"REZL\1\0\1\0\1\0\0\0\x09"),
        ("line", frame(counter("a", 1)) + b"\n"),
        ("binary", b"a counter:1\n"),
        ("auto", b"a" * 70_000),
    ],
)
async def test_a_malformed_connection_is_closed_and_counted_and_others_go_on(
    path: Path, connect: Connect, protocol: Any, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    good = frame(counter("good", 1)) if protocol == "binary" else b"good counter:1\n"
    async with serving(path, protocol=protocol) as store:
        fine = await connect()
        await fine.send_all(good)
        for _ in range(2):
            bad = await connect()
            await bad.send_all(garbage)
            assert await is_closed(bad)
        await fine.send_all(good)
        await until(lambda: store.accepted == 2)
        assert (store.refused, store.connections) == ({"malformed": 2}, 1)
        assert f"process {os.getpid()} of user {os.getuid()}: " in store.problem
    assert caplog.text.count("external metrics:") == 1


async def test_a_program_that_dies_leaves_what_it_had_said_and_no_half_line(path: Path, connect: Connect) -> None:
    async with serving(path) as store:
        dying = await connect()
        await dying.send_all(b"a counter:1\na counter:23")
        await dying.aclose()
        await until(lambda: store.refused == {"malformed": 1})
        assert store.columns["counter"].values.tolist() == [1]


async def test_a_connection_too_many_is_closed_and_counted_and_there_is_room_again_when_one_goes(
    path: Path, connect: Connect
) -> None:
    async with serving(path, max_connections=2) as store:
        first, second = await connect(), await connect()
        await until(lambda: store.connections == 2)
        third = await connect()
        assert await is_closed(third)
        assert store.refused == {"connections": 1}
        await first.aclose()
        await until(lambda: store.connections == 1)
        fourth = await connect()
        await fourth.send_all(b"a counter:1\n")
        await second.send_all(b"b counter:1\n")
        await until(lambda: store.accepted == 2)


async def test_a_frame_of_many_values_does_not_keep_others_waiting(path: Path, connect: Connect) -> None:
    turns: list[int] = []
    async with serving(path) as store, trio.open_nursery() as nursery:

        async def take_turns() -> None:
            while True:
                turns.append(store.accepted)
                await trio.lowlevel.checkpoint()

        nursery.start_soon(take_turns)
        many = await connect()
        await many.send_all(frame(*(counter(f"n{number}", 1) for number in range(2000))))
        await until(lambda: store.accepted == 2000)
        nursery.cancel_scope.cancel()
    steps = [after - before for before, after in itertools.pairwise(sorted(set(turns)))]
    assert max(steps) <= 2 * BATCH  # who has the first turn of two is a matter of chance


async def test_the_socket_file_is_as_configured_and_removed_at_the_end(path: Path) -> None:
    async with serving(path, mode=0o622) as store:
        assert stat.S_IMODE(path.stat().st_mode) == 0o622
        assert store.listening
    assert not path.exists()
    assert not store.listening


async def test_a_socket_that_a_killed_agent_left_is_replaced_and_nothing_else(path: Path, connect: Connect) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with serving(path) as store:
        with pytest.RaisesGroup(pytest.RaisesExc(ListenError, match="address already in use"), flatten_subgroups=True):
            async with serving(path):
                pass
        assert store.listening
        client = await connect()
        await client.send_all(b"a counter:1\n")
        await until(lambda: store.accepted)
    path.write_text("something")
    with pytest.RaisesGroup(pytest.RaisesExc(ListenError, match="address already in use"), flatten_subgroups=True):
        async with serving(path):
            pass
    assert path.read_text() == "something"


async def test_a_group_that_does_not_exist_is_said(path: Path) -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(PrivilegeError, match="no group 'nobody-has-it'; create it with"), flatten_subgroups=True
    ):
        async with serving(path, group="nobody-has-it"):
            pass
    assert not path.exists()
