"""A remote source against real servers: what it makes of their answers, and that it outlives all of them."""

from __future__ import annotations

import json
import time

import trio

from rezolus.wire.decode import Decoder
from tests.remote.servers import DATA, agent_like_rezolus, descriptions, polling, serving


async def test_the_snapshots_of_an_agent_become_readings_with_help() -> None:
    answers = agent_like_rezolus()
    async with serving(answers) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_readings(1)
        status = polled.source.status()
        metadata = polled.source.metadata()
    expected = Decoder().decode((DATA / "live/agent-v2.msgpack").read_bytes()).reading
    reading = polled.readings[0]
    assert reading.counters.tolist() == expected.counters.tolist()
    assert reading.time_ns == expected.time_ns
    assert reading.duration_ns == expected.duration_ns
    assert abs(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - reading.monotonic_ns) < 30e9
    helps = descriptions()
    assert {s.name: s.help for s in reading.catalog.counters if s.help} == {
        s.name: helps[s.name] for s in reading.catalog.counters if s.name in helps
    }
    assert (status.state, status.protocol, status.format) == ("up", "msgpack", "v2")
    assert metadata["source"] == "rezolus"
    assert metadata["version"] == status.version == "5.17.1-alpha.17"
    assert json.loads(metadata["systeminfo"])["cpus"] == 2
    assert json.loads(metadata["descriptions"]) == helps
    assert json.loads(metadata["sampler_status"])
