"""The rolling buffer where the disk is slow, or does not give back what was written."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rezolus.reading import Catalog, Reading, Series
from rezolus.recording.dump import dump
from rezolus.recording.ring import GIVEN_UP, Limits, Ring
from rezolus.recording.segment import Segment
from rezolus.recording.store import SPARE_BYTES, dump_bytes, free_bytes, segment_files
from tests.disks import tmpfs, use_up
from tests.recording.test_ring import LIMITS, S, fill, opened
from tests.synthetic import START_NS

DEADLINE_S = 60.0
WIDE = Catalog(tuple(Series(f"c{number}", "counter", {}) for number in range(3000)), (), ())


def wide(number: int) -> Reading:
    """Twenty-four kilobytes that cannot be made fewer."""
    values = np.random.default_rng(number).integers(0, 2**63, len(WIDE.counters), np.uint64)
    none = np.empty(0, np.int64)
    return Reading(WIDE, START_NS + number * S, number * S, 0, values, none, none.view(np.uint64))


class SlowToDelete(Ring):
    """On a disk that takes its time with deleting: until it is told to go on."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.deleting = threading.Event()
        self.go_on = threading.Event()
        super().__init__(folder, limits, dict)

    def _unlink(self, paths: Iterable[Path]) -> None:
        paths = list(paths)
        if paths:
            self.deleting.set()
            assert self.go_on.wait(DEADLINE_S)
        super()._unlink(paths)


def returns(function: Callable[[], object]) -> bool:
    """Whether a call comes back although the disk does not."""
    done = threading.Event()

    def call() -> None:
        function()
        done.set()

    threading.Thread(target=call, daemon=True).start()
    return done.wait(DEADLINE_S / 4)


def hold_once(ring: Ring) -> None:
    with ring.hold():
        pass


def test_nobody_waits_for_a_disk_that_is_slow_to_delete(tmp_path: Path) -> None:
    ring = SlowToDelete(tmp_path, replace(LIMITS, duration_ns=10 * S))
    writer = threading.Thread(target=fill, args=(ring, 0, 40))
    writer.start()
    try:
        assert ring.deleting.wait(DEADLINE_S)
        assert returns(ring.statistics)
        assert returns(lambda: hold_once(ring))
    finally:
        ring.go_on.set()
        writer.join()
    assert ring.statistics().segments == len(segment_files(tmp_path))
    ring.close()


def test_what_a_dump_held_is_deleted_by_who_writes(tmp_path: Path) -> None:
    ring = SlowToDelete(tmp_path, replace(LIMITS, duration_ns=10 * S))
    fill(ring, 0, 15)
    with ring.hold():
        fill(ring, 15, 30)
    assert not ring.deleting.is_set()
    ring.go_on.set()
    ring.close()
    assert ring.deleting.is_set()
    assert ring.statistics().segments == len(segment_files(tmp_path))


def directory(path: Path) -> None:
    path.mkdir()


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [directory, link_to_itself])
def test_a_segment_that_cannot_be_read_is_left_where_it_is(
    tmp_path: Path, make: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "buffer"
    folder.mkdir()
    ring = opened(folder)
    fill(ring, 0, 30)
    ring.close()
    bad = segment_files(folder)[1]
    bad.unlink()
    make(bad)
    again = opened(folder)
    (found,) = again.found
    assert found.startswith(f"{bad}: ")
    assert found.endswith("chown) and restart to have it in the buffer again, or remove it")
    assert bad.is_dir() or bad.is_symlink()
    fill(again, 30, 5)
    kept = [*range(10), *range(20, 35)]
    assert again.statistics().rows == len(kept)
    again.close()
    assert dump(folder, 0, 2**64 - 1, tmp_path / "out.parquet", "dump-test.work").rows == len(kept)
    assert pq.read_table(tmp_path / "out.parquet")["ticks"].to_pylist() == kept
    assert f"left out of the dump: {bad}: " in capsys.readouterr().err


def test_a_segment_that_a_full_disk_cut_short_is_whole(tmp_path: Path) -> None:
    """The first part of a reading fits and the rest does not."""
    with tmpfs(tmp_path / "small", "64m") as mount:
        ring = Ring(mount, replace(LIMITS, duration_ns=3600 * S), dict)
        for number in range(5):
            ring.append(wide(number))
        use_up(mount / "ballast")
        with (mount / "ballast").open("r+b") as ballast:
            ballast.truncate(ballast.seek(0, 2) - 12_288)
        with pytest.raises(OSError, match="No space left"):
            ring.append(wide(5))
        (path,) = segment_files(mount)
        segment = Segment(path)
        assert (segment.rows, segment.whole) == (5, True)
        ring.close()


@pytest.mark.parametrize("size", ["2m", "8m"])
def test_a_buffer_that_would_fill_its_disk_leaves_room_for_a_dump_of_it(tmp_path: Path, size: str) -> None:
    with tmpfs(tmp_path / "small", size) as mount:
        ring = opened(mount, replace(LIMITS, duration_ns=10**6 * S))
        for number in range(400):
            ring.append(wide(number))
            if number % 80 == 79:
                result = dump(mount, 0, 2**64 - 1, tmp_path / "out.parquet", "dump-test.work")
                assert result.rows == ring.statistics().rows
        assert ring.dropped > 0
        assert ring.statistics().bytes > free_bytes(mount) / 8
        ring.close()


def test_a_buffer_that_had_filled_its_disk_comes_down_step_by_step(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "12m") as mount:
        ring = opened(mount, replace(LIMITS, duration_ns=10**6 * S))
        for number in range(100):
            ring.append(wide(number))
        use_up(mount / "ballast")
        with (mount / "ballast").open("r+b") as ballast:
            ballast.truncate(ballast.seek(0, 2) - (1 << 20))
        dropped, segments = ring.dropped, ring.statistics().segments
        for number in range(100, 500):
            ring.append(wide(number))
            gone = ring.dropped - dropped
            begun = ring.statistics().segments + gone - segments
            assert gone <= GIVEN_UP * (begun + 1)
        assert gone > 0
        assert dump(mount, 0, 2**64 - 1, tmp_path / "out.parquet", "dump-test.work").rows == ring.statistics().rows
        ring.close()


def test_while_a_dump_takes_up_its_room_no_more_goes_than_comes(tmp_path: Path) -> None:
    readings = map(wide, itertools.count())
    with tmpfs(tmp_path / "small", "12m") as mount:
        ring = opened(mount, replace(LIMITS, duration_ns=10**6 * S))

        def begun() -> int:
            return ring.statistics().segments + ring.dropped

        while ring.dropped < 3:
            ring.append(next(readings))
        before = begun()
        while begun() == before:
            ring.append(next(readings))
        dropped = ring.dropped
        with ring.hold():
            use_up(mount / "dump-test.work")
            with (mount / "dump-test.work").open("r+b") as work:
                work.truncate(dump_bytes(ring.statistics().bytes) - SPARE_BYTES)
            while begun() == before + 1:
                ring.append(next(readings))
            assert ring.dropped <= dropped + 1
        ring.close()


def test_a_disk_that_was_full_at_the_start_gets_segments_as_long_as_any(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "4m") as mount:
        folder = mount / "buffer"
        folder.mkdir()
        use_up(mount / "ballast")
        ring = opened(folder)
        (mount / "ballast").unlink()
        fill(ring, 0, 30)
        ring.close()
        assert [Segment(path).rows for path in segment_files(folder)] == [10, 10, 10]
