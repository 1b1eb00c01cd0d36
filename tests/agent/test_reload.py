"""Reloads on the real kernel: what stays the same is counted without a gap and never twice."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.agent.running import PATIENCE_S, children, eventually

pytestmark = pytest.mark.kernel

GETPPID, READ = {"x86_64": (110, 0)}.get(platform.machine(), (173, 63))
NAME = "rzlcalls"
CALLER = f"""
import os, select
open("/proc/self/comm", "w").write({NAME!r})
count = 0
print("ready", flush=True)
while not select.select([0], [], [], 0)[0]:
    for _ in range(1000):
        os.getppid()
    count += 1000
print(count, flush=True)
"""
READER = f"""
import os
open("/proc/self/comm", "w").write({NAME!r})
print("ready", flush=True)
os.read(0, 1)
print("done", flush=True)
"""

COUNTED = f"""rzl 1
sampler calls "Calls of the test" {{
    counter calls "Calls"
    counter calls_by_cpu by cpu "Calls"
    counter calls_by_cgroup by cgroup "Calls"
    counter calls_by_name by comm limit 10 "Calls"
    counter calls_by_parity {{ parity: even | odd }} "Calls"
    histogram sizes "Numbers"
    gauge last "The last number"

    on sys_enter(_, id) when comm == "{NAME}" && id == {GETPPID} {{
        calls += 1
        calls_by_cpu += 1
        calls_by_cgroup += 1
        calls_by_name[comm] += 1
        if tid % 2 == 0 {{ calls_by_parity{{parity: even}} += 1 }} else {{ calls_by_parity{{parity: odd}} += 1 }}
        sizes << 5
        last = 17
    }}
}}
"""
WAITED = f"""rzl 1
sampler waits "Reads of the test" {{
    histogram waits ns "Time in read"
    measure waits from sys_enter(_, id) to sys_exit() by task when comm == "{NAME}" && id == {READ}
}}
"""
MORE = """rzl 1
sampler aaa_more "Moves the words of every bank" {
    counter aaa_switches "Switches"
    counter aaa_by_cgroup by cgroup "Switches"
    histogram aaa_sizes "Numbers"
    gauge aaa_last "A number"
    on sched_switch(_, prev, next) {
        aaa_switches += 1
        aaa_by_cgroup[cgroup of prev] += 1
        aaa_sizes << 3
        aaa_last = 5
    }
}
"""
KINDS = ("calls", "calls_by_cpu", "calls_by_cgroup", "calls_by_name", "calls_by_parity")


@dataclass(slots=True)
class Reloading:
    """A running `tests.agent.reloading`."""

    process: subprocess.Popen[str]
    folder: Path
    helper: int = 0

    def ask(self, what: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self.line()

    def line(self) -> Any:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        assert text, (self.folder / "stderr").read_text()
        return json.loads(text)

    def reload(self) -> tuple[str, ...]:
        """Reload, which must work; returns what changed."""
        result = self.ask("reload")
        assert result["ok"], result["problems"]
        return tuple(result["changed"])

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def sums(self) -> dict[str, int]:
        """Values now, summed over labels; of histograms the counts of all buckets."""
        found: dict[str, int] = {}
        for key, value in self.ask("read").items():
            name = key.partition(",")[0]
            found[name] = found.get(name, 0) + (sum(value) if isinstance(value, list) else value)
        return found


@contextmanager
def reloading(folder: Path, *, interval_ms: int = 100, config: str = "") -> Iterator[Reloading]:
    """An agent that measures `FOLDER/*.rzl`."""
    (folder / "config.toml").write_text(f'[agent]\nprobes = ["{folder}/*.rzl"]\n{config}')
    folder.chmod(0o755)
    command = [sys.executable, "-m", "tests.agent.reloading", str(folder / "config.toml"), str(interval_ms * 10**6)]
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
    with process:
        try:
            running = Reloading(process, folder)
            running.line()
            (running.helper,) = children(process.pid)
            yield running
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


@contextmanager
def calling(program: str = CALLER) -> Iterator[subprocess.Popen[str]]:
    """A process whose calls are counted, at work."""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def finished(process: subprocess.Popen[str]) -> str:
    """Have the process end; what it says then."""
    said, _ = process.communicate("\n", PATIENCE_S)
    return said.strip()


def test_every_event_is_counted_once_whatever_is_reloaded(tmp_path: Path) -> None:
    (tmp_path / "counted.rzl").write_text(COUNTED)
    with reloading(tmp_path) as running, calling() as caller:
        assert running.reload() == ()
        running.write("more.rzl", MORE)
        assert running.reload() == ("sampler aaa_more added",)
        assert running.sums()["last"] == 17
        (tmp_path / "more.rzl").unlink()
        assert running.reload() == ("sampler aaa_more removed",)
        running.write("more.rzl", MORE)
        assert running.reload() == ("sampler aaa_more added",)
        assert running.reload() == ()
        count = int(finished(caller))
        found = running.sums()
    assert {kind: found[kind] for kind in (*KINDS, "sizes")} == dict.fromkeys((*KINDS, "sizes"), count)
    assert found["aaa_switches"] > 0
    assert found["rezolus_reloads"] == 5
