"""From banks to readings: values, labels, order, and when the catalog changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsl.schema import (
    CGROUP_NAME_ROW,
    CGROUP_ROWS,
    Bank,
    ByCgroup,
    ByCpu,
    ByKey,
    Dimension,
    FromDiscards,
    KeyField,
    Kind,
    Label,
    Metric,
    Sampler,
    Schema,
    Slots,
)
from rezolus.agent.cgroups import CgroupNames
from rezolus.agent.sampling import Clocks, Memory, Sampling
from rezolus.agent.sources import SourceReader
from rezolus.reading import U64, Reading, Series, histogram_buckets

Value = dict[tuple[str, tuple[tuple[str, str], ...]], int]


def metric(
    name: str,
    bank: str,
    offset: int,
    kind: Kind = "counter",
    dimension: Dimension | None = None,
    labels: tuple[Label, ...] = (),
    power: int = 3,
) -> Metric:
    return Metric(
        name=name,
        kind=kind,
        unit="",
        help=name,
        sampler="s",
        dimension=dimension,
        labels=labels,
        power=power,
        storage=Slots(bank, offset),
    )


def banks_of(schema: Schema) -> dict[str, U64]:
    return {bank.name: np.zeros((bank.rows, bank.words), dtype=np.uint64) for bank in schema.banks}


def sampling(schema: Schema, memory: Memory, names: CgroupNames | None = None) -> Sampling:
    return Sampling(schema, memory, SourceReader([]), names or CgroupNames(None))


def values(reading: Reading) -> Value:
    """Counters and gauges by name and labels."""
    groups = ((reading.catalog.counters, reading.counters), (reading.catalog.gauges, reading.gauges))
    return {
        (series.name, tuple(series.labels.items())): int(value)
        for catalog, array in groups
        for series, value in zip(catalog, array, strict=True)
    }


def key(metric: str, /, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return metric, tuple(sorted(labels.items()))


OP = Label("op", ("read", "write"))
STATE = Label("state", ("a", "b", "c"))


def test_counters_without_a_dimension_are_sums_and_by_cpu_are_rows() -> None:
    schema = Schema(
        samplers=(),
        metrics=(metric("total", "cpu", 0, labels=(OP,)), metric("each", "cpu", 2, dimension=ByCpu(), labels=(OP,))),
        banks=(Bank(name="cpu", axis="cpu", rows=3, words=8),),
    )
    banks = banks_of(schema)
    banks["cpu"][:] = np.arange(24).reshape(3, 8)
    read = values(sampling(schema, Memory(banks, (0, 2))).read())
    assert read == {
        key("total", op="read"): 0 + 8 + 16,
        key("total", op="write"): 1 + 9 + 17,
        key("each", op="read", id="0"): 2,
        key("each", op="read", id="2"): 18,
        key("each", op="write", id="0"): 3,
        key("each", op="write", id="2"): 19,
    }


def test_labels_are_row_major_and_series_of_one_metric_are_neighbours() -> None:
    schema = Schema(
        samplers=(),
        metrics=(metric("m", "cpu", 0, labels=(OP, STATE)), metric("n", "cpu", 6)),
        banks=(Bank(name="cpu", axis="cpu", rows=1, words=8),),
    )
    banks = banks_of(schema)
    banks["cpu"][0] = np.arange(8)
    reading = sampling(schema, Memory(banks, (0,))).read()
    assert [(s.labels.get("op"), s.labels.get("state")) for s in reading.catalog.counters] == [
        ("read", "a"),
        ("read", "b"),
        ("read", "c"),
        ("write", "a"),
        ("write", "b"),
        ("write", "c"),
        (None, None),
    ]
    assert reading.counters.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_histograms_are_summed_over_stripes_whatever_their_place_and_power() -> None:
    small, large = histogram_buckets(1), histogram_buckets(3)
    schema = Schema(
        samplers=(),
        metrics=(
            metric("late", "h", 5 + 2 * small, "histogram"),
            metric("early", "h", 5, "histogram", labels=(OP,), power=1),
        ),
        banks=(Bank(name="h", axis="stripe", rows=2, words=5 + 2 * small + large),),
    )
    banks = banks_of(schema)
    rng = np.random.default_rng(1)
    banks["h"][:] = rng.integers(0, 1000, banks["h"].shape)
    reading = sampling(schema, Memory(banks)).read()
    total = banks["h"].sum(axis=0)
    assert [series.name for series in reading.catalog.histograms] == ["late", "early", "early"]
    expected = np.concatenate([total[5 + 2 * small :], total[5 : 5 + 2 * small]])
    assert np.array_equal(reading.histograms, expected)


def test_gauges_are_signed() -> None:
    schema = Schema(
        samplers=(), metrics=(metric("g", "one", 0, "gauge"),), banks=(Bank(name="one", axis="one", rows=1, words=1),)
    )
    banks = banks_of(schema)
    banks["one"].view(np.int64)[0, 0] = -5
    assert sampling(schema, Memory(banks)).read().gauges.tolist() == [-5]


def test_discards_are_counted_by_sampler_and_reason_and_as_declared_metrics() -> None:
    declared = Metric(
        name="wrong", kind="counter", unit="", help="", sampler="s", storage=FromDiscards((1, 2)), labels=()
    )
    schema = Schema(
        samplers=(Sampler(name="s", help="", file="", discards=(("clock", 1), ("null", 2), ("clock", 3))),),
        metrics=(declared,),
        banks=(Bank(name="cpu", axis="cpu", rows=2, words=4),),
    )
    banks = banks_of(schema)
    banks["cpu"][:] = [[0, 1, 10, 100], [0, 2, 20, 200]]
    reading = sampling(schema, Memory(banks, (0, 1))).read()
    assert values(reading) == {
        key("wrong"): 33,
        key("rezolus_discards", reason="clock"): 303,
        key("rezolus_discards", reason="null"): 30,
    }
    assert {series.sampler for series in reading.catalog.counters} == {"s"}


def test_only_wanted_metrics_are_sampled() -> None:
    schema = Schema(
        samplers=(),
        metrics=(metric("a", "cpu", 0), metric("b", "cpu", 1)),
        banks=(Bank(name="cpu", axis="cpu", rows=1, words=2),),
    )
    made = Sampling(schema, Memory(banks_of(schema)), SourceReader([]), CgroupNames(None), wanted=lambda n: n == "b")
    assert [series.name for series in made.read().catalog.counters] == ["b"]


def test_a_reading_carries_its_clocks_and_owns_its_arrays() -> None:
    schema = Schema(
        samplers=(), metrics=(metric("a", "cpu", 0),), banks=(Bank(name="cpu", axis="cpu", rows=1, words=1),)
    )
    banks = banks_of(schema)
    wall, elapsed = iter([100, 50]), iter([0, 7, 10, 12])
    clocks = Clocks(wall=lambda: next(wall), boot=lambda: 5, elapsed=lambda: next(elapsed))
    made = Sampling(schema, Memory(banks, (0,)), SourceReader([]), CgroupNames(None), clocks=clocks)
    first = made.read()
    banks["cpu"][0, 0] = 9
    second = made.read()
    assert (first.time_ns, first.monotonic_ns, first.duration_ns) == (100, 5, 7)
    assert (first.counters.tolist(), second.counters.tolist()) == ([0], [9])
    assert first.catalog is second.catalog


COMM = KeyField(label="comm", kind="string", offset=0, size=8)
UID = KeyField(label="uid", kind="signed", offset=8, size=4)


def key_schema(limit: int) -> Schema:
    by_key = ByKey(fields=(COMM, UID), limit=limit)
    return Schema(
        samplers=(),
        metrics=(metric("calls", "k", 1, dimension=by_key, labels=(OP,)),),
        banks=(Bank(name="k", axis="key", rows=limit + 1, words=3, key_size=12),),
    )


class Keys:
    """A key bank and its companion, filled as the programs do."""

    def __init__(self, limit: int) -> None:
        self.schema = key_schema(limit)
        self.bank = banks_of(self.schema)["k"]
        self.names = np.zeros((limit + 1, 12), dtype=np.uint8)
        self.sampling = sampling(self.schema, Memory({"k": self.bank}, keys={"k": self.names}))

    def put(self, row: int, name: bytes, uid: int, *counts: int) -> None:
        self.names[row] = np.frombuffer(name.ljust(8, b"\0") + uid.to_bytes(4, "little", signed=True), dtype=np.uint8)
        self.bank[row] = (1, *counts)


def test_keys_appear_in_order_with_their_fields_as_labels() -> None:
    keys = Keys(4)
    before = keys.sampling.read()
    keys.put(0, b"bash", -1, 5, 6)
    keys.put(1, b"a\xffb", 7, 8, 9)
    after = keys.sampling.read()
    assert before.catalog.counters == ()
    assert values(after) == {
        key("calls", comm="bash", uid="-1", op="read"): 5,
        key("calls", comm="bash", uid="-1", op="write"): 6,
        key("calls", comm="a\\xffb", uid="7", op="read"): 8,
        key("calls", comm="a\\xffb", uid="7", op="write"): 9,
    }
    assert keys.sampling.read().catalog is after.catalog


def test_the_overflow_row_is_shown_only_when_it_counts() -> None:
    keys = Keys(1)
    keys.put(0, b"bash", 0, 1, 1)
    assert len(keys.sampling.read().counters) == 2
    keys.bank[1, 2] = 3
    assert values(keys.sampling.read())[key("calls", comm="(other)", uid="(other)", op="write")] == 3


def test_keys_that_look_the_same_share_a_series() -> None:
    keys = Keys(3)
    keys.put(0, b"sh\0junk", 0, 1, 10)
    keys.put(1, b"sh\0other", 0, 2, 20)
    keys.put(2, b"ls", 0, 4, 40)
    assert values(keys.sampling.read()) == {
        key("calls", comm="sh", uid="0", op="read"): 3,
        key("calls", comm="sh", uid="0", op="write"): 30,
        key("calls", comm="ls", uid="0", op="read"): 4,
        key("calls", comm="ls", uid="0", op="write"): 40,
    }


class Groups:
    """A cgroup bank and its names, filled as the programs do."""

    def __init__(self, names: CgroupNames | None = None) -> None:
        self.schema = Schema(
            samplers=(),
            metrics=(metric("used", "g", 1, dimension=ByCgroup()),),
            banks=(Bank(name="g", axis="cgroup", rows=CGROUP_ROWS, words=2),),
        )
        self.bank = banks_of(self.schema)["g"]
        self.names_map = np.zeros((CGROUP_ROWS, CGROUP_NAME_ROW // 8), dtype=np.uint64)
        memory = Memory({"g": self.bank}, cgroup_names=self.names_map)
        self.names = names or CgroupNames(None)
        self.sampling = sampling(self.schema, memory, self.names)

    def name(self, row: int, serial: int, inode: int, level: int, *names: str) -> None:
        """`names` from the own one upwards."""
        texts = b"".join(name.encode().ljust(64, b"\0") for name in (*names, "", "", "")[:3])
        self.names_map[row, 3:] = np.frombuffer(texts, dtype=np.uint64)
        self.names_map[row, :3] = (serial, inode, level)

    def put(self, row: int, serial: int, value: int) -> None:
        self.bank[row] = (serial, value)


def test_cgroups_are_shown_once_they_have_a_name() -> None:
    groups = Groups()
    groups.put(5, 100, 7)
    assert groups.sampling.read().catalog.counters == ()
    groups.name(5, 100, 77, 2, "web\\x2d1.service", "system.slice")
    assert values(groups.sampling.read()) == {key("used", id="5", name="/system.slice/web-1.service"): 7}


def test_a_reused_cgroup_id_is_a_new_series() -> None:
    groups = Groups()
    groups.put(5, 100, 7)
    groups.name(5, 100, 77, 1, "a")
    first = groups.sampling.read()
    groups.put(5, 101, 2)
    groups.name(5, 101, 78, 1, "a")
    second = groups.sampling.read()
    assert first.catalog is not second.catalog
    assert second.counters.tolist() == [2]


def test_a_row_that_is_being_zeroed_keeps_the_value_of_the_old_cgroup() -> None:
    groups = Groups()
    groups.put(5, 100, 7)
    groups.name(5, 100, 77, 1, "a")
    groups.sampling.read()
    groups.bank[5, 1] = 0
    assert groups.sampling.read().counters.tolist() == [7]


def test_readings_taken_aside_leave_a_removed_cgroup_its_last_one(tmp_path: Path) -> None:
    now = iter(range(100))
    groups = Groups(CgroupNames(str(tmp_path), clock=lambda: float(next(now))))
    folder = tmp_path / "a"
    folder.mkdir()
    groups.put(5, 100, 7)
    groups.name(5, 100, folder.stat().st_ino, 1, "a")
    groups.sampling.read()
    folder.rmdir()
    groups.names.chores()
    for _ in range(5):
        assert groups.sampling.read(aside=True).counters.tolist() == [7]
    assert groups.sampling.read().counters.tolist() == [7]
    groups.sampling.read()
    assert groups.sampling.read().counters.tolist() == []


def test_cgroups_past_the_limit_are_other() -> None:
    groups = Groups()
    groups.put(0, 0, 3)
    assert values(groups.sampling.read()) == {key("used", id="0", name="(other)"): 3}


@given(st.data())
def test_a_reading_is_what_a_plain_loop_computes(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 4))
    metrics, at = [], 0
    for number in range(data.draw(st.integers(1, 6))):
        kind: Kind = data.draw(st.sampled_from(["counter", "gauge", "histogram"]))
        labels = data.draw(st.sampled_from([(), (OP,), (OP, STATE)]))
        dimension = data.draw(st.sampled_from([None, ByCpu()]))
        power = data.draw(st.integers(0, 2))
        at += data.draw(st.integers(0, 2))
        metrics.append(metric(f"m{number}", "cpu", at, kind, dimension, labels, power))
        at += metrics[-1].cells * (histogram_buckets(power) if kind == "histogram" else 1)
    bank = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 2**40, (rows, at + 1)).astype(np.uint64)
    schema = Schema(samplers=(), metrics=tuple(metrics), banks=(Bank(name="cpu", axis="cpu", rows=rows, words=at + 1),))
    reading = sampling(schema, Memory({"cpu": bank}, tuple(range(rows)))).read()
    seen = dict(_cells(reading))
    expected = {}
    for item in metrics:
        width = histogram_buckets(item.power) if item.kind == "histogram" else 1
        assert isinstance(item.storage, Slots)
        for cell in range(item.cells):
            start = item.storage.offset + cell * width
            per_row = bank[:, start : start + width]
            where = _labels(item, cell)
            if item.dimension is None:
                expected[key(item.name, **where)] = per_row.sum(axis=0).tolist()
            else:
                for row in range(rows):
                    expected[key(item.name, **where, id=str(row))] = per_row[row].tolist()
    assert seen == expected


def _labels(item: Metric, cell: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for label in reversed(item.labels):
        cell, at = divmod(cell, len(label.values))
        found[label.name] = label.values[at]
    return found


def _cells(reading: Reading) -> list[tuple[tuple[str, tuple[tuple[str, str], ...]], list[int]]]:
    def named(series: Series) -> tuple[str, tuple[tuple[str, str], ...]]:
        return series.name, tuple(series.labels.items())

    catalog = reading.catalog
    found = [(named(s), [int(v)]) for s, v in zip(catalog.counters, reading.counters, strict=True)]
    found += [(named(s), [int(v)]) for s, v in zip(catalog.gauges, reading.gauges, strict=True)]
    offsets = catalog.histogram_offsets
    for at, series in enumerate(catalog.histograms):
        found.append((named(series), reading.histograms[offsets[at] : offsets[at + 1]].tolist()))
    return found
