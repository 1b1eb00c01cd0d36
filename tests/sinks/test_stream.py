from __future__ import annotations

import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from rezolus.config import Selection
from rezolus.reading import Catalog, Reading, Series
from rezolus.sinks.stream import CAPACITY, Hub, Selector, Stream, demand_of
from tests.synthetic import START_NS, Walk, catalog

MS = 10**6
S = 10**9
ALL = Selection()


def at(monotonic_ns: int, wall_ns: int | None = None) -> Reading:
    empty = np.empty(0, np.uint64)
    wall = START_NS + monotonic_ns if wall_ns is None else wall_ns
    return Reading(NOTHING, wall, monotonic_ns, 0, empty, np.empty(0, np.int64), empty)


NOTHING = Catalog((), (), ())


def drain(channel: trio.MemoryReceiveChannel[Reading]) -> list[Reading]:
    readings = []
    try:
        while True:
            readings.append(channel.receive_nowait())
    except (trio.WouldBlock, trio.EndOfChannel):
        return readings


def delivered(interval_ns: int, tick_ns: int, readings: list[Reading]) -> list[int]:
    hub = Hub(tick_ns)
    times: list[int] = []
    hub.subscribe(interval_ns, ALL, lambda reading: times.append(reading.monotonic_ns))
    for reading in readings:
        hub.publish(reading)
    return times


def test_a_sink_with_a_longer_interval_gets_every_nth_reading() -> None:
    ticks = [at(n * 100 * MS) for n in range(31)]
    assert delivered(S, 100 * MS, ticks) == [0, S, 2 * S, 3 * S]
    assert delivered(100 * MS, 100 * MS, ticks) == [reading.monotonic_ns for reading in ticks]


def test_long_intervals_meet_multiples_of_the_wall_clock() -> None:
    start = 300 * MS  # the agent starts at .3 of a second
    ticks = [at(n * 100 * MS, START_NS + start + n * 100 * MS) for n in range(30)]
    assert delivered(S, 100 * MS, ticks) == [0, 700 * MS, 1700 * MS, 2700 * MS]


@given(st.lists(st.integers(-45, 45), min_size=41, max_size=41), st.integers(2, 10))
def test_jitter_below_half_a_tick_changes_nothing(jitter: list[int], every: int) -> None:
    ticks = [at((n * 100 + shift) * MS, n * 100 * MS) for n, shift in enumerate(jitter)]
    found = delivered(every * 100 * MS, 100 * MS, ticks)
    base = jitter[0]
    if all(abs(shift - base) < 50 for shift in jitter):
        assert found == [tick.monotonic_ns for tick in ticks[::every]]


def test_skipped_ticks_and_a_sleeping_machine_make_the_next_reading_due_once() -> None:
    times = [0, 100, 1250, 1300, 1400, 2000, 3_600_000, 3_600_100, 3_601_000]
    found = delivered(S, 100 * MS, [at(time * MS) for time in times])
    assert found == [time * MS for time in (0, 1250, 2000, 3_600_000, 3_601_000)]


def test_a_step_of_the_wall_clock_changes_no_interval() -> None:
    ticks = [at(n * 100 * MS, START_NS + n * 100 * MS - (3600 * S if n > 5 else 0)) for n in range(21)]
    assert delivered(S, 100 * MS, ticks) == [0, S, 2 * S]


def test_a_sink_that_lags_loses_readings_and_disturbs_nobody() -> None:
    hub = Hub(S)
    slow, quick = Stream("slow", S), Stream("quick", S)
    for stream in (slow, quick):
        hub.subscribe(S, ALL, stream.send)
    received = 0
    for n in range(20):
        hub.publish(at(n * S))
        received += len(drain(quick.channel))
    assert received == 20
    slow_statistics, quick_statistics = slow.statistics(), quick.statistics()
    assert (slow_statistics.delivered, slow_statistics.lost, slow_statistics.waiting) == (CAPACITY, 12, CAPACITY)
    assert (quick_statistics.delivered, quick_statistics.lost) == (20, 0)
    slow.close()
    hub.publish(at(20 * S))  # nobody is there for it
    assert [reading.monotonic_ns for reading in drain(slow.channel)] == [n * S for n in range(CAPACITY)]


def test_a_sink_that_is_done_costs_nothing() -> None:
    hub = Hub(S)
    done = Stream("done", S)
    hub.subscribe(S, ALL, done.send)
    done.channel.close()
    hub.publish(at(0))
    assert (done.statistics().delivered, done.statistics().lost) == (0, 0)


def test_who_unsubscribed_gets_nothing_and_the_others_go_on() -> None:
    hub = Hub(S)
    left: list[Reading] = []
    stayed: list[Reading] = []
    leaving = hub.subscribe(S, ALL, left.append)
    hub.subscribe(S, ALL, stayed.append)
    hub.publish(at(0))
    hub.unsubscribe(leaving)
    hub.publish(at(S))
    assert (len(left), len(stayed)) == (1, 2)


def test_a_new_tick_changes_no_rhythm() -> None:
    hub = Hub(S)
    times: list[int] = []
    hub.subscribe(S, ALL, lambda reading: times.append(reading.monotonic_ns))
    for n in range(3):
        hub.publish(at(n * S))
    hub.change_tick(100 * MS)  # somebody else wants more
    for n in range(21, 41):
        hub.publish(at(n * 100 * MS))
    hub.change_tick(500 * MS)
    for n in range(9, 13):
        hub.publish(at(n * 500 * MS))
    hub.change_tick(2 * S)  # less often than the sink would like: it gets what there is
    for n in range(4, 6):
        hub.publish(at(n * 2 * S))
    assert times == [n * S for n in (0, 1, 2, 3, 4, 5, 6, 8, 10)]


def test_demand_is_the_union_of_what_the_sinks_want() -> None:
    demand = demand_of(
        [(15 * S, Selection(include=("cpu_*",))), (10 * S, Selection(include=("syscall*",), exclude=("syscall_lat*",)))]
    )
    assert demand.interval_ns == 5 * S
    wanted = ["cpu_usage", "syscall", "syscall_latency", "memory_free"]
    assert [name for name in wanted if demand.wants(name)] == ["cpu_usage", "syscall"]
    with pytest.raises(ValueError, match="no sink"):
        demand_of([])


def test_a_selection_takes_the_right_values() -> None:
    walk = Walk(catalog(cgroups=2))
    reading = walk.step()
    selector = Selector(Selection(include=("syscall*", "memory_part1*", "latency3"), exclude=("syscall",)))
    part = selector.select(reading)
    assert {series.name for series in part.catalog.histograms} == {"syscall_latency", "latency3"}
    assert part.catalog.counters == ()
    assert [series.name for series in part.catalog.gauges] == [
        series.name for series in walk.catalog.gauges if series.name.startswith("memory_part1")
    ]
    for number, series in enumerate(part.catalog.gauges):
        assert part.gauges[number] == reading.gauges[walk.catalog.gauges.index(series)]
    for number, series in enumerate(part.catalog.histograms):
        begin = part.catalog.histogram_offsets[number]
        whole = walk.catalog.histogram_offsets[walk.catalog.histograms.index(series)]
        np.testing.assert_array_equal(part.histograms[begin : begin + 496], reading.histograms[whole : whole + 496])
    again = selector.select(walk.step())
    assert again.catalog is part.catalog  # consumers redo nothing
    walk.enter(Catalog((Series("syscall_new", "counter", {}),), (), ()))
    assert selector.select(walk.step()).catalog.counters == (Series("syscall_new", "counter", {}),)


def test_selecting_everything_passes_the_reading_on() -> None:
    reading = Walk(catalog(cgroups=1)).step()
    assert Selector(ALL).select(reading) is reading
