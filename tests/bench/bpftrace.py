"""`scheduler.bt` under bpftrace, and what the kernel says of its programs."""

from __future__ import annotations

import re
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.bench import units

SCRIPT = Path(__file__).with_name("scheduler.bt")
HOOKS = tuple(re.findall(r"tracepoint:\w+:(\w+)", SCRIPT.read_text()))
"""In the order of the script, which is the order in which bpftrace loads the programs."""
POLL_S = 0.01


def available() -> bool:
    """Whether bpftrace is installed."""
    return shutil.which("bpftrace") is not None


@dataclass(slots=True)
class Tracer:
    """A running bpftrace."""

    process: subprocess.Popen[str]

    def turn(self, work: Callable[[], object]) -> dict[str, float]:
        """Nanoseconds per event by hook name while `work` runs."""
        before = self.totals()
        with units.timed():
            work()
        pairs = zip(HOOKS, before, self.totals(), strict=True)
        return {
            name: (time - old_time) / (count - old_count)
            for name, (old_time, old_count), (time, count) in pairs
            if count > old_count
        }

    def totals(self) -> list[tuple[int, int]]:
        """Time and runs of each program loaded so far."""
        found = []
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # bpftrace opens and closes more while it starts
                if str(entry.readlink()) == "anon_inode:bpf-prog":
                    text = Path(f"/proc/{self.process.pid}/fdinfo/{entry.name}").read_text()
                    fields = dict(line.split(":\t", 1) for line in text.splitlines())
                    found.append((int(fields["prog_id"]), int(fields["run_time_ns"]), int(fields["run_cnt"])))
        return [(time, count) for _, time, count in sorted(found)]


@contextmanager
def running() -> Iterator[Tracer]:
    """bpftrace with its programs attached."""
    process = subprocess.Popen(
        ["bpftrace", str(SCRIPT)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )
    try:
        tracer = Tracer(process)
        while len(tracer.totals()) < len(HOOKS):
            if process.poll() is not None:
                raise RuntimeError(f"bpftrace {SCRIPT} ended with status {process.returncode}")
            select.select([], [], [], POLL_S)
        yield tracer
    finally:
        process.kill()
        process.wait()
