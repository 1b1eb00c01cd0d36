"""kill -9 at random moments, over and over, while recording and buffering every 20 ms.

Each start is a fork of this process: what takes a second of a real start is importing, which is not what is tried. The agent itself
being killed, with its programs in the kernel, is in tests/kernel and tests/agent.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import trio

from rezolus.config import LOCAL, Config, load
from rezolus.daemon import Daemon
from rezolus.sinks.hindsight import HindsightStatistics
from rezolus.sinks.recorder import RecorderStatistics
from rezolus.sinks.writing import BACKLOG
from tests.faults.numbered import NumberedSource, make_witness, witnessed
from tests.leaks import descendants
from tests.recording.replayed import readings_in

KILLS = 200
INTERVAL = "20ms"
PATIENCE_S = 60
USUALLY_LOST = 1
"""Readings: the one being written. More is lost only where the thread that writes had not had its turn on a busy machine."""

CONFIG = """
[agent]
interval = "{interval}"
[log]
level = "error"
[sinks.recorder]
type = "recorder"
path = "{folder}/r.parquet"
[sinks.hindsight]
type = "hindsight"
path = "{folder}/h.parquet"
duration = "30m"
"""


def start(config: Config, witness: Path, number: int) -> int:
    """A daemon as a child process of ours; its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            source = NumberedSource(witness, number)
            daemon = Daemon(config, {LOCAL: source})
            source.written = partial(written, daemon)
            trio.run(daemon.run)
        finally:
            os._exit(0)
    return pid


def written(daemon: Daemon) -> tuple[int, int]:
    """Readings in the files of its recorder and its buffer."""
    sinks = daemon.statistics().sinks
    recorder, hindsight = sinks["recorder"], sinks["hindsight"]
    assert isinstance(recorder, RecorderStatistics)
    assert isinstance(hindsight, HindsightStatistics)
    return recorder.rows, hindsight.written


def until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)  # noqa: TID251 - between two looks; turning idle would take the time from what is waited for


def kill_somebody(daemon: int, chance: random.Random) -> bool:
    """Kill a child of the daemon or, more often, the daemon; whether it was the daemon."""
    children = list(descendants(daemon))
    victim = chance.choice([daemon, *children]) if children else daemon
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return victim == daemon


def numbers_of(files: Iterator[Path]) -> dict[int, list[int]]:
    """Readings per start of the daemon, in all files together; every column of every file is read."""
    found = defaultdict(list)
    for file in files:
        table = pq.read_table(file)
        assert not any(column.null_count for column in table.columns)
        for number in table["number"].to_pylist():
            found[number >> 32].append(number)
    return found


def expect_complete(found: dict[int, list[int]], last: dict[int, tuple[int, int]], where: str) -> None:
    """Of every start all readings are there that had been written when the last one was published; mostly all but one."""
    lost = []
    for run, (newest, count) in last.items():
        first = run << 32
        got = sorted(found.get(run, []))
        assert got == list(range(first, first + len(got))), f"{where}: a gap in start {run}"
        assert len(got) >= count, f"{where}: of {count} readings written in start {run} {len(got)} are there"
        lost.append(newest - first + 1 - len(got))
    assert statistics.median(lost) <= USUALLY_LOST, f"{where}: readings lost by start: {lost}"
    assert max(lost) <= BACKLOG + 1


def test_killed_two_hundred_times_nothing_but_the_last_reading_is_lost(tmp_path: Path) -> None:
    chance = random.Random(20)
    path = tmp_path / "rezolus.toml"
    path.write_text(CONFIG.format(interval=INTERVAL, folder=tmp_path))
    config = load(path)
    witness = tmp_path / "witness"
    make_witness(witness)
    recorded: dict[int, tuple[int, int]] = {}
    kept: dict[int, tuple[int, int]] = {}
    run = kills = 0
    while kills < KILLS:
        run += 1
        first = run << 32
        daemon = start(config, witness, first)
        until(lambda: witnessed(witness).number >= first, "the first reading")  # noqa: B023 - called at once
        gone = False
        while not gone:
            time.sleep(chance.random() * 0.4)  # noqa: TID251 - a random moment, not one that must have come
            gone = kill_somebody(daemon, chance)
            kills += 1
        os.waitpid(daemon, 0)
        last = witnessed(witness)
        recorded[run], kept[run] = (last.number, last.recorded), (last.number, last.buffered)
    final = start(config, witness, (run + 1) << 32)
    until(lambda: witnessed(witness).number >= (run + 1) << 32, "the first reading")
    work = tmp_path / "r.parquet.recording"
    until(lambda: len(list(work.iterdir())) == 1, "what was left to be finished")
    os.kill(final, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(final, 0)[1]) == 0
    expect_complete(numbers_of(tmp_path.glob("r*.parquet")), recorded, "recordings")
    buffered = defaultdict(list)
    for reading in readings_in(tmp_path / "h.parquet.buffer"):
        number = int(reading.counters[0])
        buffered[number >> 32].append(number)
    expect_complete(buffered, kept, "buffer")
