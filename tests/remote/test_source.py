"""A remote source against real servers: what it makes of their answers, and that it outlives all of them."""

from __future__ import annotations

import gzip
import json
import logging
import time
from pathlib import Path

import pytest

from rezolus.reading import Catalog, Reading, Series
from rezolus.sinks.stream import Demand
from rezolus.wire.decode import Decoder
from rezolus.wire.encode import Encoder
from tests.remote.servers import DATA, Answers, agent_like_rezolus, descriptions, polling, serving
from tests.synthetic import Walk

SMALL = Catalog(
    (Series("requests", "counter", {"op": "read"}, "requests", "", "app"),),
    (Series("depth", "gauge", {}, "", "", "app"),),
    (Series("latency", "histogram", {}, "nanoseconds", "", "app"),),
)


class Agent(Answers):
    """An agent that measures anew for every request."""

    def __init__(self, catalog: Catalog = SMALL, version: str = "6.0.0") -> None:
        super().__init__()
        self.walk = Walk(catalog)
        self.walk.counters[:] = 1000
        self.version = version
        self.behind_ns = 0
        self.pages["/metrics/binary"] = self.snapshot

    def restart(self, catalog: Catalog = SMALL, version: str = "6.0.0") -> None:
        self.walk, self.version = Walk(catalog), version
        self.walk.counters[:] = 0

    def snapshot(self) -> bytes:
        reading = self.walk.step()
        reading.time_ns = time.time_ns() - self.behind_ns
        return Encoder("v2", {"source": "rezolus", "version": self.version}).encode(reading)


def identities(reading: Reading) -> list[tuple[str, dict[str, str]]]:
    return [(series.name, dict(series.labels)) for series in reading.catalog.counters]


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


@pytest.mark.parametrize("name", ["agent-v2.msgpack", "agent-v3.msgpack"])
async def test_both_formats_of_a_running_rezolus_are_read(name: str) -> None:
    answers = agent_like_rezolus()
    answers.pages["/metrics/binary"] = (DATA / "live" / name).read_bytes()
    async with serving(answers) as port, polling(f"http://127.0.0.1:{port}/", protocol="msgpack") as polled:
        await polled.until_readings(1)
        assert polled.source.status().format == name[6:8]
    expected = Decoder().decode((DATA / "live" / name).read_bytes()).reading
    assert polled.readings[0].histograms.tolist() == expected.histograms.tolist()


async def test_the_same_snapshot_is_passed_on_once() -> None:
    async with serving(agent_like_rezolus()) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until(lambda: polled.source.status().repeated >= 3)
        assert len(polled.readings) == 1


async def test_consecutive_readings_of_the_same_series_have_the_same_catalog() -> None:
    agent = Agent()
    agent.pages["/metrics/descriptions"] = b'{"requests": "Requests served."}'
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_readings(3)
    assert len({id(reading.catalog) for reading in polled.readings}) == 1
    assert polled.readings[0].catalog.counters[0].help == "Requests served."


async def test_readings_come_on_aligned_ticks() -> None:
    async with serving(Agent()) as port, polling(f"http://127.0.0.1:{port}", interval_ms=100) as polled:
        await polled.until_readings(3)
    gaps = [b.monotonic_ns - a.monotonic_ns for a, b in zip(polled.readings, polled.readings[1:], strict=False)]
    assert all(round(gap / 100e6) >= 1 for gap in gaps)
    since = (time.time_ns() - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - polled.readings[0].monotonic_ns)) % 100e6
    assert min(since, 100e6 - since) < 50e6


async def test_a_remote_that_is_down_at_the_start_is_found_when_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(Agent()) as port:
        pass  # now it is gone, and the port free
    url = f"http://127.0.0.1:{port}"
    async with polling(url) as polled:
        await polled.source.settled()
        assert polled.source.status().error == "cannot connect: connection refused"
        assert polled.source.metadata() == {}
        await polled.until(lambda: polled.source.status().failed > 2)
        async with serving(Agent(), port=port):
            await polled.until_readings(2)
            assert polled.source.status().state == "up"
            assert polled.source.status().error == ""
    told = [
        (record.levelname, record.getMessage()) for record in caplog.records if record.name == "rezolus.remote.source"
    ]
    assert told[:2] == [
        ("WARNING", f"source there: {url}: cannot connect: connection refused; trying again"),
        ("INFO", f"source there: rezolus 6.0.0 at {url}/ (v2)"),
    ]


async def test_a_remote_that_goes_and_comes_back_as_another_version_is_looked_at_anew() -> None:
    agent = Agent()
    agent.pages["/systeminfo"] = b'{"hostname": "old"}'
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_readings(2)
        agent.status = 500
        await polled.until_state("down")
        assert "it answers 500 (Internal Server Error)" in polled.source.status().error
        assert json.loads(polled.source.metadata()["systeminfo"]) == {"hostname": "old"}
        before = len(polled.readings)
        agent.status = 200
        agent.restart(Catalog(SMALL.counters, (), ()), version="7.0.0")
        agent.pages["/systeminfo"] = b'{"hostname": "new"}'
        await polled.until_readings(2)
        status = polled.source.status()
        assert (status.version, status.contacts) == ("7.0.0", 2)
        assert json.loads(polled.source.metadata()["systeminfo"]) == {"hostname": "new"}
    assert polled.readings[before].catalog.gauges == ()
    assert polled.readings[before].counters[0] < polled.readings[before - 1].counters[0]  # reset, for consumers to see


async def test_a_version_that_changes_under_way_is_noticed() -> None:
    agent = Agent(version="1")
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_readings(1)
        asked = agent.count("/systeminfo")
        agent.restart(version="2")
        await polled.until(lambda: agent.count("/systeminfo") > asked)
        await polled.until(lambda: polled.source.metadata()["version"] == "2")


async def test_pages_beside_the_snapshots_are_asked_for_once_only() -> None:
    agent = Agent()
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_readings(5)
    assert agent.count("/systeminfo") == agent.count("/samplers") == agent.count("/metrics/descriptions") == 1


async def test_an_agent_replaced_by_a_prometheus_endpoint_is_read_as_that() -> None:
    agent = Agent()
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_readings(1)
        assert polled.source.labels() == {"source": "rezolus", "endpoint": f"http://127.0.0.1:{port}/"}
        assert polled.source.merge_labels()["node"] == "there"
        agent.pages = {"/metrics": b"# HELP up Whether.\n# TYPE up gauge\nup 1\n"}
        await polled.until(lambda: polled.source.status().protocol == "prometheus")
        await polled.until_readings(1)
        assert polled.source.labels() == {"source": f"127.0.0.1-{port}", "endpoint": f"http://127.0.0.1:{port}/metrics"}
        assert polled.source.merge_labels()["instance"] == "there"
        assert json.loads(polled.source.metadata()["descriptions"]) == {"up": "Whether."}
    assert polled.readings[-1].gauges.tolist() == [1]
    assert abs(polled.readings[-1].time_ns - time.time_ns()) < 60e9


async def test_the_page_of_rezolus_exporter_is_read_with_its_defects() -> None:
    page = gzip.decompress((DATA / "live/exporter-histograms.prom.gz").read_bytes())
    async with serving(Answers({"/metrics": page})) as port, polling(f"http://127.0.0.1:{port}/metrics") as polled:
        await polled.until_readings(2)
    reading = polled.readings[-1]
    assert polled.readings[0].catalog is reading.catalog
    assert (len(reading.catalog.counters), len(reading.catalog.gauges), len(reading.catalog.histograms)) == (
        220,
        72,
        33,
    )


async def test_a_clock_that_is_off_or_goes_back_is_said_and_the_readings_are_kept() -> None:
    agent = Agent()
    agent.behind_ns = 3 * 86_400_000_000_000
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_readings(1)
        (warning,) = polled.source.status().warnings
        assert warning.startswith("its clock is 3d")
        assert warning.endswith("behind ours")
        agent.behind_ns += 10**12
        before = polled.readings[-1]
        await polled.until(lambda: polled.readings[-1].time_ns < before.time_ns)
        assert polled.source.status().state == "up"


async def test_a_time_that_no_recording_can_hold_is_a_failure() -> None:
    body = Encoder("v2", {}).encode(Walk(SMALL).step())
    assert body[1] == 0x92
    assert body[2] == 0xCE
    far = body[:2] + b"\xcf" + b"\xff" * 8 + body[7:]
    async with serving(Answers({"/metrics/binary": far})) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_state("down")
        assert "not a snapshot of Rezolus: expected `int` <= 9223372035" in polled.source.status().error
    assert polled.readings == []


async def test_the_token_is_sent_and_a_file_without_one_is_said(tmp_path: Path) -> None:
    file = tmp_path / "token"
    agent = Agent()
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}", token_file=file) as polled:
        await polled.until_state("down")
        assert str(file) in polled.source.status().error
        file.write_text("sesame\n")
        await polled.until_readings(1)
    assert {headers.get("Authorization") for _, headers in agent.asked} == {"Bearer sesame"}


async def test_a_token_that_was_exchanged_is_taken_up_when_the_old_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    agent = Agent()
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}", token_file=file) as polled:
        await polled.until_readings(1)
        agent.status = 401
        await polled.until_state("down")
        assert polled.source.status().error.endswith("it answers 401 (Unauthorized)")
        file.write_text("new")
        agent.asked.clear()
        await polled.until(lambda: "Bearer new" in {headers.get("Authorization") for _, headers in agent.asked})
        agent.status = 200
        await polled.until_readings(1)
        assert polled.source.status().state == "up"


async def test_without_a_token_file_no_token_is_sent() -> None:
    agent = Agent()
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_readings(1)
    assert all("Authorization" not in headers for _, headers in agent.asked)


async def test_another_interval_is_taken_at_once_and_costs_no_contact() -> None:
    hour = 3_600_000
    async with serving(Agent()) as port, polling(f"http://127.0.0.1:{port}", interval_ms=hour) as polled:
        await polled.source.settled()
        polled.source.adjust(Demand(20_000_000, ()))
        await polled.until_readings(3)
        status = polled.source.status()
    assert (status.contacts, status.failed) == (1, 0)


async def test_another_interval_does_not_disturb_the_fetch_under_way() -> None:
    agent = Agent()
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_readings(1)
        sent: list[bytes] = []

        def change_and_answer() -> bytes:
            polled.source.adjust(Demand((20 + len(sent) % 2) * 1_000_000, ()))
            sent.append(agent.snapshot())
            return sent[-1]

        agent.pages["/metrics/binary"] = change_and_answer
        before = len(polled.readings)
        await polled.until_readings(10)
        status = polled.source.status()
        got = [reading.time_ns for reading in polled.readings[before:]]
    made = [Decoder().decode(body).reading.time_ns for body in sent]
    assert (status.contacts, status.failed) == (1, 0)
    assert [time_ns for time_ns in got if time_ns in made] == made[: len(got)]
