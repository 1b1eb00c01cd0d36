from __future__ import annotations

import gzip
import json
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
import trio
import zstandard

from rezolus.config import ExporterConfig, parse
from rezolus.reading import Catalog, Reading, Series
from rezolus.sinks.exporter import FRESH_NS, LONG_SERIES, Exporter
from rezolus.sinks.exposition import OPENMETRICS, TEXT
from rezolus.sinks.stream import Stream, StreamStatistics
from rezolus.sockets import ListenError
from rezolus.units import Address, UnixAddress
from rezolus.wire.decode import Decoder
from tests.sinks import strict
from tests.sinks.strict import samples
from tests.sinks.test_openmetrics import PROMETHEUS_2, PROMETHEUS_3
from tests.sinks.test_prometheus import expect_values
from tests.synthetic import Walk, catalog

SECOND = 10**9
CONFIG = ExporterConfig(listen=Address("127.0.0.1", 0), interval=SECOND)
PLAIN = {"Accept-Encoding": "identity"}


@asynccontextmanager
async def running(
    config: ExporterConfig = CONFIG, up: Callable[[], Mapping[str, bool]] = dict
) -> AsyncIterator[tuple[Exporter, trio.MemorySendChannel[Reading], httpx.AsyncClient]]:
    stream = Stream("prom", SECOND)
    send, receive = trio.open_memory_channel[Reading](0)
    # Time stands still: no reading gets old while a busy machine takes its time.
    exporter = Exporter("prom", config, lambda: (stream.statistics(),), up=up, clock=lambda: 0)
    with trio.fail_after(180):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: exporter.run(receive, task_status=task_status))
            base = f"http://{exporter.statistics().listen}"
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=base, trust_env=False, limits=limits, timeout=120) as client:
                yield exporter, send, client
            await send.aclose()  # the end of the stream ends the exporter
    stream.close()
    stream.channel.close()


async def give(send: trio.MemorySendChannel[Reading], *readings: Reading) -> None:
    """Have the exporter take these."""
    for reading in readings:
        await send.send(reading)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_scrape_gives_the_latest_reading() -> None:
    walk = Walk(catalog(cgroups=2))
    async with running() as (exporter, send, client):
        empty = await client.get("/metrics")
        assert empty.status_code == 200
        assert {name for name, _ in samples(empty.content)} == {
            "rezolus_sink_readings_total",
            "rezolus_sink_lost_readings_total",
        }
        readings = [walk.step() for _ in range(3)]
        await give(send, *readings)
        answer = await client.get("/metrics", headers=PLAIN)
        assert answer.headers["content-type"] == TEXT.content_type == "text/plain; version=0.0.4; charset=utf-8"
        found = samples(answer.content)
        expect_values(found, readings[-1])
        assert found["rezolus_reading_timestamp_seconds", ()] == readings[-1].time_ns / 1e9
        assert any("percentile" in dict(labels) for _, labels in found)
        assert exporter.statistics().renders == 2
        # the same reading is not rendered again
        assert (await client.get("/metrics", headers=PLAIN)).content == answer.content
        assert exporter.statistics().renders == 2
        assert exporter.statistics().scrapes == 3


@pytest.mark.parametrize("accept", [PROMETHEUS_2, PROMETHEUS_3])
async def test_openmetrics_is_for_whom_prefers_it(accept: str) -> None:
    reading = Walk(catalog(cgroups=2)).step()
    async with running() as (_, send, client):
        assert (await client.get("/metrics", headers={"Accept": accept})).content.endswith(b"# EOF\n")
        await give(send, reading)
        answer = await client.get("/metrics", headers={"Accept": accept})
        assert answer.headers["content-type"] == OPENMETRICS.content_type
        assert answer.headers["vary"] == "Accept, Accept-Encoding"
        expect_values(samples(answer.content, "openmetrics"), reading, total="_total")
        expect_values(samples((await client.get("/metrics")).content), reading)
    async with running(msgspec.structs.replace(CONFIG, openmetrics=False)) as (_, send, client):
        await give(send, reading)
        answer = await client.get("/metrics", headers={"Accept": accept})
        assert answer.headers["content-type"] == TEXT.content_type


async def test_what_is_configured_is_what_is_served() -> None:
    walk = Walk(catalog(cgroups=1))
    config = msgspec.structs.replace(
        CONFIG, histograms="both", summaries="quantile", timestamps=False, grouping_power=1
    )
    async with running(config) as (_, send, client):
        await give(send, walk.step(), walk.step())
        families = {family.name: family for family in strict.families((await client.get("/metrics")).content, "text")}
        assert families["latency1"].kind == "summary"
        buckets = families["latency1_distribution"]
        assert buckets.kind == "histogram"
        assert len(buckets.samples) == 128 + 3
        assert {sample.time_ms for family in families.values() for sample in family.samples} == {None}


async def test_bodies_are_compressed_for_whom_asks() -> None:
    config = msgspec.structs.replace(CONFIG, histograms="buckets")  # large enough for a thread
    for form in (CONFIG, config):
        async with running(form) as (_, send, client):
            await give(send, Walk(catalog(cgroups=2)).step())
            plain = await client.get("/metrics", headers={"Accept-Encoding": "gzip;q=0"})
            assert "content-encoding" not in plain.headers
            unpack = {"gzip": gzip.decompress, "zstd": zstandard.ZstdDecompressor().decompressobj().decompress}
            for encoding, decompress in unpack.items():
                async with client.stream("GET", "/metrics", headers={"Accept-Encoding": encoding}) as answer:
                    assert answer.headers["content-encoding"] == encoding
                    raw = b"".join([chunk async for chunk in answer.aiter_raw()])
                assert decompress(raw) == plain.content
                assert len(raw) < len(plain.content) / 4


async def test_the_reading_is_also_there_as_a_snapshot() -> None:
    async with running() as (_, send, client):
        for path in ("/metrics/binary", "/metrics/json"):
            assert (await client.get(path)).status_code == 503
        reading = Walk(catalog(cgroups=2)).step()
        await give(send, reading)
        answer = await client.get("/metrics/binary")
        assert answer.headers["content-type"] == "application/octet-stream"
        snapshot = Decoder().decode(answer.content)
        assert (snapshot.version, snapshot.metadata["source"]) == ("v2", "rezolus")
        assert snapshot.reading.time_ns == reading.time_ns
        values = dict(zip([s.name for s in reading.catalog.gauges], reading.gauges.tolist(), strict=True))
        names = [series.name for series in snapshot.reading.catalog.gauges]
        assert dict(zip(names, snapshot.reading.gauges.tolist(), strict=True)) == values
        same = await client.get("/metrics/json")
        assert same.headers["content-type"] == "text/plain; charset=utf-8"
        gauges = {gauge["metadata"]["metric"]: gauge["value"] for gauge in json.loads(same.content)["gauges"]}
        assert gauges == values


async def test_the_other_pages() -> None:
    async with running() as (exporter, send, client):
        first, _, more = (await client.get("/")).text.partition("\n")
        assert first.split()[::2] == ["Rezolus", "Exporter"]
        assert "/metrics/binary" in more
        before = (await client.get("/status")).json()
        assert before["reading"] is None
        reading = Walk(catalog(cgroups=1)).step()
        await give(send, reading)
        status = (await client.get("/status")).json()
        assert status["listen"] == exporter.statistics().listen
        assert status["reading"]["time_ns"] == reading.time_ns
        assert status["reading"]["series"]["histograms"] == 33
        assert [sink["name"] for sink in status["sinks"]] == ["prom"]
        for path in ("/", "/metrics", "/metrics/binary", "/metrics/json", "/status"):
            head, get = await client.head(path, headers=PLAIN), await client.get(path, headers=PLAIN)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == get.headers["content-type"]
            assert head.headers["content-length"] == str(len(get.content))
        missing, wrong = await client.get("/nothing"), await client.post("/metrics")
        assert (missing.status_code, missing.text) == (404, "not found: GET /nothing\n")
        assert (wrong.status_code, wrong.text) == (405, "method not allowed: POST /metrics\n")
        assert "GET" in wrong.headers["allow"]


async def test_five_hundred_scrapes_at_once_share_one_body() -> None:
    # five hundred clients in Python may take longer than a reading of each second stays fresh
    config = msgspec.structs.replace(CONFIG, histograms="buckets", grouping_power=1, interval=60 * SECOND)
    walk = Walk(catalog(cgroups=2))
    async with running(config) as (exporter, send, client):
        await give(send, walk.step())
        bodies = []

        async def scrape() -> None:
            bodies.append((await client.get("/metrics", headers={"Accept-Encoding": "gzip"})).content)

        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(scrape)
        assert len(bodies) == 500
        assert set(bodies) == {await exporter.body()}
        assert exporter.statistics().renders == 1
        assert exporter.statistics().scrapes == 500


def churning(number: int) -> Reading:
    """A reading of many series, one of which no other number has."""
    names = [f"m{at}" for at in range(LONG_SERIES)] + [f"new{number}"]
    counters = tuple(Series(name, "counter", {}) for name in names)
    values = np.full(len(names), number, np.uint64)
    return Reading(Catalog(counters, (), ()), 1, 1, 1, values, np.zeros(0, np.int64), np.zeros(0, np.uint64))


async def test_a_page_of_many_new_series_is_made_aside_while_others_have_their_turn() -> None:
    exporter = Exporter("prom", CONFIG)
    exporter.take(churning(1))
    turns = 0

    async def watch() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        found = samples(await exporter.body())
        nursery.cancel_scope.cancel()
    assert found["new1", ()] == 1
    assert turns > 10


async def test_pages_of_different_readings_that_are_asked_for_meanwhile_do_not_mix() -> None:
    exporter = Exporter("prom", CONFIG)
    found: dict[int, dict[str, float]] = {}

    async def scrape(number: int) -> None:
        page = samples(await exporter.body())
        found[number] = {name: value for (name, _), value in page.items() if name.startswith("new")}

    async with trio.open_nursery() as nursery:
        for number in (1, 2, 3):
            exporter.take(churning(number))
            nursery.start_soon(scrape, number)
            await trio.lowlevel.checkpoint()
    assert all(len(page) == 1 and page[f"new{int(*page.values())}"] for page in found.values())
    assert found[3] == {"new3": 3}


async def test_a_reading_that_is_too_old_is_not_served() -> None:
    now = 5
    alive = {"node1": True}
    exporter = Exporter("prom", CONFIG, up=lambda: alive, clock=lambda: now)
    walk = Walk(catalog(cgroups=1))
    for _ in range(2):
        exporter.take(walk.step())
    now += FRESH_NS
    assert len(samples(await exporter.body())) > 100
    alive["node1"] = False  # shows at once, though no reading came
    assert samples(await exporter.body())["rezolus_source_up", (("source", "node1"),)] == 0
    now += 1
    assert samples(await exporter.body()) == {("rezolus_source_up", (("source", "node1"),)): 0}
    assert exporter.status()["reading"] is None
    alive["node1"] = True
    reading = walk.step()
    exporter.take(reading)
    found = samples(await exporter.body())
    expect_values(found, reading)
    # nobody knows what happened in between
    assert not any("percentile" in dict(labels) for _, labels in found)
    slow = Exporter("prom", msgspec.structs.replace(CONFIG, interval=60 * SECOND), clock=lambda: now)
    slow.take(reading)
    now += 300 * SECOND
    expect_values(samples(await slow.body()), reading)


async def test_streams_that_lost_readings_are_exported() -> None:
    counts = StreamStatistics("rec", SECOND, 7, 2, 0)
    exporter = Exporter("prom", CONFIG, lambda: (counts,))
    for expected in (2, 3):
        # nothing was read yet, and still the counts are those of now
        assert samples(await exporter.body()) == {
            ("rezolus_sink_readings_total", (("sink", "rec"),)): 7,
            ("rezolus_sink_lost_readings_total", (("sink", "rec"),)): expected,
        }
        counts = StreamStatistics("rec", SECOND, 7, 3, 0)


def test_the_page_for_users_names_every_key_with_its_default() -> None:
    table = (Path(__file__).parents[2] / "docs/exporter.md").read_text().partition("## Keys")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE))
    assert rows.pop("type") == "obligatory"
    written = {key: text.strip("`") for key, text in rows.items() if text.startswith("`")}
    default = "[sinks.x]\ntype = 'exporter'\n"
    shown = default + "".join(f"{key} = {text}\n" for key, text in written.items())
    assert parse(shown, Path("x.toml")).sinks == parse(default, Path("x.toml")).sinks
    assert set(rows) == {field.name for field in msgspec.structs.fields(ExporterConfig)}
    assert set(rows) - set(written) == {"interval", "metrics"}


async def test_an_address_in_use_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        send, receive = trio.open_memory_channel[Reading](0)
        with pytest.RaisesGroup(
            pytest.RaisesExc(ListenError, match=f"^cannot listen on {address}: address already in use$")
        ):
            await Exporter("prom", msgspec.structs.replace(CONFIG, listen=address)).run(receive)
        send.close()
        receive.close()


async def test_a_socket_file_will_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    address = UnixAddress(str(tmp_path / "exporter.sock"))
    reading = Walk(catalog(cgroups=1)).step()
    with caplog.at_level(logging.INFO):
        async with running(msgspec.structs.replace(CONFIG, listen=address)) as (_, send, _client):
            await give(send, reading)
            transport = httpx.AsyncHTTPTransport(uds=address.path)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                expect_values(samples((await client.get("/metrics")).content), reading)
    assert f"prom: serving {address}" in caplog.messages


async def test_a_kept_connection_does_not_delay_the_end() -> None:
    async with running() as (exporter, send, client):
        await client.get("/")  # leaves its connection open
        host, _, port = exporter.statistics().listen.rpartition(":")
        idle = await trio.open_tcp_stream(host, int(port))
        await send.aclose()
        with trio.fail_after(5):
            assert await idle.receive_some() == b""
        await idle.aclose()
