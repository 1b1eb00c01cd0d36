"""The text formats, taken apart: what is read, what is refused, and that the reference parser agrees."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from rezolus.remote.exposition import MAX_LINES, PageError, Sample, parse_key, parse_page

NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,8}", fullmatch=True)
LABELS = st.dictionaries(
    st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,5}", fullmatch=True).filter(lambda name: name != "__name__"),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=12),
    max_size=4,
)
VALUES = st.one_of(st.floats(), st.integers(-(2**63), 2**64))


def parsed(text: str, *, openmetrics: bool = False) -> list[tuple[str, dict[str, str], int | float]]:
    page = parse_page(text.encode(), openmetrics=openmetrics)
    samples = [parse_key(key) for key in page.keys]
    return [(s.name, dict(s.labels), value) for s, value in zip(samples, page.values, strict=True)]


def registry() -> CollectorRegistry:
    mine = CollectorRegistry()
    requests = Counter("requests", "Requests\nserved \\ so far.", ["path"], registry=mine)
    requests.labels('/a "quoted" {path} # \\ \n').inc(3)
    requests.labels("/b").inc(2**60)
    Gauge("depth", "Depth.", registry=mine).set(-7.9)
    latency = Histogram("latency_seconds", "Latency.", ["op"], buckets=(0.005, 0.25, 1, 10), registry=mine)
    for value in (0.001, 0.2, 0.2, 3, 99):
        latency.labels("read").observe(value)
    Summary("size_bytes", "Sizes.", registry=mine).observe(12.5)
    return mine


def exposed(*, openmetrics: bool) -> bytes:
    generate: Callable[[CollectorRegistry], bytes] = generate_openmetrics if openmetrics else generate_latest
    return generate(registry())


def test_what_a_line_may_be() -> None:
    text = (
        "\n"
        "# a comment\n"
        "# TYPE a counter\n"
        "#HELP b of b\n"
        "a 1\n"
        'a{x="1",} 2 1395066363000\n'
        'b { x = "}" , y="\\\\ \\" \\n" }  +Inf\n'
        "c\t-1.5e3\n"
        "d{} NaN -5\n"
    )
    found = parsed(text)
    assert found[:4] == [
        ("a", {}, 1),
        ("a", {"x": "1"}, 2),
        ("b", {"x": "}", "y": '\\ " \n'}, math.inf),
        ("c", {}, -1500.0),
    ]
    assert math.isnan(found[4][2])


def test_exemplars_are_passed_over() -> None:
    text = 'a_bucket{le="1 # {"} 3 # {trace_id="} # x"} 0.5 1.0\na_total 2 # {} 1\n# EOF\n'
    assert parsed(text, openmetrics=True) == [("a_bucket", {"le": "1 # {"}, 3), ("a_total", {}, 2)]


def test_labels_that_are_empty_are_not_there() -> None:
    assert parse_key('a{x="",y="1"}') == Sample("a", {"y": "1"})


def test_whole_numbers_are_exact_beyond_the_reach_of_floats() -> None:
    assert parsed("a 18446744073709551615\n") == [("a", {}, 2**64 - 1)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it is empty"),
        ("a 1", "its last line has no end"),
        ("a 1\nb 2\nc 1 2 3\n", "line 3 is no sample: 'c 1 2 3'"),
        ("a\n", "line 1 is no sample: 'a'"),
        ("a one\n", "line 1 has no number for a value: 'a one'"),
        ("a 1_0\n", "line 1 has no number for a value: 'a 1_0'"),
        ("a 1 soon\n", "line 1 has no number for a value: 'a 1 soon'"),
        (f"a {'9' * 5000}\n", "line 1 has no number for a value"),
        ("1a 1\n", "'1a' does not begin with a metric name"),
        ("<html>\n", "line 1 is no sample"),
        ("a-b 1\n", "'a-b': expected labels in braces"),
        ('a{x="1"y="2"} 1\n', "expected a comma after the label x"),
        ('a{x="1",x="2"} 1\n', "the label x is there twice"),
        ("a{x=1} 1\n", "expected a label, found 'x=1'"),
        ('a{x="1} 1\n', "expected a label, found 'x=\"1'"),
        ('a{1x="1"} 1\n', "expected a label"),
        (f'a 1\na{{x="{"y" * 65536}"}} 1\n', "line 2 has more than 65536 characters"),
        ("# TYPE a speed\n", "line 1: 'speed' is no type of metric"),
        ("# TYPE a gauge\n# TYPE a counter\n", "line 2: 'a' was a gauge before, and is a counter now"),
    ],
)
def test_what_is_no_page_is_refused_with_its_line(text: str, sentence: str) -> None:
    with pytest.raises(PageError) as refused:
        parsed(text)
    assert sentence in str(refused.value)


def test_a_page_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(PageError, match="byte 3 is 0xff"):
        parse_page(b"a{x\xff} 1\n", openmetrics=False)


def test_openmetrics_that_has_no_end_or_goes_on_after_it_is_refused() -> None:
    with pytest.raises(PageError, match="does not end with # EOF"):
        parsed("a 1\n", openmetrics=True)
    with pytest.raises(PageError, match="line 3 comes after # EOF"):
        parsed("a 1\n# EOF\nb 1\n", openmetrics=True)


def test_a_page_with_too_many_lines_is_refused_at_once() -> None:
    body = b"\n" * (40 << 20)
    with pytest.raises(PageError, match=f"more than {MAX_LINES} lines"):
        parse_page(body, openmetrics=False)


@pytest.mark.parametrize("openmetrics", [False, True])
def test_what_prometheus_client_writes_is_read(openmetrics: bool) -> None:
    body = exposed(openmetrics=openmetrics)
    page = parse_page(body, openmetrics=openmetrics)
    values = dict(
        zip([(s.name, frozenset(s.labels.items())) for s in map(parse_key, page.keys)], page.values, strict=True)
    )
    assert values["requests_total", frozenset({("path", '/a "quoted" {path} # \\ \n')})] == 3
    assert values["depth", frozenset()] == -7.9
    assert values["latency_seconds_bucket", frozenset({("op", "read"), ("le", "0.25")})] == 3
    assert page.helps["requests" if openmetrics else "requests_total"] == "Requests\nserved \\ so far."


@given(st.lists(st.tuples(NAMES, LABELS, VALUES), max_size=6))
def test_any_page_is_read_as_the_reference_parser_reads_it(samples: list[tuple[str, dict[str, str], float]]) -> None:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

    lines = [
        name + "{" + ",".join(f'{label}="{escaped(value)}"' for label, value in labels.items()) + "}" + f" {value!r}\n"
        for name, labels, value in samples
    ]
    text = "".join(lines) or "\n"
    ours = [(name, labels, repr(float(value))) for name, labels, value in parsed(text)]
    assert ours == [
        (name, {label: text for label, text in labels.items() if text}, repr(float(value)))
        for name, labels, value in samples
    ]
    if all(value.isprintable() for _, labels, _ in samples for value in labels.values()):
        theirs = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        assert sorted(repr(float(sample.value)) for sample in theirs) == sorted(value for _, _, value in ours)


@given(st.one_of(st.binary(max_size=200), st.text('a{}="1, #\\\n\tTYPEx', max_size=60).map(str.encode)))
def test_no_bytes_do_anything_but_parse_or_be_refused(body: bytes) -> None:
    for openmetrics in (False, True):
        with contextlib.suppress(PageError):
            for key in parse_page(body, openmetrics=openmetrics).keys:
                parse_key(key)
