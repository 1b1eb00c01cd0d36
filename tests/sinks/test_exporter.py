from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from rezolus.config import ExporterConfig
from rezolus.guard import Names
from rezolus.http import ListenError, serve
from rezolus.reading import Reading
from rezolus.sinks.exporter import Exporter
from rezolus.sinks.prometheus import CONTENT_TYPE
from rezolus.sinks.stream import Hub, StreamStatistics
from rezolus.units import Address
from tests import needs
from tests.sinks.test_prometheus import expect_values, parsed
from tests.synthetic import Walk, catalog

ANY_PORT = Address("127.0.0.1", 0)
CONFIG = ExporterConfig(listen=ANY_PORT, interval=10**9)


@asynccontextmanager
async def running(
    config: ExporterConfig = CONFIG,
) -> AsyncIterator[tuple[Exporter, trio.MemorySendChannel[Reading], httpx.AsyncClient]]:
    hub = Hub(10**9)
    hub.subscribe("prom", 10**9, config.metrics)
    send, receive = trio.open_memory_channel[Reading](0)
    exporter = Exporter("prom", config, hub.statistics)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: exporter.run(receive, task_status=task_status))
            base = f"http://{exporter.statistics().listen}"
            async with httpx.AsyncClient(base_url=base, trust_env=False) as client:
                yield exporter, send, client
            await send.aclose()  # the end of the stream ends the exporter


async def test_a_scrape_gives_the_latest_reading() -> None:
    walk = Walk(catalog(cgroups=2))
    async with running() as (exporter, send, client):
        empty = await client.get("/metrics")
        assert empty.status_code == 200
        assert {name for name, _ in parsed(empty.content)} == {
            "rezolus_sink_readings_total",
            "rezolus_sink_lost_readings_total",
        }
        for _ in range(3):
            reading = walk.step()
            await send.send(reading)
        await trio.testing.wait_all_tasks_blocked()
        answer = await client.get("/metrics", headers={"Accept-Encoding": "identity"})
        assert answer.headers["content-type"] == CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
        samples = parsed(answer.content)
        expect_values(samples, reading)
        assert any("percentile" in dict(labels) for _, labels in samples)
        assert exporter.statistics().renders == 2
        # the same reading is not rendered again
        assert (await client.get("/metrics", headers={"Accept-Encoding": "identity"})).content == answer.content
        assert exporter.statistics().renders == 2
        assert exporter.statistics().scrapes == 3


async def test_gzip_is_sent_to_whom_asks() -> None:
    async with running() as (_, send, client):
        await send.send(Walk().step())
        await trio.testing.wait_all_tasks_blocked()
        plain = await client.get("/metrics", headers={"Accept-Encoding": "gzip;q=0"})
        assert "content-encoding" not in plain.headers
        async with client.stream("GET", "/metrics", headers={"Accept-Encoding": "gzip"}) as answer:
            assert answer.headers["content-encoding"] == "gzip"
            raw = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert gzip.decompress(raw) == plain.content
        assert len(raw) < len(plain.content) / 4


async def test_the_other_pages() -> None:
    async with running() as (exporter, send, client):
        assert (await client.get("/")).text.startswith("Rezolus ")
        before = (await client.get("/status")).json()
        assert before["reading"] is None
        reading = Walk(catalog(cgroups=1)).step()
        await send.send(reading)
        await trio.testing.wait_all_tasks_blocked()
        status = (await client.get("/status")).json()
        assert status["listen"] == exporter.statistics().listen
        assert status["reading"]["time_ns"] == reading.time_ns
        assert status["reading"]["series"]["histograms"] == 33
        assert [sink["name"] for sink in status["sinks"]] == ["prom"]
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.post("/metrics")).status_code == 405


async def test_a_name_that_is_not_ours_is_refused() -> None:
    config = ExporterConfig(listen=ANY_PORT, interval=10**9, hosts=("metrics.example",))
    async with running(config) as (_, _send, client):
        for host, status in {
            "localhost:4242": 200,
            "127.0.0.1": 200,
            "[::1]:4242": 200,
            "Metrics.Example.:80": 200,
            "evil.example": 421,
            "127.0.0.1.evil.example": 421,
            "192.0.2.7": 421,
        }.items():
            assert (await client.get("/", headers={"Host": host})).status_code == status, host


async def nobody(_scope: object, _receive: object, _send: object) -> None:
    raise AssertionError


def test_an_open_listener_takes_addresses_and_its_own_name() -> None:
    names = Names(Address("0.0.0.0", 4242))
    assert names.allow("192.0.2.7:4242")
    assert names.allow(f"{socket.gethostname()}:4242")
    assert not names.allow("evil.example:4242")
    assert not names.allow("")


async def test_an_address_in_use_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ListenError, match=f"^cannot listen on {address}: address already in use$"):
            await serve(nobody, address)


async def test_a_kept_connection_does_not_delay_the_end() -> None:
    async with running() as (exporter, send, client):
        await client.get("/")  # leaves its connection open
        host, _, port = exporter.statistics().listen.rpartition(":")
        idle = await trio.open_tcp_stream(host, int(port))
        await send.aclose()
        with trio.fail_after(5):
            assert await idle.receive_some() == b""
        await idle.aclose()


async def test_a_client_that_does_not_read_does_not_hold_up_the_end() -> None:
    asked, late = trio.Event(), trio.Event()

    async def huge(scope: dict[str, str], _receive: object, send: Callable[..., Awaitable[None]]) -> None:
        assert scope["type"] == "http"
        asked.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(64 << 20)})  # more than any socket buffers

    async def release(client: socket.socket) -> None:
        await trio.sleep(5)
        late.set()
        client.close()  # or a failure would hang

    with socket.socket() as stalled:
        async with trio.open_nursery() as watch:
            async with trio.open_nursery() as nursery:
                address = await nursery.start(serve, huge, ANY_PORT)
                stalled.connect((address.host, address.port))
                stalled.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await asked.wait()
                watch.start_soon(release, stalled)
                nursery.cancel_scope.cancel()
            watch.cancel_scope.cancel()
    assert not late.is_set()


def test_streams_that_lost_readings_are_exported() -> None:
    exporter = Exporter("prom", CONFIG, lambda: (StreamStatistics("rec", 10**9, 7, 2, 0),))
    assert parsed(exporter.body()) == {
        ("rezolus_sink_readings_total", (("sink", "rec"),)): 7,
        ("rezolus_sink_lost_readings_total", (("sink", "rec"),)): 2,
    }


async def test_a_real_prometheus_scrapes_it(tmp_path: Path) -> None:
    prometheus = needs.program("prometheus", "prometheus")
    async with running() as (exporter, send, _):
        walk = Walk(catalog(cgroups=2))
        await send.send(walk.step())
        reading = walk.step()
        await send.send(reading)
        with socket.create_server(("127.0.0.1", 0)) as free:
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        (tmp_path / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s}\nscrape_configs:\n"
            f"- {{job_name: rezolus, static_configs: [{{targets: ['{exporter.statistics().listen}']}}]}}\n"
        )
        command = [
            prometheus,
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address={listen}",
        ]
        log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
        process = await trio.lowlevel.open_process(command, stdout=log, stderr=subprocess.STDOUT)
        os.close(log)
        try:
            found = await query_until(f"http://{listen}", 'cpu_usage{state="user",id="0"}')
        finally:
            process.kill()
            await process.wait()
        assert found == float(reading.counters[0]), (tmp_path / "log").read_text()


async def query_until(base: str, query: str) -> float | None:
    """The value Prometheus has, once it has one."""
    async with httpx.AsyncClient(trust_env=False) as client:
        with trio.move_on_after(20):
            while True:
                try:
                    answer = await client.get(f"{base}/api/v1/query", params={"query": query})
                    result = json.loads(answer.text)["data"]["result"]
                    if result:
                        return float(result[0]["value"][1])
                except (httpx.HTTPError, ValueError, KeyError):
                    pass
                await trio.sleep(0.1)
    return None
