from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import trio

from rezolus.config import HindsightConfig
from rezolus.reading import Reading
from rezolus.sinks.hindsight import Hindsight
from rezolus.units import Address
from tests.synthetic import START_NS, Walk, catalog

S = 10**9
ANY_PORT = Address("127.0.0.1", 0)


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

    async def give(self, readings: Sequence[Reading]) -> None:
        """Give readings and wait until each is written or lost."""
        due = self.done + len(readings)
        for reading in readings:
            await self.send.send(reading)
        await until(lambda: self.done == due)

    @property
    def done(self) -> int:
        statistics = self.sink.statistics()
        return statistics.written + statistics.lost


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
    assert START_NS < readings[0].time_ns
