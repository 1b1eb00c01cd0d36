from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from rezolus.reading import ABSENT_GAUGE, Catalog, Reading, Series
from rezolus.sinks.exposition import OPENMETRICS, TEXT, Syntax
from rezolus.sinks.negotiation import choose
from rezolus.sinks.prometheus import Family, HistogramForm, Renderer, Style, SummaryForm
from tests.sinks import strict
from tests.sinks.test_prometheus import expect_values
from tests.synthetic import Walk, catalog

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
PROMETHEUS_3_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6," + PROMETHEUS_3
)
OWN = (Family("rezolus_sink_readings_total", "counter", "Readings.", (({"sink": "x"}, 3),)),)


def test_the_text_itself() -> None:
    series = Catalog(
        (
            Series("cpu_usage", "counter", {"id": "0"}, "nanoseconds", 'CPU "time"', "cpu_usage"),
            Series("requests_total", "counter", {}, "requests"),
        ),
        (
            Series("memory_free_bytes", "gauge", {}, "bytes"),
            Series("mixed_bytes", "gauge", {"x": "1"}, "bytes"),
            Series("mixed_bytes", "gauge", {"x": "2"}, ""),
        ),
        (),
    )
    counters, gauges = np.array([5, 7], np.uint64), np.array([-3, 1, 2], np.int64)
    reading = Reading(series, 1_795_372_013_001_999_999, 1, 1, counters, gauges, np.empty(0, np.uint64))
    body = Renderer(Style(OPENMETRICS)).render(reading, None, OWN)
    strict.families(body, "openmetrics")
    assert body.decode() == (
        '# HELP cpu_usage CPU \\"time\\"\n'
        "# TYPE cpu_usage counter\n"
        'cpu_usage_total{id="0",sampler="cpu_usage",unit="nanoseconds"} 5 1795372013.001\n'
        "# TYPE requests counter\n"
        'requests_total{unit="requests"} 7 1795372013.001\n'
        "# TYPE memory_free_bytes gauge\n"
        "# UNIT memory_free_bytes bytes\n"
        'memory_free_bytes{unit="bytes"} -3 1795372013.001\n'
        "# TYPE mixed_bytes gauge\n"
        'mixed_bytes{unit="bytes",x="1"} 1 1795372013.001\n'
        'mixed_bytes{x="2"} 2 1795372013.001\n'
        "# HELP rezolus_sink_readings Readings.\n"
        "# TYPE rezolus_sink_readings counter\n"
        'rezolus_sink_readings_total{sink="x"} 3\n'
        "# EOF\n"
    )


def test_without_a_reading_it_still_ends() -> None:
    assert Renderer(Style(OPENMETRICS)).render(None, None) == b"# EOF\n"


@pytest.mark.parametrize("histograms", ["summary", "buckets", "both", "none"])
@pytest.mark.parametrize("summaries", ["percentile", "quantile"])
def test_the_reference_parser_reads_the_same(histograms: HistogramForm, summaries: SummaryForm) -> None:
    walk = Walk(catalog(cgroups=2))
    before, now = walk.step(), walk.step()
    body = Renderer(Style(OPENMETRICS, histograms, summaries)).render(now, before, OWN)
    ours = strict.samples(body, "openmetrics")
    expect_values(ours, now, total="_total")
    theirs = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in openmetrics_families(body.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
    }
    assert theirs == ours


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
        (PROMETHEUS_3_PROTOBUF, OPENMETRICS),
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
        ("Application/OpenMetrics-Text;Version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=2.0.0,*/*;q=0.1", TEXT),
        ("application/*", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0.1,text/plain;q=0.2", TEXT),
        ("text/plain;version=0.0.4;q=0.3,application/openmetrics-text;version=1.0.0;q=0.4", OPENMETRICS),
        ("application/openmetrics-text;q=0.1,text/plain;version=0.0.1;q=0.2", OPENMETRICS),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT),
        ("nonsense;;;q=x,,;", TEXT),
    ],
)
def test_who_gets_which(accept: str, expected: Syntax) -> None:
    assert choose(parse_accept_header(accept, MIMEAccept)) == expected


ANY = st.text(max_size=6)
NAMES = st.sampled_from(["a", "a_total", "a_count", "a_sum", "a_bucket", "a_created", "a_distribution", "b", "c_bytes"])
LABELS = st.dictionaries(st.one_of(ANY, st.sampled_from(["le", "quantile", "percentile", "id"])), ANY, max_size=3)
TEXTS = {"unit": st.one_of(ANY, st.just("bytes")), "help": ANY, "sampler": ANY}


def series(kind: str) -> st.SearchStrategy[tuple[Series, ...]]:
    one = st.builds(Series, name=st.one_of(NAMES, ANY), kind=st.just(kind), labels=LABELS, **TEXTS)
    if kind == "histogram":
        sizes = st.sampled_from([(0, 64), (1, 64), (2, 8), (3, 64)])
        one = st.builds(
            lambda entry, size: Series(
                entry.name, "histogram", entry.labels, entry.unit, entry.help, entry.sampler, *size
            ),
            one,
            sizes,
        )
    return st.lists(one, max_size=4).map(tuple)


@settings(max_examples=200)
@given(
    st.builds(Catalog, series("counter"), series("gauge"), series("histogram")),
    st.sampled_from(["summary", "buckets", "both", "none"]),
    st.sampled_from(["percentile", "quantile"]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_any_catalog_gives_valid_bodies(
    catalog: Catalog, histograms: HistogramForm, summaries: SummaryForm, timestamps: bool, random: np.random.Generator
) -> None:
    walk = Walk(catalog, seed=random.randint(0, 99))  # type: ignore[attr-defined]
    before, now = walk.step(), walk.step()
    if len(now.gauges) > 1:
        now.gauges = now.gauges.copy()
        now.gauges[0] = ABSENT_GAUGE
    for syntax, parse in ((TEXT, text_families), (OPENMETRICS, openmetrics_families)):
        style = Style(syntax, histograms, summaries, 2, timestamps)
        body = Renderer(style).render(now, before, OWN)
        for family in strict.families(body, syntax.name):
            own = family.name.startswith("rezolus_sink")
            times = {sample.time_ms for sample in family.samples}
            assert times == ({None} if own or not timestamps else {now.time_ns // 1_000_000})
        # the reference parsers split lines as Python does, the formats only at \n
        text = body.decode()
        if len(text.splitlines()) == text.count("\n"):
            list(parse(text))


@given(st.lists(st.tuples(st.text(max_size=8), ANY), min_size=1, max_size=6, unique_by=lambda pair: pair[0]))
def test_any_label_value_and_help_survives(entries: list[tuple[str, str]]) -> None:
    clean = {value.encode("utf-8", "replace").decode(): text for value, text in entries}
    group = tuple(Series("m", "counter", {"k": value}, "", text) for value, text in clean.items())
    reading = Walk(Catalog(group, (), ())).step()
    for syntax in (TEXT, OPENMETRICS):
        (family,) = strict.families(Renderer(Style(syntax)).render(reading, None), syntax.name)
        found = {dict(sample.labels).get("k", ""): sample.value for sample in family.samples}
        assert found == dict(zip(clean, reading.counters.tolist(), strict=True))
