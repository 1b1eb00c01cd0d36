"""Definitions at work on this kernel: compiled and loaded as the daemon has it done, read as the daemon reads.

`live(files)` starts a loader process of its own, takes over what it hands over and gives readings until it is
closed. `Live.watch` compares two readings, and what other sources say before and after each.
"""

from __future__ import annotations

import json
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rezolus.agent.cgroups import CgroupNames, find_hierarchy
from rezolus.agent.handover import Handover
from rezolus.agent.running import Running
from rezolus.bpf.handover import receive
from rezolus.histogram import bucket_bounds
from rezolus.reading import U64, Reading, histogram_buckets

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 20.0

_LOADER = """
import socket, sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from dsl.facts import Capability
from rezolus.agent import prepare
from rezolus.agent.loader import run_loader

_, descriptor, config, *lacking = sys.argv
host = prepare.probe

def poorer(**asked):
    facts = host(**asked)
    no = dict.fromkeys(lacking, Capability("no", "for the test"))
    return replace(facts, capabilities={**facts.capabilities, **no})

prepare.probe = poorer
run_loader(socket.socket(fileno=int(descriptor)), partial(prepare.prepare, Path(config)))
"""

Source = Callable[[], Mapping[str, int]]
"""Something that says the same as a metric and is independent of it: counters by name."""


@dataclass(frozen=True)
class Values:
    """A reading by names and labels."""

    reading: Reading

    @cached_property
    def numbers(self) -> Mapping[str, list[tuple[Mapping[str, str], int]]]:
        """Counters and gauges: metric name to labels and value of each series."""
        found: dict[str, list[tuple[Mapping[str, str], int]]] = {}
        catalog = self.reading.catalog
        for kind, values in ((catalog.counters, self.reading.counters), (catalog.gauges, self.reading.gauges)):
            for series, value in zip(kind, values.tolist(), strict=True):
                found.setdefault(series.name, []).append((series.labels, value))
        return found

    def series(self, metric: str, /, **labels: str) -> list[int]:
        """The values of a counter's or gauge's series that have these labels."""
        return [value for found, value in self.numbers.get(metric, ()) if labels.items() <= found.items()]

    def sum(self, metric: str, /, **labels: str) -> int:
        """Their sum; 0 when there is none (yet): series of cgroups and keys come when something happened."""
        return sum(self.series(metric, **labels))

    def buckets(self, metric: str, /, **labels: str) -> U64:
        """The buckets of a histogram, those of several series added."""
        catalog = self.reading.catalog
        total: U64 | None = None
        for index, series in enumerate(catalog.histograms):
            if series.name == metric and labels.items() <= series.labels.items():
                begin, end = catalog.histogram_offsets[index : index + 2]
                counts = self.reading.histograms[begin:end]
                total = counts if total is None else total + counts
        return np.zeros(histogram_buckets(3), dtype=np.uint64) if total is None else total


@dataclass(frozen=True, slots=True)
class Change:
    """What happened between two readings."""

    before: Values
    after: Values

    def sum(self, metric: str, /, **labels: str) -> int:
        """The increase of a counter, over all series with these labels."""
        return self.after.sum(metric, **labels) - self.before.sum(metric, **labels)

    def buckets(self, metric: str, /, **labels: str) -> U64:
        """The increase of every bucket of a histogram."""
        return self.after.buckets(metric, **labels) - self.before.buckets(metric, **labels)

    def count(self, metric: str, /, low: float = 0, high: float = 2.0**64, **labels: str) -> int:
        """New samples of a histogram in the buckets that [low, high] touches."""
        counts = self.buckets(metric, **labels)
        power = next(p for p in range(64) if histogram_buckets(p) == len(counts))
        total = 0
        for index in np.flatnonzero(counts).tolist():
            bottom, top = bucket_bounds(index, power)
            if bottom <= high and top >= low:
                total += int(counts[index])
        return total

    def total(self, metric: str, /, **labels: str) -> tuple[int, int]:
        """Bounds of the sum of the new samples of a histogram: all at the bottom or top of their buckets."""
        counts = self.buckets(metric, **labels)
        power = next(p for p in range(64) if histogram_buckets(p) == len(counts))
        bounds = [(bucket_bounds(i, power), int(counts[i])) for i in np.flatnonzero(counts).tolist()]
        return sum(low * n for (low, _), n in bounds), sum(high * n for (_, high), n in bounds)


@dataclass(frozen=True, slots=True)
class Bracket:
    """How much a source's counters rose, at least and at most, between two readings.

    The source was read before and after each reading, so that a metric that counts the same lies between the bounds
    exactly, however busy the machine is.
    """

    least: Mapping[str, int]
    most: Mapping[str, int]

    def holds(self, name: str, value: int, *, slack: int = 0) -> bool:
        """Whether a metric's increase agrees with the source's counter `name`."""
        return self.least[name] - slack <= value <= self.most[name] + slack

    def __str__(self) -> str:
        return ", ".join(f"{name} {low}..{self.most[name]}" for name, low in self.least.items())


@dataclass(slots=True)
class Watch:
    """Filled when the `with` block of `Live.watch` ends."""

    change: Change
    brackets: tuple[Bracket, ...] = ()


class Live:
    """Definitions that run."""

    def __init__(self, running: Running, names: CgroupNames) -> None:
        self.running = running
        self._names = names

    def read(self) -> Values:
        """A reading now."""
        reading = self.running.sampling.read()
        self._names.chores()
        return Values(reading)

    def until(self, condition: Callable[[Values], bool], what: str) -> Values:
        """The first reading for which the condition holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition(values := self.read()):
            assert time.monotonic() < deadline, f"no reading showed {what}"
            select.select([], [], [], 0.01)  # polling: the processors are for what is measured
        return values

    @contextmanager
    def watch(self, *sources: Source) -> Iterator[Watch]:
        """Compares the readings before and after the block, and what the sources say around each."""
        early = [source() for source in sources]
        before = self.read()
        late = [source() for source in sources]
        watch = Watch(Change(before, before))
        yield watch
        early_end = [source() for source in sources]
        after = self.read()
        late_end = [source() for source in sources]
        watch.change = Change(before, after)
        watch.brackets = tuple(
            Bracket(
                {name: value - start_late[name] for name, value in end.items() if name in start_late},
                {name: value - start[name] for name, value in end_late.items() if name in start},
            )
            for start, start_late, end, end_late in zip(early, late, early_end, late_end, strict=True)
        )


@contextmanager
def live(files: Iterable[Path | str], *, lacking: Iterable[str] = ()) -> Iterator[Live]:
    """Compile, load and attach definitions; everything that does not run is an error.

    `lacking` are capabilities of this kernel (`dsl.facts.CAPABILITIES`) that are not to be used, as on an older one.
    """
    paths = [str(ROOT / file) for file in files]
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryDirectory(prefix="rezolus-live-") as folder, ours, theirs:
        config = Path(folder) / "config.toml"
        config.write_text(f"[agent]\nprobes = {json.dumps(paths)}\n")
        command = [sys.executable, "-c", _LOADER, str(theirs.fileno()), str(config), *lacking]
        with subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()]) as loader:
            theirs.close()
            first, _ = receive(ours, Handover)
            assert not first.failure, first.failure
            whole, fds = receive(ours, Handover)
        assert loader.returncode == 0
    names = CgroupNames(cpu_hierarchy(), walk_seconds=0.0)
    running = Running.start(whole, fds, names, wanted=bool, own=())
    try:
        problems = [f"{problem}\n{problem.detail}" for problem in whole.problems]
        problems += [str(program.error) for program in whole.programs if program.error is not None]
        assert not whole.failure, whole.failure
        assert not problems, "\n".join(problems)
        started = Live(running, names)
        started.read()  # opens the files of sources
        yield started
    finally:
        running.close()


def cpu_hierarchy() -> str | None:
    """Where the cgroups are that metrics `by cgroup` follow."""
    return find_hierarchy(Path("/proc/self/mounts").read_text())


def proc_counters(path: str, *patterns: str) -> Source:
    """The numbers that patterns find in a file of /proc or /sys, each pattern's group being one."""

    def read() -> Mapping[str, int]:
        text = Path(path).read_text()
        found = {}
        for pattern in patterns:
            match = re.search(pattern, text, re.MULTILINE)
            if match is not None:
                found[pattern] = int(match[1])
        return found

    return read
