from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rezolus.reading import ABSENT_GAUGE, Catalog, Reading, Series
from rezolus.record.rescue import rescue
from rezolus.recording import finish, thrift
from rezolus.recording.body import Body
from rezolus.recording.parquet import canonical_name, columns_of
from rezolus.recording.read import Recording
from rezolus.recording.segment import Segment, identity
from rezolus.recording.store import create_segment, folder_lock, recordings_in, segment_files
from tests import needs
from tests.recording.test_segment import recordings
from tests.synthetic import Walk, catalog

METADATA = {"version": "1.2", "sampling_interval_ms": "1000"}


def record(folder: Path, readings: list[Reading], number: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    writer = create_segment(folder, number, METADATA)
    for reading in readings:
        writer.append(reading)
    writer.close()
    return writer.path


def assert_holds(table: pa.Table, readings: list[Reading]) -> None:
    assert table["timestamp"].to_pylist() == [reading.time_ns for reading in readings]
    assert table["duration"].to_pylist() == [reading.duration_ns for reading in readings]
    cells = {name: table[name].to_pylist() for name in table.column_names}
    for at, reading in enumerate(readings):
        series = reading.catalog
        values: list[tuple[Series, object]] = list(zip(series.counters, reading.counters.tolist(), strict=True))
        values += [
            (s, None if v == ABSENT_GAUGE else v) for s, v in zip(series.gauges, reading.gauges.tolist(), strict=True)
        ]
        offsets = series.histogram_offsets
        values += [
            (s, reading.histograms[offsets[n] : offsets[n + 1]].tolist()) for n, s in enumerate(series.histograms)
        ]
        present = set()
        for entry, value in values:
            name = canonical_name(entry) + (":buckets" if entry.kind == "histogram" else "")
            assert cells[name][at] == value, (name, at)
            present.add(name)
        for name in set(cells) - present - {"timestamp", "duration"}:
            if not name.endswith(":buckets"):
                assert cells[name][at] is None, (name, at)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_recording_has_the_layout_of_rezolus(folder: Path, tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=3)).run(20))
    record(folder, readings[:7], 0)
    record(folder, readings[7:], 1)
    output = tmp_path / "out.parquet"
    assert finish.finish(folder, output) == 20
    assert not folder.exists()
    table = pq.read_table(output)
    table.validate(full=True)
    assert_holds(table, readings)

    file = pq.ParquetFile(output)
    schema = file.schema_arrow
    assert schema.names[:2] == ["timestamp", "duration"]
    kinds = [field.metadata[b"metric_type"] for field in schema][2:]
    assert kinds == sorted(kinds)  # counter, gauge, histogram
    for kind in set(kinds):
        names = [name for name, found in zip(schema.names[2:], kinds, strict=True) if found == kind]
        assert names == sorted(names)
    assert schema.field("timestamp") == pa.field("timestamp", pa.uint64(), nullable=False)
    usage = schema.field("cpu_usage/user/1")
    assert usage.type == pa.uint64()
    assert usage.metadata == {
        b"metric": b"cpu_usage",
        b"metric_type": b"counter",
        b"unit": b"nanoseconds",
        b"sampler": b"cpu_usage",
        b"state": b"user",
        b"id": b"1",
    }
    latency = schema.field("syscall_latency/class3:buckets")
    assert latency.type == pa.list_(pa.uint64())
    assert latency.metadata[b"grouping_power"] == b"3"
    assert latency.metadata[b"max_value_power"] == b"64"
    assert schema.field("memory_part3").type == pa.int64()
    metadata = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    assert metadata["source"] == "rezolus"
    assert metadata["version"] == "1.2"
    assert metadata["sampling_interval_ms"] == "1000"
    assert json.loads(metadata["descriptions"])["syscall"] == "System calls \\ by class."
    assert "ARROW:schema" in metadata


def test_row_groups_carry_statistics_of_time_and_lie_in_order(folder: Path, tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(9))
    for number in range(3):
        record(folder, readings[number * 3 : number * 3 + 3], number)
    finish.finish(folder, tmp_path / "out.parquet")
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert metadata.num_rows == 9
    ranges = [metadata.row_group(n).column(0).statistics for n in range(metadata.num_row_groups)]
    assert [(s.min, s.max) for s in ranges] == [(readings[n].time_ns, readings[n + 2].time_ns) for n in (0, 3, 6)]
    chunk = metadata.row_group(1).column(metadata.num_columns - 1)
    assert chunk.path_in_schema.endswith(":buckets.list.item")
    assert chunk.compression == "ZSTD"
    groups = thrift.field(footer(tmp_path / "out.parquet"), 4)[1]
    assert [thrift.field(group, 7) for group in groups] == [0, 1, 2]


def footer(path: Path) -> thrift.Tree:
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    tree = thrift.Reader(data[-8 - length : -8]).struct()
    assert thrift.dump(tree) == data[-8 - length : -8]
    return tree


def test_series_that_come_and_go_make_one_schema(folder: Path, tmp_path: Path) -> None:
    """Within a segment and between segments; what is absent is null."""
    walk = Walk(catalog(cgroups=2))
    first = list(walk.run(3))
    walk.enter(catalog(cgroups=5))
    second = list(walk.run(3))
    walk.enter(Catalog(walk.catalog.counters[:4], walk.catalog.gauges[:3], walk.catalog.histograms[:2]))
    third = list(walk.run(2))
    walk.enter(Catalog((Series("app", "counter", {}, "", "", "x"),), (), (Series("app_latency", "histogram", {}),)))
    fourth = list(walk.run(2))
    record(folder, first + second, 0)
    record(folder, third, 1)
    record(folder, fourth, 2)
    assert finish.finish(folder, tmp_path / "out.parquet") == 10
    table = pq.read_table(tmp_path / "out.parquet")
    table.validate(full=True)
    assert_holds(table, first + second + third + fourth)
    assert pq.ParquetFile(tmp_path / "out.parquet").metadata.num_row_groups == 3


def test_a_histogram_that_returns_leaves_no_gap(folder: Path, tmp_path: Path) -> None:
    with_it = Catalog((), (), (Series("h", "histogram", {}),))
    walk = Walk(with_it)
    first = walk.step()
    gone = Reading(
        Catalog((), (), ()),
        first.time_ns + 1,
        0,
        0,
        np.empty(0, np.uint64),
        np.empty(0, np.int64),
        np.empty(0, np.uint64),
    )
    again = walk.step()
    record(folder, [first, gone, again])
    finish.finish(folder, tmp_path / "out.parquet")
    cells = pq.read_table(tmp_path / "out.parquet")["h:buckets"].to_pylist()
    assert cells == [first.histograms.tolist(), first.histograms.tolist(), again.histograms.tolist()]


def test_absent_gauges_are_null(folder: Path, tmp_path: Path) -> None:
    walk = Walk(Catalog((), (Series("g", "gauge", {}),), ()))
    readings = list(walk.run(3))
    readings[1].gauges = np.array([ABSENT_GAUGE])
    record(folder, readings)
    finish.finish(folder, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["g"].to_pylist() == [
        int(readings[0].gauges[0]),
        None,
        int(readings[2].gauges[0]),
    ]


def test_names_that_collide_stay_apart() -> None:
    series = [
        Series("a", "counter", {"op": "x"}),
        Series("a", "counter", {"state": "x"}),
        Series("a/x", "gauge", {}),
        Series("timestamp", "gauge", {}),
        Series("w:window_begin", "counter", {}),
    ]
    names = [column.name for column in columns_of(series)]
    assert names == ["a/x", "a/x#2", "w:window_begin#2", "a/x#3", "timestamp#2"]


def test_canonical_names() -> None:
    labels = {"comm": "c", "direction": "in", "id": "7", "name": "n", "op": "o", "state": "s"}
    assert canonical_name(Series("m", "counter", labels, "bytes", "", "sampler")) == "m/n/o/s/in/c/7"


def test_absorbing_step_by_step_survives_a_crash_at_any_point(folder: Path, tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(6))
    for number in range(3):
        record(folder, readings[number * 2 : number * 2 + 2], number)
    assert finish.absorb(folder, 0) == 2
    assert [path.name for path in segment_files(folder)] == ["00000001.segment", "00000002.segment"]
    # died while writing the next row group: half of it in the body, half a frame in the index
    with (folder / "body").open("ab") as file:
        file.write(b"half a row group")
    with (folder / "index").open("ab") as file:
        file.write(b"\x20\x00\x00\x00half")
    # died between the commit and the deletion of a segment
    kept = tmp_path / "kept"
    shutil.copy(folder / "00000001.segment", kept)
    assert finish.absorb(folder, 1) == 2
    shutil.copy(kept, folder / "00000001.segment")
    assert finish.finish(folder, tmp_path / "out.parquet") == 6
    assert_holds(pq.read_table(tmp_path / "out.parquet"), readings)


def test_a_footer_that_was_written_before_a_crash_is_written_again(folder: Path, tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(2))
    record(folder, readings)
    finish.absorb(folder, 0)
    body = Body(folder)
    with pytest.raises(OSError, match="No such file"):
        body.finish(tmp_path / "missing" / "out.parquet")
    body.close()
    assert finish.finish(folder, tmp_path / "out.parquet") == 2
    assert_holds(pq.read_table(tmp_path / "out.parquet"), readings)


def finish_and_die(folder: Path, output: Path) -> None:
    """Finish in a process that dies as soon as the file has its name."""
    dying = (
        "import os, sys\n"
        "from rezolus.recording import body, finish\n"
        "named = body.give_name\n"
        "body.give_name = lambda *files, **how: (named(*files, **how), os._exit(9))\n"
        "finish.main(['finish', *sys.argv[1:]])"
    )
    done = subprocess.run([sys.executable, "-c", dying, folder, output], check=False)
    assert done.returncode == 9


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The work folder of `rec.parquet`, with one recording."""
    work = tmp_path / "rec.parquet.recording"
    work.mkdir()
    record(work / "7", list(Walk(catalog(cgroups=1)).run(5)))
    return work


def test_a_crash_between_the_name_and_the_end_leaves_nothing_to_do(work: Path, tmp_path: Path) -> None:
    output = tmp_path / "rec.parquet"
    finish_and_die(work / "7", output)
    assert pq.read_metadata(output).num_rows == 5
    assert finish.recover([work / "7"], output) == [finish.Recovered(str(work / "7"))]
    assert list(work.iterdir()) == []
    assert pq.read_metadata(output).num_rows == 5


@pytest.mark.parametrize("name", [".", "7"])
def test_who_asks_to_recover_a_complete_recording_is_told_so(name: str, work: Path, tmp_path: Path) -> None:
    finish_and_die(work / "7", tmp_path / "rec.parquet")
    (outcome,) = rescue(work / name, None)
    assert (outcome.file, "is complete" in outcome.problem) == ("", True)
    assert not (work / "7").exists()


def test_a_damaged_segment_does_not_hold_up_the_others(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(4))
    record(folder, readings[:2], 0)
    (folder / "00000001.segment").write_bytes(b"not a segment")
    record(folder, readings[2:], 2)
    assert finish.finish(folder, tmp_path / "out.parquet") == 4
    assert_holds(pq.read_table(tmp_path / "out.parquet"), readings)
    assert (folder / "00000001.damaged").exists()
    assert "is not a segment" in capsys.readouterr().err


def test_damage_in_the_middle_is_said_and_kept(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(6))
    segment = record(work / "7", readings, 1)
    end = record(tmp_path / "first", readings[:4]).stat().st_size
    whole = segment.read_bytes()
    broken = whole[: end + 20] + bytes(20) + whole[end + 40 :]
    segment.write_bytes(broken)
    (outcome,) = rescue(work, None)
    assert outcome.rows == 5 + 4
    aside = work / "7" / "00000001.damaged"
    assert aside.read_bytes() == broken
    said = capsys.readouterr().err
    assert f"is damaged behind byte {end}; 4 readings before it are good" in said
    assert f"kept as {aside}" in said


def four_row_groups(folder: Path) -> tuple[list[Reading], list[int]]:
    """Readings that became four row groups, two of each in one; and where the frames of the index end."""
    readings = list(Walk(catalog(cgroups=1)).run(8))
    ends = []
    for number in range(4):
        record(folder, readings[2 * number : 2 * number + 2], number)
        finish.absorb(folder, number)
        ends.append((folder / "index").stat().st_size)
    return readings, ends


@pytest.mark.parametrize("lost", range(4))
@pytest.mark.parametrize("at", [1, 3, 5, 100])
def test_a_damaged_index_costs_what_it_does_not_know_any_more(
    lost: int, at: int, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = work / "8"
    readings, ends = four_row_groups(folder)
    before = [0, *ends][lost]
    index = bytearray((folder / "index").read_bytes())
    index[before + at] ^= 0x40
    (folder / "index").write_bytes(index)
    body = (folder / "body").read_bytes()
    outcome = rescue(work, None)[1]
    assert outcome.rows == 6
    assert_holds(pq.read_table(outcome.file), readings[: 2 * lost] + readings[2 * lost + 2 :])
    assert (folder / "index.damaged").read_bytes() == index
    kept = f"{folder / 'index.damaged'}"
    if lost == 3:  # its values are no part of the file
        kept += f" and {folder / 'body.damaged'}"
        assert body.endswith((folder / "body.damaged").read_bytes())
    said = capsys.readouterr().err
    assert (
        f"is damaged at byte {before}; 3 row groups with 6 readings are good; what cannot be used is kept as {kept}"
        in said
    )
    assert len(list(folder.iterdir())) == 1 + (lost == 3)


def test_a_body_that_is_too_short_costs_the_row_groups_that_are_not_whole(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = work / "8"
    readings, _ = four_row_groups(folder)
    body = (folder / "body").read_bytes()
    os.truncate(folder / "body", len(body) - 3)
    record(folder, readings[6:], 5)
    outcome = rescue(folder, None)[0]
    assert_holds(pq.read_table(outcome.file), readings)
    assert body[:-3].endswith((folder / "body.damaged").read_bytes())
    said = capsys.readouterr().err
    assert (
        f"{folder / 'body'}: has {len(body) - 3} bytes, {len(body)} were written; 3 row groups with 6 readings" in said
    )


def test_a_recording_of_which_nothing_can_be_used_is_kept(work: Path) -> None:
    folder = work / "8"
    four_row_groups(folder)
    index = bytes(len((folder / "index").read_bytes()))
    (folder / "index").write_bytes(index)
    body = (folder / "body").read_bytes()
    (outcome,) = rescue(folder, None)
    assert (outcome.file, outcome.rows) == ("", 0)
    assert (folder / "index.damaged").read_bytes() == index
    assert b"PAR1" + (folder / "body.damaged").read_bytes() == body


def test_recovery_finishes_what_is_left_and_leaves_what_is_alive(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(4))
    work = tmp_path / "rec.parquet.recording"
    work.mkdir()
    record(work / "100", readings[:2])
    torn = record(work / "200", readings[2:])
    with torn.open("r+b") as file:
        file.truncate(torn.stat().st_size - 1)
    record(work / "300", readings)
    with folder_lock(work / "300"):
        written = finish.recover(recordings_in(work), tmp_path / "rec.parquet")
    assert [Path(outcome.file).name for outcome in written] == [
        "rec.recovered-100.parquet",
        "rec.recovered-200.parquet",
    ]
    assert_holds(pq.read_table(written[0].file), readings[:2])
    assert_holds(pq.read_table(written[1].file), readings[2:3])
    assert [path.name for path in work.iterdir()] == ["300"]


def test_an_empty_recording_makes_no_file(folder: Path, tmp_path: Path) -> None:
    record(folder, [])
    assert finish.finish(folder, tmp_path / "out.parquet") == 0
    assert not (tmp_path / "out.parquet").exists()


def test_the_child_reports_an_error_without_a_traceback(folder: Path, tmp_path: Path) -> None:
    record(folder, list(Walk(catalog(cgroups=1)).run(1)))
    output = tmp_path / "missing" / "out.parquet"
    command = [sys.executable, "-m", "rezolus.recording.finish", "finish", str(folder), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {output}: no such file or directory\n"
    assert segment_files(folder) == []
    assert (folder / "index").stat().st_size > 0


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that any user can get to."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_the_file_may_be_ours_where_its_folder_is_not(reachable: Path) -> None:
    """As prepared by a privileged start: the file and the work folder belong to the user, the folder above does not."""
    needs.root()
    work = reachable / "work"
    readings = list(Walk(catalog(cgroups=1)).run(2))
    record(work, readings)
    output = reachable / "out.parquet"
    output.write_bytes(b"PAR1" + bytes(10_000_000))
    for path in (work, work / "00000000.segment", output):
        os.chown(path, 65534, 65534)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            body = Body(work)
            body.add(0, Segment(work / "00000000.segment"))
            body.finish(output)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert_holds(pq.read_table(output), readings)
    assert output.stat().st_uid == 65534


def test_an_earlier_recording_goes_to_the_work_folder_where_the_folder_above_is_not_ours(reachable: Path) -> None:
    needs.root()
    work = reachable / "out.parquet.recording"
    work.mkdir()
    readings = list(Walk(catalog(cgroups=1)).run(2))
    segment = record(work / "7", readings)
    output = reachable / "out.parquet"
    output.write_bytes(b"PAR1 of yesterday")
    os.utime(output, ns=(0, 5))
    for path in (work, work / "7", segment, output):
        os.chown(path, 65534, 65534)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            done = finish.finish_beside(work / "7", output)
            status = 0 if (done.rows, done.earlier) == (2, work / "out.until-5.parquet") else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert_holds(pq.read_table(output), readings)
    assert (work / "out.until-5.parquet").read_bytes() == b"PAR1 of yesterday"


def test_what_is_no_recording_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    record(folder, list(Walk(catalog(cgroups=1)).run(2)))
    output = tmp_path / "notes.txt"
    output.write_text("precious")
    with pytest.raises(OSError, match="exists and is no recording"):
        finish.finish(folder, output)
    assert output.read_text() == "precious"
    finish.finish(folder, tmp_path / "out.parquet")


def test_series_of_several_sources_are_told_apart_by_a_prefix(folder: Path, tmp_path: Path) -> None:
    provenance = {"endpoint": "http://a:4241/", "source": "rezolus"}
    series = [
        Series("cpu_usage", "counter", dict(sorted({**provenance, "node": node, "state": "user"}.items())))
        for node in ("a", "b")
    ]
    hits = Series("hits", "counter", {"endpoint": "http://x/metrics", "instance": "0", "source": "app"})
    assert [canonical_name(one) for one in (*series, hits)] == ["a::cpu_usage/user", "b::cpu_usage/user", "0::hits"]
    record(folder, list(Walk(Catalog((*series, hits), (), ())).run(2)))
    finish.finish(folder, tmp_path / "out.parquet")
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.names[2:] == ["0::hits", "a::cpu_usage/user", "b::cpu_usage/user"]
    assert schema.field("b::cpu_usage/user").metadata[b"node"] == b"b"


def test_a_file_has_what_the_viewer_of_rezolus_asks_for(folder: Path, tmp_path: Path) -> None:
    """A time range from statistics, kinds by type, powers as numbers, no reserved names, one layout per metric."""
    odd = Catalog(
        (Series("x:window_width", "counter", {}), Series("timestamp", "counter", {})),
        (Series(":wall_offset", "gauge", {}), Series("duration", "gauge", {"id": "1"})),
        (Series("h", "histogram", {"op": "a"}), Series("h", "histogram", {"op": "b"})),
    )
    readings = list(Walk(odd).run(4))
    record(folder, readings[:2], 0)
    record(folder, readings[2:], 1)
    finish.finish(folder, tmp_path / "out.parquet")
    file = pq.ParquetFile(tmp_path / "out.parquet")
    schema = file.schema_arrow
    assert schema.field(0) == pa.field("timestamp", pa.uint64(), nullable=False)
    for number in range(file.metadata.num_row_groups):
        chunk = file.metadata.row_group(number).column(0)
        assert chunk.physical_type == "INT64"
        assert chunk.statistics.has_min_max
        assert (chunk.statistics.min, chunk.statistics.max) == tuple(r.time_ns for r in readings[2 * number :][:2])
    for field in list(schema)[2:]:
        assert not field.name.endswith((":window_begin", ":window_width"))
        assert field.name not in {"timestamp", "duration", ":wall_offset"}
        kind = field.metadata[b"metric_type"].decode()
        assert field.type == {"counter": pa.uint64(), "gauge": pa.int64()}.get(kind, pa.list_(pa.uint64()))
        if kind == "histogram":
            assert 0 <= int(field.metadata[b"grouping_power"]) < int(field.metadata[b"max_value_power"]) <= 64
    assert {field.metadata[b"metric"] for field in list(schema)[2:]} == {
        b"x:window_width",
        b"timestamp",
        b":wall_offset",
        b"duration",
        b"h",
    }


@settings(max_examples=40)
@given(recordings(), st.lists(st.integers(1, 4), max_size=4))
def test_any_readings_are_read_back_as_they_were(readings: list[Reading], lengths: list[int]) -> None:
    """Through segments of any length: what was not there is null, except for histograms, which keep their buckets."""
    plain = {id(reading.catalog): without_powers(reading.catalog) for reading in readings}
    for reading in readings:
        reading.catalog = plain[id(reading.catalog)]
    with tempfile.TemporaryDirectory() as name:
        work, rest = Path(name) / "run", readings
        for number, length in enumerate([*lengths, len(readings) or 1]):
            record(work, rest[:length], number)
            rest = rest[length:]
        if finish.finish(work, Path(name) / "out.parquet"):
            table = pq.read_table(Path(name) / "out.parquet")
            table.validate(full=True)
            assert table["timestamp"].to_pylist() == [reading.time_ns for reading in readings]
            with Recording(Path(name) / "out.parquet") as recording:
                for found, wanted in zip(recording.readings(), readings, strict=True):
                    assert scalars(found) == scalars(wanted)
                    assert histograms(wanted).items() <= histograms(found).items()


def without_powers(series: Catalog) -> Catalog:
    """What a grouping power of a counter or gauge would be, no column can say."""
    counters, gauges = (tuple(replace(one, power=3) for one in group) for group in (series.counters, series.gauges))
    return Catalog(counters, gauges, series.histograms)


def scalars(reading: Reading) -> dict[object, int]:
    """Values by series, as far as there are any."""
    pairs = [*zip(reading.catalog.counters, reading.counters.tolist(), strict=True)]
    pairs += [*zip(reading.catalog.gauges, reading.gauges.tolist(), strict=True)]
    return {identity(series): value for series, value in pairs if value != ABSENT_GAUGE}


def histograms(reading: Reading) -> dict[object, tuple[int, ...]]:
    offsets = reading.catalog.histogram_offsets
    return {
        identity(series): tuple(reading.histograms[offsets[at] : offsets[at + 1]].tolist())
        for at, series in enumerate(reading.catalog.histograms)
    }
