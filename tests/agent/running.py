"""Running `tests.agent.daemon` and talking to it."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 30.0


@dataclass(slots=True)
class Daemon:
    """A running `tests.agent.daemon`."""

    process: subprocess.Popen[str]
    errors: Path
    address: str = ""
    helper: int = 0
    """The root helper's pid."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self) -> dict[str, Any]:
        """The next line that it prints."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        assert text, f"the daemon ended: {self.errors.read_text()}"
        found: dict[str, Any] = json.loads(text)
        return found

    def reading(self, until: Callable[[Mapping[str, int]], bool] = lambda values: True) -> Mapping[str, int]:
        """The next reading for which the condition holds."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            values: Mapping[str, int] = self.line()["values"]
            if until(values):
                return values
        raise AssertionError(f"no such reading; the daemon said: {self.errors.read_text()}")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def wait(self) -> int:
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(PATIENCE_S)


@contextmanager
def daemon(tmp_path: Path, *options: str) -> Iterator[Daemon]:
    errors = tmp_path / "stderr"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.agent.daemon", *options], stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    running = Daemon(process, errors)
    try:
        running.address = running.line()["listen"]
        (running.helper,) = children(running.pid)
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if running.helper:
            eventually(lambda: gone(running.helper))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        select.select([], [], [], 0.01)  # polling, not waiting for a result: the processors are the daemon's


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waited for yet has."""
    try:
        return status_of(pid)["State"].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True
