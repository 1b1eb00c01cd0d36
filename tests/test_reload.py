"""Reload: what the files change is changed, everything else goes on as if nothing had happened."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
import trio
from quart_trio import QuartTrio

from rezolus.config import AGENT_IS_SETTLED, LOCAL, Config, SourceConfig
from rezolus.daemon import Daemon, Service, Timing, reread_file
from rezolus.daemon.control import control_pages
from rezolus.errors import UserError
from rezolus.guard import read_token
from rezolus.http import serve
from rezolus.reading import Reading
from rezolus.sinks.stream import Demand, Source
from rezolus.status import ReloadResult
from rezolus.units import Address
from tests.synthetic import SyntheticSource, Walk, catalog

AGENT = '[agent]\ninterval = "20ms"\nlisten = "127.0.0.1:0"\n'


def exporter(name: str, port: int, more: str = "") -> str:
    return f'[sinks.{name}]\ntype = "exporter"\nlisten = "127.0.0.1:{port}"\n{more}\n'


def recorder(name: str, path: Path, more: str = "") -> str:
    return f'[sinks.{name}]\ntype = "recorder"\npath = "{path}"\n{more}\n'


def source(name: str, port: int) -> str:
    return f'[sources.{name}]\nurl = "http://127.0.0.1:{port}"\n'


class Adjusting(SyntheticSource):
    """A source that remembers what was wanted while it ran."""

    def __init__(self) -> None:
        super().__init__(Walk(catalog(cgroups=1)))
        self.demands: list[Demand] = []

    def adjust(self, demand: Demand) -> None:
        super().adjust(demand)
        self.demands.append(demand)


@dataclass
class Remotes:
    """Makes sources for what is configured, and says what became of them."""

    urls: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)

    def connect(self, name: str, config: SourceConfig) -> Source:
        del name
        self.urls.append(config.url)
        if config.url.endswith(":9"):
            raise UserError("no such place")
        return _Remote(config.url, self.running)


class _Remote(SyntheticSource):
    def __init__(self, url: str, running: list[str]) -> None:
        super().__init__(Walk(catalog(cgroups=1)))
        self.url = url
        self.running = running

    async def run(
        self,
        demand: Demand,
        publish: Callable[[Reading], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self.running.append(self.url)
        try:
            await super().run(demand, publish, task_status=task_status)
        finally:
            self.running.remove(self.url)


@dataclass
class Bench:
    """A running daemon and its file."""

    daemon: Daemon
    path: Path
    source: Adjusting
    remotes: Remotes

    async def reload(self, text: str) -> ReloadResult:
        self.path.write_text(text)
        return await self.daemon.reload()

    def delivered(self, name: str) -> int:
        return self.daemon.ensemble.outlets[name].stream.statistics().delivered

    def listen(self, name: str) -> str:
        return str(self.daemon.ensemble.outlets[name].sink.statistics().listen)  # type: ignore[attr-defined]

    async def fed(self, name: str, more: int = 3) -> None:
        """Wait until a sink got some more readings."""
        goal = self.delivered(name) + more
        await until(lambda: self.delivered(name) >= goal)


async def until(condition: Callable[[], object]) -> None:
    """Poll for what the daemon counts; the caller has the deadline."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.01)


@asynccontextmanager
async def running(folder: Path, text: str, **more: object) -> AsyncIterator[Bench]:
    path = folder / "rezolus.toml"
    path.write_text(text)
    own, remotes = Adjusting(), Remotes()
    config = (await reread_file(path, "agent")).config
    assert config is not None
    daemon = Daemon(
        config,
        {LOCAL: own},
        reread=partial(reread_file, path, "agent"),
        connect=remotes.connect,
        timing=Timing(retry_s=0.05),
        **more,  # type: ignore[arg-type]
    )
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: daemon.run(task_status=task_status))
            yield Bench(daemon, path, own, remotes)
            daemon.stop()


async def test_a_sink_that_is_not_changed_keeps_connections_readings_and_itself(tmp_path: Path) -> None:
    text = AGENT + exporter("prom", 0)
    async with running(tmp_path, text) as bench:
        sink = bench.daemon.ensemble.outlets["prom"].sink
        host, _, port = bench.listen("prom").rpartition(":")
        connection = await trio.open_tcp_stream(host, int(port))
        async with connection:
            result = await bench.reload(text + recorder("rec", tmp_path / "out.parquet"))
            assert (result.ok, result.changed) == (True, ("rec",))
            await bench.fed("rec")
            before = bench.delivered("prom")
            result = await bench.reload(text)
            assert (result.ok, result.changed) == (True, ("rec",))
            await bench.fed("prom")
            assert bench.delivered("prom") > before
            assert bench.daemon.ensemble.outlets["prom"].sink is sink
            await connection.send_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await connection.receive_some(1000)).startswith(b"HTTP/1.1 200")
        await until((tmp_path / "out.parquet").exists)
        assert pq.read_metadata(tmp_path / "out.parquet").num_rows >= 3


async def test_nothing_changed_changes_nothing(tmp_path: Path) -> None:
    text = AGENT + source("far", 1) + exporter("prom", 0) + exporter("other", 0, 'source = "far"')
    async with running(tmp_path, text) as bench:
        result = await bench.reload(text)
        assert (result.ok, result.changed, result.problems) == (True, (), ())
        assert bench.remotes.urls == ["http://127.0.0.1:1"]
        assert bench.daemon.last_reload is not None
        assert bench.daemon.last_reload.ok


async def test_a_changed_sink_takes_its_own_address_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with running(tmp_path, AGENT + exporter("prom", port)) as bench:
        result = await bench.reload(AGENT + exporter("prom", port, 'histograms = "both"'))
        assert (result.ok, result.changed) == (True, ("prom",))
        async with httpx.AsyncClient(trust_env=False) as client:
            await bench.fed("prom")
            assert "_distribution" in (await client.get(f"http://127.0.0.1:{port}/metrics")).text


async def test_a_recorder_that_is_changed_finishes_its_file_first(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    async with running(tmp_path, AGENT + recorder("rec", path)) as bench:
        await bench.fed("rec")
        result = await bench.reload(AGENT + recorder("rec", path, 'interval = "40ms"'))
        assert result.changed == ("rec",)
        assert pq.read_metadata(path).metadata[b"sampling_interval_ms"] == b"20"
        await bench.fed("rec")
    assert pq.read_metadata(path).metadata[b"sampling_interval_ms"] == b"40"


async def test_a_new_sink_that_cannot_start_is_told_and_the_rest_is_new(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with running(tmp_path, AGENT + exporter("prom", 0)) as bench:
            text = AGENT + exporter("other", port) + recorder("rec", tmp_path / "out.parquet")
            result = await bench.reload(text)
            assert not result.ok
            assert result.problems == (f"sinks.other: cannot listen on 127.0.0.1:{port}: address already in use",)
            assert set(result.changed) == {"prom", "other", "rec"}
            await bench.fed("rec")
            taken.close()
            await until(lambda: bench.listen("other"))  # it goes on trying
            assert bench.daemon.statistics().failures == {}
            last = bench.daemon.last_reload
            assert last is not None
            assert (last.ok, last.problems, last.notes) == (True, (), (f"{result.problems[0]}; it runs now",))


async def test_a_sink_is_not_moved_to_an_address_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with running(tmp_path, AGENT + exporter("prom", 0)) as bench:
            sink, listen = bench.daemon.ensemble.outlets["prom"].sink, bench.listen("prom")
            result = await bench.reload(AGENT + exporter("prom", port))
            problem = f"sinks.prom: cannot listen on 127.0.0.1:{port}: address already in use; it goes on as it was"
            assert (result.problems, result.changed) == ((problem,), ())
            assert bench.daemon.ensemble.outlets["prom"].sink is sink
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.get(f"http://{listen}/metrics")).status_code == 200
            taken.close()
            assert (await bench.reload(AGENT + exporter("prom", port))).changed == ("prom",)


async def test_a_sink_keeps_its_port_when_it_listens_for_all_hosts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with running(tmp_path, AGENT + exporter("prom", port)) as bench:
        result = await bench.reload(AGENT + exporter("prom", port).replace("127.0.0.1", "0.0.0.0"))
        assert (result.problems, result.changed) == ((), ("prom",))
        assert bench.listen("prom") == f"0.0.0.0:{port}"


def hindsight(folder: Path, more: str) -> str:
    text = f'[sinks.back]\ntype = "hindsight"\npath = "{folder}/back.parquet"\nlisten = "127.0.0.1:0"\n'
    return f"{text}{more}\n"


async def test_a_sink_is_not_stopped_for_one_that_cannot_start(tmp_path: Path) -> None:
    token = tmp_path / "token"
    old = AGENT + hindsight(tmp_path, 'duration = "10s"')
    new = AGENT + hindsight(tmp_path, f'duration = "20s"\ntoken_file = "{token}"')
    async with running(tmp_path, old) as bench:
        sink = bench.daemon.ensemble.outlets["back"].sink
        result = await bench.reload(new + recorder("rec", tmp_path / "out.parquet"))
        (problem,) = result.problems
        assert problem.startswith(f"sinks.back: {token}: cannot read the token: no such file")
        assert problem.endswith("; it goes on as it was")
        assert result.changed == ("rec",)
        assert bench.daemon.ensemble.outlets["back"].sink is sink
        await bench.fed("back")
        token.write_text("sesame")
        result = await bench.reload(new)
        assert (result.ok, set(result.changed)) == (True, {"back", "rec"})
        await bench.fed("back")
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.post(f"http://{bench.listen('back')}/dump/file")).status_code == 401


async def test_a_sink_whose_source_goes_is_stopped_for_one_that_cannot_start(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    (tmp_path / "other.parquet").write_text("no recording")
    rest = AGENT + exporter("prom", 0)
    async with running(tmp_path, rest + source("far", 1) + recorder("rec", path, 'source = "far"')) as bench:
        await bench.fed("rec")
        result = await bench.reload(rest + recorder("rec", tmp_path / "other.parquet"))
        assert "exists and is no recording" in result.problems[0]
        assert result.changed == ("rec", "source far")
        await until(path.exists)


@pytest.mark.parametrize("sources", [("far",), ("far", "near")])
async def test_what_a_source_said_of_itself_outlives_it(tmp_path: Path, sources: tuple[str, ...]) -> None:
    path = tmp_path / "out.parquet"
    rest = AGENT + exporter("prom", 0)
    text = (
        rest
        + source("far", 1)
        + source("near", 2)
        + recorder("rec", path, f"source = {list(sources)}".replace("'", '"'))
    )
    async with running(tmp_path, text) as bench:
        await bench.fed("rec")
        result = await bench.reload(rest)
        assert (result.ok, result.problems) == (True, ())
        await until(path.exists)
    assert pq.read_metadata(path).metadata[b"systeminfo"] == b"{}"


async def test_what_a_reload_brought_and_cannot_run_does_not_end_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "blocked.parquet.recording").write_text("in the way")
    async with running(tmp_path, AGENT + exporter("prom", 0)) as bench:
        result = await bench.reload(AGENT + recorder("rec", tmp_path / "blocked.parquet"))
        assert "cannot record to" in result.problems[0]
        (tmp_path / "blocked.parquet.recording").unlink()
        result = await bench.daemon.reload()  # the same file again, once what was in the way is gone
        assert (result.ok, result.changed) == (True, ("rec",))
        await bench.fed("rec")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[agent", "is not valid TOML"),
        (AGENT + exporter("prom", 0, 'histogram = "both"'), "sinks.prom.histogram: "),
        (AGENT + exporter("prom", 0, 'source = "nowhere"'), "nowhere"),
    ],
)
async def test_a_broken_file_changes_nothing(tmp_path: Path, text: str, problem: str) -> None:
    async with running(tmp_path, AGENT + exporter("prom", 0)) as bench:
        sink = bench.daemon.ensemble.outlets["prom"].sink
        result = await bench.reload(text)
        assert not result.ok
        assert problem in result.problems[0]
        assert result.changed == ()
        assert bench.daemon.ensemble.outlets["prom"].sink is sink
        await bench.fed("prom")


async def test_a_source_that_cannot_be_made_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, AGENT + exporter("prom", 0)) as bench:
        result = await bench.reload(AGENT + source("far", 9) + exporter("prom", 0, 'source = "far"'))
        assert (result.ok, result.problems) == (False, ("no such place",))
        await bench.fed("prom")


async def test_sources_come_go_and_are_replaced_under_the_sinks(tmp_path: Path) -> None:
    async with running(tmp_path, AGENT + source("far", 1) + exporter("prom", 0, 'source = "far"')) as bench:
        sink = bench.daemon.ensemble.outlets["prom"].sink
        await bench.fed("prom")
        result = await bench.reload(AGENT + source("far", 2) + exporter("prom", 0, 'source = "far"'))
        assert (result.ok, result.changed) == (True, ("source far",))
        assert bench.remotes.running == ["http://127.0.0.1:2"]
        await bench.fed("prom")
        assert bench.daemon.ensemble.outlets["prom"].sink is sink
        both = AGENT + source("far", 2) + source("near", 3) + exporter("prom", 0, 'source = ["far", "near", "local"]')
        result = await bench.reload(both)
        assert (result.ok, result.changed) == (True, ("prom", "source near"))
        await bench.fed("prom")
        assert sorted(bench.remotes.running) == ["http://127.0.0.1:2", "http://127.0.0.1:3"]
        result = await bench.reload(AGENT + exporter("prom", 0))
        assert (result.ok, result.changed) == (True, ("prom", "source far", "source near"))
        assert bench.remotes.running == []
    assert bench.remotes.running == []


async def test_another_interval_reaches_the_sources_that_run(tmp_path: Path) -> None:
    text = AGENT + source("far", 1) + exporter("prom", 0) + exporter("other", 0, 'source = "far"')
    async with running(tmp_path, text) as bench:
        faster = text + recorder("rec", tmp_path / "out.parquet", 'source = ["local"]')
        assert (await bench.reload(faster.replace('"20ms"', '"10ms"'))).ok
        assert [demand.interval_ns for demand in bench.source.demands] == [10_000_000]
        assert bench.remotes.urls == ["http://127.0.0.1:1"]
        await bench.fed("other")


async def test_only_one_reload_at_a_time(tmp_path: Path) -> None:
    async with running(tmp_path, AGENT + exporter("prom", 0)) as bench, trio.open_nursery() as nursery:
        results: list[ReloadResult] = []

        async def ask() -> None:
            results.append(await bench.daemon.reload())

        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await until(lambda: len(results) == 2)
        assert sorted(result.ok for result in results) == [False, True]
        assert "running already" in next(result for result in results if not result.ok).problems[0]


async def test_what_needs_a_start_is_said_and_left(tmp_path: Path) -> None:
    async with running(tmp_path, AGENT + exporter("prom", 0)) as bench:
        result = await bench.reload(AGENT + 'user = "games"\n[scheduler]\nniceness = 3\n' + exporter("prom", 0))
        assert result.ok
        assert result.notes == (
            "agent.user: takes effect at the next start",
            "scheduler: takes effect at the next start",
        )


async def test_an_agent_that_would_go_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    text = AGENT + exporter("prom", 0)
    async with running(tmp_path, text) as bench:
        sink = bench.daemon.ensemble.outlets["prom"].sink
        other = source("far", 1) + exporter("prom", 0, 'source = "far"')
        result = await bench.reload(AGENT + "enabled = false\n" + other)
        assert (result.problems, result.changed) == ((AGENT_IS_SETTLED,), ())
        assert bench.daemon.ensemble.outlets["prom"].sink is sink


async def test_an_agent_that_would_come_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    text = AGENT + "enabled = false\n" + source("far", 1) + exporter("prom", 0, 'source = "far"')
    async with running(tmp_path, text) as bench:
        result = await bench.reload(AGENT + exporter("prom", 0))
        assert (result.problems, result.changed) == ((AGENT_IS_SETTLED,), ())
        await bench.fed("prom")


async def test_another_level_of_messages_is_part_of_the_answer(tmp_path: Path) -> None:
    text = AGENT + exporter("prom", 0)
    async with running(tmp_path, text) as bench:
        assert (await bench.reload(text + '[log]\nlevel = "warning"\n')).changed == ("log.level",)
        assert (await bench.reload(text)).changed == ("log.level",)


async def test_warnings_about_what_is_new_are_part_of_the_answer(tmp_path: Path) -> None:
    async with running(tmp_path, AGENT + exporter("prom", 0)) as bench:
        text = AGENT + exporter("prom", 0).replace("127.0.0.1", "0.0.0.0")
        result = await bench.reload(text)
        assert result.notes == ("sinks.prom.listen: 0.0.0.0:0 can be reached from other hosts",)
        assert (await bench.reload(text)).notes == ()


async def test_the_form_of_snapshots_reaches_the_exporters(tmp_path: Path) -> None:
    async with running(tmp_path, AGENT + exporter("prom", 0)) as bench:
        result = await bench.reload(AGENT + 'snapshot_format = "v3"\n' + exporter("prom", 0))
        assert result.changed == ("prom",)


async def test_pages_that_could_not_be_served_are_tried_again(tmp_path: Path) -> None:
    token = tmp_path / "token"
    served: list[Path] = []

    def services(config: object) -> dict[str, Service]:
        del config

        async def pages(*, task_status: trio.TaskStatus[None]) -> None:
            read_token(token)
            served.append(token)
            task_status.started()
            await trio.sleep_forever()

        return {"agent": Service(1, pages)}

    text = AGENT + exporter("prom", 0)
    async with running(tmp_path, text, services=services) as bench:
        assert "cannot read the token" in bench.daemon.ensemble.services.troubles["agent"].text
        token.write_text("secret")
        assert (await bench.reload(text)).ok
        await until(lambda: served)
        assert (await bench.reload(text)).ok
    assert served == [token]


async def test_pages_are_not_ended_for_some_that_could_not_be_served(tmp_path: Path) -> None:
    token = tmp_path / "token"
    running_keys: list[object] = []

    def services(config: Config) -> dict[str, Service]:
        key = config.agent.interval

        async def pages(*, task_status: trio.TaskStatus[None]) -> None:
            running_keys.append(key)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                running_keys.remove(key)

        return {"agent": Service(key, pages, lambda: read_token(token) if key > 20_000_000 else None)}

    async with running(tmp_path, AGENT + exporter("prom", 0), services=services) as bench:
        text = AGENT.replace("20ms", "40ms") + exporter("prom", 0)
        result = await bench.reload(text)
        assert not result.ok
        assert result.problems[0].startswith(f"agent: {token}: cannot read the token")
        assert running_keys == [20_000_000]
        token.write_text("sesame")
        assert (await bench.reload(text)).ok
        await until(lambda: running_keys == [40_000_000])


async def test_pages_are_not_moved_to_an_address_in_use(tmp_path: Path) -> None:
    served: list[Address] = []

    def services(config: Config) -> dict[str, Service]:
        listen = config.agent.listen
        assert isinstance(listen, Address)

        async def pages(*, task_status: trio.TaskStatus[None]) -> None:
            served.append(listen)
            task_status.started()
            await trio.sleep_forever()

        return {"agent": Service(listen, pages, listen=listen)}

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with running(tmp_path, AGENT + exporter("prom", 0), services=services) as bench:
            text = AGENT.replace("127.0.0.1:0", f"127.0.0.1:{port}") + exporter("prom", 0)
            result = await bench.reload(text)
            problem = f"agent: cannot listen on 127.0.0.1:{port}: address already in use; it goes on as it was"
            assert (result.problems, result.changed) == ((problem,), ())
            taken.close()
            result = await bench.reload(text)
            assert (result.problems, result.changed) == ((), ("service agent",))
            await until(lambda: served == [Address("127.0.0.1", 0), Address("127.0.0.1", port)])


async def test_pages_are_moved_and_the_answer_still_arrives(tmp_path: Path) -> None:
    bound: list[Address] = []
    daemon: list[Daemon] = []

    async def reload() -> ReloadResult:
        return await daemon[0].reload()

    def services(config: object) -> dict[str, Service]:
        app = QuartTrio("pages")
        app.register_blueprint(control_pages(reload))

        async def pages(*, task_status: trio.TaskStatus[None]) -> None:
            async with trio.open_nursery() as nursery:
                bound.append(await nursery.start(partial(serve, app, Address("127.0.0.1", 0))))
                task_status.started()

        return {"agent": Service(config, pages)}

    async with running(tmp_path, AGENT + exporter("prom", 0), services=services) as bench:
        daemon.append(bench.daemon)
        async with httpx.AsyncClient(trust_env=False) as client:
            bench.path.write_text(AGENT.replace("20ms", "40ms") + exporter("prom", 0))
            answer = await client.post(f"http://{bound[0]}/reload")
            assert (answer.status_code, answer.json()["ok"]) == (200, True)
            await until(lambda: len(bound) == 2)
            bench.path.write_text("[agent")
            answer = await client.post(f"http://{bound[1]}/reload")
            assert (answer.status_code, answer.json()["ok"]) == (409, False)
            assert "is not valid TOML" in answer.json()["problems"][0]
            assert (await client.get(f"http://{bound[1]}/reload")).status_code == 405
