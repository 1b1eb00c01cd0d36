from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rezolus.reading import ABSENT_GAUGE, Reading, Series
from rezolus.recording import finish
from rezolus.recording.read import Recording, RecordingError
from rezolus.recording.store import create_segment
from tests.recording.test_segment import assert_same
from tests.synthetic import Walk, catalog

DATA = Path(__file__).parent.parent / "data" / "rezolus"
ROWS = 100


def write(folder: Path, readings: Iterable[Reading], metadata: dict[str, str]) -> Path:
    """A recording of these readings, by way of segments as the recorder makes them."""
    work = folder / "work"
    work.mkdir(parents=True)
    writer = None
    for number, reading in enumerate(readings):
        if number % ROWS == 0:
            if writer is not None:
                writer.close()
            writer = create_segment(work, number // ROWS, metadata)
        assert writer is not None
        writer.append(reading)
    if writer is not None:
        writer.close()
    finish.finish(work, folder / "out.parquet")
    return folder / "out.parquet"


def by_series(table: pa.Table) -> dict[frozenset[tuple[bytes, bytes]], pa.ChunkedArray]:
    """Columns by what their metadata says, whatever they are called."""
    return {frozenset((field.metadata or {}).items()): table[field.name] for field in table.schema}


@pytest.mark.parametrize("name", ["demo", "cachecannon", "simple_capture"])
def test_a_recording_of_rezolus_is_read_and_written_again_without_loss(name: str, tmp_path: Path) -> None:
    """Column by column: metadata, values and nulls; and what the file says of itself."""
    original = DATA / f"{name}.parquet"
    with Recording(original) as recording:
        assert recording.skipped == {}
        metadata = recording.metadata
        ours = write(tmp_path / "1", recording.readings(), metadata)
    with Recording(ours) as again:
        assert again.metadata == metadata
        twice = write(tmp_path / "2", again.readings(), again.metadata)
        with Recording(twice) as third:
            assert_same(list(third.readings()), list(again.readings()))
    before, after = pq.read_table(original), pq.read_table(ours)
    after.validate(full=True)
    wanted, found = by_series(before), by_series(after)
    assert len(wanted) == before.num_columns
    assert found.keys() == wanted.keys()
    for key, column in wanted.items():
        assert found[key].equals(column), key
    assert ours.read_bytes() == twice.read_bytes()


def test_columns_that_no_reader_takes_for_series_are_named(tmp_path: Path) -> None:
    powers = {"grouping_power": "3", "max_value_power": "64"}
    fields = [
        pa.field("timestamp", pa.uint64(), False),
        pa.field("f", pa.float64()),
        pa.field("h:buckets", pa.list_(pa.uint64())),
        pa.field("i:buckets", pa.list_(pa.uint64()), metadata={**powers, "max_value_power": "3"}),
        pa.field("x", pa.uint64(), metadata={"metric": "a", "op": "b"}),
        pa.field("y", pa.uint64(), metadata={"op": "b", "metric": "a"}),
        pa.field("z:window_begin", pa.int64()),
        pa.field("plain", pa.int64()),
    ]
    values: list[list[object]] = [[5, 6], [0.5, None], [None, [1]], [None, None], [1, 2], [3, 4], [0, 0], [None, -7]]
    arrays = [pa.array(column, field.type) for column, field in zip(values, fields, strict=True)]
    pq.write_table(pa.table(arrays, schema=pa.schema(fields)), tmp_path / "odd.parquet")
    with Recording(tmp_path / "odd.parquet") as recording:
        assert {name: why.split(",")[0] for name, why in recording.skipped.items()} == {
            "f": "has the type double",
            "h:buckets": "is a list without grouping_power and max_value_power",
            "i:buckets": "has impossible powers: grouping_power 3",
            "y": "has the name and labels of column x",
            "z:window_begin": "belongs to another column",
        }
        found = list(recording.readings())
    assert [(r.time_ns, r.duration_ns, r.counters.tolist(), r.gauges.tolist()) for r in found] == [
        (5, 0, [1], [ABSENT_GAUGE]),
        (6, 0, [2], [-7]),
    ]
    assert found[0].catalog is found[1].catalog
    assert found[0].catalog.gauges == (Series("plain", "gauge", {}),)


def test_series_that_are_null_are_not_there_and_lists_of_a_wrong_length_neither(tmp_path: Path) -> None:
    powers = {"grouping_power": "0", "max_value_power": "2"}
    fields = [
        pa.field("timestamp", pa.uint64(), False),
        pa.field("c", pa.uint64()),
        pa.field("h:buckets", pa.list_(pa.uint64()), metadata=powers),
    ]
    arrays = [
        pa.array([1, 2, 3, 4], pa.uint64()),
        pa.array([None, 7, 8, 9], pa.uint64()),
        pa.array([None, [1, 2, 3], [1], [4, None, 6]], fields[2].type),
    ]
    pq.write_table(pa.table(arrays, schema=pa.schema(fields)), tmp_path / "gaps.parquet", row_group_size=2)
    with Recording(tmp_path / "gaps.parquet") as recording:
        found = list(recording.readings())
        later = list(recording.readings(3, 3))
    assert [(r.counters.tolist(), r.histograms.tolist()) for r in found] == [
        ([], []),
        ([7], [1, 2, 3]),
        ([8], []),
        ([9], [4, 0, 6]),
    ]
    assert found[1].catalog is found[3].catalog
    assert [r.time_ns for r in later] == [3]


def test_row_groups_outside_a_range_are_not_read(tmp_path: Path) -> None:
    readings = list(Walk(catalog(cgroups=1)).run(ROWS * 3))
    path = write(tmp_path / "x", readings, {})
    with Recording(path) as recording:
        assert recording.rows == ROWS * 3
        assert [group.rows for group in recording.row_groups()] == [ROWS] * 3
        start, end = readings[ROWS].time_ns, readings[2 * ROWS - 1].time_ns
        assert (recording.row_groups()[1].first_ns, recording.row_groups()[1].last_ns) == (start, end)
        found = list(recording.readings(start + 1, end - 1))
    assert [r.time_ns for r in found] == [r.time_ns for r in readings[ROWS + 1 : 2 * ROWS - 1]]
    damaged = bytearray(path.read_bytes())
    metadata = pq.read_metadata(path)
    begin = metadata.row_group(0).column(0).data_page_offset
    damaged[begin : metadata.row_group(1).column(0).data_page_offset] = bytes(
        metadata.row_group(1).column(0).data_page_offset - begin
    )
    path.write_bytes(damaged)
    with Recording(path) as recording:
        assert len(list(recording.readings(start, end))) == ROWS
        with pytest.raises(RecordingError, match=r"out\.parquet: is damaged"):
            list(recording.readings())


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("PAR1 and no more")
    with pytest.raises(RecordingError, match="text: is no Parquet file"):
        Recording(tmp_path / "text")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(RecordingError, match=r"other\.parquet: is no recording: it has no column `timestamp`"):
        Recording(tmp_path / "other.parquet")
    with pytest.raises(FileNotFoundError):
        Recording(tmp_path / "missing")
