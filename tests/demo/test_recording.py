from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rezolus.agent.report import AgentStatus, ClockStatus, SamplerStatus
from rezolus.demo.recording import summarize
from rezolus.demo.tables import amount, result
from rezolus.demo.workload import Tally
from rezolus.errors import UserError
from rezolus.histogram import bucket_index

SECOND = 1_000_000_000


def field(name: str, kind: pa.DataType, **metadata: str) -> pa.Field:
    return pa.field(name, kind, metadata=metadata)


def histogram(*values: int) -> list[int]:
    counts = np.zeros(496, dtype=np.uint64)
    for value in values:
        counts[bucket_index(value, 3)] += np.uint64(1)
    return counts.tolist()


def write(path: Path, columns: Mapping[pa.Field, Sequence[object]]) -> Path:
    pq.write_table(pa.table(list(columns.values()), schema=pa.schema(list(columns))), path)
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Three readings, a second apart, of one series of each sort."""
    buckets = pa.list_(pa.uint64())
    powers = {"grouping_power": "3", "max_value_power": "64"}
    return write(
        tmp_path / "demo.parquet",
        {
            field("timestamp", pa.uint64()): [5 * SECOND, 6 * SECOND, 7 * SECOND],
            field("duration", pa.uint64()): [100_000, 300_000, 200_000],
            field("tcp_bytes/receive", pa.uint64(), metric="tcp_bytes", unit="bytes", direction="receive"): [0, 0, 0],
            field("tcp_bytes/transmit", pa.uint64(), metric="tcp_bytes", unit="bytes", direction="transmit"): [
                1000,
                2000,
                5096,
            ],
            # A series that appears later counts from its first value.
            field("cpu_usage/user/0", pa.uint64(), metric="cpu_usage", unit="nanoseconds", state="user", id="0"): [
                None,
                SECOND,
                3 * SECOND,
            ],
            field("cpu_usage/user/1", pa.uint64(), metric="cpu_usage", unit="nanoseconds", state="user", id="1"): [
                0,
                SECOND,
                2 * SECOND,
            ],
            field("cpu_cores", pa.int64(), metric="cpu_cores"): [2, 2, None],
            field("lat/read:buckets", buckets, metric="lat", unit="nanoseconds", op="read", **powers): [
                histogram(9),
                histogram(9, 1000),
                histogram(9, 1000, 1000, 2_000_000),
            ],
            field("lat/write:buckets", buckets, metric="lat", unit="nanoseconds", op="write", **powers): [
                histogram(),
                histogram(),
                histogram(5),
            ],
        },
    )


def test_counters_become_rates_per_label_with_cpus_added_up(recording: Path) -> None:
    rates = {rate.metric: rate for rate in summarize(recording).rates}
    assert rates["tcp_bytes"].total == 2048
    assert rates["tcp_bytes"].parts == ((("transmit",), 2048.0),)
    assert rates["cpu_usage"].parts == ((("user",), 2e9),)


def test_histograms_become_quantiles_of_what_was_counted_in_between(recording: Path) -> None:
    found = {distribution.labels: distribution for distribution in summarize(recording).distributions}
    assert found[("read",)].quantiles == (1023, 2_097_151, 2_097_151, 2_097_151)
    assert found[("read",)].per_second == 1.5
    assert found[("write",)].quantiles == (5, 5, 5, 5)
    assert found[()].per_second == 2.0
    assert list(found) == [(), ("read",), ("write",)]


def readings(path: Path, columns: Mapping[pa.Field, Sequence[object]]) -> Path:
    """A recording of so many readings as the columns have values, a second apart."""
    rows = len(next(iter(columns.values())))
    times = {
        field("timestamp", pa.uint64()): [(5 + row) * SECOND for row in range(rows)],
        field("duration", pa.uint64()): [100_000] * rows,
    }
    return write(path, times | dict(columns))


@pytest.mark.parametrize(
    ("values", "counted"),
    [
        ([432_664_141, None, 4_015_735], 0),  # the name of a thread that ended, given to another
        ([400, 460, None, 40, 45], 65),
        ([10, 110, 30, 160], 230),  # ends above where it began all the same
        ([7, None, 9], 2),  # a gap alone is no new beginning
        ([2**64 - 10, 2**64 - 1, 3], 9),
        ([None, None, 5], 0),
        ([None, None, None], 0),
    ],
)
def test_a_smaller_value_of_a_counter_is_a_new_beginning(
    tmp_path: Path, values: list[int | None], counted: int
) -> None:
    file = readings(tmp_path / "demo.parquet", {field("usage", pa.uint64(), metric="usage"): values})
    (rate,) = summarize(file).rates
    assert rate.total * (len(values) - 1) == pytest.approx(counted, abs=1e-9)


def test_a_histogram_with_a_smaller_bucket_began_anew_in_all_buckets(tmp_path: Path) -> None:
    powers = {"grouping_power": "3", "max_value_power": "64"}
    lat = field("lat:buckets", pa.list_(pa.uint64()), metric="lat", **powers)
    values = [histogram(9), histogram(9, 9), None, histogram(5, 5), histogram(5, 5, 1000)]
    (found,) = summarize(readings(tmp_path / "demo.parquet", {lat: values})).distributions
    assert found.per_second * 4 == 2
    assert found.quantiles == (9, 1023, 1023, 1023)


def test_the_rest_of_the_summary(recording: Path) -> None:
    summary = summarize(recording)
    assert (summary.rows, summary.columns, summary.seconds, summary.sampling_us) == (3, 9, 2.0, 200.0)
    assert summary.gauges == {"cpu_cores": 2}
    assert summary.examples["tcp_bytes"] == "tcp_bytes/transmit"


def test_the_tables_show_the_workloads_count_beside_the_recorded(recording: Path) -> None:
    output = io.StringIO()
    status = AgentStatus(
        version="1",
        uptime_seconds=2,
        ttl_seconds=0,
        samplers=(SamplerStatus(name="cpu_usage", state="active", health="degraded"),),
        user="nobody",
        privileged_helper=True,
        bpf=True,
        stats="off",
        clock=ClockStatus(interval_seconds=1.0, ticks=3, late=0, skipped=0),
        map_memory_bytes=3 << 20,
    )
    Console(file=output, width=120).print(result(summarize(recording), Tally(tcp_bytes=4096, processes=7), status))
    lines = output.getvalue().splitlines()
    (line,) = [line for line in lines if line.startswith("bytes sent over loopback TCP")]
    assert line.split()[-4:] == ["4.0", "KiB", "4.0", "KiB"]
    assert any(line.split() == ["tcp_bytes", "2.0", "KiB", "transmit", "2.0", "KiB"] for line in lines)
    assert any(line.startswith("kernel memory of the BPF maps") and line.endswith("3.0 MiB") for line in lines)
    assert any(line.startswith("not healthy: cpu_usage;") for line in lines)
    assert any(line.split()[:1] == ["lat"] and "1.02 µs" in line for line in lines)


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a recording"):
        summarize(tmp_path / "missing.parquet")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UserError, match="cannot be read as a recording"):
        summarize(tmp_path / "text")
    other = write(tmp_path / "other.parquet", {field("a", pa.uint64()): [1]})
    with pytest.raises(UserError, match="no columns `timestamp` and `duration`"):
        summarize(other)
    columns = {field("timestamp", pa.uint64()): [1], field("duration", pa.uint64()): [1]}
    with pytest.raises(UserError, match="two readings, the file has 1"):
        summarize(write(tmp_path / "short.parquet", columns))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "nanoseconds", "0 ns"),
        (999, "nanoseconds", "999 ns"),
        (1500, "nanoseconds", "1.5 µs"),
        (9_437_183, "nanoseconds", "9.44 ms"),
        (5e12, "nanoseconds", "5,000 s"),
        (512, "bytes", "512.0 B"),
        (65_536, "bytes", "64.0 KiB"),
        (22_861.6, "", "22,862"),
        (1.0598, "", "1.06"),
    ],
)
def test_an_amount_is_shown_at_a_readable_scale(value: float, unit: str, text: str) -> None:
    assert amount(value, unit) == text
