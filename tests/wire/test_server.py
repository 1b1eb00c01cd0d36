"""A running agent serves the wire: every page, every encoding, one reading for all who ask at once."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Protocol

import httpcore
import pytest
import trio
import zstandard

from rezolus import __version__
from rezolus.agent.agent import Agent, AgentOptions
from rezolus.agent.server import make_app
from rezolus.agent.snapshots import Snapshots
from rezolus.agent.status import agent_status
from rezolus.config import Selection
from rezolus.http import serve
from rezolus.reading import Reading
from rezolus.sinks.stream import Selector
from rezolus.units import Address
from rezolus.wire.decode import Decoder, Snapshot
from tests.agent.running import Daemon, daemon
from tests.synthetic import Walk
from tests.wire.readings import values

BINARY, JSON, TEXT = "application/octet-stream", "application/json", "text/plain; charset=utf-8"
PAGES = {
    "/": TEXT,
    "/metrics/binary": BINARY,
    "/metrics/json": TEXT,
    "/metrics/descriptions": JSON,
    "/systeminfo": JSON,
    "/samplers": JSON,
    "/status": JSON,
}
SECOND_NS = 10**9
HOUR_NS = 3600 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path, "--interval", "0.05") as found:
        found.reading()  # the loader is done
        yield found


def ask(address: str, method: str, path: str, **headers: str) -> Answer:
    connection = HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@pytest.mark.kernel
def test_every_page_has_its_type_in_every_encoding(running: Daemon) -> None:
    for path, content_type in PAGES.items():
        for encoding, undo in (
            ("gzip", gzip.decompress),
            ("zstd", zstandard.ZstdDecompressor().decompress),
            (None, bytes),
        ):
            answer = ask(running.address, "GET", path, accept_encoding=encoding or "identity")
            assert (answer.status, answer.headers["content-type"]) == (200, content_type)
            assert answer.headers["vary"] == "Accept-Encoding"
            assert answer.headers.get("content-encoding") == (None if path == "/" else encoding)
            plain = answer.body if path == "/" else undo(answer.body)
            assert plain
            if path not in {"/", "/metrics/binary"}:
                json.loads(plain)


@pytest.mark.kernel
def test_the_binary_page_is_a_snapshot_of_what_runs(running: Daemon) -> None:
    snapshot = Decoder().decode(ask(running.address, "GET", "/metrics/binary").body)
    assert snapshot.metadata == {"source": "rezolus", "version": __version__}
    names = {series.name for series in snapshot.reading.catalog.counters}
    described = json.loads(ask(running.address, "GET", "/metrics/descriptions").body)
    assert {"switches_total", "rezolus_late_ticks"} <= names
    assert {name for name in names if name.startswith("rezolus_")} <= described.keys()
    assert list(described) == sorted(described)


@pytest.mark.kernel
def test_pages_of_rezolus_are_as_its_readers_expect(running: Daemon) -> None:
    assert ask(running.address, "GET", "/").body.split()[:2] == [b"Rezolus", __version__.encode()]
    samplers = json.loads(ask(running.address, "GET", "/samplers").body)
    assert samplers
    assert [one["name"] for one in samplers] == sorted(one["name"] for one in samplers)
    assert json.loads(ask(running.address, "GET", "/systeminfo").body)["os"] == "linux"
    for path, content_type in PAGES.items():
        head = ask(running.address, "HEAD", path)
        assert (head.status, head.headers["content-type"], head.body) == (200, content_type, b"")


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/metrics", 404, b"not found: GET /metrics\n"),
        ("GET", "/metrics/prometheus", 404, b"not found: GET /metrics/prometheus\n"),
        ("POST", "/metrics/binary", 405, b"method not allowed: POST /metrics/binary\n"),
        ("DELETE", "/status", 405, b"method not allowed: DELETE /status\n"),
    ],
)
def test_what_there_is_not_is_said_in_a_line(running: Daemon, method: str, path: str, status: int, says: bytes) -> None:
    answer = ask(running.address, method, path)
    assert (answer.status, answer.headers["content-type"], answer.body) == (status, TEXT, says)


@dataclass(slots=True)
class Readings:
    """Gives the next reading of a walk each time the one before is too old, as the agent does."""

    walk: Walk = field(default_factory=Walk)
    fresh: bool = True
    latest: Reading | None = None
    taken: int = 0

    def __call__(self) -> Reading | None:
        if self.fresh or self.latest is None:
            self.latest = self.walk.step()
            self.taken += 1
        return self.latest


class Get(Protocol):
    async def __call__(self, path: str, encoding: str = "identity") -> httpcore.Response: ...


@asynccontextmanager
async def served(snapshots: Snapshots) -> AsyncIterator[Get]:
    """Ask a server of our own."""
    agent = Agent(None, AgentOptions())
    app = make_app(lambda: agent_status(agent), snapshots, systeminfo={"os": "linux"})
    async with trio.open_nursery() as nursery, httpcore.AsyncConnectionPool(max_connections=20) as pool:
        address = await nursery.start(serve, app, Address("127.0.0.1", 0))

        async def get(path: str, encoding: str = "identity") -> httpcore.Response:
            return await pool.request("GET", f"http://{address}{path}", headers=[("Accept-Encoding", encoding)])

        yield get
        nursery.cancel_scope.cancel()


async def test_all_who_ask_within_the_time_share_one_reading() -> None:
    readings = Readings(fresh=False)
    found: list[Snapshot] = []
    async with served(Snapshots(readings)) as get:

        async def one() -> None:
            found.append(Decoder().decode((await get("/metrics/binary")).content))

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(one)
    assert readings.taken == 1
    assert len(found) == 40
    assert len({snapshot.reading.time_ns for snapshot in found}) == 1


async def test_later_a_new_reading_is_served_in_every_form() -> None:
    readings = Readings()
    async with served(Snapshots(readings, version="v3")) as get:
        for encoding in ("identity", "gzip", "zstd"):
            before = readings.taken
            answer = await get("/metrics/json", encoding)
            assert readings.taken == before + 1
            assert (b"content-encoding", encoding.encode()) in answer.headers or encoding == "identity"
            binary = Decoder().decode((await get("/metrics/binary")).content)
            assert binary.version == "v3"
            assert readings.latest is not None
            assert values(binary.reading) == values(readings.latest)


async def test_only_the_selected_metrics_are_served() -> None:
    selector = Selector(Selection(include=("memory_*", "syscall*"), exclude=("syscall_latency",)))
    async with served(Snapshots(Readings(), select=selector.select)) as get:
        reading = Decoder().decode((await get("/metrics/binary")).content).reading
        catalog = reading.catalog
        assert {series.name for series in catalog.counters} == {"syscall"}
        assert all(series.name.startswith("memory_") for series in catalog.gauges)
        assert catalog.histograms == ()
        assert "syscall_latency" not in json.loads((await get("/metrics/descriptions")).content)


async def test_descriptions_are_of_everything_that_is_defined() -> None:
    snapshots = Snapshots(
        Readings(), described=lambda: [("never_seen", "Help."), ("log_x", "No."), ("syscall", "First.")]
    )
    async with served(snapshots) as get:
        described = json.loads((await get("/metrics/descriptions")).content)
    assert described["never_seen"] == "Help."
    assert described["syscall"] == "First."
    assert "log_x" not in described


async def test_before_the_first_reading_it_says_so() -> None:
    async with served(Snapshots(lambda: None)) as get:
        for form in ("binary", "json", "descriptions"):
            answer = await get(f"/metrics/{form}")
            assert (answer.status, dict(answer.headers)[b"retry-after"]) == (503, b"1")
            assert b"nothing is measured yet" in answer.content


class Everything:
    """The agent's demand in these tests: a clock that does not tick while they run."""

    interval_ns = HOUR_NS

    def wants(self, metric: str) -> bool:
        return metric != ""


async def test_the_agent_reads_only_when_the_last_reading_is_too_old() -> None:
    agent = Agent(None, AgentOptions())
    assert agent.reading_within(0) is None
    async with trio.open_nursery() as nursery:
        await nursery.start(agent.run, Everything(), lambda reading: None)
        first = agent.reading_within(0)
        assert first is not None
        assert agent.reading_within(HOUR_NS) is first
        assert agent.latest is first
        second = agent.reading_within(0)
        assert second is not None
        assert second is not first
        assert second.monotonic_ns > first.monotonic_ns
        nursery.cancel_scope.cancel()
    assert agent.reading_within(0) is None
