"""Bytes to values, in both protocols."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rezolus.agent.external.protocols import parser_of
from rezolus.agent.external.updates import LABELS, MESSAGE_BYTES, PushError, Update, merge
from rezolus.config.structures import Protocol
from tests.agent.external.frames import counter, frame, gauge, histogram, labels_of, session

PROTOCOLS: tuple[Protocol, ...] = ("auto", "binary", "line")

Plain = tuple[object, ...]


def plain(update: Update) -> Plain:
    """Comparable, and gauges as numbers."""
    value: object = update.value
    if update.kind == "gauge" and update.value >= 2**63:
        value = update.value - 2**64
    if update.buckets is not None:
        assert update.buckets.dtype == np.uint64
        value = (*update.shape, *update.buckets.tolist())
    return (update.kind, update.name, dict(update.labels), value)


def read(*pieces: bytes, protocol: Protocol = "auto") -> tuple[list[Plain], str]:
    """The values, and what is wrong with what comes after them."""
    parser, found = parser_of(protocol), list[Plain]()
    try:
        for piece in pieces:
            for update in parser.feed(piece):
                found.append(plain(update))
        parser.end()
    except PushError as error:
        return found, str(error)
    return found, ""


GOOD_LINES: list[tuple[str, list[Plain]]] = [
    ("", []),
    ("\n  \r\n# a comment\n#SESSION a=1\n# SESSIONS\n", []),
    ("a counter:1\n", [("counter", "a", {}, 1)]),
    ("a counter:+1\r\n", [("counter", "a", {}, 1)]),
    ("  a{}  counter: 1 \n", [("counter", "a", {}, 1)]),
    ("a counter:18446744073709551615\n", [("counter", "a", {}, 2**64 - 1)]),
    ("a gauge:-9223372036854775808\n", [("gauge", "a", {}, -(2**63))]),
    ('a{x="1", y = "a b}=,c" ,} gauge:-5\n', [("gauge", "a", {"x": "1", "y": "a b}=,c"}, -5)]),
    ('a.b/c:d{x-y.z=""} gauge:0\n', [("gauge", "a.b/c:d", {"x-y.z": ""}, 0)]),
    ('a{x="\u00e4\\n"} gauge:0\n', [("gauge", "a", {"x": "\u00e4\\n"}, 0)]),
    ("h histogram:0,2:1 2 3\n", [("histogram", "h", {}, (0, 2, 1, 2, 3))]),
    ("h histogram: 1 , 3 :\n", [("histogram", "h", {}, (1, 3, 0, 0, 0, 0, 0, 0))]),
    ("h histogram:1,3:7  8\t9\n", [("histogram", "h", {}, (1, 3, 7, 8, 9, 0, 0, 0))]),
    (
        '# SESSION s="t",x="1"\na{x="2"} counter:1\n# SESSION\na counter:2\n',
        [("counter", "a", {"s": "t", "x": "2"}, 1), ("counter", "a", {}, 2)],
    ),
]

BAD_LINES = [
    ("a counter:1\nb\n", 'line 2: expected counter:N, gauge:N or histogram:POWER,MAXIMUM:N N ..., found ""'),
    ("a conter:1\n", "found 'conter:1'"),
    ("a counter:-1\n", "expected a whole number from 0 to 18446744073709551615, found '-1'"),
    ("a counter:18446744073709551616\n", "expected a whole number from 0 to"),
    ("a counter:1_000\n", "found '1_000'"),
    ("a counter:\u0663\n", "expected a whole number"),
    ("a counter:1.5\n", "found '1.5'"),
    ("a gauge:9223372036854775808\n", "from -9223372036854775808 to 9223372036854775807"),
    ("9a counter:1\n", "not beginning with a digit, found '9a'"),
    ("{} counter:1\n", "expected the name of a metric"),
    ("a\u00e4 counter:1\n", "expected a metric name of letters"),
    (f"{'a' * 256} counter:1\n", "is longer than 255 bytes"),
    ('a{x="1" counter:1\n', "expected a comma or the end of the labels, found 'counter:1'"),
    ("a{x=1} counter:1\n", "expected a label such as key=\"value\", found 'x=1} counter:1'"),
    ('a{x="1",x="2"} counter:1\n', "the label 'x' is there twice"),
    ('a{,x="1"} counter:1\n', "expected a label"),
    ('a{1x="1"} counter:1\n', "expected a label of letters"),
    (f'a{{x="{"v" * 256}"}} counter:1\n', "the value of the label 'x' is longer than 255 bytes"),
    ("a{" + ",".join(f'l{n}=""' for n in range(LABELS + 1)) + "} counter:1\n", f"more than {LABELS} labels"),
    ("a{" + ",".join(f'l{n}="{"v" * 250}"' for n in range(20)) + "} counter:1\n", "labels of more than 4096 bytes"),
    ("# SESSION x\n", "line 1: expected a label"),
    ("h histogram:3,64\n", "expected POWER,MAXIMUM:N N ..., found '3,64'"),
    ("h histogram:3,3:1\n", "expected a grouping power below a maximum power of at most 64, found 3,3"),
    ("h histogram:3,65:1\n", "found 3,65"),
    ("h histogram:60,64:1\n", "more buckets than a message can hold"),
    ("h histogram:0,1:1 2 3\n", "a histogram 0,1 has 2 buckets, found 3"),
    ("h histogram:0,1:1 -2\n", "expected POWER"),
    ("a counter:1", "line 1: does not end"),
    ("a" * (MESSAGE_BYTES + 1), f"line 1: longer than {MESSAGE_BYTES} bytes"),
    ("a" * (MESSAGE_BYTES + 1) + "\n", f"line 1: longer than {MESSAGE_BYTES} bytes"),
]


@pytest.mark.parametrize(("text", "expected"), GOOD_LINES)
def test_lines_are_read(text: str, expected: list[Plain]) -> None:
    assert read(text.encode(), protocol="line") == (expected, "")


@pytest.mark.parametrize(("text", "problem"), BAD_LINES)
def test_what_is_wrong_with_a_line_is_said(text: str, problem: str) -> None:
    assert problem.replace('""', "''") in read(text.encode(), protocol="line")[1]


def test_a_line_that_is_not_utf_8_is_wrong() -> None:
    assert read(b"a counter:1\n\xff\n") == ([("counter", "a", {}, 1)], "line 2: is not UTF-8: byte 0 is 0xff")


def test_frames_are_read() -> None:
    first = frame(
        counter("before", 1),
        session({"s": "t", "x": "1"}),
        counter("a", 2**64 - 1),
        gauge("b", -5, x="2"),
        histogram("h", 1, 3, [7, 8, 9]),
    )
    assert read(first, frame(), frame(session({}), counter("a", 2)), protocol="binary") == (
        [
            ("counter", "before", {}, 1),
            ("counter", "a", {"s": "t", "x": "1"}, 2**64 - 1),
            ("gauge", "b", {"s": "t", "x": "2"}, -5),
            ("histogram", "h", {"s": "t", "x": "1"}, (1, 3, 7, 8, 9, 0, 0, 0)),
            ("counter", "a", {}, 2),
        ],
        "",
    )


BAD_FRAMES = [
    (frame(magic=b"REZX"), "frame 1: expected b'REZL', found b'REZX'"),
    (frame() + b"X", "frame 2: expected b'REZL', found b'X'"),
    (frame(major=2), "frame 1: expected version 1, found 2.0"),
    (frame(b"x" * (MESSAGE_BYTES + 1)), f"expected at most {MESSAGE_BYTES} bytes, found {MESSAGE_BYTES + 1}"),
    (frame()[:-1], "frame 1: does not end"),
    (frame(counter("a", 1))[:-1], "frame 1: does not end"),
    (frame(counter("a", 1), count=2), "frame 1, message 2: expected 1 more bytes, found 0"),
    (frame(counter("a", 1), counter("b", 1), count=1), "frame 1: 14 bytes behind the last of 1 messages"),
    (frame(b"\4"), "expected a type from 0 to 3, found 4"),
    (frame(b"\1\0"), "expected 8 more bytes, found 1"),
    (frame(counter("", 1)), "expected a metric name of letters"),
    (frame(counter("a b", 1)), "expected a metric name of letters"),
    (frame(b"\1" + bytes(8) + b"\1\0\xff\0\0"), "the metric name is not UTF-8: b'\\xff'"),
    (frame(b"\0\1\0\1x\1\xff"), "the value of a label is not UTF-8"),
    (frame(session({f"l{n}": "" for n in range(LABELS + 1)})), f"more than {LABELS} labels"),
    (frame(b"\0\2\0" + 2 * labels_of({"x": "1"})[2:]), "the label 'x' is there twice"),
    (frame(histogram("h", 5, 5, [])), "found 5,5"),
    (frame(histogram("h", 0, 1, [1, 2, 3])), "a histogram 0,1 has 2 buckets, found 3"),
]


@pytest.mark.parametrize(("data", "problem"), BAD_FRAMES)
def test_what_is_wrong_with_a_frame_is_said(data: bytes, problem: str) -> None:
    assert problem in read(data, protocol="binary")[1]


def test_what_comes_before_a_mistake_is_taken() -> None:
    assert read(b"a counter:1\nb\nc counter:1\n")[0] == [("counter", "a", {}, 1)]
    assert read(frame(counter("a", 1), b"\7"))[0] == [("counter", "a", {}, 1)]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (frame(counter("a", 1)), 1),
        (b"REZ counter:1\n", 1),
        (b"REZ", 0),
        (b"RE\n", 0),
    ],
)
def test_the_first_bytes_tell_the_protocol(data: bytes, found: int) -> None:
    assert [len(read(*pieces)[0]) for pieces in ((data,), [bytes([byte]) for byte in data])] == [found, found]


def test_a_protocol_that_is_configured_is_not_guessed() -> None:
    assert "expected a metric name" in read(frame(), b"\n", protocol="line")[1]
    assert "expected b'REZL'" in read(b"a counter:1\n", protocol="binary")[1]


def test_the_labels_of_a_metric_win_over_those_of_the_session() -> None:
    assert merge((("a", "1"), ("c", "1")), (("b", "2"), ("c", "2"))) == (("a", "1"), ("b", "2"), ("c", "2"))


SENSIBLE = st.sampled_from(
    [text.encode() for text, _ in GOOD_LINES]
    + [text.encode() for text, _ in BAD_LINES if len(text) < 1000]
    + [data for data, _ in BAD_FRAMES if len(data) < 1000]
    + [frame(counter("a", 1, x="y"), session({"s": "t"}), histogram("h", 0, 1, [1])), b"REZ", b"\n", b"a counter:1\n"]
)
STREAMS = st.lists(st.one_of(SENSIBLE, st.binary(max_size=40)), max_size=5).map(b"".join)


@given(st.sampled_from(PROTOCOLS), STREAMS, st.lists(st.integers(0, 200), max_size=8))
def test_no_bytes_raise_anything_else_and_how_they_are_cut_changes_nothing(
    protocol: Protocol, data: bytes, cuts: list[int]
) -> None:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[begin:end] for begin, end in itertools.pairwise(places)]
    assert read(*pieces, protocol=protocol) == read(data, protocol=protocol)
    assert read(*(bytes([byte]) for byte in data), protocol=protocol) == read(data, protocol=protocol)
