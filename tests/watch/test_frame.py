"""Frames: rates over the last interval, distributions over the window, the busiest series first."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dsl.schema import ByCgroup, ByCpu, Dimension, Label, Metric, Slots
from rezolus.histogram import bucket_index
from rezolus.reading import ABSENT_GAUGE, Catalog, Kind, Reading, Series, histogram_buckets
from rezolus.watch.frame import Frame, Window
from rezolus.watch.render import Room, Surroundings, render

SECOND = 10**9
LABELS = (Label("op", ("read", "write")),)


def metric(
    name: str,
    kind: Kind = "counter",
    unit: str = "",
    *,
    labels: tuple[Label, ...] = (),
    dimension: Dimension | None = None,
) -> Metric:
    return Metric(
        name=name,
        kind=kind,
        unit=unit,
        help=f"Help of {name}",
        sampler="test",
        labels=labels,
        dimension=dimension,
        storage=Slots("cpu", 0),
    )


def series(metric: str, kind: Kind = "counter", /, **labels: str) -> Series:
    return Series(name=metric, kind=kind, labels=dict(sorted(labels.items())), sampler="test")


def reading(
    catalog: Catalog,
    seconds: float,
    counters: Iterable[int] = (),
    gauges: Iterable[int] = (),
    observed: Iterable[Iterable[int]] = (),
) -> Reading:
    histograms = [np.zeros(0, dtype=np.uint64)]
    for values in observed:
        counts = np.zeros(histogram_buckets(3), dtype=np.uint64)
        for value in values:
            counts[bucket_index(value, 3)] += 1
        histograms.append(counts)
    return Reading(
        catalog,
        time_ns=10**18 + int(seconds * SECOND),
        monotonic_ns=int(seconds * SECOND),
        duration_ns=250_000,
        counters=np.array(list(counters), dtype=np.uint64),
        gauges=np.array(list(gauges), dtype=np.int64),
        histograms=np.concatenate(histograms),
    )


def last(window: Window, *readings: Reading) -> Frame:
    frames = [window.add(reading) for reading in readings]
    assert frames[0] is None
    frame = frames[-1]
    assert frame is not None
    return frame


def text(frame: Frame, room: Room | None = None, around: Surroundings | None = None) -> list[str]:
    return [line.plain for line in render(frame, around or Surroundings("test.rzl"), room or Room(100))]


def test_rates_are_of_the_last_interval_and_order_is_of_the_window() -> None:
    catalog = Catalog((series("ops", op="read"), series("ops", op="write")), (), ())
    window = Window([metric("ops", labels=LABELS)], 10 * SECOND)
    frame = last(
        window,
        reading(catalog, 0, [5, 100]),
        reading(catalog, 1, [1005, 100]),
        reading(catalog, 1.5, [1006, 110]),
    )
    (section,) = frame.sections
    assert section.labels == ("op",)
    assert [(row.labels, row.rate, row.value, row.recent) for row in section.rows] == [
        (("read",), 2.0, 1006, 1001),
        (("write",), 20.0, 110, 10),
    ]


def test_what_was_before_the_window_is_forgotten() -> None:
    catalog = Catalog((), (), (series("wait", "histogram"),))
    window = Window([metric("wait", "histogram", "nanoseconds")], 2 * SECOND)
    observed: list[int] = []
    frames = []
    for second in range(8):
        frames.append(window.add(reading(catalog, second, observed=[observed])))
        observed.append(1000 if second < 3 else 10**6)
    for frame, expected in ((frames[2], 1), (frames[-1], 2)):
        assert frame is not None
        row = frame.sections[0].rows[0]
        assert row.spread is not None
        assert sum(row.spread.octaves) == row.recent
        assert row.recent >= expected
    assert row.rate == 1.0
    assert row.value == 7
    assert row.spread is not None
    assert row.spread.quantiles == (1_048_575,) * 4


def test_series_that_come_begin_at_zero_and_those_that_go_leave() -> None:
    cgroup = metric("runs", dimension=ByCgroup())
    before = Catalog((series("runs", id="7", name="/a"), series("runs", id="8", name="/b")), (), ())
    after = Catalog((series("runs", id="9", name="/c"), series("runs", id="7", name="/a")), (), ())
    frame = last(Window([cgroup], SECOND), reading(before, 0, [10, 20]), reading(after, 1, [5, 11]))
    assert [(row.labels, row.rate) for row in frame.sections[0].rows] == [(("/c",), 5.0), (("/a",), 1.0)]


def test_a_counter_that_begins_anew_gives_no_huge_rate() -> None:
    catalog = Catalog((series("runs"),), (), ())
    frame = last(Window([metric("runs")], SECOND), reading(catalog, 0, [1000]), reading(catalog, 1, [3]))
    assert frame.sections[0].rows[0].rate == 3.0


def test_gauges_show_their_value_and_absent_ones_do_not() -> None:
    catalog = Catalog((), (series("free", "gauge"), series("gone", "gauge")), ())
    metrics = [metric("free", "gauge", "bytes"), metric("gone", "gauge")]
    values = [3 << 30, ABSENT_GAUGE]
    frame = last(Window(metrics, SECOND), reading(catalog, 0, gauges=values), reading(catalog, 1, gauges=values))
    lines = text(frame)
    assert any(line.startswith("free") and "3 GiB" in line for line in lines)
    assert "nothing yet: gone" in lines


def test_discards_are_told_with_their_reason() -> None:
    discard = Series(name="rezolus_discards", kind="counter", labels={"reason": "clock"}, sampler="runqueue")
    catalog = Catalog((series("runs"), discard), (), ())
    frame = last(Window([metric("runs")], SECOND), reading(catalog, 0, [1, 3]), reading(catalog, 2, [1, 7]))
    assert "runqueue: discarded 7 (clock, 2/s)" in text(frame)


def test_more_series_than_fit_are_added_up() -> None:
    catalog = Catalog(tuple(series("runs", id=str(cpu)) for cpu in range(8)), (), ())
    by_cpu = metric("runs", unit="bytes", dimension=ByCpu())
    frame = last(
        Window([by_cpu], SECOND),
        reading(catalog, 0, [1] * 8),
        reading(catalog, 1, [1 + 1024 * (8 - cpu) for cpu in range(8)]),
    )
    lines = text(frame, Room(60, top=2))
    start = next(number for number, line in enumerate(lines) if line.startswith("runs"))
    assert [line.split() for line in lines[start + 1 : start + 5]] == [
        ["cpu", "rate", "total"],
        ["0", "8", "KiB/s", "8", "KiB"],
        ["1", "7", "KiB/s", "7", "KiB"],
        ["6", "more", "21", "KiB/s", "21", "KiB"],
    ]


def test_a_terminal_is_never_overfilled() -> None:
    names = [f"metric_{number}" for number in range(12)]
    labels = [{"id": str(cpu), "op": op} for cpu in range(4) for op in ("read", "write")]
    catalog = Catalog(tuple(series(name, **label) for name in names for label in labels), (), ())
    metrics = [metric(name, labels=LABELS, dimension=ByCpu()) for name in names]
    values = range(1, 1 + len(catalog.counters))
    frame = last(Window(metrics, SECOND), reading(catalog, 0, [0] * len(values)), reading(catalog, 1, values))
    around = Surroundings("test.rzl, " + "x" * 300, (("a remark " * 40, "red"),))
    for height in (8, 20, 50, 200):
        for width in (20, 40, 80, 200):
            lines = render(frame, around, Room(width, height))
            assert len(lines) <= height
    assert any("more than fits" in line for line in text(frame, Room(80, 20)))
    assert not any("more than fits" in line for line in text(frame, Room(80, 200)))


def test_names_cannot_command_the_terminal() -> None:
    catalog = Catalog((series("runs", id="7", name="/a\x1b[2J\n"),), (), ())
    window = Window([metric("runs", dimension=ByCgroup())], SECOND)
    frame = last(window, reading(catalog, 0, [1]), reading(catalog, 1, [2]))
    assert any("/a?[2J?" in line for line in text(frame))
    assert not any("\x1b" in line for line in text(frame))


def test_a_histogram_has_percentiles_and_a_bar_below_its_axis() -> None:
    catalog = Catalog((), (), (series("wait", "histogram", op="read"), series("wait", "histogram", op="write")))
    window = Window([metric("wait", "histogram", "nanoseconds", labels=LABELS)], SECOND)
    values = [[1_500] * 98 + [40_000] * 2, [9_000_000]]
    frame = last(window, reading(catalog, 0, observed=[[], []]), reading(catalog, 2, observed=values))
    lines = text(frame)
    head = next(line for line in lines if "p99" in line)
    read, write = (next(line for line in lines if line.startswith(f"  {op}")) for op in ("read", "write"))
    assert read.split()[1:9] == ["50/s", "1.53", "us", "1.53", "us", "41", "us", "41"]
    assert read[head.index("1us") : head.index("1us") + 2] == " █"
    assert write.rstrip().endswith("█")
    assert len(write.rstrip()) > len(read.rstrip()) > head.index("1us")
    narrow = text(frame, Room(64))
    assert not any("█" in line for line in narrow)
