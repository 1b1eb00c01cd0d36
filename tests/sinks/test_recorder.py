from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
import pytest
import trio

from rezolus.config import RecorderConfig
from rezolus.reading import Reading
from rezolus.record.progress import tally
from rezolus.record.rescue import rescue
from rezolus.recording.child import Finished, finish_in_child
from rezolus.recording.store import create_segment, folder_lock, segment_files
from rezolus.sinks.recorder import Recorder, RecordingError
from rezolus.wire.decode import decode_stream
from tests import needs
from tests.disks import tmpfs, use_up
from tests.recording.replayed import readings_in
from tests.recording.test_parquet import finish_and_die
from tests.synthetic import START_NS, Walk, catalog

S = 10**9


def config(path: Path, **changes: object) -> RecorderConfig:
    return RecorderConfig(path=path, interval=S, **changes)  # type: ignore[arg-type]


async def start(
    recorder: Recorder, receive: trio.MemoryReceiveChannel[Reading], *, task_status: trio.TaskStatus[None]
) -> None:
    """As the daemon does: a sink that is done takes no more."""
    async with receive:
        await recorder.run(receive, task_status=task_status)


async def until(condition: Callable[[], object]) -> None:
    """Poll for what another process does; the caller has the deadline."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.01)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def record(recorder: Recorder, readings: list[Reading]) -> None:
    """Give the recorder all readings and the end of the stream."""
    send, receive = trio.open_memory_channel[Reading](0)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(start, recorder, receive)
            async with send:
                for reading in readings:
                    try:
                        await send.send(reading)
                    except trio.BrokenResourceError:
                        break


def rows(path: Path) -> list[int]:
    times: list[int] = pq.read_table(path, columns=["timestamp"])["timestamp"].to_pylist()
    return times


async def test_a_recording_becomes_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    walk = Walk(catalog(cgroups=2))
    readings = list(walk.run(5))
    recorder = Recorder("rec", config(tmp_path / "out.parquet"), lambda: {"systeminfo": "{}"})
    await record(recorder, readings)
    assert names(tmp_path) == ["out.parquet"]
    assert rows(tmp_path / "out.parquet") == [reading.time_ns for reading in readings]
    metadata = pq.read_metadata(tmp_path / "out.parquet").metadata
    assert metadata[b"sampling_interval_ms"] == b"1000"
    assert metadata[b"systeminfo"] == b"{}"
    assert (recorder.statistics().rows, recorder.statistics().lost) == (5, 0)
    usage = pq.read_table(tmp_path / "out.parquet")["cpu_usage/user/0"].to_pylist()
    assert usage == [int(reading.counters[0]) for reading in readings]


async def test_what_a_source_says_of_itself_later_is_in_the_file(tmp_path: Path) -> None:
    said: dict[str, str] = {}
    walk = Walk(catalog(cgroups=1))
    recorder = Recorder("rec", config(tmp_path / "out.parquet", metadata={"run": "7", "version": "mine"}), lambda: said)
    send, receive = trio.open_memory_channel[Reading](0)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(start, recorder, receive)
            await give(recorder, send, list(walk.run(1)))
            said = {"systeminfo": "{}", "version": "5.17.0", "source": "far", "role": "server", "sampler_status": "[]"}
            await give(recorder, send, list(walk.run(1)))
            await send.aclose()
    found = pq.read_metadata(tmp_path / "out.parquet").metadata
    wanted = {b"run": b"7", b"version": b"mine", b"source": b"far", b"systeminfo": b"{}"}
    assert {key: found[key] for key in wanted} == wanted
    own = {"first_sample_ns": START_NS + S, "last_sample_ns": START_NS + 2 * S, "role": "server", "sampler_status": []}
    assert json.loads(found[b"per_source_metadata"]) == {"far": own}
    assert b"role" not in found


async def test_a_raw_recording_is_snapshots(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=2)).run(5))
    recorder = Recorder("rec", config(tmp_path / "out.raw", format="raw", fsync=True), lambda: {"source": "far"})
    await record(recorder, readings)
    assert names(tmp_path) == ["out.raw"]
    found = list(decode_stream((tmp_path / "out.raw").read_bytes()))
    assert [snapshot.reading.time_ns for snapshot in found] == [reading.time_ns for reading in readings]
    assert {snapshot.version for snapshot in found} == {"v2"}
    assert found[0].metadata["source"] == "far"
    assert recorder.statistics().rows == 5
    # another one may have its place
    await record(Recorder("rec", config(tmp_path / "out.raw", format="raw")), readings[:1])
    assert len(list(decode_stream((tmp_path / "out.raw").read_bytes()))) == 1


async def test_sealed_segments_become_row_groups_meanwhile(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(10))
    recorder = Recorder("rec", config(tmp_path / "out.parquet"), segment_rows=4)
    send, receive = trio.open_memory_channel[Reading](0)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(start, recorder, receive)
            for reading in readings:
                await send.send(reading)
            await until(lambda: len(segment_files(recorder.folder)) == 1)
            assert not (tmp_path / "out.parquet").exists()
            await send.aclose()
    assert rows(tmp_path / "out.parquet") == [reading.time_ns for reading in readings]
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert sum(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)) == 10
    assert metadata.num_row_groups == 3


async def test_a_recording_of_some_duration_ends_by_itself(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(8))
    await record(Recorder("rec", config(tmp_path / "out.parquet", duration=3 * S, fsync=True)), readings)
    assert rows(tmp_path / "out.parquet") == [reading.time_ns for reading in readings[:3]]


async def test_what_is_cancelled_is_finished_by_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out.parquet"
    readings = list(Walk(catalog(cgroups=1)).run(4))
    first = Recorder("rec", config(output))
    send, receive = trio.open_memory_channel[Reading](0)
    async with trio.open_nursery() as nursery:
        await nursery.start(start, first, receive)
        for reading in readings[:3]:
            await send.send(reading)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await send.aclose()
    assert [found.time_ns for found in readings_in(first.folder)] == [reading.time_ns for reading in readings[:3]]

    second = Recorder("rec", config(output))
    send, receive = trio.open_memory_channel[Reading](0)
    recovered = tmp_path / f"out.recovered-{first.folder.name}.parquet"
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(start, second, receive)
            await send.send(readings[3])
            await until(lambda: f"it is now {recovered}" in caplog.text)
            await send.aclose()
    assert rows(recovered) == [reading.time_ns for reading in readings[:3]]
    assert rows(output) == [readings[3].time_ns]
    assert names(tmp_path) == ["out.parquet", recovered.name]


@pytest.mark.parametrize("form", ["parquet", "raw"])
async def test_an_earlier_recording_of_the_name_is_kept_and_its_new_name_said(
    form: Literal["parquet", "raw"], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out.x"
    readings = list(Walk(catalog(cgroups=1)).run(6))
    kept = []
    for number in range(3):
        await record(Recorder("rec", config(output, format=form)), readings[2 * number : 2 * number + 2])
        kept.append(output.read_bytes())
        os.utime(output, ns=(0, 10**18 + number))
    assert [(tmp_path / name).read_bytes() for name in names(tmp_path)] == kept
    assert names(tmp_path) == [f"out.until-{10**18}.x", f"out.until-{10**18 + 1}.x", "out.x"]
    assert f"rec: there was a recording called {output}; it is now {tmp_path}/out.until-{10**18}.x" in caplog.text


async def test_who_replaces_what_has_the_name_does_so(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(4))
    for some in (readings[:2], readings[2:]):
        await record(Recorder("rec", config(tmp_path / "out.parquet", replace=True)), some)
    assert names(tmp_path) == ["out.parquet"]
    assert rows(tmp_path / "out.parquet") == [reading.time_ns for reading in readings[2:]]


async def test_what_another_recorder_is_writing_is_not_to_be_replaced(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(2))
    first, second = (Recorder("rec", config(tmp_path / "out.parquet", replace=True)) for _ in range(2))
    send, receive = trio.open_memory_channel[Reading](0)
    _, nothing = trio.open_memory_channel[Reading](0)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(start, first, receive)
            await give(first, send, readings)
            with pytest.raises(RecordingError, match=r"out\.parquet is still being recorded to, in .*; choose another"):
                await second.run(nothing)
            await send.aclose()
    assert rows(tmp_path / "out.parquet") == [reading.time_ns for reading in readings]


async def test_a_run_that_was_killed_as_its_file_had_got_the_name_is_recovered_and_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    readings = list(Walk(catalog(cgroups=1)).run(4))
    killed = Recorder("rec", config(output))
    killed.folder.mkdir(parents=True)
    writer = create_segment(killed.folder, 0, {})
    for reading in readings[:3]:
        writer.append(reading)
    writer.close()
    finish_and_die(killed.folder, output)
    await record(Recorder("rec", config(output, replace=True)), readings[3:])
    recovered = tmp_path / f"out.recovered-{killed.folder.name}.parquet"
    assert names(tmp_path) == ["out.parquet", recovered.name]
    assert rows(recovered) == [reading.time_ns for reading in readings[:3]]
    assert rows(output) == [readings[3].time_ns]


async def test_the_next_start_finishes_what_was_left_under_another_time_in_the_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(6))
    left = (tmp_path / "run-20260101T000000.parquet.recording", tmp_path / "run-20260102T000000.parquet.recording")
    for number, work in enumerate(left):
        (work / "7").mkdir(parents=True)
        writer = create_segment(work / "7", 0, {})
        for reading in readings[2 * number : 2 * number + 2]:
            writer.append(reading)
        writer.close()
    with folder_lock(left[1] / "7"):  # another daemon is still at it
        recorder = Recorder("rec", config(tmp_path / "run-%Y%m%dT%H%M%S.parquet"))
        await record(recorder, readings[4:])
    recovered = tmp_path / "run-20260101T000000.recovered-7.parquet"
    assert names(tmp_path) == sorted([recovered.name, left[1].name, recorder.output.name])
    assert rows(recovered) == [reading.time_ns for reading in readings[:2]]
    assert f"it is now {recovered}" in caplog.text
    (outcome,) = rescue(tmp_path / "run-%Y%m%dT%H%M%S.parquet", None)
    assert outcome.file == str(tmp_path / "run-20260102T000000.recovered-7.parquet")
    assert not left[1].exists()


async def test_a_full_disk_costs_what_was_read_meanwhile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A real full file system: 1 MiB of tmpfs."""
    mount = tmp_path / "small"
    mount.mkdir()
    needs.root()
    done = await trio.run_process(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], check=False)
    if done.returncode:
        needs.cannot_run("needs the right to mount a small file system")
    try:
        caplog.set_level(logging.INFO)
        readings = list(Walk(catalog(cgroups=1)).run(40))
        ballast = mount / "ballast"
        recorder = Recorder("rec", config(mount / "out.parquet"), retry_ns=2 * S)
        send, receive = trio.open_memory_channel[Reading](0)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(start, recorder, receive)
                await give(recorder, send, readings[:3])
                with ballast.open("wb", buffering=0) as file:
                    fill(file.fileno())
                await give(recorder, send, readings[3:30])
                assert recorder.statistics().error == "no space left on device"
                ballast.unlink()
                for reading in readings[30:]:
                    await send.send(reading)
                await send.aclose()
        statistics = recorder.statistics()
        assert statistics.rows + statistics.lost == 40
        assert statistics.lost > 20
        assert (statistics.first_ns, statistics.last_ns) == (readings[0].monotonic_ns, readings[-1].monotonic_ns)
        assert statistics.error == ""
        found = rows(mount / "out.parquet")
        assert len(found) == statistics.rows
        assert set(found) <= {reading.time_ns for reading in readings}
        assert found[:2] == [reading.time_ns for reading in readings[:2]]
        assert found[-1] == readings[-1].time_ns
        assert caplog.text.count("no space left on device; trying again") == 1
        assert "writing again" in caplog.text
    finally:
        await trio.run_process(["umount", str(mount)])


async def give(recorder: Recorder, send: trio.MemorySendChannel[Reading], readings: list[Reading]) -> None:
    """Send readings and wait for what becomes of them."""
    before = recorder.statistics()
    for reading in readings:
        await send.send(reading)
    due = before.rows + before.lost + len(readings)
    await until(lambda: recorder.statistics().rows + recorder.statistics().lost == due)


def fill(fd: int) -> None:
    """Write until nothing fits."""
    size = 65536
    while size:
        try:
            os.write(fd, bytes(size))
        except OSError:
            size //= 2


async def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recorder = Recorder("rec", config(tmp_path / "file" / "out.parquet"))
    _, receive = trio.open_memory_channel[Reading](0)
    with pytest.raises(RecordingError, match=r"cannot record to .*out\.parquet: .*not a directory"):
        await recorder.run(receive)


async def test_a_file_that_cannot_be_named_leaves_the_recording(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"

    async def name_taken(arguments: list[str]) -> Finished:
        output.mkdir()
        return await finish_in_child(arguments)

    recorder = Recorder("rec", config(output), finisher=name_taken)
    with pytest.RaisesGroup(pytest.RaisesExc(RecordingError, match="what was recorded is in"), flatten_subgroups=True):
        await record(recorder, list(Walk(catalog(cgroups=1)).run(2)))
    assert (recorder.folder / "index").stat().st_size > 0


async def test_only_a_recording_is_replaced(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("precious")
    (tmp_path / "folder").mkdir()
    _, receive = trio.open_memory_channel[Reading](0)
    for output in (notes, tmp_path / "folder", Path("/dev/null")):
        with pytest.raises(RecordingError, match="is no recording"):
            await Recorder("rec", config(output)).run(receive)
    assert notes.read_text() == "precious"
    assert names(tmp_path) == ["folder", "notes.txt"]


async def test_a_disk_that_is_full_at_the_start_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tmpfs(tmp_path / "small", "1m") as mount, trio.fail_after(60):
        use_up(mount / "ballast")
        readings = list(Walk(catalog(cgroups=1)).run(20))
        recorder = Recorder("rec", config(mount / "out.parquet"))
        send, receive = trio.open_memory_channel[Reading](0)
        async with trio.open_nursery() as nursery:
            await nursery.start(start, recorder, receive)
            assert recorder.statistics().error.endswith("no space left on device")
            await give(recorder, send, readings[:3])
            (mount / "ballast").unlink()
            await give(recorder, send, readings[3:])
            await send.aclose()
        found = rows(mount / "out.parquet")
        assert len(found) >= 10  # it tries every 5 s
        assert found == [reading.time_ns for reading in readings[-len(found) :]]
        assert recorder.statistics().lost == 20 - len(found)
        assert tally([recorder.statistics()], S, seconds=0).lost == 20 - len(found)
        assert caplog.text.count("no space left on device; trying again") == 1
        assert names(mount) == ["out.parquet"]
