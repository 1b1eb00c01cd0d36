"""The rolling buffer: what it keeps, and that nothing it survives costs more than it must."""

from __future__ import annotations

import errno
import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rezolus.reading import Catalog, Reading, Series
from rezolus.recording.dump import DumpError, dump
from rezolus.recording.ring import Limits, Ring, Span, read_span
from rezolus.recording.segment import Segment
from rezolus.recording.store import Extent, create_segment, segment_files
from rezolus.recording.writer import SegmentWriter
from tests.disks import tmpfs, use_up
from tests.recording.replayed import readings_in
from tests.synthetic import START_NS, Walk, catalog

S = 10**9
SMALL = Catalog(
    (Series("ticks", "counter", {}),), (Series("level", "gauge", {}),), (Series("wait", "histogram", {}, power=0),)
)
LIMITS = Limits(duration_ns=100 * S, max_bytes=1 << 30, interval_ns=S)


def reading(number: int, *, step_ns: int = 0, series: Catalog = SMALL, interval_ns: int = S) -> Reading:
    """The reading at a tick; its values say which. `step_ns`: how wrong the wall clock is."""
    return Reading(
        series,
        START_NS + step_ns + number * interval_ns,
        S + number * interval_ns,
        1000,
        np.full(len(series.counters), number, np.uint64),
        np.full(len(series.gauges), -number, np.int64),
        np.full(series.histogram_offsets[-1], number, np.uint64),
    )


def metadata(interval_ns: int = S) -> Callable[[], dict[str, str]]:
    return lambda: {"version": "1", "sampling_interval_ms": str(interval_ns // 10**6)}


def opened(folder: Path, limits: Limits = LIMITS) -> Ring:
    return Ring(folder, limits, metadata(limits.interval_ns))


def numbers(folder: Path) -> list[int]:
    """The ticks that are in a buffer."""
    return [int(found.counters[0]) for found in readings_in(folder)]


def fill(ring: Ring, first: int, count: int) -> None:
    for number in range(first, first + count):
        ring.append(reading(number))


# What is kept


def test_it_keeps_the_duration_and_at_most_a_segment_more(tmp_path: Path) -> None:
    ring = opened(tmp_path)
    for number in range(500):
        ring.append(reading(number))
        kept = numbers(tmp_path) if number % 37 == 0 else [number]
        assert kept == list(range(kept[0], number + 1))
        assert number % 37 or min(number + 1, 100) <= len(kept) <= 100 + LIMITS.segment_rows
    statistics = ring.statistics()
    assert statistics.rows == len(numbers(tmp_path))
    assert statistics.bytes == sum(path.stat().st_size for path in segment_files(tmp_path))
    assert statistics.last_ns == reading(499).time_ns
    ring.close()


def test_it_never_takes_more_bytes_than_allowed(tmp_path: Path) -> None:
    limits = Limits(duration_ns=10_000 * S, max_bytes=1 << 20, interval_ns=S)
    ring = opened(tmp_path, limits)
    for found in Walk(catalog(cgroups=1)).run(60):
        ring.append(found)
        assert sum(path.stat().st_size for path in segment_files(tmp_path)) <= limits.max_bytes
    assert 2 < ring.statistics().rows < 60
    ring.close()


def test_bytes_that_are_too_few_still_leave_the_newest_reading(tmp_path: Path) -> None:
    ring = opened(tmp_path, replace(LIMITS, max_bytes=1000))
    for number in range(5):
        ring.append(reading(number))
        assert numbers(tmp_path)[-1] == number
    ring.close()


def test_steps_of_the_wall_clock_neither_empty_nor_bloat_it(tmp_path: Path) -> None:
    ring = opened(tmp_path)
    year = 365 * 86400 * S
    steps = {0: 0, 150: year, 300: -year, 450: -1800 * S, 600: 30 * S}
    step = 0
    for number in range(750):
        step = steps.get(number, step)
        ring.append(reading(number, step_ns=step))
        if number % 50 == 49:
            assert min(number + 1, 100) <= ring.statistics().rows <= 100 + LIMITS.segment_rows
    ring.close()


def test_a_machine_that_was_off_or_asleep_loses_nothing_of_it(tmp_path: Path) -> None:
    """The monotonic clock begins anew, or jumps over a night."""
    ring = opened(tmp_path)
    fill(ring, 0, 100)
    ring.close()
    again = opened(tmp_path)
    booted = reading(1000)
    booted.monotonic_ns = 5 * S
    again.append(booted)
    slept = reading(1001)
    slept.monotonic_ns = 50_000 * S
    again.append(slept)
    assert numbers(tmp_path) == [*range(100), 1000, 1001]
    again.close()


def test_other_limits_hold_at_once_when_it_is_opened_again(tmp_path: Path) -> None:
    ring = opened(tmp_path)
    fill(ring, 0, 100)
    ring.close()
    shorter = opened(tmp_path, replace(LIMITS, duration_ns=30 * S))
    assert 30 <= len(numbers(tmp_path)) <= 30 + LIMITS.segment_rows
    assert numbers(tmp_path)[-1] == 99
    shorter.close()
    size = segment_files(tmp_path)[-1].stat().st_size
    smaller = opened(tmp_path, replace(LIMITS, max_bytes=2 * size))
    assert smaller.statistics().bytes <= 2 * size
    assert numbers(tmp_path)[-1] == 99
    longer = opened(tmp_path, replace(LIMITS, duration_ns=300 * S))
    fill(longer, 100, 250)
    assert len(numbers(tmp_path)) > 250
    longer.close()


def test_another_interval_does_not_shorten_what_was_covered(tmp_path: Path) -> None:
    fast = opened(tmp_path, Limits(10 * S, 1 << 30, S // 10))
    for number in range(100):
        fast.append(reading(number, interval_ns=S // 10))
    fast.close()
    slow = opened(tmp_path, Limits(10 * S, 1 << 30, S))
    assert slow.statistics().covered_ns == 10 * S
    assert slow.statistics().rows == 100
    slow.close()


# Coming back


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    for start in range(0, 60, 7):
        ring = opened(tmp_path)
        assert ring.found == ()
        fill(ring, start, 7)
        ring.close()
    assert numbers(tmp_path) == list(range(63))
    files = [path.name for path in segment_files(tmp_path)]
    assert files == [f"{number:08d}.segment" for number in range(9)]
    assert all(read_span(path) for path in segment_files(tmp_path))


def test_a_torn_end_is_cut_and_a_damaged_segment_set_aside(tmp_path: Path) -> None:
    ring = opened(tmp_path)
    fill(ring, 0, 35)
    ring.close()
    first, second, _, last = segment_files(tmp_path)
    raw = last.read_bytes()
    last.write_bytes(raw[:-40])  # the note and a part of the last reading
    second.write_bytes(b"something else altogether, by whoever did this")
    again = opened(tmp_path)
    assert len(again.found) == 1
    assert "00000001.segment: is not a segment" in again.found[0]
    assert "kept as 00000001.damaged" in again.found[0]
    assert numbers(tmp_path) == [*range(10), *range(20, 34)]
    assert Segment(last).whole
    assert read_span(last) is not None
    assert read_span(first) == Span(10, 10 * S, reading(0).time_ns, reading(9).time_ns)
    fill(again, 35, 1)
    again.close()
    assert segment_files(tmp_path)[-1].name == "00000004.segment"


def test_a_file_of_zeros_as_a_power_cut_leaves_it_is_set_aside(tmp_path: Path) -> None:
    ring = opened(tmp_path)
    fill(ring, 0, 10)
    ring.close()
    (tmp_path / "00000001.segment").write_bytes(bytes(4096))
    (tmp_path / "00000002.segment").touch()
    again = opened(tmp_path)
    assert len(again.found) == 1
    assert numbers(tmp_path) == list(range(10))
    again.close()


def write_until_killed(folder: Path, first: int, said: int) -> NoReturn:
    """What the child does: append readings and say of each when it was committed."""
    try:
        ring = opened(folder, replace(LIMITS, duration_ns=20 * S))
        for number in range(first, 10**9):
            ring.append(reading(number))
            os.write(said, b"%d\n" % number)
    finally:
        os._exit(1)


def test_kill_9_at_any_moment_costs_what_was_not_yet_written(tmp_path: Path) -> None:
    """At 50 random moments, each time with the buffer that the last one left."""
    chance = random.Random(4)
    first = 0
    for _ in range(50):
        hear, say = os.pipe()
        child = os.fork()
        if child == 0:
            write_until_killed(tmp_path, first, say)
        os.close(say)
        with os.fdopen(hear, "rb") as heard:
            said = [heard.readline() for _ in range(chance.randrange(1, 60))]
            os.kill(child, signal.SIGKILL)
            said += heard.read().splitlines()
        os.waitpid(child, 0)
        ring = opened(tmp_path, replace(LIMITS, duration_ns=20 * S))
        assert ring.found == ()
        kept = numbers(tmp_path)
        assert kept[-1] >= int(said[-1])
        assert kept == list(range(kept[0], kept[-1] + 1))
        assert len(kept) >= min(20, kept[-1] + 1)
        ring.close()
        first = kept[-1] + 1


class RingMachine(RuleBasedStateMachine):
    """Anything that can happen to a buffer, against a list of what was appended."""

    @initialize(rows=st.integers(1, 40), size=st.sampled_from([1 << 30, 20_000, 3000]))
    def begin(self, rows: int, size: int) -> None:
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self.scratch.name)
        self.limits = Limits(rows * S, size, S)
        self.ring = opened(self.folder, self.limits)
        self.appended: list[int] = []
        self.clock = 0
        self.least = 0
        """Readings that must be there: the latest of the duration, unless bytes are scarce."""

    @rule(count=st.integers(1, 25), wall=st.integers(-(10**6), 10**6))
    def append(self, count: int, wall: int) -> None:
        for _ in range(count):
            self.ring.append(reading(self.clock, step_ns=wall * S))
            self.appended.append(self.clock)
            self.clock += 1
            self.least = min(self.least + 1, self.limits.duration_ns // S)

    @rule(count=st.integers(1, 10))
    def lose_ticks(self, count: int) -> None:
        self.clock += count

    @rule(rows=st.integers(1, 40), size=st.sampled_from([1 << 30, 20_000, 3000]), properly=st.booleans())
    def reopen(self, rows: int, size: int, properly: bool) -> None:
        if properly:
            self.ring.close()
        elif self.ring._writer is not None:
            self.ring._writer.close()  # as a kill does
        self.limits = Limits(rows * S, size, S)
        self.ring = opened(self.folder, self.limits)
        self.least = min(rows, self.ring.statistics().rows)

    @rule(torn=st.binary(min_size=1, max_size=40))
    def tear(self, torn: bytes) -> None:
        """A reading that was being written when the power went."""
        if self.ring._writer is None:
            return
        with self.ring._writer.path.open("ab") as file:
            file.write(torn)
        self.reopen(self.limits.duration_ns // S, self.limits.max_bytes, False)

    @invariant()
    def keeps_what_it_must(self) -> None:
        if not hasattr(self, "ring"):
            return
        kept = numbers(self.folder)
        assert kept == self.appended[len(self.appended) - len(kept) :]
        size = sum(path.stat().st_size for path in segment_files(self.folder))
        if len(segment_files(self.folder)) > 1:
            assert size <= self.limits.max_bytes
        if self.limits.max_bytes == 1 << 30:
            assert len(kept) >= self.least
        assert len(kept) <= self.limits.duration_ns // S + self.limits.segment_rows
        statistics = self.ring.statistics()
        assert (statistics.rows, statistics.bytes) == (len(kept), size)

    def teardown(self) -> None:
        if hasattr(self, "ring"):
            self.ring.close()
            self.scratch.cleanup()


RingMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=20)
test_the_ring_is_its_model = RingMachine.TestCase


# Dumps


def dumped(folder: Path, start_ns: int, end_ns: int, output: Path) -> list[int]:
    """The ticks in a dump of a range; none when no file was written."""
    output.unlink(missing_ok=True)
    result = dump(folder, start_ns, end_ns, output, "dump-test.work")
    assert [path.name for path in folder.glob("dump-*")] == []
    if not result.rows:
        assert not output.exists()
        return []
    table = pq.read_table(output)
    times = table["timestamp"].to_pylist()
    assert (result.rows, result.first_ns, result.last_ns) == (len(times), times[0], times[-1])
    assert result.bytes == output.stat().st_size
    found: list[int] = table["ticks"].to_pylist()
    assert table["level"].to_pylist() == [-number for number in found]
    assert [set(buckets) for buckets in table["wait:buckets"].to_pylist()] == [{number} for number in found]
    return found


@pytest.fixture(scope="module")
def buffer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Reading]]:
    """Ninety readings, in which the clock was set back for a while."""
    folder = tmp_path_factory.mktemp("buffer")
    ring = opened(folder)
    readings = [reading(number, step_ns=-7 * S if 40 <= number < 60 else 0) for number in range(90)]
    for entry in readings:
        ring.append(entry)
    return folder, readings  # left open: the last segment has no note


@settings(max_examples=60)
@given(start=st.integers(-5, 95), length=st.integers(-3, 60), edge=st.sampled_from([(0, 0), (1, 0), (0, -1), (1, -1)]))
def test_a_dump_has_the_readings_of_its_range_and_no_other(
    buffer: tuple[Path, list[Reading]], start: int, length: int, edge: tuple[int, int]
) -> None:
    folder, readings = buffer
    low, high = START_NS + start * S + edge[0], START_NS + (start + length) * S + edge[1]
    expected = [int(entry.counters[0]) for entry in readings if low <= entry.time_ns <= high]
    assert dumped(folder, low, high, folder.parent / "range.parquet") == expected


def test_a_dump_of_series_that_came_and_went(tmp_path: Path) -> None:
    extra = Series("extra", "counter", {"id": "7"})
    burst = Series("burst", "histogram", {}, power=0)
    wide = Catalog((*SMALL.counters, extra), SMALL.gauges, (burst, *SMALL.histograms))
    folder = tmp_path / "buffer"
    folder.mkdir()
    ring = opened(folder)
    for number in range(60):
        ring.append(reading(number, series=wide if 15 <= number < 35 else SMALL))
    ring.close()
    output = tmp_path / "out.parquet"
    assert dumped(folder, 0, 2**64 - 1, output) == list(range(60))
    table = pq.read_table(output)
    assert table["extra/7"].to_pylist() == [number if 15 <= number < 35 else None for number in range(60)]
    # a histogram that is away keeps its last buckets: readers would take a gap for everything since boot at once
    first = [buckets and buckets[0] for buckets in table["burst:buckets"].to_pylist()]
    assert first == [None] * 15 + list(range(15, 35)) + [34] * 25
    assert pq.read_metadata(output).num_row_groups == 1


def test_segments_leave_the_disk_only_when_no_dump_holds_them(tmp_path: Path) -> None:
    ring = opened(tmp_path, replace(LIMITS, duration_ns=10 * S))
    fill(ring, 0, 15)
    with ring.hold():
        fill(ring, 15, 15)
        assert numbers(tmp_path) == list(range(30))
        with ring.hold():
            fill(ring, 30, 30)
            assert numbers(tmp_path) == list(range(60))
        assert numbers(tmp_path) == list(range(60))
        with ring.hold() as extent:  # a dump is not of what others hold
            result = dump(tmp_path, 0, 2**64 - 1, tmp_path / "out.parquet", "dump-test.work", extent)
            assert result.rows == ring.statistics().rows < 30
            assert pq.read_table(tmp_path / "out.parquet")["ticks"].to_pylist()[-1] == 59
            fill(ring, 60, 20)
            assert dump(tmp_path, 0, 2**64 - 1, tmp_path / "out.parquet", "dump-test.work", extent) == result
    fill(ring, 80, 1)  # they go with the next reading: whoever ends a dump does not wait for the disk
    assert len(numbers(tmp_path)) <= 20
    assert numbers(tmp_path)[-1] == 80
    ring.close()


def test_an_empty_buffer_has_no_segments(tmp_path: Path) -> None:
    ring = opened(tmp_path)
    with ring.hold() as extent:
        assert extent == Extent(0, -1)
        fill(ring, 0, 15)
        assert not dump(tmp_path, 0, 2**64 - 1, tmp_path / "out.parquet", "dump-test.work", extent).rows
    with ring.hold() as extent:
        assert extent == Extent(0, 1)
    ring.close()


def test_a_segment_damaged_in_the_middle_counts_up_to_there_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "00000000.segment"
    writer = create_segment(tmp_path, 0, {})
    ends = [writer.append(one) and writer.size for one in Walk(catalog(cgroups=1)).run(20)]
    writer.close()
    whole = path.read_bytes()
    broken = whole[: ends[6] + 20] + bytes(20) + whole[ends[6] + 40 :]
    path.write_bytes(broken)
    ring = Ring(tmp_path, Limits(duration_ns=10**12, max_bytes=1 << 30, interval_ns=10**9), dict)
    ring.close()
    assert ring.statistics().rows == 7
    (said,) = ring.found
    assert "is damaged behind byte" in said
    assert "kept as 00000000.damaged" in said
    assert (tmp_path / "00000000.damaged").read_bytes() == broken
    again = Ring(tmp_path, Limits(duration_ns=10**12, max_bytes=1 << 30, interval_ns=10**9), dict)
    again.close()
    assert (again.found, again.statistics().rows) == ((), 7)


def test_a_damaged_segment_is_left_out_of_a_dump_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "buffer"
    folder.mkdir()
    ring = opened(folder)
    fill(ring, 0, 30)
    ring.close()
    damaged = segment_files(folder)[1]
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    assert dumped(folder, 0, 2**64 - 1, tmp_path / "out.parquet") == [*range(10), *range(20, 30)]
    assert "left out of the dump" in capsys.readouterr().err


def test_a_file_is_replaced_by_a_whole_dump_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "buffer"
    folder.mkdir()
    ring = opened(folder)
    fill(ring, 0, 5)
    ring.close()
    output = tmp_path / "out.parquet"
    assert dumped(folder, 0, 2**64 - 1, output) == list(range(5))
    before = output.stat().st_ino
    dump(folder, 0, 2**64 - 1, output, "dump-test.work")
    assert output.stat().st_ino != before
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(IsADirectoryError):
        dump(folder, 0, 2**64 - 1, tmp_path / "folder.parquet", "dump-test.work")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["buffer", "folder.parquet", "out.parquet"]


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    with tmpfs(tmp_path / "small", "1m") as mount:
        yield mount


def test_on_a_full_disk_the_oldest_makes_room_for_the_newest(small_disk: Path) -> None:
    """It is its own buffer that fills the disk: nothing is lost but what is oldest."""
    folder = small_disk / "buffer"
    folder.mkdir()
    ring = opened(folder, replace(LIMITS, duration_ns=10**6 * S))
    made = list(Walk(catalog(cgroups=1)).run(150))
    for entry in made:
        ring.append(entry)
    kept = [found.time_ns for found in readings_in(folder)]
    assert kept == [entry.time_ns for entry in made[-len(kept) :]]
    assert len(kept) > 20
    assert ring.dropped > 0
    ring.close()


def test_a_disk_that_others_filled_costs_what_is_read_meanwhile(small_disk: Path) -> None:
    folder = small_disk / "buffer"
    folder.mkdir()
    ring = opened(folder)
    made = list(Walk(catalog(cgroups=1)).run(60))
    for entry in made[:3]:
        ring.append(entry)
    use_up(small_disk / "ballast")
    written = [*made[:3]]
    for entry in made[3:40]:
        try:
            ring.append(entry)
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017
        else:
            written.append(entry)
    assert len(written) < 40
    (small_disk / "ballast").unlink()
    for entry in made[40:]:
        ring.append(entry)
    written += made[40:]
    assert [found.time_ns for found in readings_in(folder)] == [entry.time_ns for entry in written]
    ring.close()
    again = opened(folder)
    assert again.found == ()
    assert [found.time_ns for found in readings_in(folder)] == [entry.time_ns for entry in written]
    again.close()


def test_a_dump_that_would_not_fit_is_refused_and_leaves_nothing(small_disk: Path) -> None:
    folder = small_disk / "buffer"
    folder.mkdir()
    ring = opened(folder)
    fill(ring, 0, 10)
    ring.close()
    use_up(small_disk / "ballast")
    with pytest.raises(DumpError, match=r"not enough space in .*: this range may need 1 MiB and 0 MiB are free"):
        dump(folder, 0, 2**64 - 1, small_disk / "out.parquet", "dump-test.work")
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "buffer"]
    assert numbers(folder) == list(range(10))


def test_a_dump_on_another_file_system_replaces_at_once_too(small_disk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "buffer"
    folder.mkdir()
    ring = opened(folder)
    fill(ring, 0, 5)
    ring.close()
    output = small_disk / "out.parquet"
    output.write_bytes(b"PAR1")
    before = output.stat().st_ino
    dump(folder, 0, 2**64 - 1, output, "dump-test.work")
    assert output.stat().st_ino != before
    assert pq.read_table(output)["ticks"].to_pylist() == list(range(5))
    assert [path.name for path in small_disk.iterdir()] == ["out.parquet"]


def test_what_a_source_said_of_itself_earlier_is_in_the_dump_of_later(tmp_path: Path) -> None:
    folder = tmp_path / "buffer"
    folder.mkdir()
    said = [{"version": "1"}, {"systeminfo": "{}", "version": "2"}, {"version": "3"}]
    for number, words in enumerate(said):
        ring = Ring(folder, LIMITS, dict(words).copy)
        fill(ring, number * 5, 5)
        ring.close()
    dump(folder, 0, 2**64 - 1, tmp_path / "out.parquet", "dump-test.work")
    metadata = pq.read_metadata(tmp_path / "out.parquet").metadata
    assert (metadata[b"version"], metadata[b"systeminfo"]) == (b"3", b"{}")


def test_what_dumps_left_when_everything_was_killed_is_removed(tmp_path: Path) -> None:
    ring = opened(tmp_path)
    fill(ring, 0, 5)
    ring.close()
    (tmp_path / "dump-3.work").mkdir()
    (tmp_path / "dump-3.work" / "body").write_bytes(b"PAR1")
    (tmp_path / "dump-4.parquet").write_bytes(b"PAR1")
    opened(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == ["00000000.segment"]


def test_with_fsync_each_reading_is_on_the_disk_before_the_next(tmp_path: Path) -> None:
    synced: list[int] = []

    class Counting(SegmentWriter):
        def sync(self) -> None:
            super().sync()
            synced.append(self.rows)

    ring = Ring(tmp_path, LIMITS, metadata(), fsync=True)
    ring._writer = Counting(tmp_path / "00000000.segment", {})
    fill(ring, 0, 5)
    assert synced == [1, 2, 3, 4, 5]
    ring.close()
    assert numbers(tmp_path) == list(range(5))


def test_a_reading_that_did_not_reach_the_disk_is_there_once_when_it_is_written_again(tmp_path: Path) -> None:
    class Full(SegmentWriter):
        def sync(self) -> None:
            if self.rows == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().sync()

    ring = Ring(tmp_path, LIMITS, metadata(), fsync=True)
    for first in (0, 3):
        fill(ring, first, 3)
        ring.close()  # a segment is full
    ring._writer = Full(tmp_path / "00000009.segment", {})
    fill(ring, 6, 2)
    ring.close()
    assert sorted(numbers(tmp_path)) == [3, 4, 5, 6, 7]
