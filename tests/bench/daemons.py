"""The daemon as its user starts it, with one configuration or another."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rezolus.agent.report import AgentStatus
from rezolus.config import Config, load
from rezolus.demo.daemon import read_status, running_daemon, stay_with
from tests.bench.units import ROOT

EXPORTER = "exporter"
RECORDER = "recorder"
HINDSIGHT = "hindsight"
SINKS = {
    EXPORTER: 'type = "exporter"\nlisten = "{exporter}"',
    RECORDER: 'type = "recorder"\npath = "bench.parquet"',
    HINDSIGHT: 'type = "hindsight"\nlisten = "{hindsight}"\npath = "kept/hindsight.parquet"',
}


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon that has taken a reading."""

    process: subprocess.Popen[bytes]
    config: Config
    folder: Path
    exporter: str
    """Its address, where it has one."""
    hindsight: str
    """The same."""

    @property
    def pid(self) -> int:
        """Of the process that samples."""
        return self.process.pid

    @property
    def recording(self) -> Path:
        """The file that it writes."""
        return self.folder / "bench.parquet"

    def status(self) -> AgentStatus:
        """What the agent says of itself."""
        status = read_status(self.config.agent.listen)
        if status is None:
            raise RuntimeError(f"http://{self.config.agent.listen}/status does not answer")
        return status

    def wait(self, seconds: float) -> None:
        """Let it run for so long."""
        stay_with(self.process, seconds, self.folder / "daemon.log")

    def scrape(self, accept: str = "") -> bytes:
        """The exporter's page."""
        headers = {"Accept": accept} if accept else {}
        return fetch(urllib.request.Request(f"http://{self.exporter}/metrics", headers=headers))


def fetch(request: str | urllib.request.Request) -> bytes:
    """The body of an answer; OSError when there is none or it is an error."""
    with urllib.request.urlopen(request, timeout=30.0) as answer:
        body: bytes = answer.read()
    return body


@contextmanager
def daemon(interval: str, *sinks: str, more: Mapping[str, str] | None = None) -> Iterator[Daemon]:
    """A daemon with all shipped probes and these sinks, which ends with the block. `more`: further keys of a sink."""
    with tempfile.TemporaryDirectory(prefix="rezolus-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the unprivileged user works in a folder of its own there
        status, *addresses = (_free_address() for _ in range(3))
        places = dict(zip((EXPORTER, HINDSIGHT), addresses, strict=True))
        lines = [f'[agent]\ninterval = "{interval}"\nlisten = "{status}"\nprobes = ["{ROOT}/probes/*.rzl"]']
        lines += [f"[sinks.{sink}]\n{SINKS[sink].format(**places)}\n{(more or {}).get(sink, '')}" for sink in sinks]
        path = folder / "bench.toml"
        path.write_text("\n".join(lines) + "\n")
        config = load(path)
        with running_daemon(config, folder) as process:
            yield Daemon(process, config, folder, places[EXPORTER], places[HINDSIGHT])


def _free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"
