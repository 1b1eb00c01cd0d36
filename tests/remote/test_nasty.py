"""Remotes that are slow, broken or hostile: a failure counted, a sentence, the next attempt, and nothing else."""

from __future__ import annotations

import gc
import itertools
import random
import resource
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from rezolus.remote.fetch import Fetcher, FetchError
from rezolus.wire.encode import Encoder
from tests.remote.servers import DATA, Answers, next_request, polling, raw, serving
from tests.remote.test_source import SMALL, Agent
from tests.synthetic import Walk

Handler = Callable[[trio.SocketStream], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
SNAPSHOT = (DATA / "live/agent-v2.msgpack").read_bytes()


def answering(answer: bytes) -> Handler:
    """One answer to every request, then the end of the connection."""

    async def handler(stream: trio.SocketStream) -> None:
        await next_request(stream)
        await stream.send_all(answer)

    return handler


def whole(body: bytes, *, length: int | None = None, more: bytes = b"") -> bytes:
    return OK + more + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


async def endlessly(stream: trio.SocketStream, first: bytes, block: bytes) -> None:
    await next_request(stream)
    await stream.send_all(first)
    while True:
        await stream.send_all(block)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "it closed the connection without an answer"),
        (b"\x00\xff garbage \x16\x03\x01\r\n\r\n", "the answer is broken: illegal status line"),
        (b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n", "the answer is broken: illegal header line"),
        (OK + b"Content-Length: minus\r\n\r\n", "the answer is broken: bad Content-Length"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "the answer is broken: illegal chunk header"),
        (whole(SNAPSHOT[:1000], length=len(SNAPSHOT)), "the answer is broken: peer closed connection"),
        (whole(SNAPSHOT[:1000]), "not a snapshot of Rezolus: input data was truncated"),
        (whole(SNAPSHOT + b"\x00"), "not a snapshot of Rezolus"),
        (whole(b"\x94" + SNAPSHOT[1:]), "not a snapshot of Rezolus"),
        (whole(b""), "not a snapshot of Rezolus: it is empty"),
        (whole(b"<html>hello</html>"), "not a snapshot of Rezolus: it does not begin with an array"),
        (whole(b"", length=1 << 40), "the answer is longer than 16 MiB"),
        (whole(zlib.compress(SNAPSHOT), more=b"Content-Encoding: deflate\r\n"), "it compresses its answer (deflate)"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "it answers 302 and points to",
        ),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "it answers 503 (Service Unavailable)"),
        (b"HTTP/1.1 599 What\r\nContent-Length: 0\r\n\r\n", "it answers 599"),
    ],
)
async def test_a_wrong_answer_is_a_sentence_and_no_reading(answer: bytes, sentence: str) -> None:
    async with raw(answering(answer)) as port, polling(f"http://127.0.0.1:{port}", protocol="msgpack") as polled:
        await polled.until(lambda: polled.source.status().failed >= 3)
        status = polled.source.status()
    assert status.state == "down"
    assert status.error.startswith(sentence), status.error
    assert "\n" not in status.error
    assert status.error.isprintable()
    assert len(status.error) < 300
    assert polled.readings == []


async def test_after_wrong_answers_right_ones_are_read() -> None:
    agent = Agent()
    wrong = [b"", b"\x96garbage", b"[]" * 1000, SNAPSHOT[:-1]]
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}") as polled:
        for body in wrong:
            await polled.until_readings(1)
            agent.pages["/metrics/binary"] = body
            await polled.until_state("down")
            agent.pages["/metrics/binary"] = agent.snapshot
        await polled.until_readings(1)
    assert {reading.catalog.counters[0].name for reading in polled.readings} == {"requests"}


async def test_a_remote_that_never_answers_costs_the_one_beside_it_nothing() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with (
        raw(silent) as slow_port,
        serving(Agent()) as fast_port,
        polling(f"http://127.0.0.1:{slow_port}") as slow,
        polling(f"http://127.0.0.1:{fast_port}", interval_ms=50) as fast,
    ):
        await slow.until_state("down")
        await fast.until_readings(1)
        assert slow.source.status().error.endswith("no answer within 2 s")
        status = fast.source.status()
    assert status.failed == 0
    assert len(fast.readings) == status.fetched - 1  # all but that of the first contact


async def test_an_endless_body_is_cut_off() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await endlessly(stream, OK + b"Connection: close\r\n\r\n", bytes(1 << 20))

    async with raw(handler) as port, Fetcher(f"http://127.0.0.1:{port}") as fetcher:
        with pytest.raises(FetchError, match="longer than 4 MiB"):
            await fetcher.get("/", timeout_s=30, limit=4 << 20)
        with pytest.raises(FetchError, match="longer than 4 MiB"):  # and the connection after that one is a new one
            await fetcher.get("/", timeout_s=30, limit=4 << 20)
        assert fetcher.connections == 2


@pytest.mark.parametrize(
    ("first", "block"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-More: %s\r\n" % (b"x" * 1000)),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 1000),
        (b"HTTP/1.1 200 ", b"O" * 1000),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 1000),
    ],
)
async def test_endless_headers_are_cut_off(first: bytes, block: bytes) -> None:
    async with (
        raw(lambda stream: endlessly(stream, first, block)) as port,
        polling(f"http://127.0.0.1:{port}", protocol="msgpack") as polled,
    ):
        await polled.until_state("down")
        assert polled.source.status().error.startswith("the answer is broken: ")


async def test_answers_byte_by_byte_without_end_are_given_up() -> None:
    async def drip(stream: trio.SocketStream) -> None:
        await next_request(stream)
        for byte in itertools.cycle(b"HTTP/1.1 100 Continue\r\n\r\n"):
            await stream.send_all(bytes([byte]))

    async with raw(drip) as port, Fetcher(f"http://127.0.0.1:{port}") as fetcher:
        with pytest.raises(FetchError, match="it answers 100 again and again, and nothing else"):
            await fetcher.get("/", timeout_s=30, limit=16 << 20)


async def turns_while(fetch: Callable[[], Awaitable[object]]) -> list[float]:
    """How long another task waited for each of its turns meanwhile, s."""
    gaps: list[float] = []
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            before = time.thread_time()
            while True:
                await trio.lowlevel.checkpoint()
                now = time.thread_time()
                gaps.append(now - before)
                before = now

        nursery.start_soon(watch)
        await fetch()
        nursery.cancel_scope.cancel()
    return gaps


async def test_a_body_of_chunks_of_one_byte_is_refused_and_others_have_their_turn_meanwhile() -> None:
    first = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    async with (
        raw(lambda stream: endlessly(stream, first, b"1\r\nx\r\n" * 10_000)) as port,
        Fetcher(f"http://127.0.0.1:{port}") as fetcher,
    ):

        async def fetch() -> None:
            with pytest.raises(FetchError, match="too small to be worth reading"):
                await fetcher.get("/", timeout_s=30, limit=16 << 20)

        gaps = await turns_while(fetch)
    assert max(gaps) < 0.02  # of CPU time; a read of 64 KiB of them took 0.11 s


async def test_a_page_that_is_sent_line_by_line_is_read() -> None:
    line = b"requests_total 1\n"
    chunks = (b"%x\r\n%s\r\n" % (len(line), line)) * 8000

    async def handler(stream: trio.SocketStream) -> None:
        await next_request(stream)
        await stream.send_all(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")

    async with raw(handler) as port, Fetcher(f"http://127.0.0.1:{port}") as fetcher:
        page = await fetcher.get("/", timeout_s=30, limit=16 << 20)
    assert page.body == line * 8000


async def test_redirects_are_not_followed_and_get_no_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame")
    elsewhere = Answers({"/metrics/binary": SNAPSHOT})
    async with serving(elsewhere) as other:
        answer = Answers({"/metrics/binary": b""}, status=307, headers={"Location": f"http://127.0.0.1:{other}/"})
        async with (
            serving(answer) as port,
            polling(f"http://127.0.0.1:{port}", protocol="msgpack", token_file=tmp_path / "token") as polled,
        ):
            await polled.until_state("down")
            assert f"points to http://127.0.0.1:{other}/; redirects are not followed" in polled.source.status().error
    assert elsewhere.asked == []


async def test_the_words_of_a_remote_are_short_and_printable_in_the_status() -> None:
    page = b"# TYPE \x1b[2J" + b"x" * 5000 + b" \x1b]0;owned\x07\n"
    async with serving(Answers({"/metrics": page})) as port, polling(f"http://127.0.0.1:{port}/metrics") as polled:
        await polled.until_state("down")
        error = polled.source.status().error
    assert error.isprintable()
    assert len(error) <= 400


async def test_a_host_name_that_does_not_exist_is_said() -> None:
    async with polling("http://does-not-exist.invalid:4241") as polled:
        await polled.source.settled()
        status = polled.source.status()
    assert status.state == "down"
    assert status.error.startswith(("cannot connect: ", "no connection within"))


async def test_pages_beside_the_snapshots_may_be_missing_broken_or_silent() -> None:
    agent = Agent()

    async def handler(stream: trio.SocketStream) -> None:
        while request := await next_request(stream):
            path = request.split()[1]
            if path == b"/metrics/binary":
                await stream.send_all(whole(agent.snapshot()))
            elif path == b"/systeminfo":
                await stream.send_all(whole(b'{"hostname": '))
            elif path == b"/metrics/descriptions":
                await stream.send_all(whole(b'{"requests": 1}'))
            else:
                await trio.sleep_forever()

    async with raw(handler) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_readings(5)
        assert polled.source.status().failed == 0
        assert dict(polled.source.metadata()) == {"source": "rezolus", "version": "6.0.0"}


@pytest.mark.slow
async def test_memory_does_not_grow_over_thousands_of_garbage_answers() -> None:
    noise = random.Random(5)
    good = Encoder("v2", {"source": "rezolus", "version": "1"}).encode(Walk(SMALL).step())

    def garbage() -> bytes:
        kind = noise.randrange(4)
        if kind == 0:
            return noise.randbytes(noise.randrange(200))
        body = bytearray(good if kind < 3 else SNAPSHOT[: noise.randrange(len(SNAPSHOT))])
        for _ in range(noise.randrange(1, 6)):
            if body:
                body[noise.randrange(len(body))] = noise.randrange(256)
        return bytes(body)

    async def handler(stream: trio.SocketStream) -> None:
        while await next_request(stream):
            body = garbage()
            if noise.random() < 0.1:
                await stream.send_all(body)  # not even HTTP
                return
            await stream.send_all(whole(body))

    async with raw(handler) as port, polling(f"http://127.0.0.1:{port}", interval_ms=1, protocol="msgpack") as polled:
        await polled.until(lambda: polled.source.status().failed > 500)
        gc.collect()
        objects, peak = len(gc.get_objects()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await polled.until(lambda: polled.source.status().failed > 2500)
        polled.readings.clear()
        gc.collect()
        assert len(gc.get_objects()) < objects + 2000
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < peak + 8192
