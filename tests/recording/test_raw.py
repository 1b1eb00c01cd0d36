from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from rezolus.reading import Reading
from rezolus.record.rescue import rescue
from rezolus.recording import finish
from rezolus.recording.raw import ENDS, RAW, RawWriter
from rezolus.wire.decode import decode_stream
from rezolus.wire.encode import Encoder
from tests.synthetic import Walk, catalog


def record(folder: Path, readings: list[Reading]) -> RawWriter:
    """A writer that has these."""
    folder.mkdir(exist_ok=True)
    writer = RawWriter(folder, Encoder("v2", {"source": "rezolus"}).encode)
    for reading in readings:
        writer.append(reading)
    return writer


def times(path: Path) -> list[int]:
    return [snapshot.reading.time_ns for snapshot in decode_stream(path.read_bytes())]


def test_snapshots_lie_one_after_the_other(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(4))
    record(tmp_path / "run", readings).close()
    output = tmp_path / "out.raw"
    assert finish.finish(tmp_path / "run", output) == 4
    encoder = Encoder("v2", {"source": "rezolus"})
    assert output.read_bytes() == b"".join(encoder.encode(reading) for reading in readings)
    assert not (tmp_path / "run").exists()


def test_a_file_cut_anywhere_gives_the_snapshots_before_the_cut(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=0)).run(3))
    folder = tmp_path / "run"
    writer = record(folder, readings[:2])
    before = writer.size
    writer.append(readings[2])
    writer.close()
    raw, ends = (folder / RAW).read_bytes(), (folder / ENDS).read_bytes()
    for kept, noted, whole in (
        (len(raw) - 1, 24, 2),
        (before, 24, 2),
        (len(raw), 17, 3),  # whole, though its end was not noted
        (len(raw), 0, 3),
        (len(raw) - 1, 0, 2),
        (len(raw), 24, 3),
        (3, 24, 0),
    ):
        folder.mkdir(exist_ok=True)
        (folder / RAW).write_bytes(raw[:kept])
        (folder / ENDS).write_bytes(ends[:noted])
        output = tmp_path / f"{kept}-{noted}.raw"
        assert finish.finish(folder, output) == whole
        assert output.exists() == (whole > 0)
        if whole:
            assert times(output) == [reading.time_ns for reading in readings[:whole]]


def test_snapshots_whose_ends_were_lost_are_found_by_their_contents(tmp_path: Path) -> None:
    """As after a power cut: the file of ends was created, and is empty."""
    readings = list(Walk(catalog(cgroups=1)).run(4))
    folder = tmp_path / "run.raw.recording" / "7"
    folder.parent.mkdir()
    record(folder, readings).close()
    (folder / ENDS).write_bytes(b"")
    (outcome,) = rescue(tmp_path / "run.raw", None)
    assert outcome.rows == 4
    assert times(Path(outcome.file)) == [reading.time_ns for reading in readings]
    assert [path.name for path in tmp_path.iterdir()] == [Path(outcome.file).name]


@pytest.mark.parametrize("good", [0, 2])
def test_what_follows_the_last_whole_snapshot_and_is_none_is_kept_and_said(
    good: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(12))
    folder = tmp_path / "run"
    writer = record(folder, readings[:good])
    end = writer.size
    writer.close()
    record(folder, readings[good:]).close()
    raw = (folder / RAW).read_bytes()
    broken = raw[:end] + b"\x95\x92\xc1" + raw[end + 3 :]
    longer = raw[:end] + b"\x95\x92\xdb\xff\xff\xff\xff" + raw[end + 7 :]
    for number, content in enumerate((broken, longer, raw[:end] + bytes(4096)), 1):
        folder.mkdir(exist_ok=True)
        (folder / RAW).write_bytes(content)
        (folder / ENDS).write_bytes(b"")
        assert finish.finish(folder, tmp_path / "out.raw") == good
        aside = folder / ("raw.damaged" if number == 1 else f"raw-{number}.damaged")
        assert aside.read_bytes() == content
        said = capsys.readouterr().err
        assert f"is damaged behind byte {end}; {good} readings before it are good; kept as {aside}" in said
        assert (tmp_path / "out.raw").exists() == (good > 0)
    if good:
        assert times(tmp_path / "out.raw") == [reading.time_ns for reading in readings[:good]]


def test_who_opens_it_again_goes_on_behind_the_last_whole_snapshot(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=0)).run(3))
    writer = record(tmp_path / "run", readings[:2])
    writer.close()
    os.truncate(tmp_path / "run" / RAW, writer.size - 1)
    again = record(tmp_path / "run", readings[2:])
    assert again.rows == 2
    again.close()
    finish.finish(tmp_path / "run", tmp_path / "out.raw")
    assert times(tmp_path / "out.raw") == [readings[0].time_ns, readings[2].time_ns]


def test_a_failed_write_leaves_whole_snapshots(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(3))
    folder = tmp_path / "run"
    pid = os.fork()
    if pid == 0:  # the limit on file size holds for a process
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            writer = record(folder, readings[:1])
            resource.setrlimit(resource.RLIMIT_FSIZE, (writer.size + 100, resource.RLIM_INFINITY))
            try:
                writer.append(readings[1])
            except OSError:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                writer.append(readings[2])
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finish.finish(folder, tmp_path / "out.raw")
    assert times(tmp_path / "out.raw") == [readings[0].time_ns, readings[2].time_ns]


def test_a_raw_recording_may_be_replaced_by_a_recording(tmp_path: Path) -> None:
    from rezolus.recording.output import replaceable

    record(tmp_path / "run", list(Walk(catalog(cgroups=0)).run(1))).close()
    for content, may in ((None, True), (b"", True), (b"PAR1", True), (b"notes", False), (b"\x92\x92", False)):
        if content is not None:
            (tmp_path / "run" / RAW).write_bytes(content)
        with (tmp_path / "run" / RAW).open("rb") as file:
            assert replaceable(file.fileno()) == may


def test_noted_ends_without_snapshots_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ENDS).write_bytes(b"\x01" + bytes(7))
    assert finish.finish(tmp_path / "run", tmp_path / "out.raw") == 0
    assert list(tmp_path.iterdir()) == []
