"""The daemon as a child process: started, waited for, ended; and the workload beside it."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from rezolus.agent.report import AgentStatus
from rezolus.config import Config, ExporterConfig
from rezolus.demo.workload import Tally
from rezolus.errors import UserError
from rezolus.units import Address, UnixAddress

Listen = Address | UnixAddress

START_S = 30.0
"""A slow machine compiles for some seconds."""
STOP_S = 20.0
_LOG_LINES = 20


@contextmanager
def running_daemon(config: Config, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon with `folder` as its working directory; it has taken a reading when the block is entered, and ends after.

    UserError when it does not start or does not end well, with what it said.
    """
    for address in _addresses(config):
        if _answers(address):
            raise UserError(
                f"{address} is in use: end the agent that is running there, or give --config another address"
            )
    log = folder / "daemon.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "rezolus", str(config.path)]
        daemon = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        _wait_ready(daemon, config.agent.listen, log)
        yield daemon
        daemon.send_signal(signal.SIGTERM)
        try:
            status = daemon.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise UserError(f"the agent did not end within {STOP_S:.0f} s{_said(log)}") from None
        if status != 0:
            raise UserError(f"the agent ended with status {status}{_said(log)}")
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait()


def _addresses(config: Config) -> list[Listen]:
    """Where this configuration listens, but for ports that are any free one."""
    exporters = [sink.listen for sink in config.sinks.values() if isinstance(sink, ExporterConfig)]
    return [
        address for address in (config.agent.listen, *exporters) if isinstance(address, UnixAddress) or address.port
    ]


def _answers(address: Listen) -> bool:
    try:
        with _connect(address):
            return True
    except OSError:
        return False


def _connect(address: Listen) -> socket.socket:
    if isinstance(address, Address):
        return socket.create_connection((address.host, address.port), timeout=1.0)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(1.0)
        connection.connect(address.path)
    except BaseException:
        connection.close()
        raise
    return connection


def _wait_ready(daemon: subprocess.Popen[bytes], address: Listen, log: Path) -> None:
    """Returns when the first reading has been taken."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        status = read_status(address)
        if status is not None and status.reading is not None:
            return
        stay_with(daemon, 0.05, log)
    raise UserError(f"the agent at {address} took no reading within {START_S:.0f} s{_said(log)}")


def read_status(address: Listen) -> AgentStatus | None:
    """What the agent says of itself; None when it does not answer."""
    client = http.client.HTTPConnection("localhost", timeout=1.0)
    try:
        client.sock = _connect(address)
        client.request("GET", "/status")
        return msgspec.json.decode(client.getresponse().read(), type=AgentStatus)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        client.close()


def stay_with(daemon: subprocess.Popen[bytes], seconds: float, log: Path) -> None:
    """Lets `seconds` pass while the daemon runs; UserError when it ends meanwhile."""
    try:
        status = daemon.wait(seconds)
    except subprocess.TimeoutExpired:
        return
    raise UserError(f"the agent ended with status {status}{_said(log)}")


def _said(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return "; it said:" + "".join(f"\n  {line}" for line in lines) if lines else "; it said nothing"


def run_workload(seconds: float, folder: Path, while_running: Callable[[], None]) -> Tally:
    """Runs the workload in a process of its own and returns what it counted; calls `while_running` again and again."""
    command = [sys.executable, "-m", "rezolus.demo.workload", str(seconds), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as workload:
        try:
            while workload.poll() is None:
                while_running()
            output, errors = workload.communicate()
        finally:
            workload.kill()
    if workload.returncode != 0:
        reason = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise UserError(f"the workload failed: {reason}")
    return msgspec.json.decode(output, type=Tally)
