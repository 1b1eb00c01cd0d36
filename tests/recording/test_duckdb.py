"""What a user does with a recording in DuckDB; the queries are those of docs/recorder.md."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from rezolus.histogram import bucket_bounds, quantiles
from rezolus.reading import Reading
from tests.recording.test_read import ROWS, write
from tests.synthetic import Walk, catalog

DOCS = Path(__file__).parent.parent.parent / "docs" / "recorder.md"


@pytest.fixture(scope="module")
def readings() -> list[Reading]:
    return list(Walk(catalog(cgroups=2)).run(ROWS * 3))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, readings: list[Reading]) -> Path:
    metadata = {"sampling_interval_ms": "1000", "source": "rezolus"}
    return write(tmp_path_factory.mktemp("duck"), readings, metadata)


def documented(title: str, path: Path) -> list[tuple[object, ...]]:
    """The answer to the query under this comment on the page."""
    text = DOCS.read_text()
    _, _, behind = text.partition(f"-- {title}\n")
    query, separator, _ = behind.partition(";\n")
    assert separator, f"{DOCS.name} has no query {title!r}"
    with duckdb.connect() as connection:
        return connection.execute(query.replace("rezolus.parquet", str(path))).fetchall()


def test_rates_of_a_counter(path: Path, readings: list[Reading]) -> None:
    found = documented("time of CPU 0 in user space, per second", path)
    values = [int(reading.counters[0]) for reading in readings]
    assert len(found) == len(readings)
    assert found[0][1] is None
    for (_, rate), before, now in zip(found[1:], values, values[1:], strict=False):
        assert rate == pytest.approx((now - before) / 1e9)


def test_a_sum_over_columns(path: Path, readings: list[Reading]) -> None:
    ((_, total), *_) = documented("all columns of a metric together, first and last value", path)
    ats = [n for n, series in enumerate(readings[0].catalog.counters) if series.name == "cpu_usage"]
    grown = readings[-1].counters[ats] - readings[0].counters[ats]
    assert total == int(grown.sum())


def test_a_percentile_of_a_histogram(path: Path, readings: list[Reading]) -> None:
    ((bucket,),) = documented("the bucket in which the 99th percentile of the whole recording lies", path)
    catalog_ = readings[0].catalog
    at = next(n for n, series in enumerate(catalog_.histograms) if series.name == "latency3")
    part = slice(*catalog_.histogram_offsets[at : at + 2])
    grown = readings[-1].histograms[part] - readings[0].histograms[part]
    assert isinstance(bucket, int)
    below = int(np.cumsum(grown)[bucket])
    assert below >= 0.99 * int(grown.sum()) > int(np.cumsum(grown)[bucket - 1])
    assert quantiles(grown, (0.99,)) == (bucket_bounds(bucket, 3)[1],)


def test_what_the_file_says_of_itself(path: Path) -> None:
    found = {key: value for key, value in documented("what the file says of itself", path)}  # noqa: C416 - pairs, typed loosely
    assert found["sampling_interval_ms"] == "1000"
    assert found["source"] == "rezolus"
    assert "descriptions" in found


def test_row_groups_outside_a_range_of_time_are_not_read(path: Path, readings: list[Reading], tmp_path: Path) -> None:
    """Shown by what lies there being damaged."""
    metadata = pq.read_metadata(path)
    begin, end = (metadata.row_group(n).column(0).data_page_offset for n in (0, 1))
    raw = bytearray(path.read_bytes())
    raw[begin:end] = bytes(end - begin)
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(raw)
    where = f"timestamp >= {readings[ROWS].time_ns}"
    with duckdb.connect() as connection:
        answer = connection.execute(f"SELECT sum(memory_part3), count(*) FROM '{damaged}' WHERE {where}").fetchall()
        assert answer == [(sum(int(reading.gauges[3]) for reading in readings[ROWS:]), 2 * ROWS)]
        with pytest.raises(duckdb.Error):
            connection.execute(f"SELECT sum(memory_part3) FROM '{damaged}'").fetchall()


def test_all_columns_are_read_as_they_were_written(path: Path) -> None:
    """By a second reader than the one the library has."""
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT * FROM '{path}' ORDER BY timestamp").fetchall()
    table = pq.read_table(path)
    assert found == list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
