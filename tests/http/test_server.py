"""The server on real sockets: bounds, socket files, clients that misbehave."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio

from rezolus.http import serve
from rezolus.sockets import ListenError
from rezolus.units import Address, UnixAddress
from tests import needs

ANY_PORT = Address("127.0.0.1", 0)
PAGE = b"x" * 50_000


def application() -> QuartTrio:
    app = QuartTrio("tests.http", static_folder=None)

    @app.get("/")
    async def page() -> Response:
        return Response(PAGE)

    @app.post("/")
    async def length() -> str:
        return str(len(await request.get_data()))

    return app


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Address]:
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[Address]) -> None:
            await serve(application(), ANY_PORT, task_status=task_status, **options)

        yield await nursery.start(run)
        nursery.cancel_scope.cancel()


async def get(address: Address) -> int:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://{address}/")).status_code


async def test_a_socket_file_is_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[UnixAddress]) -> None:
            await serve(application(), UnixAddress(str(path)), task_status=task_status)

        assert await nursery.start(run) == UnixAddress(str(path))
        assert path.stat().st_mode & 0o777 == 0o660
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
            assert (await client.get("http://any.name/")).content == PAGE
        with pytest.raises(ListenError, match="address already in use"):
            await serve(application(), UnixAddress(str(path)))
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_what_lies_where_the_socket_should_be_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.write_text("mine")
    with pytest.raises(ListenError, match=f"cannot listen on unix:{path}"):
        await serve(application(), UnixAddress(str(path)))
    assert path.read_text() == "mine"


async def test_the_longest_idle_connection_makes_room() -> None:
    async with serving(max_connections=4) as address:
        idle = [await trio.open_tcp_stream(address.host, address.port) for _ in range(4)]
        for stream in idle:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await read_page(stream)
        assert await get(address) == 200
        with trio.fail_after(5):
            assert await idle[0].receive_some() == b""
        await idle[3].send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await read_page(idle[3])
        for stream in idle:
            await stream.aclose()


async def read_page(stream: trio.SocketStream) -> None:
    received = b""
    with trio.fail_after(10):
        while not received.endswith(PAGE):
            received += await stream.receive_some()


async def test_five_hundred_clients_at_once_are_all_answered() -> None:
    # Both ends of every connection are in this process.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    answered = 0

    async def client(address: Address) -> None:
        nonlocal answered
        async with await trio.open_tcp_stream(address.host, address.port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await read_page(stream)
            answered += 1

    try:
        async with serving() as address, trio.open_nursery() as clients:
            for _ in range(500):
                clients.start_soon(client, address)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert answered == 500


async def test_who_wants_the_connection_closed_gets_its_end_with_the_answer() -> None:
    with trio.fail_after(20):
        async with serving() as address, await trio.open_tcp_stream(address.host, address.port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b"".join([part async for part in stream])
    assert answer.endswith(PAGE)


async def test_slow_readers_do_not_keep_others_waiting() -> None:
    async with serving() as address:
        slow = [await trio.open_tcp_stream(address.host, address.port) for _ in range(20)]
        for stream in slow:
            for _ in range(200):  # more answers than any socket buffers, and none of them read
                with trio.move_on_after(0.01):
                    await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with trio.fail_after(10):
            assert await get(address) == 200
        for stream in slow:
            await trio.aclose_forcefully(stream)


async def test_a_body_beyond_the_bound_is_refused() -> None:
    async with serving() as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        assert (await client.post("/", content=b"x" * 1000)).text == "1000"
        assert (await client.post("/", content=b"x" * 100_000)).status_code == 413

        async with await trio.open_tcp_stream(address.host, address.port) as stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(b"1000\r\n" + bytes(0x1000) + b"\r\n")
        assert await get(address) == 200


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (b"Transfer-Encoding: chunked\r\n", b"11000\r\n" + bytes(0x11000) + b"\r\n0\r\n\r\n", b"413"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"4\r\nabcd\r\n0\r\n\r\n", b"400"),
    ],
)
async def test_a_body_that_is_not_taken_ends_the_connection_with_a_sentence(
    headers: bytes, body: bytes, status: bytes
) -> None:
    """So that nothing of it is taken for the next request."""
    async with serving() as address:
        with trio.fail_after(30):
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                hidden = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
                await stream.send_all(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n" + body + hidden)
                answer = b"".join([part async for part in stream])
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"body" in answer.partition(b"\r\n\r\n")[2]


def malformed(chance: random.Random) -> bytes:
    """A request that was valid once."""
    valid = (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(27),
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: dGVz\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    )
    data = bytearray(chance.choice(valid))
    for _ in range(chance.randrange(1, 8)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 1:
                del data[at : at + chance.randrange(1, 20)]
            case 2:
                data[at:at] = chance.choice((b"\r\n", b"\0", b"\xff", b": ", b"HTTP/9.9", b"Content-Length: -1\r\n"))
            case 3:
                data[at:at] = data[: chance.randrange(len(data) + 1)]
            case _:
                data[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(data)


async def test_ten_thousand_malformed_requests_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(4)
    limiter = trio.CapacityLimiter(20)

    async def send(address: Address, data: bytes) -> None:
        async with limiter, await trio.open_tcp_stream(address.host, address.port) as stream:
            with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(30):
                await stream.send_all(data)
                await stream.send_eof()
                while await stream.receive_some():
                    pass

    async with serving() as address:
        for _ in range(20):
            async with trio.open_nursery() as clients:
                for _ in range(500):
                    clients.start_soon(send, address, malformed(chance))
            assert await get(address) == 200
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


async def test_what_a_fuzzer_makes_of_requests_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    zzuf = needs.program("zzuf", "zzuf")
    seed = tmp_path / "request"
    seed.write_bytes(
        malformed(random.Random(1)) + b"GET /?last=5m HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-5\r\n\r\n"
    )
    async with serving() as address:
        for number in range(300):
            fuzzed = await trio.run_process(
                [zzuf, "-s", str(number), "-r", "0.001:0.05", "cat", str(seed)],
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
            )
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(30):
                    await stream.send_all(fuzzed.stdout)
                    await stream.send_eof()
                    while await stream.receive_some():
                        pass
        assert await get(address) == 200
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(("limit", "most"), [(300, 16), (1024, 192), (8192, 1024)])
def test_connections_leave_descriptors_to_everything_else(limit: int, most: int) -> None:
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
        "from rezolus.http import most_connections; print(most_connections())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == most
