"""`rezolus exporter` as a process of its own: an agent that sends garbage, and far more scrapers than are usual."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from rezolus.wire.encode import Encoder
from tests import needs
from tests.faults.services import Service, free_port, get, open_folder, service
from tests.remote.servers import DATA, Answers, next_request, raw, serving
from tests.sinks.strict import samples
from tests.synthetic import Walk, catalog

pytestmark = pytest.mark.slow
MB = 10**6
GARBAGE = 60
SCRAPES = 400
SLOW = 100
PATIENCE_S = 60
SPARE_MB = 6
"""By how much memory may be above what it was before: what the C library keeps in between."""

SNAPSHOT = (DATA / "live/agent-v2.msgpack").read_bytes()
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/msgpack\r\n"
WHOLE = OK + b"Content-Length: %d\r\n\r\n"
ENDLESS = OK + b"Connection: close\r\n\r\n"
ANSWERS = (
    b"",
    os.urandom(5000),
    OK + b"Content-Length: many\r\n\r\n",
    WHOLE % len(SNAPSHOT) + SNAPSHOT[:2000],
    WHOLE % 2000 + SNAPSHOT[:2000],
    WHOLE % 5000 + b"\x93" * 5000,
    WHOLE % (1 << 50),
    ENDLESS,
    b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n",
)

CONFIG = """
[agent]
enabled = false
interval = "50ms"
user = "nobody"
{sources}
[sinks.prom]
type = "exporter"
listen = "127.0.0.1:{exporter}"
source = [{names}]
histograms = "both"
"""


def write_config(folder: Path, exporter: int, **sources: int) -> Path:
    tables = "".join(f'[sources.{name}]\nurl = "http://127.0.0.1:{port}"\n' for name, port in sources.items())
    names = ", ".join(f'"{name}"' for name in sources)
    file = folder / "exporter.toml"
    file.write_text(CONFIG.format(sources=tables, names=names, exporter=exporter))
    return file


def snapshots() -> Callable[[], bytes]:
    """One after the other, of an agent whose values move."""
    walk, encoder = Walk(catalog(cgroups=1)), Encoder("v2", {"source": "rezolus", "version": "6.0.0"})
    return lambda: encoder.encode(walk.step())


def agent() -> Answers:
    return Answers({"/metrics/binary": snapshots()})


class Hostile:
    """Answers with garbage, each time with other, until it is told to be `good`."""

    def __init__(self) -> None:
        self.good = False
        self.asked = 0
        self._answers = itertools.cycle(ANSWERS)
        self._sane = snapshots()

    async def handle(self, stream: trio.SocketStream) -> None:
        while await next_request(stream):
            self.asked += 1
            if self.good:
                body = self._sane()
                await stream.send_all(WHOLE % len(body) + body)
                continue
            answer = next(self._answers)
            await stream.send_all(answer)
            while answer is ENDLESS:
                await stream.send_all(bytes(1 << 20))
            await stream.aclose()
            return


async def until(running: Service, condition: Callable[[], object], what: str) -> None:
    """The servers of the test live in this thread's event loop, so what asks must not hold it up."""
    await trio.to_thread.run_sync(running.until, condition, what)


def page(port: int) -> dict[str, float]:
    """Series by name and the source that it is of."""
    found = samples(get(f"http://127.0.0.1:{port}/metrics").content)
    return {
        f"{name} {dict(labels).get('source', '')} {dict(labels).get('node', '')}": v
        for (name, labels), v in found.items()
    }


async def test_garbage_from_one_agent_costs_its_own_samples_only() -> None:
    needs.root()
    hostile, port = Hostile(), free_port()
    with open_folder() as folder:
        async with raw(hostile.handle) as bad, serving(agent()) as good:
            with service(write_config(folder, port, bad=bad, good=good), "exporter") as running:
                hostile.good = True
                await until(running, lambda: both_shown(port), "both agents")
                before = running.memory()
                hostile.good = False
                await until(running, lambda: page(port)["rezolus_source_up bad "] == 0, "the first garbage")
                hostile.asked = 0
                pages: list[dict[str, float]] = []

                def scraped() -> bool:
                    pages.append(page(port))
                    return hostile.asked >= GARBAGE

                await until(running, scraped, "much garbage")
                assert all("cpu_usage rezolus good" in found for found in pages)
                assert all(found["rezolus_source_up bad "] == 0 for found in pages)
                assert all(found["rezolus_source_up good "] == 1 for found in pages)
                hostile.good = True
                await until(running, lambda: both_shown(port), "the one that has come to its senses")
                print(f"before {before / MB:.1f} MB, after garbage {running.memory() / MB:.1f}")
                await until(running, lambda: running.memory() < before + SPARE_MB * MB, "memory to return")
                said = await trio.to_thread.run_sync(running.end)
    assert "bad" in said


def both_shown(port: int) -> bool:
    found = page(port)
    return all(f"cpu_usage rezolus {name}" in found and found[f"rezolus_source_up {name} "] for name in ("good", "bad"))


async def scrape(port: int, bodies: list[int]) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        size, last = 0, bytearray()
        async for part in stream:
            size, last = size + len(part), bytearray(part)
        assert last.endswith(b"\n")
        bodies.append(size)


async def test_many_scrapers_and_slow_ones_leave_nothing_behind() -> None:
    needs.root()
    port = free_port()
    with open_folder() as folder:
        async with serving(agent()) as good:
            with service(write_config(folder, port, good=good), "exporter") as running:
                await until(running, lambda: len(get(f"http://127.0.0.1:{port}/metrics").content) > MB, "a big page")
                await crowd(running, port)
                before = running.memory()
                await crowd(running, port)
                await until(running, lambda: running.memory() < before + SPARE_MB * MB, "memory to return")
                print(f"after the first crowd {before / MB:.1f} MB, after the second {running.memory() / MB:.1f}")
                await trio.to_thread.run_sync(running.end)


async def crowd(running: Service, port: int) -> None:
    """All at once, of whom some read nothing; until all are gone."""
    bodies: list[int] = []
    before = held(running)
    slow = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(SLOW)]
    for stream in slow:
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for _ in range(SCRAPES):
                nursery.start_soon(scrape, port, bodies)
    assert len(bodies) == SCRAPES
    assert min(bodies) > MB
    for stream in slow:
        await stream.aclose()
    await until(running, lambda: held(running) <= before, "connections to be closed")


def held(running: Service) -> int:
    return len(os.listdir(f"/proc/{running.pid}/fd"))
