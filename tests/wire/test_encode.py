"""What is encoded is what the formats say, and reads back as what it was."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from rezolus.reading import ABSENT_GAUGE, Catalog, Reading, Series
from rezolus.recording.segment import identity
from rezolus.wire.decode import Decoder
from rezolus.wire.encode import Encoder, Keys, Version, to_json
from rezolus.wire.fnv import fnv1a_128
from tests.synthetic import Walk
from tests.wire.readings import readings, values
from tests.wire.test_decode import TIME_NS, data

METADATA = {"source": "rezolus", "version": "1.2.3"}
VERSIONS: tuple[Version, ...] = ("v2", "v3")


def counter(name: str, /, sampler: str = "s", **labels: str) -> Series:
    return Series(name, "counter", labels, sampler=sampler)


def reading(
    counters: Iterable[tuple[Series, int]] = (),
    gauges: Iterable[tuple[Series, int]] = (),
    histograms: Iterable[tuple[Series, list[int]]] = (),
) -> Reading:
    catalog = Catalog(*(tuple(series for series, _ in pairs) for pairs in (counters, gauges, histograms)))
    return Reading(
        catalog=catalog,
        time_ns=TIME_NS,
        monotonic_ns=5,
        duration_ns=1_500_000,
        counters=np.array([value for _, value in counters], np.uint64),
        gauges=np.array([value for _, value in gauges], np.int64),
        histograms=np.array([count for _, buckets in histograms for count in buckets], np.uint64),
    )


def plain(body: bytes) -> Any:
    return msgspec.msgpack.decode(body)


def keys_of(*series: Series) -> list[str]:
    keys = Keys()
    return [keys.key_of(one) for one in series]


EXAMPLE = reading(
    [(Series("cpu_usage", "counter", {"id": "3", "state": "user"}, "nanoseconds", "Help.", "cpu_usage"), 300)],
    [(Series("mem", "gauge", {}), -5)],
    [(Series("lat", "histogram", {}, power=1, max_power=4, sampler="tcp"), [0, 0, 0, 1, 0, 0, 2, 0])],
)
CPU = {"id": "3", "metric": "cpu_usage", "sampler": "cpu_usage", "state": "user", "unit": "nanoseconds"}
LATENCY = {"grouping_power": "1", "max_value_power": "4", "metric": "lat", "sampler": "tcp"}
TOY = [[15, 1, 4, 2, 4, 4, 2, 4], [0, 0, 0, 1, 0, 0, 2, 0]]


def test_v2_is_flat_and_metrics_have_three_elements() -> None:
    assert plain(Encoder("v2", METADATA).encode(EXAMPLE)) == [
        [1_700_000_000, 123_456_789],
        [0, 1_500_000],
        METADATA,
        [["0x3", 300, CPU]],
        [["1", -5, {"metric": "mem"}]],
        [["2", TOY, LATENCY]],
    ]


def test_v3_has_a_group_per_sampler_in_order_of_their_names() -> None:
    *head, groups = plain(Encoder("v3", METADATA).encode(EXAMPLE))
    assert head == [[1_700_000_000, 123_456_789], [0, 1_500_000], METADATA]
    window = [TIME_NS, TIME_NS + 1_500_000]
    schemas = [[[["0x3", CPU]], [], []], [[], [["1", {"metric": "mem"}]], []], [[], [], [["2", LATENCY]]]]
    hashes = [list(fnv1a_128(msgspec.msgpack.encode(schema))) for schema in schemas]
    assert groups == [
        ["cpu_usage/main", hashes[0], schemas[0], window, [300], [], []],
        ["rezolus/main", hashes[1], schemas[1], window, [], [-5], []],
        ["tcp/main", hashes[2], schemas[2], window, [], [], [TOY]],
    ]


def test_labels_are_written_in_order() -> None:
    body = Encoder("v2", METADATA).encode(reading([(counter("m", z="1", a="2"), 1)]))
    assert list(plain(body)[3][0][2]) == ["a", "metric", "sampler", "z"]


def test_v2_leaves_out_what_rezolus_takes_for_unpopulated() -> None:
    found = reading(
        [(counter("a", id="1"), 0), (counter("a", id="2"), 5), (counter("b"), 0), (counter("c", id="x"), 0)],
        [(Series("g", "gauge", {}), ABSENT_GAUGE), (Series("h", "gauge", {}), 0)],
    )
    _, _, _, counters, gauges, _ = plain(Encoder("v2", METADATA).encode(found))
    assert [(entry[2]["metric"], entry[1]) for entry in counters] == [("a", 5), ("b", 0), ("c", 0)]
    assert [entry[2]["metric"] for entry in gauges] == ["h"]


def test_v3_has_them_all() -> None:
    found = reading([(counter("a", id="1"), 0)], [(Series("g", "gauge", {}, sampler="s"), ABSENT_GAUGE)])
    ((*_, counters, gauges, _),) = plain(Encoder("v3", METADATA).encode(found))[3]
    assert (counters, gauges) == ([0], [None])


@pytest.mark.parametrize("version", VERSIONS)
def test_metrics_called_log_something_are_not_exposed(version: Version) -> None:
    body = Encoder(version, METADATA).encode(reading([(counter("log_lines"), 1), (counter("logs"), 2)]))
    (series,) = Decoder().decode(body).reading.catalog.counters
    assert series.name == "logs"


def test_a_key_is_a_number_per_metric_and_the_id() -> None:
    series = [counter("a", id="0"), counter("a", id="17"), counter("a", id="017"), counter("a", op="x"), counter("b")]
    assert keys_of(*series) == ["0x0", "0x17", "1", "2", "3"]


def test_two_kinds_never_share_a_key() -> None:
    assert keys_of(counter("a"), Series("a", "gauge", {}), counter("a", sampler="t")) == ["0", "1", "2"]


def test_a_key_stays_when_other_series_come_and_go() -> None:
    encoder = Encoder("v2", METADATA)
    a, b, c = counter("a", id="1"), counter("b"), counter("c")

    def keys(*series: Series) -> list[str]:
        return [entry[0] for entry in plain(encoder.encode(reading([(one, 1) for one in series])))[3]]

    assert keys(a, b) == ["0x1", "1"]
    assert keys(c, b) == ["2", "1"]
    assert keys(b, a) == ["1", "0x1"]


def test_keys_of_what_is_long_gone_are_forgotten_and_not_given_again() -> None:
    keys = Keys(remembered=1)
    for name in "abc":
        keys.key_of(counter(name))
        keys.forget_all_but(Catalog((counter(name),), (), ()))
    assert [keys.key_of(counter(name)) for name in "cba"] == ["2", "3", "4"]


@given(readings())
def test_a_reading_is_what_v3_gives_back(found: Reading) -> None:
    snapshot = Decoder().decode(Encoder("v3", METADATA).encode(found))
    assert (snapshot.version, snapshot.metadata, snapshot.problems) == ("v3", METADATA, ())
    assert (snapshot.reading.time_ns, snapshot.reading.duration_ns) == (found.time_ns, found.duration_ns)
    assert values(snapshot.reading) == values(found)


@given(readings())
def test_a_reading_but_for_what_is_left_out_is_what_v2_gives_back(found: Reading) -> None:
    snapshot = Decoder().decode(Encoder("v2", METADATA).encode(found))
    assert (snapshot.version, snapshot.metadata) == ("v2", METADATA)
    assert (snapshot.reading.time_ns, snapshot.reading.duration_ns) == (found.time_ns, found.duration_ns)
    before, after = values(found), values(snapshot.reading)
    assert after.items() <= before.items()
    numbered = {identity(one) for one in found.catalog.counters if one.labels.get("id", "").isdecimal()}
    for key in before.keys() - after.keys():
        assert before[key] is None or (before[key] == 0 and key in numbered)


@given(readings())
def test_every_series_has_a_key_of_its_own(found: Reading) -> None:
    groups = plain(Encoder("v3", METADATA).encode(found))[3]
    keys = [desc[0] for group in groups for kind in group[2] for desc in kind]
    assert len(keys) == len(set(keys)) == sum(len(values) for group in groups for values in group[4:])


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_what_a_running_agent_sent_is_encoded_again_without_loss(version: Version) -> None:
    theirs = Decoder().decode(data(f"live/agent-{version}.msgpack"))
    ours = Decoder().decode(Encoder(version, theirs.metadata).encode(theirs.reading))
    assert ours.metadata == theirs.metadata
    assert values(ours.reading) == values(theirs.reading)
    assert (ours.reading.time_ns, ours.reading.duration_ns) == (theirs.reading.time_ns, theirs.reading.duration_ns)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_catalog_is_worked_out_once(version: Version) -> None:
    walk, encoder, decoder = Walk(), Encoder(version, METADATA), Decoder()
    first = decoder.decode(encoder.encode(walk.step())).reading
    second = decoder.decode(encoder.encode(step := walk.step())).reading
    assert second.catalog is first.catalog
    assert values(second) == values(step)


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_json_is_the_same_with_names(version: str) -> None:
    body = data(f"live/agent-{version}.msgpack")
    expected = json.loads(gzip.decompress(data(f"live/agent-{version}.json.gz")))
    assert json.loads(to_json(body)) == expected


def test_json_of_ours_has_no_windows_in_v2_and_one_per_group_in_v3() -> None:
    v2 = json.loads(to_json(Encoder("v2", METADATA).encode(EXAMPLE)))
    assert list(v2) == ["systemtime", "duration", "metadata", "counters", "gauges", "histograms"]
    assert v2["counters"] == [{"name": "0x3", "value": 300, "metadata": CPU}]
    (group, *_) = json.loads(to_json(Encoder("v3", METADATA).encode(EXAMPLE)))["groups"]
    assert group["window"] == {"begin_ns": TIME_NS, "end_ns": TIME_NS + 1_500_000}
    assert group["schema"]["counters"] == [{"name": "0x3", "metadata": CPU}]


@given(readings())
@settings(max_examples=30)
def test_json_of_any_reading_can_be_read(found: Reading) -> None:
    for version in VERSIONS:
        document = json.loads(to_json(Encoder(version, METADATA).encode(found)))
        assert document["metadata"] == METADATA
