"""Which readings reach which sink, and what a recording says of where they are from."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import trio

from rezolus.agent.agent import Agent, AgentOptions
from rezolus.agent.status import agent_status
from rezolus.cli.status_text import is_bad
from rezolus.config import LOCAL, SourceConfig, load
from rezolus.daemon import Daemon
from rezolus.daemon.feeds import Feed
from rezolus.daemon.metadata import metadata_of
from rezolus.daemon.status import daemon_status, remote_statuses
from rezolus.reading import Catalog, Series
from rezolus.remote.status import RemoteStatus
from rezolus.sinks.exporter import Exporter
from rezolus.sinks.stream import Demand, Source
from rezolus.status import DaemonStatus
from tests.synthetic import SyntheticSource, Walk

SOURCES = '[sources.one]\nurl = "http://one:4241"\n[sources.two]\nurl = "http://two:9100"\nprotocol = "prometheus"\n'


class Named(SyntheticSource):
    """A source of one series that says who it is."""

    def __init__(self, kind: str, identity: Mapping[str, str]) -> None:
        super().__init__(Walk(Catalog((Series("ticks", "counter", {"of": kind}),), (), ())))
        self.kind = kind
        self.identity = identity

    def labels(self) -> dict[str, str]:
        return {"source": self.kind, "endpoint": f"http://{self.kind}"}

    def merge_labels(self) -> dict[str, str]:
        return {**self.labels(), **self.identity}

    def metadata(self) -> dict[str, str]:
        return {
            "source": self.kind,
            "version": "7",
            "systeminfo": '{"cpus": 2}',
            "descriptions": f'{{"ticks":"Ticks of {self.kind}"}}',
        }


def connect(name: str, config: SourceConfig) -> Source:
    if config.protocol == "prometheus":
        return Named("shop", {"instance": name})
    return Named("rezolus", {"node": name})


@asynccontextmanager
async def running(folder: Path, text: str) -> AsyncIterator[Daemon]:
    path = folder / "rezolus.toml"
    path.write_text('[agent]\ninterval = "20ms"\n' + text)
    daemon = Daemon(load(path), {LOCAL: Named("rezolus", {"node": "here"})}, connect=connect)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: daemon.run(task_status=task_status))
            yield daemon
            daemon.stop()


def recorder(folder: Path, more: str) -> str:
    return f'[sinks.rec]\ntype = "recorder"\npath = "{folder}/out.parquet"\n{more}\n'


async def delivered(daemon: Daemon, count: int = 5) -> None:
    """Wait until every sink has some readings."""
    while min(stream.delivered for stream in daemon.statistics().streams) < count:  # noqa: ASYNC110
        await trio.sleep(0.01)


def columns(path: Path) -> list[dict[str, str]]:
    """The labels of each column of values."""
    schema = pq.read_schema(path)
    found = [{key.decode(): value.decode() for key, value in (item.metadata or {}).items()} for item in schema]
    return [labels for labels in found if labels.get("metric") == "ticks"]


def file_metadata(path: Path) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in pq.read_metadata(path).metadata.items()}


async def test_several_sources_become_one_recording_that_tells_them_apart(tmp_path: Path) -> None:
    async with running(tmp_path, SOURCES + recorder(tmp_path, 'source = ["one", "two", "local"]')) as daemon:
        await delivered(daemon, 10)
    path = tmp_path / "out.parquet"
    found = {labels.get("node") or labels["instance"]: labels for labels in columns(path)}
    assert found.keys() == {"one", "two", "here"}
    assert found["one"]["source"] == found["here"]["source"] == "rezolus"
    assert found["two"]["endpoint"] == "http://shop"
    metadata = file_metadata(path)
    assert json.loads(metadata["source"]) == ["rezolus", "shop"]
    about = json.loads(metadata["per_source_metadata"])
    assert about["rezolus"]["one"] == {"version": "7", "systeminfo": {"cpus": 2}, "node": "one"}
    assert about["rezolus"]["here"]["node"] == "here"
    assert about["shop"]["two"]["instance"] == "two"
    assert (metadata["pinned_node"], metadata["systeminfo"]) == ("one", '{"cpus": 2}')
    assert about["shop"]["descriptions"] == {"ticks": "Ticks of shop"}


async def test_separate_recordings_have_one_source_each(tmp_path: Path) -> None:
    async with running(tmp_path, SOURCES + recorder(tmp_path, 'separate = true\nsource = ["one", "two"]')) as daemon:
        await delivered(daemon)
    for name, kind in (("one", "rezolus"), ("two", "shop")):
        path = tmp_path / f"out_{name}.parquet"
        assert [labels["of"] for labels in columns(path)] == [kind]
        assert columns(path)[0]["endpoint"] == f"http://{kind}"
        assert file_metadata(path)["source"] == kind


async def test_a_recording_of_this_host_needs_no_provenance(tmp_path: Path) -> None:
    async with running(tmp_path, recorder(tmp_path, "")) as daemon:
        await delivered(daemon)
    assert "endpoint" not in columns(tmp_path / "out.parquet")[0]
    assert file_metadata(tmp_path / "out.parquet")["systeminfo"] == '{"cpus": 2}'


async def test_each_sink_has_its_own_sources_interval_and_metrics(tmp_path: Path) -> None:
    text = SOURCES + recorder(tmp_path, 'source = "two"\ninterval = "40ms"')
    text += '[sinks.prom]\ntype = "exporter"\nlisten = "127.0.0.1:0"\nsource = "one"\nmetrics = {exclude = ["ticks"]}\n'
    async with running(tmp_path, text) as daemon:
        await delivered(daemon)
        feeds = {feed.name: feed.demand.interval_ns for feed in daemon.ensemble.feeds}
        assert feeds == {"one": 20_000_000, "two": 40_000_000, LOCAL: 20_000_000}
        assert daemon.ensemble.feeds.deliver(["one", "two", LOCAL]) == {"one": True, "two": True, LOCAL: True}
    assert [labels["of"] for labels in columns(tmp_path / "out.parquet")] == ["shop"]


def test_metadata_of_a_source_that_says_nothing_yet() -> None:
    assert metadata_of({}, ["gone"]) == {}
    assert json.loads(metadata_of({}, ["gone", "too"])["source"]) == []


class Deep(Named):
    """Says of itself what no decoder gets to the bottom of."""

    def metadata(self) -> dict[str, str]:
        deep = '{"a":' * 5000 + "1" + "}" * 5000
        return {**super().metadata(), "version": deep, "systeminfo": deep, "sampler_status": f"[{deep}]"}


def test_what_a_remote_says_of_itself_is_passed_on_without_being_decoded() -> None:
    sources = {"deep": Deep("rezolus", {"node": "deep"}), "one": Named("rezolus", {"node": "one"})}
    feeds = {name: Feed(name, source, None, Demand(1, ())) for name, source in sources.items()}
    combined = metadata_of(feeds, ["one", "deep"])
    metadata = sources["deep"].metadata()
    about = combined["per_source_metadata"]
    assert f'"sampler_status":{metadata["sampler_status"]}' in about
    assert f'"version":{json.dumps(metadata["version"])}' in about
    assert about.startswith('{"rezolus":{"one":{"version":"7","systeminfo":{"cpus": 2},"node":"one"},"deep":{')
    assert combined["systeminfo"] == '{"cpus": 2}'


async def test_a_deeply_nested_remote_costs_nobody_a_recording(tmp_path: Path) -> None:
    def connect_deep(name: str, config: SourceConfig) -> Source:
        del config
        return Deep("rezolus", {"node": name})

    for names in ('["one"]', '["one", "two"]'):
        path = tmp_path / "rezolus.toml"
        path.write_text(
            SOURCES + recorder(tmp_path, f'source = {names}\ninterval = "20ms"') + "[agent]\nenabled = false\n"
        )
        daemon = Daemon(load(path), connect=connect_deep)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(lambda task_status, daemon=daemon: daemon.run(task_status=task_status))
                await delivered(daemon)
                daemon.stop()
        assert '"sampler_status":[{"a":{"a":' in file_metadata(tmp_path / "out.parquet")["per_source_metadata"]


async def test_an_exporter_without_an_agent_says_why_its_source_is_down(tmp_path: Path) -> None:
    path = tmp_path / "rezolus.toml"
    path.write_text(
        '[agent]\nenabled = false\n[sources.far]\nurl = "http://127.0.0.1:1"\n[sources.other]\nurl = "http://127.0.0.1:1"\n'
        '[sinks.prom]\ntype = "exporter"\nlisten = "127.0.0.1:0"\nsource = "far"\ninterval = "20ms"\n'
        '[sinks.more]\ntype = "exporter"\nlisten = "127.0.0.1:0"\nsource = "other"\ninterval = "20ms"\n'
    )
    daemon = Daemon(load(path))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: daemon.run(task_status=task_status))
            exporter = daemon.ensemble.outlets["prom"].sink
            assert isinstance(exporter, Exporter)
            while remote_statuses(daemon)[0].state != "down":  # noqa: ASYNC110 - a status has no event
                await trio.sleep(0.01)
            status = exporter.status()
            daemon.stop()
    assert status["sources"] == {"far": "down"}
    (remote,) = msgspec.convert(status["remotes"], list[RemoteStatus])
    assert (remote.name, remote.error) == ("far", "cannot connect: connection refused")


async def test_the_status_has_sinks_and_sources_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "rezolus.toml"
    path.write_text(
        '[agent]\ninterval = "20ms"\n[sources.far]\nurl = "http://127.0.0.1:1"\n'
        + recorder(tmp_path, 'source = ["far", "local"]')
    )
    daemon = Daemon(load(path), {LOCAL: Named("rezolus", {"node": "here"})})  # a real remote source, where nobody is
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: daemon.run(task_status=task_status))
            await delivered(daemon)
            agent = agent_status(Agent(None, AgentOptions()))
            while (found := daemon_status(daemon, agent)).remotes[0].state != "down":  # noqa: ASYNC110
                await trio.sleep(0.01)
            daemon.stop()
    again = msgspec.json.decode(msgspec.json.encode(found), type=DaemonStatus)
    assert [(remote.name, remote.state) for remote in again.remotes] == [("far", "down")]
    assert "connection refused" in again.remotes[0].error
    (sink,) = again.sinks
    assert (sink.name, sink.type, sink.sources, sink.running) == ("rec", "recorder", ("far", "local"), True)
    assert sink.interval_seconds == 0.02
    assert sink.delivered >= 5
    assert sink.statistics["rows"] >= 0
    assert not is_bad(again)
