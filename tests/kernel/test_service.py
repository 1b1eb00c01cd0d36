"""The service as its user starts it, as root: what a reload brings is prepared, what is broken hurts nothing that runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from tests import needs
from tests.agent.running import eventually, status_of

ROOT = Path(__file__).parent.parent.parent

PROBE = """\
rzl 1

sampler calls "Context switches" {

    counter calls by cpu "Context switches"

    on sched_switch {
        calls += 1
    }
}
"""


AUDITED = """\
import os, sys
main = os.getpid()
def look(event, arguments):
    if event == "import" and os.getpid() == main and os.getuid() != 0:
        print("imported late:", arguments[0], file=sys.stderr)
sys.addaudithook(look)
from rezolus.cli import main as run
run()
"""
"""The command, saying what it imports once it is no longer root."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of root's that everybody may enter."""
    needs.root()
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@dataclass
class Service:
    process: subprocess.Popen[str]
    address: str

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://{self.address}{path}", timeout=60, trust_env=False)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/status").json()
        return found

    def reload(self) -> dict[str, Any]:
        answer = httpx.post(f"http://{self.address}/reload", timeout=60, trust_env=False)
        found: dict[str, Any] = answer.json()
        assert answer.status_code == (200 if found["ok"] else 409)
        return found

    def sink(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(sink for sink in self.status()["sinks"] if sink["name"] == name)
        return found

    def end(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        _, stderr = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, stderr
        assert "Traceback" not in stderr
        assert "imported late" not in stderr  # the user it runs as may not be able to read our modules
        return stderr


@contextmanager
def service(file: Path, *command: str, address: str = "") -> Iterator[Service]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(file.parent / "notify"))
        (file.parent / "notify").chmod(0o777)  # as systemd's
        manager.settimeout(60)
        process = subprocess.Popen(
            [sys.executable, "-c", AUDITED, *command, str(file)],
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": str(file.parent / "notify")},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            message = manager.recv(1000)
            assert message.startswith(b"READY=1"), message
            yield Service(process, address)
        finally:
            process.kill()
            process.communicate()
            (file.parent / "notify").unlink()


def agent(port: int) -> str:
    return f'[agent]\ninterval = "50ms"\nlisten = "127.0.0.1:{port}"\nuser = "nobody"\nprobes = ["own.rzl"]\n'


def test_new_sinks_may_write_after_a_reload_and_a_broken_file_costs_nothing(folder: Path) -> None:
    (folder / "own.rzl").write_text(PROBE)
    file, port = folder / "rezolus.toml", free_port()
    file.write_text(agent(port))
    with service(file, address=f"127.0.0.1:{port}") as running:
        assert status_of(running.process.pid)["Uid"].split()[0] != "0"
        assert running.status()["samplers"][0]["name"] == "calls"
        output, kept = folder / "out/rec.parquet", folder / "kept/back.parquet"
        sinks = (
            f'[sinks.rec]\ntype = "recorder"\npath = "{output}"\n[sinks.back]\ntype = "hindsight"\npath = "{kept}"\n'
        )
        sinks += f'listen = "unix:{folder}/sockets/back.sock"\n'
        file.write_text(agent(port) + sinks)
        assert running.reload() == {"ok": True, "problems": [], "changed": ["rec", "back"], "notes": []}
        eventually(lambda: running.sink("rec")["statistics"]["rows"] >= 5)
        assert (folder / "sockets/back.sock").is_socket()

        (folder / "own.rzl").write_text(PROBE.replace("calls += 1", "calls += nothing"))
        answer = running.reload()
        assert not answer["ok"]
        assert "nothing" in answer["problems"][0]
        file.write_text("[agent")
        answer = running.reload()
        assert not answer["ok"]
        assert "is not valid TOML" in answer["problems"][0]
        assert answer["changed"] == []
        before = running.sink("rec")["statistics"]["rows"]
        eventually(lambda: running.sink("rec")["statistics"]["rows"] >= before + 5)
        assert running.status()["reload"]["ok"] is False

        for page in (
            "/metrics/binary",
            "/metrics/json",
            "/metrics/descriptions",
            "/systeminfo",
            "/samplers",
            "/nothing",
        ):
            assert running.get(page).status_code == (404 if page == "/nothing" else 200)

        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: kept.exists() and kept.stat().st_size > 0)
        running.end()
    assert pq.read_metadata(kept).num_rows >= 5
    assert pq.read_metadata(output).num_rows >= 10  # finished by a worker, whatever state the configuration is in
    assert output.stat().st_uid != 0


def test_a_reload_leads_root_nowhere_by_a_link_of_the_daemons_user(folder: Path) -> None:
    (folder / "own.rzl").write_text(PROBE)
    home, victim = folder / "home", folder / "etc"
    home.mkdir()
    shutil.chown(home, "nobody")
    (victim / "new.parquet.recording").mkdir(parents=True)
    (victim / "new.parquet").touch()
    before = whose(victim)
    file, port = folder / "rezolus.toml", free_port()
    back = f'[sinks.back]\ntype = "hindsight"\npath = "{home}/kept/back.parquet"\n'
    file.write_text(agent(port) + back)
    with service(file, address=f"127.0.0.1:{port}") as running:
        eventually(lambda: running.sink("back")["statistics"]["written"] >= 5)
        assert not (home / "kept/back.parquet").exists()  # before there is a dump
        link = f"mv {home}/kept {home}/moved && ln -s {victim} {home}/kept"
        subprocess.run(["/bin/sh", "-c", link], user="nobody", group="nogroup", extra_groups=[], check=True)
        new = f'[sinks.new]\ntype = "recorder"\npath = "{home}/kept/new.parquet"\n'
        more = f'[sinks.more]\ntype = "hindsight"\npath = "{home}/kept/sub/more.parquet"\n'
        file.write_text(agent(port) + back + new + more)
        answer = running.reload()
        assert not answer["ok"]
        assert all("permission denied" in problem for problem in answer["problems"])
        assert whose(victim) == before
        written = running.sink("back")["statistics"]["written"]
        eventually(lambda: running.sink("back")["statistics"]["written"] >= written + 5)
        running.end()


def whose(folder: Path) -> dict[str, tuple[int, int]]:
    """Owner and mode of everything in a folder."""
    found = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {name: (status.st_uid, status.st_mode) for name, status in found.items()}


def test_recordings_with_the_time_in_their_names_leave_nothing_else(folder: Path) -> None:
    (folder / "own.rzl").write_text(PROBE)
    home = folder / "home"
    file, port = folder / "rezolus.toml", free_port()
    named = '[sinks.rec]\ntype = "recorder"\npath = "{}/today-%H%M%S-x.parquet"\n'
    file.write_text(agent(port) + named.format(home))
    with service(file, address=f"127.0.0.1:{port}") as running:
        for interval in ("1s", "2s"):
            file.write_text(
                agent(port)
                + named.format(home)
                + f'[sinks.w]\ntype = "exporter"\nlisten = "127.0.0.1:0"\ninterval = "{interval}"\n'
            )
            assert running.reload()["changed"] == ["w"]
        output = Path(running.sink("rec")["statistics"]["output"])
        assert {path.name for path in home.iterdir()} == {f"{output.name}.recording"}
        eventually(lambda: running.sink("rec")["statistics"]["rows"] >= 5)
        file.write_text(agent(port) + named.format(folder))
        answer = running.reload()
        assert not answer["ok"]
        assert f"{folder}: user 'nobody' cannot make files here" in answer["problems"][0]
        assert answer["changed"] == []
        running.end()
    assert list(home.iterdir()) == [output]
    assert pq.read_metadata(output).num_rows >= 5


def test_without_an_agent_there_is_no_root_helper(folder: Path) -> None:
    (folder / "own.rzl").write_text(PROBE)
    port, scraped = free_port(), free_port()
    (folder / "agent").mkdir()
    (folder / "agent/own.rzl").write_text(PROBE)
    (folder / "agent/rezolus.toml").write_text(agent(port))
    file = folder / "exporter.toml"
    file.write_text(
        f'[agent]\nenabled = false\nuser = "nobody"\n[sinks.prom]\ntype = "exporter"\ninterval = "50ms"\n'
        f'listen = "127.0.0.1:{scraped}"\nsource = "http://127.0.0.1:{port}"\n'
    )
    with service(file, address=f"127.0.0.1:{scraped}") as exporter:
        status = status_of(exporter.process.pid)
        assert status["Uid"].split()[0] != "0"
        assert int(status["CapPrm"], 16) == 0
        children = Path(f"/proc/{exporter.process.pid}/task/{exporter.process.pid}/children").read_text()
        assert children == ""
        with service(folder / "agent/rezolus.toml", address=f"127.0.0.1:{port}") as measuring:
            eventually(lambda: "\ncalls" in exporter.get("/metrics").text)
            measuring.end()
        exporter.end()
