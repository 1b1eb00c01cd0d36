"""`rezolus status` against answers that are none."""

from __future__ import annotations

import io
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from rezolus import __version__
from rezolus.agent.report import EventStatus, ExternalStatus, SamplerStatus
from rezolus.cli import status, status_text
from rezolus.config import ExporterConfig, HindsightConfig
from rezolus.errors import UserError
from rezolus.remote.status import RemoteStatus
from rezolus.sinks.exporter import Exporter
from rezolus.sinks.hindsight import Hindsight
from rezolus.sinks.hindsight_pages import status_of
from rezolus.status import DaemonStatus, ReloadStatus, ServiceStatus, SinkStatus


@contextmanager
def answering(first: bytes, then: bytes = b"") -> Iterator[str]:
    """A server that answers one request with `first`, and `then` for as long as somebody reads; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + first)
                    while then:
                        connection.sendall(then)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join(20)
    assert not thread.is_alive()


def test_an_answer_is_read_to_its_end() -> None:
    with answering(b"{}") as url:
        assert status.fetch(url) == b"{}"


def test_an_answer_without_end_is_an_error() -> None:
    with answering(b"{", b" " * 65536) as url, pytest.raises(UserError, match="the answer does not end"):
        status.fetch(url, most=1 << 20)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"samplers": 1}', b"\xff", b"[" * 100_000])
def test_what_is_no_status_is_an_error(body: bytes) -> None:
    with pytest.raises(UserError, match="does not answer as an agent does"):
        status.parse("http://host", body)


def test_names_are_shown_as_they_are() -> None:
    hook = "uprobe:/opt/[app]/bin/[/red]:main"
    event = EventStatus(event="main", line=1, hook=hook)
    sampler = SamplerStatus(name="own", state="active", health="healthy", events=(event,))
    assert hook in shown(DaemonStatus(version="1", uptime_seconds=1, ttl_seconds=0, samplers=(sampler,)))


SINK = SinkStatus(
    name="prom", type="exporter", sources=("local", "far"), interval_seconds=1, running=True, delivered=7, lost=2
)
FAR = RemoteStatus(name="far", url="http://far:4241", protocol="msgpack", state="up", fetched=9, counters=5)


def of_daemon(**more: object) -> DaemonStatus:
    return DaemonStatus(version="1", uptime_seconds=90061, ttl_seconds=0, samplers=(), **more)  # type: ignore[arg-type]


def shown(found: DaemonStatus) -> str:
    output = io.StringIO()
    status_text.show(found, Console(file=output, width=200))
    return output.getvalue()


def test_sinks_and_sources_have_tables() -> None:
    found = of_daemon(sinks=(SINK,), remotes=(FAR,))
    text = shown(found)
    assert "up 1 d 1 h" in text
    assert re.search(r"prom +exporter +running +1 s +7 +2 +local, far", text)
    assert re.search(r"far +up +5 +9 .*http://far:4241", text)
    assert not status_text.is_bad(found)


def test_what_other_programs_push_has_a_line_and_one_for_each_reason_against_it() -> None:
    external = ExternalStatus(socket="unix:/x", listening=True, connections=2, series=3, updates=44)
    text = shown(of_daemon(external=external))
    assert text.splitlines()[1:] == ["external: 3 series, 44 values from 2 connections at unix:/x"]
    refused = replace(
        external,
        rejected={"kind": 5, "name": 1},
        last_rejected="cpu_usage of process 7 of user 0: the agent has it",
        refused={"connections": 6, "malformed": 7},
        problem="[/b] line 1",
    )
    assert shown(of_daemon(external=refused)).splitlines()[2:] == [
        "external: rejected 5 (kind), 1 (name); the last: cpu_usage of process 7 of user 0: the agent has it",
        "external: closed 6 connections (connections)",
        "external: closed 7 connections (malformed); the last: [/b] line 1",
    ]
    assert not status_text.is_bad(of_daemon(external=refused))


def test_a_socket_that_is_not_listened_on_is_bad() -> None:
    found = of_daemon(external=ExternalStatus(socket="unix:/x", listening=False))
    assert "external: not listening at unix:/x" in shown(found)
    assert status_text.is_bad(found)


def test_a_sink_that_runs_and_cannot_write_says_so() -> None:
    found = of_daemon(sinks=(msgspec.structs.replace(SINK, failure="no space left on device"),))
    assert re.search(r"prom +exporter +in trouble +1 s", shown(found))
    assert "prom: no space left on device" in shown(found)
    assert status_text.is_bad(found)


@pytest.mark.parametrize(("key", "kind"), [("scrapes", "an exporter"), ("buffer_duration_secs", "hindsight")])
def test_a_service_without_an_agent_is_told_by_its_status(key: str, kind: str) -> None:
    body = msgspec.json.encode({"version": "1", key: 1})
    with pytest.raises(UserError, match=f"http://host is {kind}, not an agent; .* by http://host/status$"):
        status.parse("http://host", body)
    with pytest.raises(UserError, match=f"unix:/x is {kind}, not an agent; .* by /status there$"):
        status.parse("unix:/x", body)


@pytest.mark.parametrize("name", ["prom", "back"])
def test_of_services_without_an_agent_the_sources_are_shown(name: str, tmp_path: Path) -> None:
    down = replace(FAR, state="down", error="cannot connect: connection refused")
    exporter = Exporter("prom", ExporterConfig(), remotes=lambda: (down,))
    hindsight = Hindsight("back", HindsightConfig(path=tmp_path / "out.parquet"), remotes=lambda: (down,))
    told = {"prom": exporter.status(), "back": status_of(hindsight)}
    found = status.parse("http://host", msgspec.json.encode(told[name]))
    assert isinstance(found, ServiceStatus)
    output = io.StringIO()
    status_text.show_service(found, Console(file=output, width=200))
    assert output.getvalue().startswith(f"{name} of rezolus {__version__}; no agent")
    assert re.search(r"far +down +5 +9 .*http://far:4241", output.getvalue())
    assert "far: cannot connect: connection refused" in output.getvalue()


def test_a_sink_that_fails_is_bad_and_a_source_that_is_down_is_not() -> None:
    broken = replace(SINK, running=False, failure="cannot listen on 127.0.0.1:1: permission denied")
    assert "prom: cannot listen" in shown(of_daemon(sinks=(broken,)))
    assert status_text.is_bad(of_daemon(sinks=(broken,)))
    down = replace(FAR, state="down", error="connection refused", warnings=("its clock is a day off",))
    text = shown(of_daemon(remotes=(down,)))
    assert "far: connection refused" in text
    assert "far: its clock is a day off" in text
    assert not status_text.is_bad(of_daemon(remotes=(down,)))


def test_the_last_reload_is_told() -> None:
    refused = ReloadStatus(ok=False, problems=("a.rzl:1: no",), time_ns=1_795_372_013 * 10**9, seconds=0.5)
    text = shown(of_daemon(reload=refused))
    assert "last reload 2026-11-22 18:26:53 UTC: was refused" in text
    assert "a.rzl:1: no" in text
    well = ReloadStatus(ok=True, changed=("rec",), notes=("agent.user: later",), time_ns=0, seconds=0.5)
    assert "went well; changed: rec\nagent.user: later" in shown(of_daemon(reload=well))


def test_an_agent_of_rezolus_is_understood() -> None:
    body = (Path(__file__).parent.parent / "data/rezolus/live/status.json").read_bytes()
    found = status.parse("http://host", body)
    assert isinstance(found, DaemonStatus)
    assert "cpu_branch: no cores available for branch sampling" in shown(found)


def test_an_agent_at_a_unix_socket_is_asked(tmp_path: Path) -> None:
    body = msgspec.json.encode(of_daemon(sinks=(SINK,)))
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        thread = threading.Thread(target=serve)
        thread.start()
        assert status.fetch_unix(path) == body
        thread.join(20)
    with pytest.raises(UserError, match=r"cannot read unix:.*missing: no such file or directory"):
        status.fetch_unix(str(tmp_path / "missing"))
