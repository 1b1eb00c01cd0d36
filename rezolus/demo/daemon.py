"""The daemon as a child process: started, waited for, ended; and the workload beside it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from rezolus.agent.status import AgentStatus
from rezolus.config import Config, ExporterConfig
from rezolus.demo.workload import Tally
from rezolus.errors import UserError
from rezolus.units import Address

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


def _addresses(config: Config) -> list[Address]:
    """Where this configuration listens."""
    exporters = [sink.listen for sink in config.sinks.values() if isinstance(sink, ExporterConfig)]
    return [address for address in (config.agent.listen, *exporters) if address.port]


def _answers(address: Address) -> bool:
    try:
        with socket.create_connection((address.host, address.port), timeout=1.0):
            return True
    except OSError:
        return False


def _wait_ready(daemon: subprocess.Popen[bytes], address: Address, log: Path) -> None:
    """Returns when the first reading has been taken."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        status = read_status(address)
        if status is not None and status.reading is not None:
            return
        stay_with(daemon, 0.05, log)
    raise UserError(f"the agent at http://{address}/status took no reading within {START_S:.0f} s{_said(log)}")


def read_status(address: Address) -> AgentStatus | None:
    """What the agent says of itself; None when it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{address}/status", timeout=1.0) as answer:
            return msgspec.json.decode(answer.read(), type=AgentStatus)
    except OSError:
        return None


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
