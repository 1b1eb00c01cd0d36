from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rezolus.reading import ABSENT_GAUGE, Catalog, Reading, Series, histogram_buckets
from rezolus.recording.segment import MAGIC, Segment, SegmentError
from rezolus.recording.store import create_segment, folder_lock
from rezolus.recording.writer import SegmentWriter
from tests.recording.replayed import readings_in, readings_of
from tests.synthetic import Walk, catalog

U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(ABSENT_GAUGE, 2**63 - 1)
LABELS = st.dictionaries(st.sampled_from(["op", "id", "name"]), st.text(max_size=4), max_size=2)


@st.composite
def catalogs(draw: st.DrawFn, kind: str) -> tuple[Series, ...]:
    pairs = draw(st.lists(st.tuples(st.sampled_from("abcd"), LABELS), max_size=4))
    unique = {(name, tuple(sorted(labels.items()))): labels for name, labels in pairs}
    power = draw(st.integers(0, 2))
    return tuple(
        Series(name, kind, dict(sorted(labels.items())), "u", "help", "s", power)  # type: ignore[arg-type]
        for (name, _), labels in unique.items()
    )


@st.composite
def recordings(draw: st.DrawFn) -> list[Reading]:
    readings = []
    for _ in range(draw(st.integers(1, 3))):
        series = Catalog(*(draw(catalogs(kind)) for kind in ("counter", "gauge", "histogram")))
        buckets = sum(histogram_buckets(h.power) for h in series.histograms)
        for _ in range(draw(st.integers(0, 3))):
            sparse = draw(st.dictionaries(st.integers(0, max(0, buckets - 1)), U64, max_size=5 if buckets else 0))
            histograms = np.zeros(buckets, np.uint64)
            for at, value in sparse.items():
                histograms[at] = value
            wall, monotonic, duration = draw(st.tuples(U64, U64, U64))
            counters = draw(st.lists(U64, min_size=len(series.counters), max_size=len(series.counters)))
            gauges = draw(st.lists(I64, min_size=len(series.gauges), max_size=len(series.gauges)))
            columns = (np.array(counters, np.uint64), np.array(gauges, np.int64), histograms)
            readings.append(Reading(series, wall, monotonic, duration, *columns))
    return readings


def write(path: Path, readings: list[Reading]) -> list[int]:
    """Sizes of the file after each reading."""
    path.unlink(missing_ok=True)
    writer = SegmentWriter(path, {"version": "1"})
    sizes = [writer.size]
    for reading in readings:
        writer.append(reading)
        sizes.append(writer.size)
    writer.close()
    return sizes


def assert_same(found: list[Reading], expected: list[Reading]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.time_ns, a.monotonic_ns, a.duration_ns) == (b.time_ns, b.monotonic_ns, b.duration_ns)
        assert (a.catalog.counters, a.catalog.gauges) == (b.catalog.counters, b.catalog.gauges)
        assert a.catalog.histograms == b.catalog.histograms
        np.testing.assert_array_equal(a.counters, b.counters)
        np.testing.assert_array_equal(a.gauges, b.gauges)
        np.testing.assert_array_equal(a.histograms, b.histograms)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("segments") / "00000000.segment"


@given(recordings())
def test_what_was_appended_is_read_back(scratch: Path, readings: list[Reading]) -> None:
    write(scratch, readings)
    segment = Segment(scratch)
    assert segment.whole
    assert segment.metadata == {"version": "1"}
    assert_same(list(readings_of(segment)), readings)


@settings(max_examples=25)
@given(recordings(), st.data())
def test_a_file_cut_anywhere_gives_the_rows_before_the_cut(
    scratch: Path, readings: list[Reading], data: st.DataObject
) -> None:
    sizes = write(scratch, readings)
    raw = scratch.read_bytes()
    # every byte of the last row, and some anywhere
    cuts = [*range(sizes[-2] if readings else 0, len(raw)), *data.draw(st.lists(st.integers(0, len(raw)), max_size=20))]
    for cut in cuts:
        scratch.write_bytes(raw[:cut])
        rows = sum(size <= cut for size in sizes[1:])
        segment = Segment(scratch)
        assert_same(list(readings_of(segment)), readings[:rows])
        assert segment.damage() == ""


@settings(max_examples=50)
@given(recordings(), st.data())
def test_a_damaged_byte_costs_only_what_follows_it(scratch: Path, readings: list[Reading], data: st.DataObject) -> None:
    sizes = write(scratch, readings)
    raw = bytearray(scratch.read_bytes())
    at = data.draw(st.integers(len(MAGIC), len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    scratch.write_bytes(raw)
    segment = Segment(scratch)
    assert not segment.whole
    assert segment.damage() or at >= (0, *sizes)[-2]  # the last frame may as well have been torn
    assert_same(list(readings_of(segment)), readings[: sum(size <= at for size in sizes[1:])])


def test_a_series_that_comes_and_goes_costs_only_itself(tmp_path: Path) -> None:
    walk = Walk(catalog(cgroups=40))
    writer = SegmentWriter(tmp_path / "1.segment", {})
    writer.append(walk.step())
    steady = writer.append(walk.step())
    extra = Series("cgroup_metric0", "counter", {"id": "99", "name": "/new"}, "", "", "cg")
    plain = walk.catalog
    readings = []
    for series in (Catalog((*plain.counters, extra), plain.gauges, plain.histograms), plain):
        before = walk.step()
        added = np.array([5] * (len(series.counters) - len(plain.counters)), np.uint64)
        before.counters = np.concatenate((before.counters, added))
        before.catalog = series
        readings.append(before)
        assert writer.append(before) < steady + 8 * 1024
    writer.close()
    assert_same(list(readings_of(Segment(writer.path)))[2:], readings)


def test_a_range_of_time_over_several_segments(tmp_path: Path) -> None:
    walk = Walk(catalog(cgroups=1))
    readings = list(walk.run(9))
    for number in range(3):
        writer = create_segment(tmp_path, number, {})
        for reading in readings[number * 3 : number * 3 + 3]:
            writer.append(reading)
        writer.close()
    assert_same(list(readings_in(tmp_path)), readings)


def test_the_open_segment_can_be_read_beside_its_writer(tmp_path: Path) -> None:
    writer = create_segment(tmp_path, 0, {})
    readings = []
    for reading in Walk(catalog(cgroups=1)).run(3):
        writer.append(reading)
        readings.append(reading)
        assert_same(list(readings_in(tmp_path)), readings)
    writer.close()


def test_a_failed_write_leaves_whole_rows(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(3))
    path = tmp_path / "0.segment"
    pid = os.fork()
    if pid == 0:  # the limit on file size holds for a process
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            writer = SegmentWriter(path, {})
            writer.append(readings[0])
            resource.setrlimit(resource.RLIMIT_FSIZE, (writer.size + 100, writer.size + 100))
            try:
                writer.append(readings[1])
            except OSError:
                writer.note(b"the end")
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    segment = Segment(path)
    assert segment.whole
    assert_same(list(readings_of(segment)), readings[:1])


def test_another_file_is_no_segment(tmp_path: Path) -> None:
    path = tmp_path / "x.segment"
    path.write_bytes(b"PAR1 something else")
    with pytest.raises(SegmentError, match=r"x\.segment: is not a segment"):
        Segment(path)


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    with folder_lock(tmp_path) as mine, folder_lock(tmp_path) as too:
        assert mine
        assert not too
    with folder_lock(tmp_path) as mine:
        assert mine
