"""Resident memory of the daemon, all its processes together."""

from __future__ import annotations

from tests.bench import processes
from tests.bench.daemons import EXPORTER, HINDSIGHT, RECORDER, daemon
from tests.bench.rows import Result, Row

MB = 10**6
SECONDS = 10.0
ALONE_TARGET_MB = 60
WHOLE_TARGET_MB = 80


def run() -> Result:
    """After some seconds at an interval of 1 s, scraped once."""
    return Result(
        "Resident memory at 1 s, root helper included",
        (
            *_measure("agent alone (an exporter that is not scraped)", ALONE_TARGET_MB, (EXPORTER,), scrape=False),
            *_measure("agent, exporter and recorder", WHOLE_TARGET_MB, (EXPORTER, RECORDER), scrape=True),
            *_measure("agent, exporter and hindsight", WHOLE_TARGET_MB, (EXPORTER, HINDSIGHT), scrape=True),
            *_measure("agent and all three sinks", WHOLE_TARGET_MB, (EXPORTER, RECORDER, HINDSIGHT), scrape=True),
        ),
    )


def _measure(what: str, target: int, sinks: tuple[str, ...], *, scrape: bool) -> tuple[Row, Row]:
    with daemon("1s", *sinks) as running:
        if scrape:
            running.scrape()
        running.wait(SECONDS)
        use = processes.memory(running.pid)
    note = f"{use.processes} processes"
    return Row(f"{what}: sum of RSS", use.rss / MB, "MB", target, note), Row(
        "  of which its own (Pss)", use.pss / MB, "MB"
    )
