"""The run itself."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rezolus.config import load
from rezolus.demo.daemon import running_daemon, stay_with
from tests import leaks
from tests.bench.processes import tree
from tests.bench.units import PROBES
from tests.soak.churn import SAMPLER, Site
from tests.soak.held import Held, measure

INTERVAL = "50ms"
BUFFER = "10s"
"""So short that hindsight's buffer has reached its size when the warm-up is over."""
LONG_LIVED = 2
"""Processes: the daemon and its root helper."""
QUIET_S = 30.0
LOG_CHARACTERS = 4000

CONFIG = """
[agent]
interval = "{interval}"
listen = "{agent}"
probes = ["probes/*.rzl"]
[log]
level = "warning"
[sinks.exporter]
type = "exporter"
listen = "{exporter}"
histograms = "both"
[sinks.hindsight]
type = "hindsight"
listen = "{hindsight}"
path = "hindsight.parquet"
duration = "{buffer}"
[sinks.recorder]
type = "recorder"
path = "recording-{number}.parquet"
"""


def soak(
    told: Callable[[Held], None], *, seconds: float = 0.0, rounds: int = 0, probes: tuple[str, ...] = ()
) -> tuple[list[Held], dict[str, int]]:
    """Samples, one after each round, and what was done.

    Goes on until so many seconds have passed and so many rounds were made. `probes`: names of shipped files to use;
    none: all. Raises AssertionError when something did not work, or when something is left behind at the end.
    """
    leaks.adopt_orphans()
    before = leaks.Holdings.now()
    with _site(probes) as (site, stay):
        begin = time.monotonic()
        samples: list[Held] = []
        while time.monotonic() - begin < seconds or len(samples) < rounds:
            site.round(len(samples))
            _wait_until_quiet(site.pid, stay)
            samples.append(measure(site.pid, time.monotonic() - begin, len(samples) + 1))
            told(samples[-1])
    leaked = before.leaked_since()
    if leaked:
        raise AssertionError("left behind: " + "; ".join(leaked))
    return samples, site.done


@contextmanager
def _site(probes: tuple[str, ...]) -> Iterator[tuple[Site, Callable[[float], None]]]:
    with tempfile.TemporaryDirectory(prefix="rezolus-soak-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the unprivileged user works in a folder of its own there
        (folder / "probes").mkdir()
        for path in PROBES:
            if not probes or path.stem in probes:
                shutil.copy(path, folder / "probes")
        (folder / "probes/soak.rzl").write_text(SAMPLER.replace("STEP", "1"))
        addresses = {name: _free_address() for name in ("agent", "exporter", "hindsight")}
        file = folder / "soak.toml"

        def write_config(number: int) -> None:
            file.write_text(CONFIG.format(interval=INTERVAL, buffer=BUFFER, number=number, **addresses))

        write_config(-1)
        log = folder / "daemon.log"
        with running_daemon(load(file), folder) as process:
            site = Site(
                process.pid,
                folder,
                agent=addresses["agent"],
                exporter=addresses["exporter"],
                hindsight=addresses["hindsight"],
                write_config=write_config,
            )
            try:
                yield site, lambda seconds: stay_with(process, seconds, log)
            except AssertionError as error:
                raise AssertionError(f"{error}\nthe daemon said:\n{log.read_text()[-LOG_CHARACTERS:]}") from error


def _wait_until_quiet(pid: int, stay: Callable[[float], None]) -> None:
    """Until neither a loader nor a worker runs."""
    deadline = time.monotonic() + QUIET_S
    while len(list(tree(pid))) > LONG_LIVED:
        if time.monotonic() > deadline:
            raise AssertionError(f"{QUIET_S:.0f} s after a round more than the daemon and its helper are running")
        stay(0.02)


def _free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"
