"""Exporter, recorder and hindsight in one service, fed over HTTP by an agent that is killed, missed, and comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests import needs
from tests.faults.services import PROBE, Service, free_port, get, open_folder, service, status_of
from tests.recording.replayed import readings_in
from tests.sinks.strict import samples

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
MS = 10**6
INTERVAL_MS = 50
LONG_ENOUGH = 20
"""Readings of each life of the agent, and ticks without any between them."""

AGENT = """
[agent]
interval = "50ms"
listen = "127.0.0.1:{agent}"
user = "nobody"
probes = ["own.rzl"]
"""
SINKS = """
[agent]
enabled = false
interval = "50ms"
user = "nobody"
[sources.there]
url = "http://127.0.0.1:{agent}"
[sinks.prom]
type = "exporter"
source = "there"
listen = "127.0.0.1:{exporter}"
[sinks.rec]
type = "recorder"
source = "there"
path = "{folder}/rec/r.parquet"
[sinks.back]
type = "hindsight"
source = "there"
path = "{folder}/back/b.parquet"
listen = "127.0.0.1:{hindsight}"
"""


def up(ports: Mapping[str, int]) -> float:
    found = samples(get(f"http://127.0.0.1:{ports['exporter']}/metrics").content)
    return found["rezolus_source_up", (("source", "there"),)]


def shown(ports: Mapping[str, int]) -> bool:
    return b"\ncalls{" in get(f"http://127.0.0.1:{ports['exporter']}/metrics").content


def held(ports: Mapping[str, int]) -> int:
    count: int = status_of(ports["hindsight"])["snapshot_count"]
    return count


def stay_away(sinks: Service, ports: Mapping[str, int]) -> int:
    """Until the sinks know that nobody is there; what the buffer holds then."""
    sinks.until(lambda: up(ports) == 0, "the exporter to say that the agent is gone")
    before = held(ports)
    asked = 0

    def many_times() -> bool:
        nonlocal asked
        asked += 1
        return asked > LONG_ENOUGH

    sinks.until(many_times, "some time without an agent")
    assert held(ports) == before  # nothing is made up
    return before


def test_only_the_readings_of_the_time_without_an_agent_are_missing() -> None:
    needs.bpf()
    with open_folder() as folder:
        ports = {name: free_port() for name in ("agent", "exporter", "hindsight")}
        (folder / "own.rzl").write_text(PROBE)
        (folder / "agent.toml").write_text(AGENT.format(**ports))
        (folder / "sinks.toml").write_text(SINKS.format(folder=folder, **ports))
        with service(folder / "sinks.toml") as sinks:
            sinks.until(lambda: up(ports) == 0, "the exporter, before there is an agent")
            with service(folder / "agent.toml") as agent:
                sinks.until(lambda: up(ports) == 1 and shown(ports), "the agent to be found")
                agent.until(lambda: held(ports) >= LONG_ENOUGH, "readings")
            first = stay_away(sinks, ports)  # it was killed
            with service(folder / "agent.toml") as agent:
                sinks.until(lambda: up(ports) == 1 and shown(ports), "the agent to be found again")
                agent.until(lambda: held(ports) >= first + LONG_ENOUGH, "readings")
                agent.end()
            stay_away(sinks, ports)
            dumped = get(f"http://127.0.0.1:{ports['hindsight']}/dump").content
            said = sinks.end()
        (folder / "dump.parquet").write_bytes(dumped)
        table = pq.read_table(folder / "rec/r.parquet")
        times = table["timestamp"].to_pylist()
        assert times == [reading.time_ns for reading in readings_in(folder / "back/b.parquet.buffer")]
        assert times == pq.read_table(folder / "dump.parquet", columns=["timestamp"])["timestamp"].to_pylist()
        expect_two_lives(np.array(times), first)
        columns = [name for name in table.column_names if name.startswith("calls")]
        # A CPU that has counted nothing yet is not sent.
        calls = np.array([[value or 0 for value in table[name].to_pylist()] for name in columns]).sum(axis=0)
        assert sum(later < sooner for sooner, later in pairwise(calls)) == 1  # counters began anew, once
        assert json.loads(pq.read_metadata(folder / "rec/r.parquet").metadata[b"systeminfo"])["cpus"] > 0
        assert (
            4 <= sum("there" in line for line in said.splitlines()) <= 12
        )  # each change is said once, not each attempt


def expect_two_lives(times: np.ndarray[tuple[int], np.dtype[np.int64]], first: int) -> None:
    """One gap, where the agent was away."""
    steps = np.diff(times)
    assert (steps > 0).all()
    assert int(np.argmax(steps)) == first - 1
    assert len(times) >= 2 * LONG_ENOUGH
    assert np.median(steps) / MS == pytest.approx(INTERVAL_MS, rel=0.2)
