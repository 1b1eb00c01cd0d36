"""Block I/O agrees with the disks' own statistics and with what the workload moved.

The metrics are of the host: they count at least what the test's own disk did, and at most what all disks did.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.live import Live, Watch
from tests.kernel.numbers.disks import Disk, all_disks, disk, mounted
from tests.workloads import Worker

MS = 1_000_000
SIZE = 36 * 1024  # not a size that others write all the time
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878


@pytest.fixture(scope="module")
def ours() -> Iterator[Disk]:
    with disk() as made:
        yield made


def assert_between(watch: Watch, op: str, count: int) -> None:
    """Requests and bytes: our own disk's at least, all disks' at most; a latency for each that the workload made.

    A flush is two to the disks: the flush, and the write without data that carried it, which no device ever sees.
    """
    own, every = watch.brackets
    for metric in ("operations", "bytes"):
        counted = watch.change.sum(f"blockio_{metric}", op=op)
        key = f"{op} {metric}"
        if key in own.least:
            assert own.least[key] <= counted <= every.most[key], (key, counted, str(own), str(every))
    assert watch.change.count("blockio_latency", op=op) >= count


def test_writes_are_those_of_diskstats(probes: Live, ours: Disk) -> None:
    """200 writes of 36 KiB: exactly between the disk's own numbers and all disks'. No request took longer than all."""
    with Worker() as worker, probes.watch(ours.done, all_disks) as watch:
        spent = worker.call("write_device", path=ours.path, count=200, size=SIZE)["ns"]
    assert watch.brackets[0].least["write bytes"] == 200 * SIZE
    assert_between(watch, "write", 200)
    assert watch.change.count("blockio_size", low=SIZE, high=SIZE, op="write") >= 200
    assert watch.change.count("blockio_latency", high=spent, op="write") >= 200


def test_reads_are_those_of_diskstats(probes: Live, ours: Disk) -> None:
    """200 reads of 36 KiB, as above."""
    with Worker() as worker, probes.watch(ours.done, all_disks) as watch:
        spent = worker.call("read_device", path=ours.path, count=200, size=SIZE)["ns"]
    assert watch.brackets[0].least["read bytes"] == 200 * SIZE
    assert_between(watch, "read", 200)
    assert watch.change.count("blockio_size", low=SIZE, high=SIZE, op="read") >= 200
    assert watch.change.count("blockio_latency", high=spent, op="read") >= 200


def test_flushes_are_those_of_diskstats(probes: Live, ours: Disk) -> None:
    """Each write_device ends with a flush: 20 of them."""
    with Worker() as worker, probes.watch(ours.done, all_disks) as watch:
        for _ in range(20):
            worker.call("write_device", path=ours.path, count=1, size=SIZE)
    assert watch.brackets[0].least["flush operations"] >= 20
    assert_between(watch, "flush", 20)


def test_discards_are_those_of_diskstats(probes: Live, ours: Disk) -> None:
    """20 discards of 1 MiB."""
    with Worker() as worker, probes.watch(ours.done, all_disks) as watch:
        worker.call("discard_device", path=ours.path, count=20, size=1 << 20)
    assert watch.brackets[0].least["discard bytes"] == 20 << 20
    assert_between(watch, "discard", 20)


def test_a_request_takes_as_long_as_the_device(probes: Live, tmp_path: Path) -> None:
    """A disk over a file system that is frozen for 150 ms: the write takes that long, and no longer than it was waited for."""
    with disk() as below, mounted(below, tmp_path), disk(tmp_path, mebibytes=8) as slow, Worker() as worker:
        folder = os.open(tmp_path, os.O_RDONLY)
        with probes.watch() as watch:
            fcntl.ioctl(folder, FIFREEZE, 0)
            begin = time.perf_counter_ns()
            worker.begin("write_device", path=slow.path, count=1, size=SIZE)
            select.select([], [], [], 0.15)  # the delay that is measured
            fcntl.ioctl(folder, FITHAW, 0)
            worker.end()
            spent = time.perf_counter_ns() - begin
        os.close(folder)
    assert watch.change.count("blockio_latency", low=100 * MS, high=spent, op="write") >= 1


def test_what_goes_wrong_is_counted_by_cause(probes: Live) -> None:
    """A disk whose file was cut short underneath it fails reads: as many I/O errors as the reader saw, or more by retries."""
    with disk(mebibytes=8) as shrinking, Worker() as worker:
        file = Path(f"/sys/block/{Path(shrinking.path).name}/loop/backing_file").read_text().strip()
        os.truncate(file, 0)
        with probes.watch() as watch:
            failed = worker.call("failing_reads", path=shrinking.path, count=10, size=SIZE)["failed"]
    assert failed == 10
    assert watch.change.sum("blockio_errors", op="read", error="io") >= 10
