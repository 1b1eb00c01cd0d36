from __future__ import annotations

import itertools
import logging
import math
import subprocess
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import pytest

from rezolus.histogram import bucket_bounds, bucket_index, mean, quantiles
from rezolus.reading import ABSENT_GAUGE, U64, Catalog, Reading, Series, histogram_buckets
from rezolus.sinks.distributions import PERCENTILES
from rezolus.sinks.exposition import OPENMETRICS, TEXT, Syntax, metric_name
from rezolus.sinks.prometheus import MOST_TOLD, Family, HistogramForm, Renderer, Style, SummaryForm
from tests import needs
from tests.sinks import strict
from tests.sinks.strict import Labels, samples
from tests.synthetic import Walk, catalog

Samples = dict[tuple[str, Labels], float]
NOTHING = np.empty(0, np.uint64)


def labels_of(series: Series, **extra: str) -> Labels:
    own = {key: value for key, value in (("unit", series.unit), ("sampler", series.sampler)) if value}
    return tuple(sorted({**series.labels, **own, **extra}.items()))


def expect_values(found: Samples, reading: Reading, *, total: str = "") -> None:
    """Every counter and gauge is there; `total`: what counters end with."""
    for series, value in zip(reading.catalog.counters, reading.counters.tolist(), strict=True):
        assert found[series.name + total, labels_of(series)] == value
    for series, value in zip(reading.catalog.gauges, reading.gauges.tolist(), strict=True):
        assert found[series.name, labels_of(series)] == value


def only_histograms(series: tuple[Series, ...], *parts: U64) -> Reading:
    counts = np.concatenate(parts) if parts else NOTHING
    return Reading(Catalog((), (), series), 1, 1, 1, NOTHING, np.empty(0, np.int64), counts)


@pytest.mark.parametrize("power", [3, 5])
def test_every_value_appears_with_its_labels(power: int) -> None:
    walk = Walk(catalog(cgroups=3, power=power))
    before, now = walk.step(), walk.step()
    found = samples(Renderer(Style()).render(now, before))
    expect_values(found, now)
    offsets = walk.catalog.histogram_offsets
    for at, series in enumerate(walk.catalog.histograms):
        delta = (now.histograms - before.histograms)[offsets[at] : offsets[at + 1]]
        for q, expected in zip(PERCENTILES, quantiles(delta, PERCENTILES), strict=True):
            assert found[series.name, labels_of(series, percentile=f"{q:g}")] == expected


def test_the_text_itself() -> None:
    series = Catalog(
        (
            Series("cpu_usage", "counter", {"id": "0", "state": "user"}, "nanoseconds", "CPU time", "cpu_usage"),
            Series("cpu_usage", "counter", {"id": "1", "state": "user"}, "nanoseconds", "CPU time", "cpu_usage"),
        ),
        (Series("odd", "gauge", {"path": 'a\\b"c\nd 100%'}, "", 'back\\slash "and"\nline'),),
        (),
    )
    counters, gauges = np.array([5, 2**64 - 1], np.uint64), np.array([-3], np.int64)
    reading = Reading(series, 1_795_372_013_001_999_999, 1, 1, counters, gauges, NOTHING)
    own = [Family("own_total", "counter", "Help", (({"sink": "x"}, 3),)), Family("none", "gauge", "", ())]
    assert Renderer(Style()).render(reading, None, own).decode() == (
        "# HELP cpu_usage CPU time\n"
        "# TYPE cpu_usage counter\n"
        'cpu_usage{id="0",sampler="cpu_usage",state="user",unit="nanoseconds"} 5 1795372013001\n'
        'cpu_usage{id="1",sampler="cpu_usage",state="user",unit="nanoseconds"} 18446744073709551615 1795372013001\n'
        '# HELP odd back\\\\slash "and"\\nline\n'
        "# TYPE odd gauge\n"
        'odd{path="a\\\\b\\"c\\nd 100%"} -3 1795372013001\n'
        "# HELP own_total Help\n"
        "# TYPE own_total counter\n"
        'own_total{sink="x"} 3\n'
    )
    assert Renderer(Style(timestamps=False)).render(reading, None).decode().splitlines()[2].endswith('"} 5')


def test_absent_gauges_are_left_out_and_come_back() -> None:
    walk = Walk(
        Catalog((), (Series("a", "gauge", {}), Series("b", "gauge", {"x": "1"}), Series("b", "gauge", {"x": "2"})), ())
    )
    renderer = Renderer(Style())
    reading = walk.step()
    gauges = reading.gauges
    for absent in ([], [0], [1], [0, 1, 2], [2], []):
        reading.gauges = gauges.copy()
        reading.gauges[absent] = ABSENT_GAUGE
        found = samples(renderer.render(reading, None))
        assert len(found) == 3 - len(absent)
        assert set(found.values()) == {int(v) for n, v in enumerate(gauges) if n not in absent}


def test_percentiles_are_of_the_interval_and_paired_by_identity() -> None:
    a, b = Series("a", "histogram", {}), Series("b", "histogram", {})
    zeros = np.zeros(496, np.uint64)
    old, new = zeros.copy(), zeros.copy()
    old[20], new[20], new[40] = 1000, 1000, 10
    renderer = Renderer(Style())

    def percentiles(now: Reading, before: Reading) -> Samples:
        return samples(renderer.render(now, before))

    upper = bucket_bounds(40, 3)[1]
    before = only_histograms((a,), old)
    after = only_histograms((b, a), old, new)  # b is new: nothing is known about its interval
    assert percentiles(after, before) == {("a", (("percentile", f"{q:g}"),)): upper for q in PERCENTILES}
    # no events, and a sampler that began anew, say nothing
    assert percentiles(after, after) == {}
    assert percentiles(only_histograms((a,), old), only_histograms((a,), new)) == {}
    assert percentiles(only_histograms((a,), new), only_histograms((b,), old)) == {}
    assert percentiles(only_histograms((a,), new), only_histograms(())) == {}
    assert percentiles(only_histograms(()), only_histograms((a,), new)) == {}


def test_summaries_have_quantiles_of_the_interval_and_totals_since_the_start() -> None:
    series = Series("a", "histogram", {"op": "x"}, "", "About a.")
    old, new = np.zeros(496, np.uint64), np.zeros(496, np.uint64)
    old[20], new[20], new[40] = 1000, 1000, 10
    renderer = Renderer(Style(summaries="quantile"))
    before, after = only_histograms((series,), old), only_histograms((series,), new)
    body = renderer.render(after, before)
    (family,) = strict.families(body, "text")
    assert (family.kind, family.help) == ("summary", "About a. Percentiles of the last interval.")
    found = samples(body)
    upper = bucket_bounds(40, 3)[1]
    for q in PERCENTILES:
        assert found["a", (("op", "x"), ("quantile", f"{q:g}"))] == upper
    assert found["a_count", (("op", "x"),)] == 1010
    average = mean(new)
    assert average is not None
    assert found["a_sum", (("op", "x"),)] == pytest.approx(average * 1010)
    # nothing happened, or nothing is known: no number, but the totals go on
    for previous in (after, None):
        found = samples(renderer.render(after, previous))
        assert math.isnan(found["a", (("op", "x"), ("quantile", "0.5"))])
        assert found["a_count", (("op", "x"),)] == 1010


@pytest.mark.parametrize("syntax", [TEXT, OPENMETRICS])
@pytest.mark.parametrize(("own", "bits"), [(3, 64), (7, 64), (5, 20), (0, 64), (3, 4)])
@pytest.mark.parametrize("power", [0, 1, 3, 7])
def test_bounds_are_the_buckets_own(syntax: Syntax, own: int, bits: int, power: int) -> None:
    series = Series("h", "histogram", {"op": "x"}, "", "", "", own, bits)
    random = np.random.default_rng(3)
    counts = np.zeros(series.buckets, np.uint64)
    np.add.at(counts, random.integers(0, series.buckets, 200), np.uint64(1))
    reading = only_histograms((series,), counts)
    found = samples(Renderer(Style(syntax, "buckets", grouping_power=power)).render(reading, None), syntax.name)
    fine = [(bucket_bounds(at, own)[1], count) for at, count in enumerate(counts.tolist())]
    uppers, running = [upper for upper, _ in fine], [0, *np.cumsum(counts).tolist()]
    shown = {dict(labels)["le"]: value for (name, labels), value in found.items() if name == "h_distribution_bucket"}
    assert shown.pop("+Inf") == 200 == found["h_distribution_count", (("op", "x"),)]
    coarse = Series("h", "histogram", {}, power=min(own, power), max_power=bits)
    bounds = [bucket_bounds(at, min(own, power))[1] for at in range(coarse.buckets)]
    assert [bound.removesuffix(".0") for bound in shown] == [str(bound) for bound in bounds]
    assert bounds[-1] == 2**bits - 1
    for bound, value in zip(bounds, shown.values(), strict=True):
        assert value == running[bisect_right(uppers, bound)]
    lows = sum(bucket_bounds(at, own)[0] * count for at, (_, count) in enumerate(fine))
    highs = sum(upper * count for upper, count in fine)
    assert lows <= found["h_distribution_sum", (("op", "x"),)] <= highs


def test_bounds_do_not_depend_on_what_was_counted() -> None:
    series = Series("h", "histogram", {})
    renderer = Renderer(Style(histograms="buckets"))

    def bounds(*filled: int) -> list[str]:
        counts = np.zeros(496, np.uint64)
        counts[list(filled)] = 3
        found = samples(renderer.render(only_histograms((series,), counts), None))
        shown = [(dict(labels)["le"], value) for (name, labels), value in found.items() if name.endswith("_bucket")]
        for bound, value in shown:
            expected = sum(3 for at in filled if bucket_bounds(at, 3)[1] <= float(bound.replace("Inf", "inf")))
            assert value == expected
        return [bound for bound, _ in shown]

    first = bounds()
    assert len(first) == 497
    for filled in ([100], [100, 40], [0], [495], [0, 495], [20, 21]):
        assert bounds(*filled) == first


def test_members_of_one_family_may_differ_in_size() -> None:
    sizes = [(3, 64), (7, 64), (3, 32)]
    series = tuple(
        Series("h", "histogram", {"n": str(n)}, "", "", "", power, bits) for n, (power, bits) in enumerate(sizes)
    )
    walk = Walk(Catalog((), (), series))
    before, now = walk.step(), walk.step()
    found = samples(Renderer(Style(histograms="both")).render(now, before))
    for n in range(len(sizes)):
        assert ("h", (("n", str(n)), ("percentile", "0.5"))) in found
        assert found["h_distribution_count", (("n", str(n)),)] == 120


def test_a_name_has_one_family_and_who_comes_late_is_named(caplog: pytest.LogCaptureFixture) -> None:
    series = Catalog(
        (
            Series("x", "counter", {}),
            Series("y z", "counter", {"a-b": "1", "a_b": "2", "__name__": "n", "9": "3", "none": ""}),
            Series("y:z", "counter", {"q": "1\0\udc80"}),
            Series("y_z", "counter", {"a_b": "1", "a_b_": "2", "label__name__": "n", "_9": "3"}),
            Series("own_total", "counter", {}),
        ),
        (Series("x", "gauge", {}), Series("h_distribution_count", "gauge", {})),
        (Series("x", "histogram", {}), Series("h", "histogram", {"le": "1", "percentile": "2"})),
    )
    walk = Walk(series)
    renderer = Renderer(Style(histograms="both"))
    before = walk.step()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            body = renderer.render(walk.step(), before, [Family("own_total", "counter", "", (({}, 1),))])
    found = samples(body)
    assert ("x", ()) in found
    assert found["own_total", ()] == 1
    assert ("y_z", (("_9", "3"), ("a_b", "1"), ("a_b_", "2"), ("label__name__", "n"))) in found
    assert ("y:z", (("q", "1\0?"),)) in found
    assert ("h", (("le", "1"), ("percentile", "0.5"), ("percentile_", "2"))) in found
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("has that name: h_distribution, own_total, x, y_z")
    assert metric_name("9 lives") == "_9_lives"


def colliding(names: Sequence[str]) -> Reading:
    """A reading with a counter and a gauge of each of these names."""
    counters = tuple(Series(name, "counter", {}) for name in names)
    known = Catalog(counters, tuple(Series(name, "gauge", {}) for name in names), ())
    return Reading(
        known, 1, 1, 1, np.ones(len(names), np.uint64), np.ones(len(names), np.int64), np.empty(0, np.uint64)
    )


def test_a_warning_of_names_is_short_and_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    renderer = Renderer(Style())
    many = [f"n{at:04}_{'y' * 500}" for at in range(MOST_TOLD - 1)]
    for names in (many, many[:7], [], many, [*many, "another"]):
        renderer.render(colliding(names), None)
    first, second = caplog.messages
    assert first.startswith("text: left out, for another series or family has that name: n0000_yyy")
    assert first.endswith(f"... and {MOST_TOLD - 11} more")
    assert len(first) < 1000
    assert second.endswith("has that name: another")
    renderer.render(colliding([f"more{at}" for at in range(10)]), None)
    assert len(caplog.messages) == 2


def test_without_a_reading_there_is_what_the_daemon_knows_of_itself() -> None:
    own = [Family("a_total", "counter", "Help", (({"sink": "x"}, 3),)), Family("b", "gauge", "", (({}, 0.5),))]
    assert samples(Renderer(Style()).render(None, None, own)) == {("a_total", (("sink", "x"),)): 3, ("b", ()): 0.5}


@pytest.mark.parametrize("histograms", ["summary", "buckets", "both", "none"])
@pytest.mark.parametrize("summaries", ["percentile", "quantile"])
def test_promtool_finds_no_error(histograms: HistogramForm, summaries: SummaryForm) -> None:
    promtool = needs.program("promtool", "prometheus")
    walk = Walk()
    before = walk.step()
    body = Renderer(Style(histograms=histograms, summaries=summaries)).render(walk.step(), before)
    done = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, check=False)
    # 3: there is advice about names; those are Rezolus'
    advice = done.stderr.decode().splitlines()
    assert done.returncode in {0, 3}, advice
    kept = ('should have "_total" suffix', "use base unit")
    assert [line for line in advice if not any(text in line for text in kept)] == []


@pytest.mark.parametrize("power", [0, 1, 2])
def test_coarser_buckets_count_the_same(power: int) -> None:
    known = Catalog((), (), (Series("h", "histogram", {}),))
    reading = Walk(known).step()
    found = samples(Renderer(Style(histograms="buckets", grouping_power=power)).render(reading, None))
    shown = [value for (name, _), value in found.items() if name.endswith("_bucket")]
    fine = known.histograms[0].power
    coarse = [0] * histogram_buckets(power)
    for number, found_there in enumerate(reading.histograms.tolist()):
        coarse[bucket_index(bucket_bounds(number, fine)[0], power)] += found_there
    assert shown[:-1] == list(itertools.accumulate(coarse))
