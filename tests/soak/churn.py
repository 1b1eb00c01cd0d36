"""What goes on around the daemon while it is watched: processes, cgroups, clients, dumps, reloads, recordings."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.workloads import cgroup

PROCESSES = 100
CGROUPS = 10
SCRAPES = 20
PATIENCE_S = 30.0
ACCEPTED: tuple[dict[str, str], ...] = (
    {},
    {"Accept": "application/openmetrics-text"},
    {"Accept-Encoding": "gzip"},
    {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "zstd"},
)

SAMPLER = """\
rzl 1

sampler soak "Changes with every reload" {

    counter soak_switches by cpu "Context switches"

    on sched_switch {
        soak_switches += STEP
    }
}
"""


@dataclass(slots=True)
class Site:
    """A daemon and where it is."""

    pid: int
    folder: Path
    agent: str
    exporter: str
    hindsight: str
    write_config: Callable[[int], None]
    """Writes the configuration of a round: its recorder has another file in each."""
    done: dict[str, int] = field(default_factory=dict)
    """What was done so far, by kind."""

    def count(self, what: str, number: int = 1) -> None:
        self.done[what] = self.done.get(what, 0) + number

    def round(self, number: int) -> None:
        """Everything once, most of it at the same time. Raises what went wrong first."""
        with ThreadPoolExecutor(6) as pool:
            for job in [pool.submit(work, number) for work in (self._live, self._enclose, self._scrape, self._dump)]:
                job.result()
        self._reload(number)

    def _live(self, number: int) -> None:
        for _ in range(PROCESSES):
            os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)
        self.count("processes", PROCESSES)

    def _enclose(self, number: int) -> None:
        for index in range(CGROUPS):
            with cgroup(f"soak-{os.getpid()}-{number}-{index}") as group:
                joined = f"echo $$ > {group.path}/cgroup.procs; for i in 1 2 3; do /bin/true; done"
                os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", joined], os.environ), 0)
        self.count("cgroups", CGROUPS)

    def _scrape(self, number: int) -> None:
        for index in range(SCRAPES):
            fetch(f"http://{self.exporter}/metrics", headers=ACCEPTED[index % len(ACCEPTED)])
            fetch(f"http://{self.agent}/metrics/{('binary', 'json')[index % 2]}")
        for page in ("status", "samplers", "metrics/descriptions", "systeminfo"):
            fetch(f"http://{self.agent}/{page}")
        self.count("requests", 2 * SCRAPES + 4)

    def _dump(self, number: int) -> None:
        fetch(f"http://{self.hindsight}/dump?last=3s")
        fetch(f"http://{self.hindsight}/dump/file?last=5s", method="POST")
        os.kill(self.pid, signal.SIGHUP)
        self.count("dumps", 3)

    def _reload(self, number: int) -> None:
        """A definition that changed and a recorder with another file; now and then a broken definition."""
        broken = number % 3 == 2
        text = SAMPLER.replace("STEP", "nothing" if broken else str(1 + number % 5))
        (self.folder / "probes/soak.rzl").write_text(text)
        if not broken:
            self.write_config(number)
        answer = json.loads(fetch(f"http://{self.agent}/reload", method="POST", expected=409 if broken else 200))
        if answer["ok"] == broken:
            raise AssertionError(f"reload of round {number}: {answer}")
        self.count("refused reloads" if broken else "reloads")
        if not broken:
            self._collect()

    def _collect(self) -> None:
        """Remove recordings that are complete."""
        for file in self.folder.glob("recording-*.parquet"):
            if file.stat().st_size and not list(self.folder.glob(f"{file.name}.recording/*")):
                file.unlink()
                self.count("recordings")


def fetch(url: str, *, method: str = "GET", headers: dict[str, str] | None = None, expected: int = 200) -> bytes:
    """The body of an answer with the expected status; AssertionError for another."""
    request = urllib.request.Request(url, method=method, headers=headers or {})
    deadline = time.monotonic() + PATIENCE_S
    try:
        with urllib.request.urlopen(request, timeout=deadline - time.monotonic()) as answer:
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    if status != expected:
        raise AssertionError(f"{method} {url}: status {status}: {body[:500]!r}")
    return bytes(body)
