from __future__ import annotations

import io
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import trio

from rezolus.daemon import Timing
from rezolus.errors import UserError
from rezolus.record.progress import Progress, Tally, tally
from rezolus.record.request import Endpoint, Format, Request
from rezolus.record.rescue import RescueError, rescue
from rezolus.record.run import GAVE_UP, Recording
from rezolus.recording.child import Finished
from rezolus.recording.raw import RawWriter
from rezolus.recording.ring import Limits, Ring
from rezolus.recording.store import create_segment
from rezolus.sinks.recorder import RecorderStatistics
from rezolus.wire.decode import decode_stream
from rezolus.wire.encode import Encoder
from tests.disks import tmpfs, use_up
from tests.record.agents import agent
from tests.synthetic import Walk, catalog

MS = 10**6


async def until(condition: Callable[[], object]) -> None:
    """Poll for what other threads and processes do; the caller has the deadline."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.01)


async def test_a_second_signal_leaves_at_once_and_says_how_to_recover(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finishing = trio.Event()

    async def finish_never(arguments: list[str]) -> Finished:
        finishing.set()
        await trio.sleep_forever()
        raise AssertionError(arguments)

    output = tmp_path / "out.parquet"
    statuses = []
    with agent() as url, trio.fail_after(60):
        recording = Recording(
            Request(endpoints=(Endpoint(url=url),), output=output, interval=20 * MS),
            finisher=finish_never,
            timing=Timing(together_s=0),
        )

        async def run() -> None:
            statuses.append(await recording.run())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until(lambda: recording.look().samples >= 3)
            signal.raise_signal(signal.SIGINT)
            await finishing.wait()
            signal.raise_signal(signal.SIGTERM)
    assert statuses == [GAVE_UP]
    work = tmp_path / "out.parquet.recording"
    assert f"left unfinished; to finish it: rezolus record --recover {work}" in capsys.readouterr().err
    (outcome,) = rescue(work, None)
    assert pq.read_metadata(outcome.file).num_rows == outcome.rows >= 3
    assert not work.exists()


@pytest.mark.parametrize("form", ["parquet", "raw"])
async def test_a_disk_that_is_full_at_the_end_leaves_everything_to_recover(form: Format, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "2m") as mount, agent() as url, trio.fail_after(60):
        output = mount / "out"
        request = Request(endpoints=(Endpoint(url=url),), output=output, interval=10 * MS, format=form)
        recording = Recording(request)
        said: list[str] = []

        async def run() -> None:
            try:
                await recording.run()
            except* UserError as group:
                said.append(str(group.exceptions[0]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until(lambda: recording.look().samples >= 10)
            use_up(mount / "ballast")
            written = recording.look().samples
            signal.raise_signal(signal.SIGINT)
        if form == "raw":  # is complete as it is and only gets its name
            assert said == []
            assert len(list(decode_stream(output.read_bytes()))) >= written
            return
        assert f"what was recorded is in {mount}/out.recording/" in said[0]
        (mount / "ballast").unlink()
        (outcome,) = rescue(output, None)
        assert outcome.rows >= written >= 10
        assert pq.read_metadata(outcome.file).num_rows == outcome.rows


def statistics(rows: int, first_ns: int, last_ns: int) -> RecorderStatistics:
    return RecorderStatistics("x", rows, 0, 1, 1000, first_ns, last_ns)


def test_lost_are_the_ticks_between_the_samples() -> None:
    nothing = tally([statistics(0, 0, 0)], 10 * MS, seconds=0)
    assert (nothing.samples, nothing.lost) == (0, 0)
    some = tally([statistics(8, 5, 90 * MS), statistics(3, 7, 21 * MS)], 10 * MS, seconds=3725.5, down=("gone",))
    assert some == Tally(3725.5, 11, 2, 2000, ("gone",))
    full = tally([statistics(0, 5, 45 * MS), statistics(3, 5, 75 * MS)], 10 * MS, seconds=1)  # the disk was
    assert (full.samples, full.lost) == (3, 5 + 5)
    assert str(some) == "1:02:05  11 samples  2 lost  1.95 KiB  no answer from gone"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_the_line_on_a_terminal_makes_room_for_the_log(autojump_clock: trio.testing.MockClock) -> None:
    stream = Terminal()
    progress = Progress(lambda: Tally(trio.current_time(), 2, 0, 0), stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(progress.run)
        await trio.sleep(0.75)
        line = stream.getvalue()
        progress.write("warning: something")
        progress.write("\n")
        said = stream.getvalue().removeprefix(line)
        nursery.cancel_scope.cancel()
    assert line.startswith("\r\x1b[K0:00:")
    assert line.endswith("2 samples  0 lost  0 B")
    assert said == "\r\x1b[Kwarning: something\r\x1b[K\n" + line.removeprefix("\r\x1b[K")
    assert stream.getvalue().endswith("\r\x1b[K")


async def test_elsewhere_there_is_a_line_now_and_then(autojump_clock: trio.testing.MockClock) -> None:
    stream = io.StringIO()
    progress = Progress(lambda: Tally(30, 30, 0, 0), stream)
    with trio.move_on_after(65):
        await progress.run()
    assert stream.getvalue() == "0:00:30  30 samples  0 lost  0 B\n" * 2


def test_a_rolling_buffer_is_recovered_and_stays(tmp_path: Path) -> None:
    folder = tmp_path / "hindsight.parquet.buffer"
    readings = list(Walk(catalog(cgroups=1)).run(30))
    folder.mkdir()
    ring = Ring(folder, Limits(duration_ns=10**12, max_bytes=1 << 30, interval_ns=10**9), dict)
    for reading in readings:
        ring.append(reading)
    ring.close()
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir() if path.is_file())
    (outcome,) = rescue(folder, tmp_path / "out.parquet")
    assert (outcome.file, outcome.rows) == (str(tmp_path / "out.parquet"), 30)
    times = pq.read_table(outcome.file)["timestamp"].to_pylist()
    assert times == [reading.time_ns for reading in readings]
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir() if path.is_file()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, "out.parquet"]


@pytest.mark.parametrize("what", ["recording", "raw", "buffer"])
def test_a_recording_on_a_full_disk_is_recovered_to_another(what: str, tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(30))
    with tmpfs(tmp_path / "small", "4m") as mount:
        folder = mount / ("run.buffer" if what == "buffer" else "run.parquet.recording/7")
        folder.mkdir(parents=True)
        if what == "raw":
            writer = RawWriter(folder, Encoder("v2", {"source": "rezolus"}).encode)
            for reading in readings:
                writer.append(reading)
            writer.close()
        else:
            segment = create_segment(folder, 0, {})
            for reading in readings:
                segment.append(reading)
            segment.close()
        use_up(mount / "ballast")
        if what == "recording":
            (outcome,) = rescue(mount / "run.parquet", None)
            assert outcome.problem == "no space left on device"
            output = mount / "out"
            (outcome,) = rescue(folder, output)
            assert (outcome.file, "make room" in outcome.problem) == ("", True)
        left = tmp_path / ".out.recovering"  # by a recovery that was killed
        left.mkdir()
        (left / "body").write_bytes(b"PAR1 and half a row group")
        target = folder if what == "buffer" else mount / "run.parquet"
        (outcome,) = rescue(target, tmp_path / "out")
        assert (outcome.file, outcome.rows, outcome.problem) == (str(tmp_path / "out"), 30, "")
        assert folder.exists() == (what == "buffer")
        names = sorted(path.name for path in tmp_path.iterdir() if path.name != left.name)
        assert names == ["out", "small"]
        assert left.exists() == (what == "buffer")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    segment = create_segment(tmp_path, 0, {})
    segment.append(next(iter(Walk(catalog(cgroups=1)).run(1))))
    segment.close()
    output = tmp_path / "away" / "out.parquet"
    with pytest.raises(RescueError, match=rf"{output}: cannot be recovered: .*no such file or directory"):
        rescue(segment.path, output)


def test_what_was_recovered_from_a_buffer_stays_when_it_is_recovered_again(tmp_path: Path) -> None:
    folder = tmp_path / "hindsight.parquet.buffer"
    folder.mkdir()
    ring = Ring(folder, Limits(duration_ns=10**12, max_bytes=1 << 30, interval_ns=10**9), dict)
    for reading in Walk(catalog(cgroups=1)).run(3):
        ring.append(reading)
    ring.close()
    (segment,) = folder.glob("*.segment")
    files = [Path(rescue(path, None)[0].file).name for path in (folder, folder, segment, segment)]
    assert files == [
        "hindsight.parquet.recovered.parquet",
        "hindsight.parquet.recovered-2.parquet",
        "00000000.recovered.parquet",
        "00000000.recovered-2.parquet",
    ]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RescueError, match="nothing to recover"):
        rescue(tmp_path, None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(RescueError, match=r"there is no folder .*x\.parquet\.recording of an unfinished recording"):
        rescue(tmp_path / "x.parquet", None)
