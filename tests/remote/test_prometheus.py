"""Pages of Prometheus endpoints as readings: the rules of Rezolus, and what happens to what they say nothing of."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rezolus.histogram import bucket_bounds, quantiles
from rezolus.reading import ABSENT_GAUGE, Kind, Reading, Series
from rezolus.remote.exposition import PageError
from rezolus.remote.prometheus import PageDecoder
from rezolus.wire.messages import BUCKETS_TOGETHER, MOST_SERIES
from tests.remote.servers import DATA
from tests.remote.test_exposition import exposed


def decode(text: str | bytes, *, openmetrics: bool = False) -> Reading:
    body = text if isinstance(text, bytes) else text.encode()
    return PageDecoder().decode(body, openmetrics=openmetrics).reading


def values(reading: Reading) -> dict[str, int]:
    """Counters and gauges by `kind name labels`."""
    catalog = reading.catalog
    pairs = [*zip(catalog.counters, reading.counters.tolist(), strict=True)]
    pairs += zip(catalog.gauges, reading.gauges.tolist(), strict=True)
    return {
        f"{s.kind} {s.name} {','.join(f'{k}={v}' for k, v in s.labels.items())}".strip(): value for s, value in pairs
    }


def histogram(reading: Reading, at: int = 0) -> tuple[Series, dict[tuple[int, int], int]]:
    """A histogram and its counts by bounds, empty buckets left out."""
    begin, end = reading.catalog.histogram_offsets[at : at + 2]
    series, counts = reading.catalog.histograms[at], reading.histograms[begin:end]
    return series, {bucket_bounds(int(i), series.power): int(counts[i]) for i in np.flatnonzero(counts)}


def test_counters_and_gauges_lose_their_fractions() -> None:
    text = "# TYPE a counter\na 7.9\n# TYPE b gauge\nb -7.9\n"
    assert values(decode(text)) == {"counter a": 7, "gauge b": -7}


def test_what_has_no_type_is_a_counter_by_its_name() -> None:
    text = "a_total 1\nb_sum 2\nc_count 3\nd 4\n# TYPE e_total untyped\ne_total 5\n# TYPE f unknown\nf 6\n"
    assert values(decode(text)) == {
        "counter a_total": 1,
        "counter b_sum": 2,
        "counter c_count": 3,
        "counter e_total": 5,
        "gauge d": 4,
        "gauge f": 6,
    }


def test_a_summary_is_a_gauge_per_quantile_and_two_counters() -> None:
    text = '# TYPE s summary\ns{quantile="0.5"} 10\ns{quantile="0.99"} NaN\ns_sum 123.9\ns_count 4\n'
    reading = decode(text)
    assert values(reading) == {
        "counter s_sum": 123,
        "counter s_count": 4,
        "gauge s quantile=0.5": 10,
        "gauge s quantile=0.99": ABSENT_GAUGE,
    }


@pytest.mark.parametrize("openmetrics", [False, True])
def test_what_prometheus_client_writes(openmetrics: bool) -> None:
    reading = decode(exposed(openmetrics=openmetrics), openmetrics=openmetrics)
    found = values(reading)
    assert found["counter requests_total path=/b"] == 2**60
    assert found["gauge depth"] == -7
    assert found["counter latency_seconds_count op=read"] == 5
    assert found["counter latency_seconds_sum op=read"] == 102
    assert found["counter size_bytes_sum"] == 12
    assert "gauge requests_created path=/b" in found
    assert next(s for s in reading.catalog.counters if s.name == "requests_total").help == "Requests\nserved \\ so far."
    series, counts = histogram(reading)
    assert (series.name, dict(series.labels), series.unit) == ("latency_seconds", {"op": "read"}, "nanoseconds")
    assert (series.power, series.max_power) == (7, math.ceil(math.log2(10e9)) + 1)
    # One below 5 ms, two up to 250 ms, one up to 10 s; the one beyond is in no bucket.
    bounds = [next((low, high) for low, high in counts if low <= le <= high) for le in (5e6, 250e6, 10e9)]
    assert [counts[bound] for bound in bounds] == [1, 2, 1]
    assert len(counts) == 3
    assert all((high - low + 1) / low <= 2**-7 for low, high in counts)


@pytest.mark.parametrize(
    ("name", "bounds", "scaled", "max_power", "text"),
    [
        ("size", [1, 100, 1000], [1, 100, 1000], 11, ""),
        ("size", [0.5, 2.5], [5, 25], 8, "(times 10)"),
        ("size", [0.001, 0.29], [1, 290], 10, "(times 1000)"),
        ("wait_seconds", [0.005, 1.5], [5_000_000, 1_500_000_000], 32, ""),
        ("size", [-5, 0, 3], [0, 0, 3], 8, ""),
        ("huge", [1e30], [2**64 - 1], 64, ""),
        ("huge_seconds", [1e308], [2**64 - 1], 64, ""),
        ("size", [2**64 - 1], [2**64 - 1], 64, ""),
    ],
)
def test_bounds_become_whole_numbers(
    name: str, bounds: list[float], scaled: list[int], max_power: int, text: str
) -> None:
    lines = "".join(f'{name}_bucket{{le="{le}"}} {2**n}\n' for n, le in enumerate(bounds))
    reading = decode(f'# TYPE {name} histogram\n{lines}{name}_bucket{{le="+Inf"}} 999\n')
    series, counts = histogram(reading)
    assert series.max_power == max_power
    assert series.help == text
    expected: dict[int, int] = {}
    for n, value in enumerate(scaled):
        expected[value] = expected.get(value, 0) + 2**n - (2 ** (n - 1) if n else 0)
    assert sorted(counts.values()) == sorted(expected.values())
    assert all(any(low <= value <= high for low, high in counts) for value in expected)
    assert len(reading.histograms) == series.buckets


def test_cumulative_counts_that_fall_count_nothing_and_add_nothing_up() -> None:
    lines = "".join(f'h_bucket{{le="{le}"}} {n}\n' for le, n in ((1, 5), (2, 3), (3, 8)))
    more = "".join(f'g_bucket{{le="{le}"}} {n}\n' for le, n in ((1, 1), (2, 2)))
    reading = decode(f"# TYPE h histogram\n# TYPE g histogram\n{lines}{more}")
    assert histogram(reading)[1] == {(1, 1): 5, (3, 3): 3}
    assert histogram(reading, 1)[1] == {(1, 1): 1, (2, 2): 1}


def test_a_histogram_with_no_bound_but_infinity_is_none() -> None:
    reading = decode('# TYPE h histogram\nh_bucket{le="+Inf"} 3\nh_count 3\n')
    assert reading.catalog.histograms == ()
    assert values(reading) == {"counter h_count": 3}


@pytest.mark.parametrize("labels", ["", '{le=""}', '{le="many"}', '{le="NaN"}'])
def test_a_bucket_without_a_bound_is_refused(labels: str) -> None:
    with pytest.raises(PageError, match="h_bucket has no number in its label le"):
        decode(f"# TYPE h histogram\nh_bucket{labels} 1\n")


@pytest.mark.parametrize("bad", ["NaN", "+Inf", "-1", "18446744073709551616", "1e300"])
def test_a_counter_that_can_be_none_is_left_out_while_it_is(bad: str) -> None:
    decoder = PageDecoder()

    def read(value: str) -> dict[str, int]:
        return values(decoder.decode(f"# TYPE a counter\na {value}\nb_total 2\n".encode(), openmetrics=False).reading)

    assert read("1") == {"counter a": 1, "counter b_total": 2}
    assert read(bad) == {"counter b_total": 2}
    assert read("3") == {"counter a": 3, "counter b_total": 2}


@pytest.mark.parametrize("bad", ["NaN", "-Inf", "9223372036854775808", "-1e300"])
def test_a_gauge_that_can_be_none_is_absent(bad: str) -> None:
    assert values(decode(f"a {bad}\n")) == {"gauge a": ABSENT_GAUGE}


def test_the_catalog_is_the_same_as_long_as_the_series_are() -> None:
    decoder = PageDecoder()

    def catalog(text: str) -> object:
        return decoder.decode(text.encode(), openmetrics=False).reading.catalog

    first = catalog("a 1\nb 2\n")
    assert catalog("a 5\nb NaN\n") is first
    assert catalog("a 5\nc 3\n") is not first
    assert catalog("# HELP a Now with help.\na 5\nc 3\n") is not first


def test_a_series_that_stays_is_the_same_on_the_next_page() -> None:
    decoder = PageDecoder()
    types = "# TYPE h histogram\n# HELP a Help.\n# TYPE a counter\n"
    stays = 'h_bucket{op="x",le="1"} 1\na{op="x"} 1\ng{op="x"} 1\n'
    first, second, third = (
        decoder.decode(f"{text}{types}{stays}".encode(), openmetrics=False).reading.catalog
        for text in ("came 1\n", "went 1\n", "# HELP g Another.\n")
    )
    for kind in ("counters", "gauges", "histograms"):
        assert getattr(second, kind)[-1] is getattr(first, kind)[-1]
    assert third.counters[-1] is first.counters[-1]
    assert (third.gauges[-1].help, first.gauges[-1].help) == ("Another.", "")


def test_of_names_that_become_one_the_last_counts_whatever_their_help_and_on_every_page() -> None:
    decoder = PageDecoder()
    page = "# HELP a:b One.\na:b 1\n# HELP a_b Other.\na_b 2\n"
    for text in (page, page + "more 1\n"):
        reading = decoder.decode(text.encode(), openmetrics=False).reading
        assert reading.gauges.tolist()[:1] == [2]
        assert [series.name for series in reading.catalog.gauges].count("a_b") == 1
    assert decoder.helps == {"a_b": "Other."}


def test_more_series_than_a_snapshot_may_have_are_refused() -> None:
    lines = "".join(f"m{at} 1\n" for at in range(MOST_SERIES))
    assert len(decode(lines).gauges) == MOST_SERIES
    with pytest.raises(PageError, match=f"it has more than {MOST_SERIES} series"):
        decode(lines + "one_more 1\n")


def test_names_and_labels_that_would_be_in_the_way_get_others() -> None:
    text = 'job:rate{metric="m",metric_type="t",unit="bytes",sampler="cpu",grouping_power="3",x="1"} 1\n'
    (series,) = decode(text).catalog.gauges
    assert (series.name, series.unit, series.sampler) == ("job_rate", "bytes", "cpu")
    assert dict(series.labels) == {"exported_metric": "m", "exported_metric_type": "t", "x": "1"}


def test_a_series_that_is_there_twice_counts_once() -> None:
    reading = decode('a_total{x="1",y="2"} 1\na_total{y="2",x="1"} 2\n')
    assert values(reading) == {"counter a_total x=1,y=2": 2}


def test_openmetrics_has_units() -> None:
    reading = decode("# TYPE a_bytes gauge\n# UNIT a_bytes bytes\na_bytes 3\n# EOF\n", openmetrics=True)
    assert reading.catalog.gauges[0].unit == "bytes"


def test_a_page_without_samples_is_refused() -> None:
    with pytest.raises(PageError, match="it has no samples"):
        decode("# TYPE a counter\n")


def test_histograms_beyond_the_limit_are_left_out_and_that_is_said() -> None:
    lines = "".join(f'h_bucket{{n="{n}",le="18446744073709551615"}} 1\n' for n in range(BUCKETS_TOGETHER // 7424 + 3))
    scrape = PageDecoder().decode(f"# TYPE h histogram\n{lines}".encode(), openmetrics=False)
    assert len(scrape.reading.histograms) <= BUCKETS_TOGETHER
    (problem,) = scrape.problems
    assert problem.startswith("3 of its histograms are left out")


def test_fractions_are_cut_off_and_that_is_said() -> None:
    scrape = PageDecoder().decode(b"whole 3.0\nratio 0.75\nspent_total 1.5\nbroken NaN\n", openmetrics=False)
    assert scrape.problems == ("fractions are cut off, since recordings have whole numbers: spent_total and 1 more",)


def test_the_page_of_rezolus_exporter_gives_its_histograms_back() -> None:
    page = gzip.decompress((DATA / "live/exporter-histograms.prom.gz").read_bytes())
    reading = decode(page)
    at = next(
        n for n, s in enumerate(reading.catalog.histograms) if s.name == "scheduler_runqueue_latency_distribution"
    )
    series, counts = histogram(reading, at)
    assert (series.unit, series.sampler, series.max_power) == ("nanoseconds", "scheduler_runqueue", 64)
    assert "grouping_power" not in series.labels
    begin, end = reading.catalog.histogram_offsets[at : at + 2]
    total = next(
        line.split()[-2]
        for line in page.decode().splitlines()
        if line.startswith("scheduler_runqueue_latency_distribution_count{")
    )
    assert sum(counts.values()) == int(total)
    assert quantiles(reading.histograms[begin:end], (0.5,), 7)[0] is not None


KINDS: tuple[Kind, ...] = ("counter", "gauge", "histogram")
TEXTS = st.text('abh_bucketsumle{}="1.5+InfNa# TYPEcounterhistogramsummary\n ', max_size=120)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_a_reading_always_fits_its_catalog(texts: list[str]) -> None:
    decoder = PageDecoder()
    prefix = "# TYPE h histogram\n# TYPE a counter\n"
    for text in texts:
        try:
            reading = decoder.decode(f'{prefix}{text}\nh_bucket{{le="1"}} 1\na 2\n'.encode(), openmetrics=False).reading
        except PageError:
            continue
        catalog = reading.catalog
        assert len(reading.counters) == len(catalog.counters)
        assert len(reading.gauges) == len(catalog.gauges)
        assert len(reading.histograms) == catalog.histogram_offsets[-1]
        for kind, group in zip(KINDS, (catalog.counters, catalog.gauges, catalog.histograms), strict=True):
            assert all(series.kind == kind for series in group)
