"""The daemon as users start it, as root, in a folder that everybody may enter; and what a test asks of it."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 60.0

PROBE = """\
rzl 1

sampler calls "Context switches" {

    counter calls by cpu "Context switches"

    on sched_switch {
        calls += 1
    }
}
"""


@contextmanager
def open_folder() -> Iterator[Path]:
    """pytest's own are closed to the user that the daemon becomes."""
    path = Path(tempfile.mkdtemp(prefix="rezolus-fault-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@dataclass(slots=True)
class Service:
    """A running daemon."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Poll; a page that does not answer yet is none of the test's business, a daemon that ended is."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if condition():
                    return
            except (httpx.TransportError, FileNotFoundError):
                pass
            select.select([], [], [], 0.05)  # polling: the processors are the daemon's
        pytest.fail(f"waited in vain for {what}; exit status {self.process.poll()}; it said:\n{self.log.read_text()}")

    def memory(self) -> int:
        """Resident memory that is no file's, bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) << 10

    def end(self) -> str:
        """End it as a service manager does; what it said, which is never a traceback."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE_S)
        said = self.log.read_text()
        assert status == 0, said
        assert "Traceback" not in said
        return said


@contextmanager
def service(file: Path, *command: str, environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """`rezolus COMMAND FILE`; killed in the end if it still runs."""
    log = file.with_suffix(".log")
    with log.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "rezolus", *command, str(file)],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stderr=said,
        )
        try:
            yield Service(process, log)
        finally:
            process.kill()
            process.wait()


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, timeout=PATIENCE_S, trust_env=False)


def status_of(port: int) -> dict[str, Any]:
    """The `/status` of an address."""
    found: dict[str, Any] = get(f"http://127.0.0.1:{port}/status").json()
    return found
