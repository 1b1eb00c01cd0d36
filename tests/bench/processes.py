"""What a process and all its children use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")
GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True, slots=True)
class Use:
    """Of a process and everything below it, now."""

    processes: int
    rss: int
    """Resident, bytes; what is shared counts in each process."""
    pss: int
    """The same, with shared pages divided among those that share them."""


def tree(pid: int) -> Iterator[int]:
    """The process, its children and theirs."""
    yield pid
    with suppress(*GONE):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))


def memory(pid: int) -> Use:
    """Memory of a process tree."""
    count = rss = pss = 0
    for member in tree(pid):
        with suppress(*GONE):
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()[1:]
            fields = {name: int(value.split()[0]) << 10 for name, _, value in (line.partition(":") for line in lines)}
            count += 1
            rss += fields["Rss"]
            pss += fields["Pss"]
    return Use(count, rss, pss)


def cpu_ns(pid: int) -> int:
    """CPU time that the living threads of a process tree have used, exact."""
    total = 0
    for member in tree(pid):
        with suppress(*GONE):
            for task in Path(f"/proc/{member}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
    return total


def cpu_with_children_ns(pid: int) -> int:
    """CPU time of a process tree, with that of children that ended and were waited for; in steps of 10 ms."""
    total = 0
    for member in tree(pid):
        with suppress(*GONE):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total * TICK_NS
