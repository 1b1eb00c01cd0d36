"""The daemon as its user starts it, with one configuration or another."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rezolus.agent.report import AgentStatus
from rezolus.config import Config, load
from rezolus.demo.daemon import read_status, running_daemon, stay_with
from tests.bench.units import ROOT

EXPORTER = "exporter"
RECORDER = "recorder"


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon that has taken a reading."""

    process: subprocess.Popen[bytes]
    config: Config
    folder: Path
    exporter: str
    """Its address, where it has one."""

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

    def scrape(self) -> bytes:
        """The exporter's page."""
        with urllib.request.urlopen(f"http://{self.exporter}/metrics", timeout=5.0) as answer:
            body: bytes = answer.read()
        return body


@contextmanager
def daemon(interval: str, *sinks: str) -> Iterator[Daemon]:
    """A daemon with all shipped probes and these sinks, which ends with the block."""
    with tempfile.TemporaryDirectory(prefix="rezolus-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the unprivileged user works in a folder of its own there
        status, exporter = _free_address(), _free_address()
        lines = [f'[agent]\ninterval = "{interval}"\nlisten = "{status}"\nprobes = ["{ROOT}/probes/*.rzl"]']
        if EXPORTER in sinks:
            lines.append(f'[sinks.exporter]\ntype = "exporter"\nlisten = "{exporter}"')
        if RECORDER in sinks:
            lines.append('[sinks.recorder]\ntype = "recorder"\npath = "bench.parquet"')
        path = folder / "bench.toml"
        path.write_text("\n".join(lines) + "\n")
        config = load(path)
        with running_daemon(config, folder) as process:
            yield Daemon(process, config, folder, exporter)


def _free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"
