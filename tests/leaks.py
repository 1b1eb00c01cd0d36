"""What a test left behind in this process, in processes it started, and in the kernel."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rezolus.bpf import syscall

PR_SET_CHILD_SUBREAPER = 36
_PROG_GET_NEXT_ID = 11
_MAP_GET_NEXT_ID = 12
_LINK_GET_NEXT_ID = 31
PATIENCE_S = 10.0
"""The kernel frees programs some grace periods after the last descriptor is closed."""


def adopt_orphans() -> None:
    """Makes processes whose parent died children of this one, so that none gets out of sight."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this process and its descendants hold at one moment."""

    descriptors: frozenset[tuple[str, str]]
    processes: frozenset[int]
    programs: frozenset[int]
    links: frozenset[int]

    @classmethod
    def now(cls) -> Self:
        """Looks at /proc and asks the kernel for its BPF objects."""
        return cls(
            descriptors=frozenset(_descriptors()),
            processes=frozenset(descendants(os.getpid())),
            programs=frozenset(_ids(_PROG_GET_NEXT_ID)),
            links=frozenset(_ids(_LINK_GET_NEXT_ID)),
        )

    def leaked_since(self, *, patience_s: float = PATIENCE_S) -> list[str]:
        """What is there now and was not then, in words; waits for what the kernel frees a little later."""
        problems = [f"descriptor {number} -> {target}" for number, target in sorted(_descriptors() - self.descriptors)]
        for pid in _reap(set(descendants(os.getpid())) - self.processes):
            problems.append(f"process {pid}: {_command(pid)}")
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        problems += [
            f"BPF program {number}" for number in _left(self.programs, _PROG_GET_NEXT_ID, "prog_id", patience_s)
        ]
        problems += [f"BPF link {number}" for number in _left(self.links, _LINK_GET_NEXT_ID, "link_id", patience_s)]
        return problems


def own_objects() -> dict[str, int]:
    """How many BPF objects of each kind there are that no process outside our tree holds."""
    kinds = {"prog_id": _PROG_GET_NEXT_ID, "map_id": _MAP_GET_NEXT_ID, "link_id": _LINK_GET_NEXT_ID}
    return {key: len(_own(set(_ids(command)), key)) for key, command in kinds.items()}


def _left(known: frozenset[int], command: int, key: str, patience_s: float) -> list[int]:
    """Our BPF objects of a kind that were not known, after giving the kernel time to free them."""
    deadline = time.monotonic() + patience_s
    while (left := _own(set(_ids(command)) - known, key)) and time.monotonic() < deadline:
        os.sched_yield()
    return sorted(left)


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add((entry.name, str(entry.readlink())))
        except FileNotFoundError:
            continue  # the descriptor of this very listing
    return found


def descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except FileNotFoundError:
            continue  # a thread that ended meanwhile; its children are now another's
        for child in children:
            yield int(child)
            try:
                yield from descendants(int(child))
            except FileNotFoundError:
                continue  # gone meanwhile


def _reap(pids: set[int]) -> list[int]:
    """Those of our descendants that still run; the dead are collected."""
    alive = []
    for pid in sorted(pids):
        try:
            gone, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue  # not our child: goes with its parent, or has been waited for
        if not gone:
            alive.append(pid)
    return alive


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def _ids(command: int) -> Iterator[int]:
    """The ids of all BPF objects of a kind, of everybody."""
    attribute = (ctypes.c_uint32 * 4)()
    while True:
        try:
            syscall.call(
                syscall.numbers()[0],
                ctypes.c_long(command),
                ctypes.c_void_p(ctypes.addressof(attribute)),
                ctypes.c_long(ctypes.sizeof(attribute)),
            )
        except FileNotFoundError:
            return
        attribute[0] = attribute[1]
        yield attribute[0]


def _own(ids: set[int], key: str) -> set[int]:
    """Those of `ids` that no process outside our tree holds: others may work on this machine at the same time."""
    if not ids:
        return ids
    ours = {os.getpid(), *descendants(os.getpid())}
    foreign = set()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) not in ours:
            foreign |= _held(process, key)
    return ids - foreign


def _held(process: Path, key: str) -> set[int]:
    """The ids of the BPF objects that a process has descriptors of."""
    held = set()
    try:
        for info in (process / "fdinfo").iterdir():
            for line in info.read_text().splitlines():
                name, _, value = line.partition(":")
                if name == key:
                    held.add(int(value))
    except OSError:
        pass  # ended meanwhile
    return held
