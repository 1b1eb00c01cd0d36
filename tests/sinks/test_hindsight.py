from __future__ import annotations

import io
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import trio
import trio.testing

from rezolus import __version__
from rezolus.config import HindsightConfig
from rezolus.guard import TokenError
from rezolus.reading import Catalog, Reading, Series
from rezolus.recording.child import Finished, finish_in_child
from rezolus.sinks.dumps import MAX_OPEN
from rezolus.sinks.hindsight import Hindsight, HindsightError
from rezolus.sinks.hindsight_pages import CHUNK, Sending
from rezolus.units import Address
from tests.disks import tmpfs, use_up
from tests.synthetic import START_NS, Walk, catalog

S = 10**9
ANY_PORT = Address("127.0.0.1", 0)
SMALL = catalog(cgroups=0)
NOISE = Catalog(tuple(Series("noise", "counter", {"id": str(n)}) for n in range(4000)), (), ())
"""Three hundred random readings of it are larger than the buffers of two sockets."""


def config(folder: Path, **changes: object) -> HindsightConfig:
    values: dict[str, object] = {"listen": ANY_PORT, "path": folder / "out.parquet", "interval": S} | changes
    return HindsightConfig(**values)  # type: ignore[arg-type]


async def until(condition: Callable[[], object]) -> None:
    """Poll for what a thread or another process does; the caller has the deadline."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.01)


@dataclass
class Running:
    sink: Hindsight
    send: trio.MemorySendChannel[Reading]
    client: httpx.AsyncClient
    given: int = 0

    async def give(self, readings: Sequence[Reading]) -> None:
        """Give readings and wait until each is written or lost."""
        for reading in readings:
            self.given += 1
            await self.send.send(reading)
            if self.given % 32 == 0:  # else it would be more than may wait for the disk
                await until(self.is_done)
        await until(self.is_done)

    def is_done(self) -> bool:
        """Whether each reading given was written or lost."""
        statistics = self.sink.statistics()
        return statistics.written + statistics.lost == self.given


@asynccontextmanager
async def running(sink: Hindsight) -> AsyncIterator[Running]:
    send, receive = trio.open_memory_channel[Reading](0)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(sink.run, receive)
            base = f"http://{sink.statistics().listen or 'nowhere'}"
            async with httpx.AsyncClient(base_url=base, timeout=30) as client:
                yield Running(sink, send, client)
            await send.aclose()


def noise(walk: Walk) -> Reading:
    """A reading that cannot be compressed."""
    walk.ticks += 1
    walk.counters = walk.random.integers(0, 2**63, len(walk.counters)).astype(np.uint64)
    return walk.reading()


def times(parquet: bytes | Path) -> list[int]:
    source = io.BytesIO(parquet) if isinstance(parquet, bytes) else parquet
    found: list[int] = pq.read_table(source, columns=["timestamp"])["timestamp"].to_pylist()
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_the_buffer_is_dumped_over_http_and_to_a_file(tmp_path: Path) -> None:
    sink = Hindsight("hind", config(tmp_path), lambda: {"systeminfo": "{}"})
    readings = list(Walk(catalog(cgroups=2)).run(25))
    async with running(sink) as hindsight:
        await hindsight.give(readings)
        answer = await hindsight.client.get("/dump")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/octet-stream"
        assert "dump.parquet" in answer.headers["content-disposition"]
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert times(answer.content) == [reading.time_ns for reading in readings]
        metadata = pq.read_metadata(io.BytesIO(answer.content)).metadata
        assert (metadata[b"sampling_interval_ms"], metadata[b"systeminfo"]) == (b"1000", b"{}")
        assert names(tmp_path) == ["out.parquet.buffer"]
        start, end = readings[3].time_ns // S, readings[7].time_ns // S
        written = await hindsight.client.post(f"/dump/file?start={start}&end={end}")
        assert written.json() == {
            "path": str(tmp_path / "out.parquet"),
            "snapshots": 5,
            "time_range": {"start": start, "end": end},
        }
    assert times(tmp_path / "out.parquet") == [reading.time_ns for reading in readings[3:8]]


async def test_a_range_is_exact_and_both_ends_belong_to_it(tmp_path: Path) -> None:
    walk = Walk(SMALL)
    now = time.time_ns() // S
    readings = [at(walk.step(), (now - 30 + number) * S) for number in range(25)]
    ranges = {
        "": range(25),
        f"start={now - 30 + 19}": range(19, 25),
        f"end={now - 30 + 2}": range(3),
        f"start={now - 30 + 2}&end={now - 30 + 2}": [2],
        f"start={rfc3339(now - 30 + 1)}&end={rfc3339(now - 30 + 2, '.999999999')}": range(1, 3),
        "last=1h 30m&start=0&end=0": range(25),
        f"start={now + 1000}": [],
        "start=0&end=0": [],
    }
    async with running(Hindsight("hind", config(tmp_path))) as hindsight:
        await hindsight.give(readings)
        recent = await hindsight.client.get("/dump?last=15s")
        seconds = time.time_ns() // S - now  # the clock goes on
        found = times(recent.content) if recent.content[:4] == b"PAR1" else []
        assert 10 - seconds - 1 <= len(found) <= 10
        for query, expected in ranges.items():
            answer = await hindsight.client.get(f"/dump?{query}")
            assert answer.status_code == 200
            if expected:
                assert times(answer.content) == [readings[number].time_ns for number in expected]
            else:
                assert answer.headers["content-type"] == "text/plain; charset=utf-8"
                assert answer.text == "no reading matches this range\n"
        written = await hindsight.client.post("/dump/file?start=0&end=0")
        assert written.json() == {"path": "", "snapshots": 0, "time_range": None}
        assert not (tmp_path / "out.parquet").exists()


def at(reading: Reading, time_ns: int) -> Reading:
    reading.time_ns = time_ns
    return reading


def rfc3339(seconds: int, fraction: str = "") -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(f"%Y-%m-%dT%H:%M:%S{fraction}Z")


async def test_a_range_that_cannot_be_understood_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with running(Hindsight("hind", config(tmp_path))) as hindsight:
        for query in ("last=soon", "start=yesterday", "start=5&end=4", "since=5"):
            answer = await hindsight.client.get(f"/dump?{query}")
            assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
            reason = answer.text.removesuffix("\n")
            written = await hindsight.client.post(f"/dump/file?{query}")
            assert written.status_code == 400
            assert written.json() == {"path": "", "snapshots": 0, "time_range": None, "error": reason}


async def test_a_range_in_the_body_is_refused_and_an_empty_body_is_none(tmp_path: Path) -> None:
    async with running(Hindsight("hind", config(tmp_path))) as hindsight:
        await hindsight.give(list(Walk(SMALL).run(2)))
        for body in ({"data": {"last": "3s"}}, {"content": b"{}"}, {"json": {"last": "3s"}}):
            refused = await hindsight.client.post("/dump/file", **body)
            assert refused.status_code == 400
            assert "the range goes into the query string" in refused.json()["error"]
        assert not (tmp_path / "out.parquet").exists()
        assert (await hindsight.client.post("/dump/file", content=b"")).json()["snapshots"] == 2


async def test_the_other_pages(tmp_path: Path) -> None:
    sink = Hindsight("hind", config(tmp_path, duration=100 * S))
    async with running(sink) as hindsight:
        client = hindsight.client
        assert (await client.get("/")).text.startswith(f"Rezolus {__version__} Hindsight\n")
        empty = (await client.get("/status")).json()
        assert (empty["snapshot_count"], empty["oldest_timestamp"], empty["newest_timestamp"]) == (0, None, None)
        await hindsight.give(list(Walk(SMALL).run(25)))
        status = (await client.get("/status")).json()
        assert {key: status[key] for key in list(status)[:7]} == {
            "buffer_duration_secs": 100,
            "sampling_interval_ms": 1000,
            "snapshot_count": 25,
            "snapshots_written": 25,
            "oldest_timestamp": START_NS // S + 1,
            "newest_timestamp": START_NS // S + 25,
            "buffer_utilization": 0.25,
        }
        assert (status["lost"], status["error"], status["segments"]) == (0, None, 3)
        for method, path, allowed in [
            ("POST", "/dump", "GET"),
            ("GET", "/dump/file", "POST"),
            ("PUT", "/status", "GET"),
        ]:
            refused = await client.request(method, path)
            assert (refused.status_code, refused.text) == (405, f"method not allowed: {method} {path}\n")
            assert allowed in refused.headers["allow"]
        assert (await client.get("/dump/elsewhere")).status_code == 404
        head = await client.head("/dump")
        assert (head.status_code, head.content) == (200, b"")
        assert "no reading" in (await client.get("/dump?start=0&end=0")).text
        assert sink.statistics().dumps == 0


async def test_many_dumps_at_once_and_more_are_told_to_come_back(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(30))
    sink = Hindsight("hind", config(tmp_path))
    async with running(sink) as hindsight:
        await hindsight.give(readings)
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await hindsight.client.get("/dump"))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)
        assert [answer.status_code for answer in answers] == [200] * 8
        assert all(times(answer.content) == [reading.time_ns for reading in readings] for answer in answers)
        await until(lambda: sink.dumps.open == 0)
        for _ in range(MAX_OPEN):
            sink.dumps.enter()
        busy = await hindsight.client.get("/dump")
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "5")
        assert "try again in some seconds" in busy.text
        also = await hindsight.client.post("/dump/file")
        assert (also.status_code, also.headers["retry-after"]) == (503, "5")
        assert also.json()["error"] in busy.text
        for _ in range(MAX_OPEN):
            sink.dumps.leave()
        assert (await hindsight.client.get("/dump")).status_code == 200
        await until(lambda: sink.dumps.open == 0)
        assert [name for name in names(sink.folder) if not name.endswith(".segment")] == []


async def test_a_dump_that_waited_is_the_buffer_when_its_turn_comes(tmp_path: Path) -> None:
    begun: list[list[str]] = []
    go_on = trio.Event()

    async def waiting(arguments: list[str]) -> Finished:
        begun.append(arguments)
        await go_on.wait()
        return await finish_in_child(arguments)

    readings = list(Walk(SMALL).run(100))
    sink = Hindsight("hind", config(tmp_path, duration=20 * S), finisher=waiting)
    async with running(sink) as hindsight:
        await hindsight.give(readings[:15])
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await hindsight.client.get("/dump"))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)
            await until(lambda: sink.dumps.open == 4)
            await hindsight.give(readings[15:])
            assert len(begun) == 2
            go_on.set()
        last = sorted(len(times(answer.content)) for answer in answers)[-2:]
    kept = sink.statistics().ring.rows
    assert 20 <= kept <= 30
    assert last == [kept, kept]


async def test_a_client_that_reads_nothing_or_goes_away_leaves_nothing_behind(tmp_path: Path) -> None:
    walk = Walk(NOISE)
    sink = Hindsight("hind", config(tmp_path))
    async with running(sink) as hindsight:
        await hindsight.give([noise(walk) for _ in range(300)])
        host, _, port = sink.statistics().listen.rpartition(":")
        hanging = await trio.open_tcp_stream(host, int(port))
        await hanging.send_all(b"GET /dump HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await hanging.receive_some(16)).startswith(b"HTTP/1.1 200")
        left = await trio.open_tcp_stream(host, int(port))
        await left.send_all(b"GET /dump HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: sink.dumps.open == 2)
        await left.aclose()
        await until(lambda: sink.dumps.open == 1)
        # Others are served meanwhile, and readings taken.
        whole = await hindsight.client.get("/dump?end=0")
        assert whole.status_code == 200
        await hindsight.give([noise(walk)])
        assert sink.statistics().lost == 0
        assert [name for name in names(sink.folder) if not name.endswith(".segment")] == []
        await hanging.aclose()
        await until(lambda: sink.dumps.open == 0)


async def test_it_ends_though_a_client_reads_nothing(tmp_path: Path) -> None:
    walk = Walk(NOISE)
    sink = Hindsight("hind", config(tmp_path))
    async with running(sink) as hindsight:
        await hindsight.give([noise(walk) for _ in range(300)])
        host, _, port = sink.statistics().listen.rpartition(":")
        hanging = await trio.open_tcp_stream(host, int(port))
        await hanging.send_all(b"GET /dump HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await hanging.receive_some(16)
    await hanging.aclose()
    assert sink.dumps.open == 0


async def test_a_dump_goes_on_without_its_client_and_ends_with_the_sink(tmp_path: Path) -> None:
    begun, ended = trio.Event(), trio.Event()

    async def endless(arguments: list[str]) -> Finished:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    sink = Hindsight("hind", config(tmp_path), finisher=endless)
    async with running(sink) as hindsight:
        with trio.move_on_after(30) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hindsight.client.get, "/dump")
                await begun.wait()
                client.cancel()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not ended.is_set()
        assert sink.dumps.open == 1
        assert (await hindsight.client.get("/status")).status_code == 200
    assert ended.is_set()
    assert sink.dumps.open == 0


async def test_a_capture_writes_the_file_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    readings = list(Walk(SMALL).run(5))
    sink = Hindsight("hind", config(tmp_path, listen=None))
    await sink.capture()
    assert "cannot write" in caplog.text
    assert "the buffer is not open" in caplog.text
    async with running(sink) as hindsight:
        await sink.capture()
        assert "the buffer is empty" in caplog.text
        await hindsight.give(readings)
        async with trio.open_nursery() as nursery:
            for _ in range(3):  # as impatient people do
                nursery.start_soon(sink.capture)
        assert caplog.text.count("out.parquet: 5 readings") == 3
    assert times(tmp_path / "out.parquet") == [reading.time_ns for reading in readings]


async def test_the_next_start_has_what_the_last_one_left(tmp_path: Path) -> None:
    readings = list(Walk(SMALL).run(30))
    for part in (readings[:12], readings[12:]):
        async with running(Hindsight("hind", config(tmp_path))) as hindsight:
            await hindsight.give(part)
            last = await hindsight.client.get("/dump")
    assert times(last.content) == [reading.time_ns for reading in readings]


async def test_a_buffer_has_one_owner(tmp_path: Path) -> None:
    async with running(Hindsight("one", config(tmp_path))):
        other = Hindsight("two", config(tmp_path))
        _, receive = trio.open_memory_channel[Reading](0)
        with pytest.raises(HindsightError, match=r"the buffer .*out\.parquet\.buffer is in use by another process"):
            await other.run(receive)


async def test_a_buffer_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    _, receive = trio.open_memory_channel[Reading](0)
    sink = Hindsight("hind", config(tmp_path, buffer=tmp_path / "file" / "buffer"))
    with pytest.raises(HindsightError, match=r"cannot use the buffer .*/file/buffer: .*not a directory"):
        await sink.run(receive)


async def test_dumps_that_would_replace_something_else_are_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "out.parquet").write_text("precious")
    _, receive = trio.open_memory_channel[Reading](0)
    with pytest.raises(HindsightError, match=r"cannot write dumps: .*/out\.parquet: exists and is no recording"):
        await Hindsight("hind", config(tmp_path)).run(receive)
    assert (tmp_path / "out.parquet").read_text() == "precious"


async def test_it_buffers_while_its_address_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = Address("127.0.0.1", taken.getsockname()[1])
        sink = Hindsight("hind", config(tmp_path, listen=address), listen_retry_s=0.05)
        async with running(sink) as hindsight:
            await hindsight.give(list(Walk(SMALL).run(5)))
            assert sink.statistics().listen == ""
            assert "address already in use" in sink.statistics().error
            await until(lambda: "address already in use; trying again" in caplog.text)
            taken.close()
            await until(lambda: sink.statistics().listen)
            assert (sink.statistics().written, sink.statistics().error) == (5, "")
    assert caplog.text.count("trying again") == 1


async def test_a_full_disk_is_said_once_and_overcome(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(60))
    sink = Hindsight("hind", config(small_disk), retry_ns=2 * S)
    async with running(sink) as hindsight:
        await hindsight.give(readings[:3])
        use_up(small_disk / "ballast")
        await hindsight.give(readings[3:40])
        status = (await hindsight.client.get("/status")).json()
        assert status["error"] == "no space left on device"
        assert status["lost"] > 20
        assert status["snapshot_count"] == status["snapshots_written"] == 40 - status["lost"]
        (small_disk / "ballast").unlink()
        await hindsight.give(readings[40:])
        after = (await hindsight.client.get("/status")).json()
        assert after["error"] is None
        assert after["newest_timestamp"] == readings[-1].time_ns // S
        answer = await hindsight.client.get("/dump", timeout=30)
        assert answer.status_code in {200, 500}
        if answer.status_code == 500:
            assert "not enough space" in answer.text
    assert caplog.text.count("no space left on device; trying again") == 1
    assert caplog.text.count("writing again") == 1


async def test_a_disk_that_is_full_at_the_start_is_overcome_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    readings = list(Walk(SMALL).run(40))
    with tmpfs(tmp_path / "small", "64m,nr_inodes=16") as disk:
        fillers = [disk / str(number) for number in range(15)]  # and the root: not even a folder can be made
        for path in fillers:
            path.touch()
        sink = Hindsight("hind", config(disk), retry_ns=2 * S)
        async with running(sink) as hindsight:
            await hindsight.give(readings[:3])
            status = (await hindsight.client.get("/status")).json()
            assert status["error"].endswith("no space left on device")
            assert status["lost"] == 3
            answer = await hindsight.client.get("/dump")
            assert answer.status_code == 500
            assert "the buffer is not open: " in answer.text
            for path in fillers:
                path.unlink()
            await hindsight.give(readings[3:])
            assert sink.statistics().error == ""
            assert sink.statistics().written > 30
            last = await hindsight.client.get("/dump")
        assert times(last.content)[-1] == readings[-1].time_ns
    assert caplog.text.count("no space left on device; trying again") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    with tmpfs(tmp_path / "small", "1m") as mount:
        yield mount


async def test_what_the_writer_of_dumps_says_reaches_whoever_asked(tmp_path: Path) -> None:
    async def killed(arguments: list[str]) -> Finished:
        return Finished(-9, "", "")

    async def missing(arguments: list[str]) -> Finished:
        raise FileNotFoundError(2, "No such file or directory")

    for finisher, message in (
        (killed, "killed by signal 9"),
        (missing, "cannot start the Parquet writer: no such file"),
    ):
        sink = Hindsight("hind", config(tmp_path), finisher=finisher)
        async with running(sink) as hindsight:
            answer = await hindsight.client.get("/dump")
            assert (answer.status_code, answer.headers["content-type"]) == (500, "text/plain; charset=utf-8")
            assert message in answer.text
            written = await hindsight.client.post("/dump/file")
            assert written.status_code == 500
            assert message in written.json()["error"]
            assert sink.statistics().failed_dumps == 2


async def test_writing_a_file_can_require_a_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame\n")
    async with running(Hindsight("hind", config(tmp_path, token_file=tmp_path / "token"))) as hindsight:
        await hindsight.give(list(Walk(SMALL).run(2)))
        assert (await hindsight.client.get("/dump")).status_code == 200
        assert (await hindsight.client.post("/dump/file")).status_code == 401
        allowed = await hindsight.client.post("/dump/file", headers={"Authorization": "Bearer sesame"})
        assert allowed.json()["snapshots"] == 2
        crossed = await hindsight.client.post("/dump/file", headers={"Origin": "http://evil.example"})
        assert crossed.status_code == 403


async def test_a_token_can_be_exchanged_and_without_one_it_buffers_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "token"
    sink = Hindsight("hind", config(tmp_path, token_file=token))
    with pytest.raises(TokenError, match="cannot read the token"):
        sink.check()
    async with running(sink) as hindsight:
        assert caplog.text.count(f"{token}: cannot read the token: no such file") == 1  # before anybody asks
        await hindsight.give(list(Walk(SMALL).run(2)))
        assert (await hindsight.client.get("/dump")).status_code == 200
        refused = await hindsight.client.post("/dump/file", headers={"Authorization": "Bearer first"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.text == "the configured token cannot be read: see the log\n"
        for word, other in (("first", "second"), ("second", "first")):
            token.write_text(word)
            sent = {"Authorization": f"Bearer {word}"}
            assert (await hindsight.client.post("/dump/file", headers=sent)).json()["snapshots"] == 2
            sent = {"Authorization": f"Bearer {other}"}
            assert (await hindsight.client.post("/dump/file", headers=sent)).status_code == 401


class Watched(io.BytesIO):
    """A file that says which threads use it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.used: dict[str, set[int]] = {"read": set(), "close": set()}

    def read(self, size: int | None = -1) -> bytes:
        self.used["read"].add(threading.get_ident())
        return super().read(size)

    def close(self) -> None:
        self.used["close"].add(threading.get_ident())
        super().close()


async def test_a_dump_is_read_and_closed_by_threads_also_when_its_client_goes(tmp_path: Path) -> None:
    dumps = Hindsight("hind", config(tmp_path)).dumps
    for goes in (False, True):
        file = Watched(bytes(3 * CHUNK))
        dumps.enter()
        got = 0
        with trio.CancelScope() as client:
            async with Sending(file, dumps) as body:
                async for chunk in body:
                    got += len(chunk)
                    if goes:
                        client.cancel()
                        await trio.lowlevel.checkpoint()
        assert client.cancelled_caught == goes
        assert got == (1 if goes else 3) * CHUNK
        assert file.closed
        assert dumps.open == 0
        assert file.used["read"]
        assert threading.get_ident() not in file.used["read"] | file.used["close"]


async def test_a_dump_that_nobody_began_to_send_is_closed_by_a_thread(tmp_path: Path) -> None:
    dumps = Hindsight("hind", config(tmp_path)).dumps
    file = Watched(b"PAR1")
    dumps.enter()
    body = Sending(file, dumps)
    del body
    assert dumps.open == 0
    with trio.fail_after(60):
        await until(lambda: file.closed)
    assert threading.get_ident() not in file.used["close"]


CHANGES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}
"""What Python's audit events call what a dump does to a disk."""


def test_the_event_loop_leaves_the_files_of_a_dump_alone(tmp_path: Path) -> None:
    """In a process of its own, as a hook of the interpreter stays until its end."""
    watched = subprocess.run(
        [sys.executable, "-m", "tests.sinks.watched_dump", str(tmp_path), *CHANGES],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (watched.stdout, watched.returncode) == ("", 0), watched.stderr


async def test_a_buffer_that_would_fill_its_disk_can_be_dumped_all_the_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    walk = Walk(NOISE)
    with tmpfs(tmp_path / "small", "4m") as disk:
        async with running(Hindsight("hind", config(disk))) as hindsight:
            for query in ("", "?last=200years", "?start=0"):
                await hindsight.give([noise(walk) for _ in range(80)])
                answer = await hindsight.client.get(f"/dump{query}")
                status = (await hindsight.client.get("/status")).json()
                assert (status["lost"], status["error"]) == (0, None)
                assert len(times(answer.content)) == status["snapshot_count"]
            assert (await hindsight.client.post("/dump/file")).json()["snapshots"] == status["snapshot_count"]
            assert status["dropped_on_full_disk"] > 0
    assert caplog.text.count("has too little room: the oldest goes before its time") == 1
