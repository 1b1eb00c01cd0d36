"""Whatever bytes come: a snapshot or a WireError, and the next snapshot is read as if nothing had been."""

from __future__ import annotations

import random
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rezolus.reading import Reading, histogram_buckets
from rezolus.recording.split import BadMessageError, message_end
from rezolus.wire.decode import Decoder, Snapshot, WireError, decode_stream
from rezolus.wire.encode import Encoder
from rezolus.wire.fnv import fnv1a_128
from rezolus.wire.messages import BUCKETS_TOGETHER, MOST_BUCKETS, MOST_SERIES, h2_config
from tests.wire.readings import readings, values
from tests.wire.test_decode import data

SMALL = ("v1.msgpack", "v2.msgpack", "v3.msgpack")
LARGE = ("live/agent-v2.msgpack", "live/agent-v3.msgpack")
MARKS = bytes(
    [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xC0, 0xC1, 0xC4, 0xCB, 0xCF, 0xD3, 0xD9, 0xDC, 0xDD, 0xDF, 0xFF]
)
"""First bytes of every form, the most harmful lengths included."""


def attempt(body: bytes) -> Snapshot | None:
    """The snapshot, or None when it was refused in a sentence."""
    try:
        snapshot = Decoder().decode(body)
    except WireError as error:
        sentence = str(error)
    else:
        return _consistent(snapshot)
    assert len(sentence) < 300
    assert sentence.isprintable()
    return None


def _consistent(snapshot: Snapshot) -> Snapshot:
    assert all(problem.isprintable() for problem in snapshot.problems)
    reading = snapshot.reading
    assert len(reading.counters) == len(reading.catalog.counters)
    assert len(reading.gauges) == len(reading.catalog.gauges)
    assert len(reading.histograms) == reading.catalog.histogram_offsets[-1]
    return snapshot


@pytest.mark.parametrize("name", SMALL)
def test_cut_off_anywhere_it_is_refused(name: str) -> None:
    body = data(name)
    assert [attempt(body[:at]) for at in range(len(body))] == [None] * len(body)


@pytest.mark.parametrize("name", LARGE)
def test_a_large_one_cut_off_somewhere_is_refused(name: str) -> None:
    body, choice = data(name), random.Random(5)
    assert all(attempt(body[: choice.randrange(len(body))]) is None for _ in range(100))


@pytest.mark.parametrize("name", SMALL)
def test_every_byte_replaced_by_every_mark(name: str) -> None:
    body = data(name)
    for at in range(len(body)):
        for mark in MARKS:
            attempt(body[:at] + bytes([mark]) + body[at + 1 :])


@pytest.mark.parametrize("name", LARGE)
def test_a_large_one_with_some_bytes_changed(name: str) -> None:
    body, choice = data(name), random.Random(6)
    for _ in range(50):
        damaged = bytearray(body)
        for _ in range(choice.randint(1, 4)):
            damaged[choice.randrange(len(body) // choice.choice((1, 1, 100)))] = choice.choice(MARKS)
        attempt(bytes(damaged))


@given(st.binary(max_size=64), st.sampled_from([b"", b"\x94", b"\x95", b"\x96", b"\x96\x92\x01\x00\x92\x00\x00\x80"]))
def test_any_bytes(tail: bytes, head: bytes) -> None:
    attempt(head + tail)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(st.lists(VALUES, min_size=4, max_size=6))
def test_any_message_of_the_right_length(message: list[object]) -> None:
    attempt(msgspec.msgpack.encode(message))


@given(readings(), st.data())
def test_a_change_of_a_valid_one(found: Reading, chosen: st.DataObject) -> None:
    body = bytearray(Encoder(chosen.draw(st.sampled_from(["v2", "v3"])), {}).encode(found))
    for _ in range(chosen.draw(st.integers(1, 3))):
        body[chosen.draw(st.integers(0, len(body) - 1))] = chosen.draw(st.integers(0, 255))
    attempt(bytes(body))


@given(st.binary(max_size=200))
def test_a_stream_of_any_bytes(tail: bytes) -> None:
    found = decode_stream(data("v2.msgpack") + tail)
    assert next(found).version == "v2"
    try:
        for _ in found:
            pass
    except WireError:
        return


def test_a_decoder_that_met_garbage_reads_on() -> None:
    decoder, choice = Decoder(), random.Random(7)
    body = data("live/agent-v3.msgpack")
    expected = decoder.decode(body).reading
    for _ in range(30):
        damaged = bytearray(body)
        for _ in range(3):
            damaged[choice.randrange(len(body))] = choice.choice(MARKS)
        try:
            decoder.decode(bytes(damaged))
        except WireError:
            continue
    assert values(decoder.decode(body).reading) == values(expected)


@pytest.mark.parametrize(
    "body",
    [
        b"\x96\x92\x01\x00\x92\x00\x00\x80\xdd\xff\xff\xff\xff" + b"\x00" * 1000,
        b"\x96\x92\x01\x00\x92\x00\x00\xdf\xff\xff\xff\xff" + b"\xa0" * 1000,
        b"\x94\x92\x01\x00\x92\x00\x00\x80\xdd\xff\xff\xff\xff" + b"\x97" * 1000,
        b"\x95\x92\x01\x00\x80\xdd\xff\xff\xff\xff" + b"\x93\xdb\xff\xff\xff\xff" * 100,
        b"\x96\x92\x01\x00\x92\x00\x00\x80\x90\x90\x91\x93\xa0\x92\x98\xcf" + b"\xff" * 8 + b"\x3e\x40" + b"\x00" * 900,
    ],
)
def test_a_length_that_is_claimed_takes_no_memory(body: bytes) -> None:
    tracemalloc.start()
    try:
        assert attempt(body) is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_more_series_than_anybody_has_are_refused_before_they_are_decoded() -> None:
    tiny = b"\x93\xa1a\x00\x80" * (MOST_SERIES + 1)
    body = b"\x96\x92\x01\x00\x92\x00\x00\x80\xdd" + (MOST_SERIES + 1).to_bytes(4, "big") + tiny + b"\x90\x90"
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match=f"array` of length <= {MOST_SERIES}"):
            Decoder().decode(body)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_kinds_together_do_not_have_more_series_than_one_could() -> None:
    half = [["a", 0, {}]] * (MOST_SERIES // 2)
    assert attempt(msgspec.msgpack.encode([[1, 0], [0, 0], {}, half, half, []])) is not None
    with pytest.raises(WireError, match=f"it has more than {MOST_SERIES} series"):
        Decoder().decode(msgspec.msgpack.encode([[1, 0], [0, 0], {}, half, [*half, ["b", 0, {}]], []]))


def test_many_groups_do_not_have_more_series_than_one_could() -> None:
    members = MOST_SERIES // 4
    schema = [[["a", {}]] * members, [], []]
    group = ["g", fnv1a_128(msgspec.msgpack.encode(schema)), schema, None, [None] * members, [], []]
    assert attempt(msgspec.msgpack.encode([[1, 0], [0, 0], {}, [group] * 4])) is not None
    with pytest.raises(WireError, match=f"more than {MOST_SERIES} members"):
        Decoder().decode(msgspec.msgpack.encode([[1, 0], [0, 0], {}, [group] * 5]))


def with_histograms(version: str, power: int, count: int) -> bytes:
    """A snapshot of so many histograms of this grouping power, all of whose buckets are 0."""
    length = histogram_buckets(power)
    h2 = b"\x92" + msgspec.msgpack.encode(h2_config(power, 64)) + b"\xdd" + length.to_bytes(4, "big") + bytes(length)
    many = b"\xdd" + count.to_bytes(4, "big")
    if version == "v2":
        return b"\x96\x92\x01\x00\x92\x00\x00\x80\x90\x90" + many + (b"\x93\xa1a" + h2 + b"\x80") * count
    schema = [[], [], [["a", {}]] * count]
    group = [msgspec.msgpack.encode(part) for part in ("g", fnv1a_128(msgspec.msgpack.encode(schema)), schema, None)]
    return b"\x94\x92\x01\x00\x92\x00\x00\x80\x91\x97" + b"".join(group) + b"\x90\x90" + many + h2 * count


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_histogram_finer_than_anybody_has_is_refused(version: str) -> None:
    finest = attempt(with_histograms(version, 10, 1))
    assert finest is not None
    assert len(finest.reading.histograms) == 56_320
    with pytest.raises(WireError, match=f"array` of length <= {MOST_BUCKETS}"):
        Decoder().decode(with_histograms(version, 11, 1))


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_histograms_have_so_many_buckets_together_and_no_more(version: str) -> None:
    most = BUCKETS_TOGETHER // histogram_buckets(10)
    assert attempt(with_histograms(version, 10, most)) is not None
    with pytest.raises(WireError, match=f"more than {BUCKETS_TOGETHER} buckets together"):
        Decoder().decode(with_histograms(version, 10, most + 1))


def test_what_is_remembered_is_of_the_last_snapshot_only() -> None:
    decoder = Decoder()
    for number in range(50):
        metadata = {"metric": "m", "name": str(number)}
        schema = [[["0", metadata]], [], []]
        group = [f"g{number}", fnv1a_128(msgspec.msgpack.encode(schema)), schema, None, [1], [], []]
        decoder.decode(msgspec.msgpack.encode([[1, 0], [0, 0], {}, [group]]))
    assert len(decoder._schemas) == len(decoder._columns._series) == 1


@given(VALUES, st.binary(max_size=8))
def test_a_message_ends_where_it_does_whatever_follows(value: object, tail: bytes) -> None:
    body = msgspec.msgpack.encode(value)
    assert message_end(memoryview(body + tail), 0) == len(body)
    with pytest.raises(BadMessageError):
        message_end(memoryview(body[:-1]), 0)


@pytest.mark.parametrize(
    "body",
    [b"\xc7\x02\x05ab", b"\xc8\x00\x01\x05a", b"\xd4\x05a", b"\xd8\x05" + bytes(16), b"\xc4\x01a", b"\xca" + bytes(4)],
)
def test_forms_that_snapshots_do_not_have_end_too(body: bytes) -> None:
    assert message_end(memoryview(body * 2), 0) == len(body)
