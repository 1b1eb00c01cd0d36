"""The daemon as users start it, with programs that push."""

from __future__ import annotations

import grp
import json
import re
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import needs
from tests.agent.external.frames import counter, frame, histogram, session
from tests.faults.services import Service, free_port, open_folder, service

pytestmark = pytest.mark.slow

GROUP = "games"
LATENCY = [0] * 496
LATENCY[3] = 5


def config(folder: Path, agent: int, exporter: int, external: str) -> str:
    return f"""
        [agent]
        interval = "50ms"
        user = "nobody"
        listen = "127.0.0.1:{agent}"
        [agent.external]
        socket = "{folder}/made/push.sock"
        {external}
        [defaults]
        enabled = false
        [sinks.prometheus]
        type = "exporter"
        listen = "127.0.0.1:{exporter}"
        histograms = "both"
    """


@contextmanager
def connection(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        yield client


def pushed(port: int) -> dict[str, Any]:
    """Values of what is pushed, by name and the label `app`, as the agent serves them."""
    page = httpx.get(f"http://127.0.0.1:{port}/metrics/json", trust_env=False)
    if page.status_code != 200:
        return {}
    snapshot = page.json()
    entries = [entry for kind in ("counters", "gauges", "histograms") for entry in snapshot[kind]]
    mine = [entry for entry in entries if entry["metadata"].get("source") == "external"]
    assert len({entry["name"] for entry in entries}) == len(entries)
    assert all(entry["name"] for entry in entries)
    return {f"{entry['metadata']['metric']} {entry['metadata']['app']}": entry["value"] for entry in mine}


def status(port: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(httpx.get(f"http://127.0.0.1:{port}/status", trust_env=False).content)
    return found


def reload(running: Service, port: int) -> dict[str, Any]:
    """Have it reload and wait until it is done; what it says of it."""
    before = status(port).get("reload")
    running.process.send_signal(signal.SIGUSR1)
    running.until(lambda: status(port).get("reload") != before, "the reload")
    found: dict[str, Any] = status(port)["reload"]
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


def test_what_both_protocols_push_is_in_snapshots_and_in_the_exporter_and_survives_a_reload(folder: Path) -> None:
    needs.root()  # a group is given by root
    agent, exporter = free_port(), free_port()
    file, path = folder / "rezolus.toml", folder / "made/push.sock"
    file.write_text(config(folder, agent, exporter, f'group = "{GROUP}"\nmode = "662"'))
    with service(file) as running:
        running.until(path.exists, "the socket")
        running.until(lambda: status(agent)["external"]["listening"], "the agent")
        found = path.stat()
        assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (grp.getgrnam(GROUP).gr_gid, 0o662)
        with connection(path) as lines, connection(path) as frames:
            lines.sendall(b'# SESSION app="shop"\nrequests{code="200"} counter:17\ndepth gauge:-3\nrezolus_x gauge:1\n')
            frames.sendall(
                frame(session({"app": "till"}), counter("requests", 2**63), histogram("wait", 3, 64, LATENCY))
            )
            running.until(lambda: len(pushed(agent)) == 4, "what was pushed")
            values = pushed(agent)
            assert (values["requests shop"], values["requests till"], values["depth shop"]) == (17, 2**63, -3)
            assert values["wait till"]["buckets"] == LATENCY
            text = httpx.get(f"http://127.0.0.1:{exporter}/metrics", trust_env=False).text
            assert 'requests{app="shop",code="200",sampler="external",source="external"} 17 ' in text
            assert 'depth{app="shop",sampler="external",source="external"} -3 ' in text
            assert 'wait_distribution_count{app="till",sampler="external",source="external"} 5 ' in text
            assert 'rezolus_external_rejected{reason="name",sampler="rezolus"} 1 ' in text

            told = reload(running, agent)
            assert told["ok"], told
            lines.sendall(b"depth gauge:4\n")
            running.until(lambda: pushed(agent)["depth shop"] == 4, "a value after the reload")
            assert pushed(agent)["requests till"] == 2**63

            file.write_text(config(folder, agent, exporter, 'group = "mail"\nttl = "100ms"'))
            told = reload(running, agent)
            assert told["notes"] == ["agent.external.group: takes effect at the next start"]
            running.until(lambda: not pushed(agent), "the shorter time to live")
        with connection(path) as lines:
            lines.sendall(b'again{app="x"} counter:1\nwrong\n')
            assert lines.recv(1) == b""
        external = status(agent)["external"]
        assert (external["rejected"], external["refused"]) == ({"name": 1}, {"malformed": 1})
        assert external["problem"].endswith("found ''")
        assert re.match(r"\w+ of process \d+ of user 0: the agent has a metric of this name", external["last_rejected"])
        file.write_text(config(folder, agent, exporter, "").replace("[agent.external]", "").replace("socket =", "#"))
        assert reload(running, agent)["ok"]
        assert not path.exists()
        assert "external" not in status(agent)
        running.end()
