"""The wall clock of a whole daemon is set forward and back."""

from __future__ import annotations

import time
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from tests import needs
from tests.faults.services import PROBE, free_port, get, open_folder, service, status_of
from tests.recording.replayed import readings_in
from tests.sinks.strict import samples

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
HOUR = 3600
SECOND_NS = 10**9
STEPS = (0, HOUR, -HOUR, 0)
"""Seconds by which the daemon's clock is off, one after the other."""
EACH = 40
"""Readings between steps."""

CONFIG = """
[agent]
interval = "20ms"
listen = "127.0.0.1:{agent}"
user = "nobody"
probes = ["own.rzl"]
[sinks.prom]
type = "exporter"
listen = "127.0.0.1:{exporter}"
[sinks.rec]
type = "recorder"
path = "{folder}/rec/r.parquet"
[sinks.back]
type = "hindsight"
path = "{folder}/back/b.parquet"
listen = "127.0.0.1:{hindsight}"
duration = "15m"
"""


def library() -> str:
    """What `faketime` preloads."""
    needs.program("faketime", "faketime")
    return str(next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")))


def set_clock(file: Path, seconds: int) -> None:
    """At once: a file that is half written would be read."""
    new = file.with_suffix(".new")
    new.write_text(f"{seconds:+d}")
    new.replace(file)


def test_no_reading_is_lost_when_the_wall_clock_steps() -> None:
    needs.bpf()
    with open_folder() as folder:
        ports = {name: free_port() for name in ("agent", "exporter", "hindsight")}
        (folder / "own.rzl").write_text(PROBE)
        (folder / "rezolus.toml").write_text(CONFIG.format(folder=folder, **ports))
        clock = folder / "clock"
        set_clock(clock, 0)
        faked = {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
        }
        with service(folder / "rezolus.toml", environment=faked) as running:
            seen = 0
            for seconds in STEPS:
                set_clock(clock, seconds)
                seen += EACH
                running.until(lambda: status_of(ports["hindsight"])["snapshot_count"] >= seen, "readings")  # noqa: B023
                running.until(lambda: fresh(ports["exporter"], seconds), "a page with the clock's time")  # noqa: B023
            dumped = get(f"http://127.0.0.1:{ports['hindsight']}/dump?last=30m").content
            sinks = {sink["name"]: sink for sink in status_of(ports["agent"])["sinks"]}
            running.end()
        assert [sink["lost"] for sink in sinks.values()] == [0, 0, 0]
        table = pq.read_table(folder / "rec/r.parquet")
        buffered = list(readings_in(folder / "back/b.parquet.buffer"))
        times = np.array(table["timestamp"].to_pylist(), np.int64)
        assert [reading.time_ns for reading in buffered] == times.tolist()
        ticks = np.array([reading.monotonic_ns for reading in buffered])
        assert (np.diff(ticks) > 0).all()
        assert settings(times - ticks) == [offset // HOUR for offset in STEPS]
        calls = np.array([table[name].to_pylist() for name in table.column_names if name.startswith("calls")])
        assert (np.diff(calls.sum(axis=0)) >= 0).all()
        (folder / "dump.parquet").write_bytes(dumped)
        recent = pq.read_table(folder / "dump.parquet", columns=["timestamp"])["timestamp"].to_pylist()
        assert len(recent) >= 2 * EACH  # those of the first and the last setting, and none an hour off
        assert max(recent) - min(recent) < HOUR * SECOND_NS // 2


def settings(offsets: npt.NDArray[np.int64]) -> list[int]:
    """By how many hours the clock was off, one after the other.

    A single reading does not count: libfaketime gives a call the real time now and then, while another thread reads its file.
    """
    hours = np.round((offsets - offsets[0]) / (HOUR * SECOND_NS)).astype(int).tolist()
    lasting = [hour for hour, run in groupby(hours) if len(list(run)) > 1]
    return [hour for hour, _ in groupby(lasting)]


def fresh(port: int, seconds: int) -> bool:
    """Whether the exporter shows a reading of a clock that is off by so much."""
    found = samples(get(f"http://127.0.0.1:{port}/metrics").content)
    shown = found.get(("rezolus_reading_timestamp_seconds", ()), 0.0)
    return abs(shown - (time.time() + seconds)) < HOUR / 2
