"""Snapshots made by Rezolus become the readings they stand for; everything else is told in a sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rezolus.reading import ABSENT_GAUGE, Series
from rezolus.recording.segment import identity
from rezolus.wire.columns import NOT_LABELS
from rezolus.wire.decode import Decoder, Snapshot, WireError, decode_stream
from rezolus.wire.fnv import fnv1a_128
from rezolus.wire.messages import h2_config
from tests.wire.readings import values

DATA = Path(__file__).parents[1] / "data/rezolus"
TIME_NS = 1_700_000_000_123_456_789
TOY = [15, 1, 4, 2, 4, 4, 2, 4]
NO_SCHEMA_HASH = (0x6370115622757277, 0xB806E79DEAE054AE)

pack = msgspec.msgpack.encode


def data(name: str) -> bytes:
    return (DATA / name).read_bytes()


def decode(*message: object) -> Snapshot:
    return Decoder().decode(pack(message))


def v2(
    counters: list[object] | None = None, gauges: list[object] | None = None, histograms: list[object] | None = None
) -> list[object]:
    return [[1, 0], [0, 0], {}, counters or [], gauges or [], histograms or []]


def v3(*groups: object) -> list[object]:
    return [[1, 0], [0, 0], {}, list(groups)]


def group(name: str, schema: list[list[object]], *values: list[object], window: object = None) -> list[object]:
    return [name, fnv1a_128(pack(schema)), schema, window, *values]


def test_v1_is_what_it_stands_for() -> None:
    snapshot = Decoder().decode(data("v1.msgpack"))
    assert (snapshot.version, snapshot.metadata, snapshot.problems) == ("v1", {"source": "rezolus"}, ())
    assert (snapshot.reading.time_ns, snapshot.reading.duration_ns) == (TIME_NS, 0)
    assert snapshot.reading.catalog.counters == (Series("cpu_cycles", "counter", {}),)
    assert snapshot.reading.counters.tolist() == [300]


def test_v2_is_what_it_stands_for() -> None:
    snapshot = Decoder().decode(data("v2.msgpack"))
    reading = snapshot.reading
    assert (snapshot.version, reading.time_ns, reading.duration_ns) == ("v2", TIME_NS, 1_500_000)
    assert reading.catalog.counters == (Series("cpu_cycles", "counter", {}),)
    assert reading.catalog.gauges == (Series("mem", "gauge", {}),)
    assert reading.catalog.histograms == (Series("lat", "histogram", {}, power=1, max_power=4),)
    assert reading.counters.tolist() == [300]
    assert reading.gauges.tolist() == [-5]
    assert reading.histograms.tolist() == [0, 0, 0, 1, 0, 0, 2, 0]


def test_v3_is_what_it_stands_for_though_it_has_more_values_than_members() -> None:
    snapshot = Decoder().decode(data("v3.msgpack"))
    assert (snapshot.version, snapshot.reading.duration_ns) == ("v3", 1_500_000)
    assert snapshot.reading.catalog.counters == (Series("cpu_cycles", "counter", {"id": "0"}),)
    assert snapshot.reading.counters.tolist() == [7]
    assert snapshot.problems == ("group cpu_usage/percpu has another number of values than its schema has members",)


def expected_of(document: dict[str, Any]) -> dict[object, object]:
    """What `/metrics/json` says, by identity."""
    found: dict[object, object] = {}

    def add(kind: Any, name: str, metadata: dict[str, str], value: Any) -> None:
        if value is None and kind != "gauge":
            return
        labels = {key: metadata[key] for key in sorted(metadata) if key not in NOT_LABELS}
        series = Series(metadata["metric"], kind, labels, metadata.get("unit", ""), "", metadata["sampler"])
        found[identity(series)] = value["buckets"] if kind == "histogram" else value

    for kind in ("counter", "gauge", "histogram"):
        for metric in document.get(f"{kind}s", ()):
            add(kind, metric["name"], metric["metadata"], metric["value"])
        for one in document.get("groups", ()):
            for desc, value in zip(one["schema"][f"{kind}s"], one[f"{kind}s"], strict=True):
                add(kind, desc["name"], desc["metadata"], value)
    return found


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_every_series_of_a_running_agent_has_the_value_of_its_json(version: str) -> None:
    snapshot = Decoder().decode(data(f"live/agent-{version}.msgpack"))
    document = json.loads(gzip.decompress(data(f"live/agent-{version}.json.gz")))
    assert (snapshot.version, snapshot.problems) == (version, ())
    assert snapshot.metadata == {"source": "rezolus", "version": "5.17.1-alpha.17"}
    time = document["systemtime"]
    assert snapshot.reading.time_ns == time["secs_since_epoch"] * 10**9 + time["nanos_since_epoch"]
    assert snapshot.reading.duration_ns == document["duration"]["nanos"]
    assert values(snapshot.reading) == expected_of(document)


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_the_catalog_stays_as_long_as_the_series_do(version: str) -> None:
    decoder = Decoder()
    body = data(f"live/agent-{version}.msgpack")
    assert decoder.decode(body).reading.catalog is decoder.decode(body).reading.catalog


def test_series_that_stay_are_the_same_objects_when_others_come() -> None:
    decoder = Decoder()
    one, two = ["0", 1, {"metric": "a"}], ["1", 1, {"metric": "b"}]
    before = decoder.decode(pack(v2([one]))).reading.catalog
    after = decoder.decode(pack(v2([two, one]))).reading.catalog
    assert after is not before
    assert after.counters[1] is before.counters[0]


def test_the_order_of_labels_on_the_wire_makes_no_other_series() -> None:
    decoder = Decoder()
    before = decoder.decode(pack(v2([["0", 1, {"metric": "a", "op": "x"}]]))).reading.catalog
    assert decoder.decode(pack(v2([["0", 2, {"op": "x", "metric": "a"}]]))).reading.catalog is before


@pytest.mark.parametrize("window", [[], [[1, 2]], [None]])
def test_a_metric_has_a_window_or_none_or_an_empty_one(window: list[object]) -> None:
    assert decode(*v2([["0", 7, {"metric": "a"}, *window]])).reading.counters.tolist() == [7]


def test_what_has_no_name_is_told_apart_by_its_labels_and_the_last_of_the_same_counts() -> None:
    external = [["", at, {"metric": "m", "k": key}] for at, key in enumerate(("x", "y", "x"))]
    reading = decode(*v2(list(external))).reading
    assert [series.labels["k"] for series in reading.catalog.counters] == ["y", "x"]
    assert reading.counters.tolist() == [1, 2]


def test_other_ways_to_write_the_same_series_make_no_other_one() -> None:
    ways: list[dict[str, str]] = [
        {},
        {"metric": "m"},
        {"metric": "m", "unit": "", "sampler": ""},
        {"grouping_power": "9"},
    ]
    reading = decode(*v2([["m", at, metadata] for at, metadata in enumerate(ways)])).reading
    assert reading.catalog.counters == (Series("m", "counter", {}),)
    assert reading.counters.tolist() == [3]


def test_a_metric_without_that_label_is_called_by_its_key() -> None:
    (series,) = decode(*v2([["requests", 1, {}]])).reading.catalog.counters
    assert series.name == "requests"


def test_null_is_a_counter_that_is_not_there_and_a_gauge_without_a_value() -> None:
    schema: list[list[object]] = [
        [["0", {"metric": "a"}], ["1", {"metric": "b"}]],
        [["2", {"metric": "g"}]],
        [["3", {"metric": "h"}], ["4", {"metric": "i"}]],
    ]
    histogram = [TOY, [0] * 8]
    reading = decode(*v3(group("s/main", schema, [None, 4], [None], [None, histogram]))).reading
    assert [series.name for series in reading.catalog.counters] == ["b"]
    assert reading.counters.tolist() == [4]
    assert reading.gauges.tolist() == [ABSENT_GAUGE]
    assert [series.name for series in reading.catalog.histograms] == ["i"]


def test_a_group_without_schema_has_the_one_of_its_hash() -> None:
    schema: list[list[object]] = [[["0", {"metric": "a"}]], [], []]
    full = group("s/main", schema, [1], [], [])
    bare = [*full[:2], None, *full[3:4], [2], [], []]
    decoder = Decoder()
    first = decoder.decode(pack(v3(full))).reading
    again = decoder.decode(pack(v3(bare)))
    assert again.reading.catalog is first.catalog
    assert (again.reading.counters.tolist(), again.problems) == ([2], ())
    unknown = Decoder().decode(pack(v3(bare)))
    assert unknown.reading.catalog.counters == ()
    assert unknown.problems == ("group s/main came without its schema, and none of that hash was there before",)


def test_a_schema_with_another_hash_costs_its_group_only() -> None:
    schema: list[list[object]] = [[["0", {"metric": "a"}]], [], []]
    wrong = group("s/main", schema, [1], [], [])
    wrong[1] = [1, 2]
    snapshot = decode(*v3(wrong, group("t/main", [[["1", {"metric": "b"}]], [], []], [5], [], [])))
    assert snapshot.reading.counters.tolist() == [5]
    assert snapshot.problems == ("group s/main: its schema does not have the hash it came with",)


def test_the_hash_of_the_empty_schema_is_the_known_one() -> None:
    assert fnv1a_128(pack([[], [], []])) == NO_SCHEMA_HASH


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ([1, 2, 3], "its outermost array has 3 elements; V1, V2 and V3 have 5, 6 and 4"),
        ({"systemtime": 1}, "it does not begin with an array"),
        ([[1, 10**9], [0, 0], {}, [], [], []], "expected `int` <= 999999999 - at `$[0][1]`"),
        ([[2**62, 0], [0, 0], {}, [], [], []], "expected `int` <= 9223372035 - at `$[0][0]`"),
        (v2([["0", -1, {}]]), "expected `int` >= 0 - at `$[3][0][1]`"),
        (v2([["0", float("nan"), {}]]), "expected `int`, got `float` - at `$[3][0][1]`"),
        (v2([["0", 1.0, {}]]), "expected `int`, got `float` - at `$[3][0][1]`"),
        (v2([["0", 1]]), "expected `array` of at least length 3, got 2 - at `$[3][0]`"),
        (v2([["0", 1, {}, [1, 2], 3]]), "expected `array` of at most length 4, got 5 - at `$[3][0]`"),
        (v2([["0", 1, {"a": 1}]]), "expected `str`, got `int` - at `$[3][0][2][...]`"),
        (v2([["", 1, {}]]), "a counter has neither a name nor the label `metric`"),
        (v2(None, [["0", 2**63, {}]]), "expected `int` <= 9223372036854775807 - at `$[4][0][1]`"),
        (v2(None, None, [["0", [TOY, [0] * 7], {}]]), "a histogram has 7 buckets where its configuration says 8"),
        (v2(None, None, [["0", [[16, *TOY[1:]], [0] * 8], {}]]), "contradicts its powers 1 and 4"),
        (v2(None, None, [["0", [[15, 4, 4, *TOY[3:]], []], {}]]), "no histogram has grouping power 4 over 4 bits"),
        (v2(None, None, [["0", [[15, 1, 65, *TOY[3:]], []], {}]]), "no histogram has grouping power 1 over 65 bits"),
        (v2(None, None, [["0", [[15, 2**63, 2**64 - 1, *TOY[3:]], []], {}]]), "no histogram has grouping power"),
        (v3(["g", [1], None, None, [], [], []]), "expected `array` of length 2, got 1 - at `$[3][0][1]`"),
        (v3(["g", fnv1a_128(b"\x01"), 1, None, [], [], []]), "expected `array`, got `int`"),
    ],
)
def test_what_is_no_snapshot_is_said_in_a_sentence(message: object, says: str) -> None:
    with pytest.raises(WireError) as caught:
        Decoder().decode(pack(message))
    assert str(caught.value).startswith("not a snapshot of Rezolus: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "it is empty"),
        (b"<html>", "it does not begin with an array"),
        (b"\xdd\xff\xff\xff\xff", "its outermost array has 4294967295 elements"),
        (b"\x96\x92\x01\x00\x92\x00\x00\x80\xdc\x00\x01", "input data was truncated"),
        (pack(v2()) + b"\x00", "trailing characters (byte 11)"),
        (b"\x96\x92\x01\x00\x92\x00\x00\x81\xa1\xff\xa0\x90\x90\x90", "a text in it is not UTF-8"),
        (b"\x96\x92\x01\x00\x92\x00\x00\x80\x91\x93\xa1\xff\x01\x80\x90\x90", "a text in it is not UTF-8"),
        (b"\x94\x92\x01\x00\x92\x00\x00\x80\x91\x97\xa0\x92\x01\x01" + b"\x91" * 100_000, "it is nested too deeply"),
    ],
)
def test_bytes_that_are_no_snapshot_are_said_in_a_sentence(body: bytes, says: str) -> None:
    with pytest.raises(WireError, match="not a snapshot of Rezolus: ") as caught:
        Decoder().decode(body)
    assert says in str(caught.value)


def test_garbage_in_between_changes_nothing_for_the_next_one() -> None:
    decoder = Decoder()
    body = data("live/agent-v3.msgpack")
    before = decoder.decode(body).reading.catalog
    for bad in (b"", body[:-1], pack(v2([["", 1, {}]]))):
        with pytest.raises(WireError):
            decoder.decode(bad)
    assert decoder.decode(body).reading.catalog is before


def test_wider_forms_of_numbers_are_read() -> None:
    wide = b"\xdd\x00\x00\x00\x06" + pack(v2([["0", 5, {"metric": "a"}]]))[1:].replace(
        b"\xa10\x05", b"\xd9\x010\xd3" + bytes(7) + b"\x05"
    )
    assert Decoder().decode(wide).reading.counters.tolist() == [5]


def test_a_raw_recording_is_read_to_where_it_is_cut_off() -> None:
    bodies = [
        data("v1.msgpack"),
        data("live/agent-v2.msgpack"),
        data("live/agent-v2.msgpack"),
        data("live/agent-v3.msgpack"),
    ]
    found = list(decode_stream(b"".join(bodies)))
    assert [snapshot.version for snapshot in found] == ["v1", "v2", "v2", "v3"]
    assert found[1].reading.catalog is found[2].reading.catalog
    stream = decode_stream(b"".join(bodies)[:-1])
    assert [next(stream).version for _ in range(3)] == ["v1", "v2", "v2"]
    with pytest.raises(WireError, match="the data end within it"):
        next(stream)


def test_arrays_are_of_the_kinds_readings_have() -> None:
    reading = Decoder().decode(data("live/agent-v2.msgpack")).reading
    arrays = (reading.counters, reading.gauges, reading.histograms)
    assert [array.dtype.name for array in arrays] == ["uint64", "int64", "uint64"]
    assert len(reading.histograms) == reading.catalog.histogram_offsets[-1]


def test_derived_fields_of_a_histogram_are_those_of_rezolus() -> None:
    assert msgspec.structs.astuple(h2_config(3, 64)) == (2**64 - 1, 3, 64, 4, 16, 16, 8, 480)
    assert list(msgspec.structs.astuple(h2_config(1, 4))) == TOY
