"""Sinks of a whole daemon fed by this host and remotes at once, some of them nasty."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import trio

from rezolus.agent.clock import SamplingClock
from rezolus.config import LOCAL, load
from rezolus.daemon import Daemon, reread_file
from rezolus.daemon.status import remote_statuses
from rezolus.reading import Reading
from rezolus.sinks.stream import Demand
from tests.remote.servers import Answers, raw, serving
from tests.remote.test_source import SMALL, Agent
from tests.synthetic import SyntheticSource, Walk

PAGE = b"# HELP jobs_total Jobs.\n# TYPE jobs_total counter\njobs_total 7\n"


def daemon_for(folder: Path, sources: dict[str, str], taken: list[str], recorder: str = "") -> Daemon:
    tables = "".join(f'[sources.{name}]\nurl = "{url}"\n' for name, url in sources.items())
    sink = f'[sinks.rec]\ntype = "recorder"\npath = "{folder}/out.parquet"\nsource = {json.dumps(taken)}\n{recorder}\n'
    path = folder / "rezolus.toml"
    path.write_text(f'[agent]\ninterval = "50ms"\n{tables}{sink}')
    return Daemon(load(path), {LOCAL: Here(Walk(SMALL))}, reread=partial(reread_file, path, "agent"))


class Here(SyntheticSource):
    """This host, with its real clocks."""

    async def run(
        self,
        demand: Demand,
        publish: Callable[[Reading], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        task_status.started()
        clock = SamplingClock(demand.interval_ns / 1e9)
        while True:
            await clock.wait()
            reading = self.walk.step()
            reading.time_ns, reading.monotonic_ns = time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            publish(reading)


@asynccontextmanager
async def recording(daemon: Daemon, *, at_least: int = 20) -> AsyncIterator[None]:
    """The daemon until its recorder has so many readings and what is inside is over."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: daemon.run(task_status=task_status))
            yield
            while daemon.statistics().streams[0].delivered < at_least:  # noqa: ASYNC110 - counted, not told
                await trio.sleep(0.01)
            daemon.stop()


def fields(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Metadata of the columns by metric, and node or instance."""
    found = {}
    for field in pq.read_schema(path):
        labels = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        if "metric" in labels:
            found[labels["metric"], labels.get("node", labels.get("instance", ""))] = labels
    return found


async def test_several_sources_in_one_recording(tmp_path: Path) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with raw(silent) as nobody, serving(Agent()) as agent, serving(Answers({"/metrics": PAGE})) as app:
        sources = {
            "web1": f"http://127.0.0.1:{agent}",
            "app": f"http://127.0.0.1:{app}/metrics",
            "mute": f"http://127.0.0.1:{nobody}",
        }
        daemon = daemon_for(tmp_path, sources, [LOCAL, *sources])
        async with recording(daemon):
            pass
    (stream,) = daemon.statistics().streams
    assert stream.lost == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.num_rows == stream.delivered
    found = fields(tmp_path / "out.parquet")
    assert found["requests", "web1"]["source"] == "rezolus"
    assert found["requests", "web1"]["endpoint"] == f"http://127.0.0.1:{agent}/"
    assert found["jobs_total", "app"]["source"] == f"127.0.0.1-{app}"
    assert [name for name, where in found if where == "mute"] == []
    local = next(where for name, where in found if name == "requests" and where != "web1")
    columns = {labels: at for at, labels in enumerate(_keys(table))}
    # Every row has what this host measured: a source that does not answer delays it and takes none of it.
    assert table.column(columns["requests", local]).null_count == 0
    assert table.column(columns["jobs_total", "app"]).null_count < table.num_rows // 2


async def test_a_recording_of_one_remote_says_where_it_is_from(tmp_path: Path) -> None:
    agent = Agent()
    agent.pages["/systeminfo"] = b'{"hostname": "web1"}'
    async with serving(agent) as port:
        daemon = daemon_for(tmp_path, {"web1": f"http://127.0.0.1:{port}"}, ["web1"])
        async with recording(daemon, at_least=5):
            pass
    labels = fields(tmp_path / "out.parquet")["requests", ""]
    assert (labels["source"], labels["endpoint"]) == ("rezolus", f"http://127.0.0.1:{port}/")
    metadata = pq.read_metadata(tmp_path / "out.parquet").metadata
    assert metadata[b"source"] == b"rezolus"
    assert metadata[b"version"] == b"6.0.0"
    assert json.loads(metadata[b"systeminfo"]) == {"hostname": "web1"}


async def test_a_reload_leaves_the_connection_to_a_remote_alone(tmp_path: Path) -> None:
    async with serving(Agent()) as port:
        daemon = daemon_for(tmp_path, {"web1": f"http://127.0.0.1:{port}"}, ["web1"])
        async with recording(daemon):
            while not remote_statuses(daemon)[0].contacts:  # noqa: ASYNC110 - a status has no event
                await trio.sleep(0.005)
            for number, interval in enumerate((50, 25, 10, 5)):
                text = (tmp_path / "rezolus.toml").read_text()
                more = f'[sinks.more{number}]\ntype = "exporter"\nlisten = "127.0.0.1:0"\nsource = "web1"\n'
                (tmp_path / "rezolus.toml").write_text(text + more + f'interval = "{interval}ms"\n')
                assert (await daemon.reload()).changed == (f"more{number}",)
            (remote,) = remote_statuses(daemon)
    assert (remote.contacts, remote.failed) == (1, 0)


def _keys(table: object) -> list[tuple[str, str]]:
    keys = []
    for field in table.schema:  # type: ignore[attr-defined]
        labels = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        keys.append((labels.get("metric", field.name), labels.get("node", labels.get("instance", ""))))
    return keys
