from __future__ import annotations

import math
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from rezolus.histogram import bucket_bounds, downsample, quantiles
from rezolus.reading import ABSENT_GAUGE, Catalog, Reading, Series
from rezolus.sinks.prometheus import PERCENTILES, Family, Renderer, metric_name, render_families
from tests import needs
from tests.synthetic import Walk, catalog

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(body: bytes) -> Samples:
    """All samples by name and labels, after checking what the format demands of families."""
    text = body.decode()
    assert text.endswith("\n") or not text
    seen = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(seen) == len(set(seen))  # one TYPE per family, families contiguous
    helps = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
    assert len(helps) == len(set(helps))
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # the parser gives every counter the suffix that newer formats demand
            name = sample.name if family.type != "counter" or sample.name in seen else sample.name[: -len("_total")]
            key = (name, tuple(sorted(sample.labels.items())))
            assert key not in samples
            assert sample.timestamp is None
            samples[key] = sample.value
    return samples


def labels_of(series: Series, **extra: str) -> tuple[tuple[str, str], ...]:
    own = {key: value for key, value in (("unit", series.unit), ("sampler", series.sampler)) if value}
    return tuple(sorted({**series.labels, **own, **extra}.items()))


def expect_values(samples: Samples, reading: Reading) -> None:
    for group, values in ((reading.catalog.counters, reading.counters), (reading.catalog.gauges, reading.gauges)):
        for series, value in zip(group, values.tolist(), strict=True):
            assert samples[series.name, labels_of(series)] == value


@pytest.mark.parametrize("power", [3, 5])
def test_every_value_appears_with_its_labels(power: int) -> None:
    walk = Walk(catalog(cgroups=3, power=power))
    before, now = walk.step(), walk.step()
    samples = parsed(Renderer().render(now, before))
    expect_values(samples, now)
    offsets = walk.catalog.histogram_offsets
    for number, series in enumerate(walk.catalog.histograms):
        delta = (now.histograms - before.histograms)[offsets[number] : offsets[number + 1]]
        for q, expected in zip(PERCENTILES, quantiles(delta, PERCENTILES), strict=True):
            assert samples[series.name, labels_of(series, percentile=f"{q:g}")] == expected


def test_the_text_itself() -> None:
    series = Catalog(
        (
            Series("cpu_usage", "counter", {"id": "0", "state": "user"}, "nanoseconds", "CPU time", "cpu_usage"),
            Series("cpu_usage", "counter", {"id": "1", "state": "user"}, "nanoseconds", "CPU time", "cpu_usage"),
        ),
        (Series("odd", "gauge", {"path": 'a\\b"c\nd 100%'}, "", "back\\slash\nand line"),),
        (),
    )
    body = Renderer().render(
        Reading(series, 1, 1, 1, np.array([5, 2**64 - 1], np.uint64), np.array([-3], np.int64), np.empty(0, np.uint64)),
        None,
    )
    assert body.decode() == (
        "# HELP cpu_usage CPU time\n"
        "# TYPE cpu_usage counter\n"
        'cpu_usage{id="0",sampler="cpu_usage",state="user",unit="nanoseconds"} 5\n'
        'cpu_usage{id="1",sampler="cpu_usage",state="user",unit="nanoseconds"} 18446744073709551615\n'
        "# HELP odd back\\\\slash\\nand line\n"
        "# TYPE odd gauge\n"
        'odd{path="a\\\\b\\"c\\nd 100%"} -3\n'
    )


LABEL_TEXT = st.text(max_size=8)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(LABEL_TEXT, st.text(max_size=20), st.integers(0, 2**64 - 1)), max_size=6, unique_by=lambda t: t[0]
    )
)
def test_any_label_value_and_help_survives(entries: list[tuple[str, str, int]]) -> None:
    clean = [(label.encode("utf-8", "replace").decode(), text, value) for label, text, value in entries]
    clean = list({label: (label, text, value) for label, text, value in clean if "\r" not in label + text}.values())
    group = tuple(Series("m", "counter", {"k": label}, "", text) for label, text, _ in clean)
    counters = np.array([value for _, _, value in clean], np.uint64)
    reading = Reading(Catalog(group, (), ()), 1, 1, 1, counters, np.empty(0, np.int64), np.empty(0, np.uint64))
    text = Renderer().render(reading, None).decode()
    # the reference parser splits lines as Python does, the format only at \n
    if len(text.splitlines()) == text.count("\n"):
        expect_values(parsed(text.encode()), reading)


def test_absent_gauges_are_left_out_and_come_back() -> None:
    walk = Walk(
        Catalog((), (Series("a", "gauge", {}), Series("b", "gauge", {"x": "1"}), Series("b", "gauge", {"x": "2"})), ())
    )
    renderer = Renderer()
    reading = walk.step()
    gauges = reading.gauges
    for absent in ([], [0], [1], [0, 1, 2], [2], []):
        reading.gauges = gauges.copy()
        reading.gauges[absent] = ABSENT_GAUGE
        samples = parsed(renderer.render(reading, None))
        assert len(samples) == 3 - len(absent)
        assert set(samples.values()) == {int(v) for n, v in enumerate(gauges) if n not in absent}


def test_percentiles_are_of_the_interval_and_paired_by_identity() -> None:
    a, b = Series("a", "histogram", {}), Series("b", "histogram", {})
    zeros = np.zeros(496, np.uint64)
    old, new = zeros.copy(), zeros.copy()
    old[20], new[20], new[40] = 1000, 1000, 10

    def reading(series: tuple[Series, ...], *parts: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> Reading:
        none = np.empty(0, np.uint64)
        return Reading(Catalog((), (), series), 1, 1, 1, none, np.empty(0, np.int64), np.concatenate(parts))

    renderer = Renderer()
    upper = bucket_bounds(40, 3)[1]
    before = reading((a,), old)
    after = reading((b, a), old, new)  # b is new: nothing is known about its interval
    samples = parsed(renderer.render(after, before))
    assert samples == {("a", (("percentile", f"{q:g}"),)): upper for q in PERCENTILES}
    # no events, and a sampler that began anew, say nothing
    assert parsed(renderer.render(after, after)) == {}
    assert parsed(renderer.render(reading((a,), old), reading((a,), new))) == {}
    assert parsed(renderer.render(reading((a,), new), reading((b,), old))) == {}
    nothing = reading((), np.empty(0, np.uint64))
    assert parsed(renderer.render(reading((a,), new), nothing)) == {}
    assert parsed(renderer.render(nothing, reading((a,), new))) == {}


@pytest.mark.parametrize("power", [0, 1, 2, 3, 7])
def test_buckets_are_cumulative_and_end_with_infinity(power: int) -> None:
    walk = Walk(catalog(cgroups=1))
    reading = walk.step()
    samples = parsed(Renderer("buckets", power).render(reading, None))
    offsets = walk.catalog.histogram_offsets
    for number, series in enumerate(walk.catalog.histograms):
        counts = reading.histograms[offsets[number] : offsets[number + 1]].tolist()
        name = f"{series.name}_distribution"
        own = labels_of(series)
        found = [
            (float(dict(labels)["le"]), value)
            for (sample, labels), value in samples.items()
            if sample == f"{name}_bucket" and tuple(pair for pair in labels if pair[0] != "le") == own
        ]
        finite = sorted(found)[:-1]
        assert max(found) == (math.inf, sum(counts))
        for upper, value in finite:
            assert value == sum(count for at, count in enumerate(counts) if bucket_bounds(at, 3)[1] <= upper)
        assert finite[-1][1] == sum(counts)
        assert len(finite) < 2 or finite[-2][1] < sum(counts)  # no buckets above the highest that holds anything
        assert samples[f"{name}_count", own] == sum(counts)
        low, high = (
            sum(count * bucket_bounds(at, min(power, 3))[side] for at, count in enumerate(coarse(counts, power)))
            for side in (0, 1)
        )
        assert low <= samples[f"{name}_sum", own] <= high


def coarse(counts: list[int], power: int) -> list[int]:
    array = np.array(counts, np.uint64)
    found: list[int] = (downsample(array, power) if power < 3 else array).tolist()
    return found


def test_buckets_never_disappear() -> None:
    series = Series("h", "histogram", {})
    renderer = Renderer("both")

    def buckets(catalog: Catalog, highest: int) -> int:
        counts = np.zeros(496, np.uint64)
        counts[highest] = 1
        reading = Reading(catalog, 1, 1, 1, np.empty(0, np.uint64), np.empty(0, np.int64), counts)
        return sum(name == "h_distribution_bucket" for name, _ in parsed(renderer.render(reading, None)))

    first = Catalog((), (), (series,))
    assert buckets(first, 100) == 102
    assert buckets(first, 40) == 102
    assert buckets(Catalog((), (), (series,)), 10) == 102  # also across catalogs
    assert buckets(first, 120) == 122


def test_one_name_has_one_kind() -> None:
    series = Catalog(
        (Series("x", "counter", {}), Series("y z", "counter", {"a-b": "1"})),
        (Series("x", "gauge", {}),),
        (
            Series("x", "histogram", {}),
            Series("h", "histogram", {"n": "3"}),
            Series("h", "histogram", {"n": "4"}, power=4),
        ),
    )
    samples = parsed(Renderer("both").render(Walk(series).step(), None))
    assert ("x", ()) in samples
    assert ("y_z", (("a_b", "1"),)) in samples
    assert metric_name("9 lives") == "_9_lives"


def test_values_of_the_daemon_itself() -> None:
    body = render_families(
        [Family("a_total", "counter", "Help", (({"sink": "x"}, 3),)), Family("none", "gauge", "", ())]
    )
    assert body == b'# HELP a_total Help\n# TYPE a_total counter\na_total{sink="x"} 3\n'


@pytest.mark.parametrize("form", ["summary", "buckets", "both"])
def test_promtool_finds_no_error(form: str) -> None:
    promtool = needs.program("promtool", "prometheus")
    walk = Walk()
    before = walk.step()
    body = Renderer(form).render(walk.step(), before)  # type: ignore[arg-type]
    done = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, check=False)
    # 3: there is advice about names; those are Rezolus'
    advice = done.stderr.decode().splitlines()
    assert done.returncode in {0, 3}, advice
    kept = ('should have "_total" suffix', "use base unit")
    assert [line for line in advice if not any(text in line for text in kept)] == []
