"""Known amounts of work for the kernel, done in processes of their own: what metrics are compared with.

`Worker` starts `python -m tests.workloads`, in a cgroup or a network namespace of its own if asked; the process waits on a
pipe, does what `call` names, answers with what it knows about it, and waits again. Whatever it does before the
first call is over when `Worker` returns.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests import needs, workload_kinds

PATIENCE_S = 30.0
ROOT = Path(__file__).parent.parent
Answer = Mapping[str, Any]


class Worker:
    """A process that does what it is told."""

    def __init__(self, *, cgroup: Cgroup | None = None, own_network: bool = False, cpu: int | None = None) -> None:
        options = json.dumps({"own_network": own_network, "cpu": cpu})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.workloads", options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        if cgroup is not None:
            cgroup.add(self.pid)
        self.call("nothing")  # it has started, and its last calls were made in the cgroup

    def begin(self, kind: str, **arguments: object) -> None:
        """Have a function of `workload_kinds` run."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([kind, arguments]) + "\n")
        self._process.stdin.flush()

    def end(self) -> Answer:
        """What it answered; returns when the process has gone back to sleep."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the workload ended with {self._process.wait()}"
        eventually(lambda: self.proc("stat").rpartition(")")[2].split()[0] == "S", "the workload sleeps")
        answer: Answer = json.loads(line)
        return answer

    def call(self, kind: str, **arguments: object) -> Answer:
        """`begin` and `end`."""
        self.begin(kind, **arguments)
        return self.end()

    def proc(self, file: str) -> str:
        """A file of /proc/PID."""
        return Path(f"/proc/{self.pid}/{file}").read_text()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A cgroup of the test's own."""

    path: Path
    name: str
    """As in the label `name`."""

    def add(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Remove the directory; its last process may still be on its way out."""
        eventually(self._removed, f"{self.path} can be removed")

    def _removed(self) -> bool:
        try:
            self.path.rmdir()
        except OSError:
            return not self.path.exists()
        return True


@contextlib.contextmanager
def cgroup(name: str, *, controller: str = "cpu") -> Iterator[Cgroup]:
    """Make a cgroup (`a/b/c`: nested) in the hierarchy of a controller and remove it, and those above it, at the end."""
    needs.root()
    root = hierarchy(controller)
    made: list[Cgroup] = []
    path, label = root, ""
    try:
        for part in name.split("/"):
            path, label = path / part, f"{label}/{part}"
            path.mkdir()
            made.append(Cgroup(path, label))
            _enable(path.parent, controller)
        yield made[-1]
    finally:
        for group in reversed(made):
            if group.path.exists():
                group.remove()


def hierarchy(controller: str) -> Path:
    """Where the cgroups of a controller are: its own hierarchy (v1), else the unified one."""
    unified = None
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup" and controller in options.split(","):
            return Path(where)
        if kind == "cgroup2" and controller in (Path(where) / "cgroup.controllers").read_text().split():
            unified = Path(where)
    if unified is None:
        needs.cannot_run(f"needs a cgroup hierarchy with the {controller} controller")
    return unified


def _enable(folder: Path, controller: str) -> None:
    """On a unified hierarchy a controller works in a folder when its parent hands it down."""
    control = folder / "cgroup.subtree_control"
    if control.exists() and controller not in control.read_text().split():
        control.write_text(f"+{controller}")


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen: {what}"
        select.select([], [], [], 0.002)


def _main() -> None:
    options = json.loads(sys.argv[1])
    if options["own_network"]:
        _unshare_network()
    if options["cpu"] is not None:
        os.sched_setaffinity(0, {options["cpu"]})
    pending = b""
    while True:
        while b"\n" not in pending:
            part = os.read(0, 65536)
            if not part:
                return
            pending += part
        line, _, pending = pending.partition(b"\n")
        kind, arguments = json.loads(line)
        answer = getattr(workload_kinds, kind)(**arguments)
        os.write(1, json.dumps(answer or {}).encode() + b"\n")


def _unshare_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
    workload_kinds.bring_up("lo")


if __name__ == "__main__":
    _main()
