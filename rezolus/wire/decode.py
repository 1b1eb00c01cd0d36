"""From snapshots of Rezolus (V1, V2, V3) to readings.

A decoder stays with one remote: what it worked out for the previous snapshot (schemas, series, the catalog) is used again as
long as the next one has the same series, so that a snapshot costs little more than taking its numbers apart. All it
remembers is of the previous snapshot, so its memory is bounded by the size of what it is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import msgspec

from rezolus.reading import ABSENT_GAUGE, Reading, histogram_buckets
from rezolus.recording.split import BadMessageError, message_end
from rezolus.wire.columns import Columns, MakeSeries, Present, SeriesLists, WireError, chosen
from rezolus.wire.fnv import fnv1a_128
from rezolus.wire.messages import (
    BUCKETS_TOGETHER,
    H2,
    MOST_SERIES,
    NIL,
    V1,
    V2,
    V3,
    VERSIONS,
    Counter,
    Duration,
    Gauge,
    Group,
    H2Config,
    Schema,
    SystemTime,
    h2_config,
)
from rezolus.wire.messages import Histogram as FlatHistogram

__all__ = ["Decoder", "Snapshot", "Version", "WireError", "decode_stream"]

NS = 10**9
LONGEST = 80
"""Characters of a group's name that are shown."""
PROBLEMS = 8
"""How many problems of a snapshot are told."""

_DECODERS = {length: msgspec.msgpack.Decoder(version) for length, version in VERSIONS.items()}
_SCHEMA = msgspec.msgpack.Decoder(Schema)
_DAMAGE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

Version = Literal["v1", "v2", "v3"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A decoded snapshot."""

    reading: Reading
    """`time_ns` is the remote's clock; `monotonic_ns` is 0, whoever received it knows when."""
    metadata: Mapping[str, str]
    """Of the snapshot as a whole: `source`, `version`."""
    version: Version
    problems: tuple[str, ...] = ()
    """What had to be left out of it, one sentence each."""


class Decoder:
    """Decodes the snapshots of one remote, one after the other."""

    def __init__(self) -> None:
        self._columns = Columns()
        self._schemas: dict[_SchemaKey, _GroupSchema] = {}

    def decode(self, body: bytes | memoryview) -> Snapshot:
        """One snapshot. Raises WireError when `body` is anything else; the next one is decoded as if this had not been.

        Snapshots one after the other with the same series give the same `Catalog` object.
        """
        try:
            message = _DECODERS[_length(body)].decode(body)
            match message:
                case V1():
                    return self._flat(message, Duration(0, 0), "v1")
                case V2():
                    return self._flat(message, message.duration, "v2")
                case V3():
                    return self._grouped(message)
        except _DAMAGE as error:
            raise WireError(_sentence(error)) from None

    def _flat(self, message: V1 | V2, duration: Duration, version: Version) -> Snapshot:
        counters, gauges, histograms = message.counters, message.gauges, message.histograms
        if len(counters) + len(gauges) + len(histograms) > MOST_SERIES:
            raise WireError(f"it has more than {MOST_SERIES} series")
        configs = [_check_histogram(histogram.value) for histogram in histograms]
        buckets = [histogram.value.buckets for histogram in histograms]
        _check_together(buckets)
        signature = (
            [(metric.name, metric.metadata) for metric in counters],
            [(metric.name, metric.metadata) for metric in gauges],
            [(metric.name, metric.metadata) for metric in histograms],
            configs,
        )
        reading = self._columns.reading(
            signature,
            lambda make: _flat_series(make, counters, gauges, histograms),
            [counter.value for counter in counters],
            [gauge.value for gauge in gauges],
            buckets,
        )
        reading.time_ns, reading.duration_ns = _time_ns(message.systemtime), _duration_ns(duration)
        return Snapshot(reading, message.metadata, version)

    def _grouped(self, message: V3) -> Snapshot:
        problems: list[str] = []
        used: dict[_SchemaKey, _GroupSchema] = {}
        parts: list[tuple[_GroupSchema, Present, tuple[H2Config | None, ...]]] = []
        counters: list[int] = []
        gauges: list[int] = []
        buckets: list[list[int]] = []
        members = 0
        for group in message.groups:
            schema = self._schema_of(group, problems)
            if schema is None:
                continue
            members += sum(schema.lengths)
            if members > MOST_SERIES:
                raise WireError(f"its groups have more than {MOST_SERIES} members")
            used[group.name, group.schema_hash] = schema
            present = _present(group.counters)
            configs = tuple(None if value is None else _check_histogram(value) for value in group.histograms)
            parts.append((schema, present, configs))
            counters += [value for value in group.counters if value is not None]
            gauges += [ABSENT_GAUGE if value is None else value for value in group.gauges]
            buckets += [value.buckets for value in group.histograms if value is not None]
        _check_together(buckets)
        reading = self._columns.reading(parts, lambda make: _grouped_series(make, parts), counters, gauges, buckets)
        self._schemas = used
        reading.time_ns, reading.duration_ns = _time_ns(message.systemtime), _duration_ns(message.duration)
        return Snapshot(reading, message.metadata, "v3", tuple(problems[:PROBLEMS]))

    def _schema_of(self, group: Group, problems: list[str]) -> _GroupSchema | None:
        """The group's schema as it came or as it is known; None, with a problem, when the group cannot be used."""
        key = (group.name, group.schema_hash)
        known = self._schemas.get(key)
        raw = bytes(group.schema)
        if raw == NIL:
            if known is None:
                problems.append(
                    f"group {_show(group.name)} came without its schema, and none of that hash was there before"
                )
                return None
            schema = known
        elif known is not None and known.raw == raw:
            schema = known
        elif fnv1a_128(raw) != group.schema_hash:
            problems.append(f"group {_show(group.name)}: its schema does not have the hash it came with")
            return None
        else:
            schema = _GroupSchema(raw, _SCHEMA.decode(raw))
        if _fit(group, schema):
            problems.append(f"group {_show(group.name)} has another number of values than its schema has members")
        return schema


def decode_stream(data: bytes | memoryview) -> Iterator[Snapshot]:
    """Snapshots one directly after the other, as in a raw recording.

    Raises WireError at what is none; a last one that is cut off is an error as well, after those before it were given.
    """
    view = memoryview(data)
    decoder = Decoder()
    at = 0
    while at < len(view):
        try:
            end = message_end(view, at)
        except BadMessageError as error:
            raise WireError(f"{error} (the snapshot at byte {at})") from None
        yield decoder.decode(view[at:end])
        at = end


class _GroupSchema:
    """A schema as it came, decoded. Equal only to itself."""

    __slots__ = ("lengths", "message", "raw")

    def __init__(self, raw: bytes, message: Schema) -> None:
        self.raw = raw
        self.message = message
        self.lengths = (len(message.counters), len(message.gauges), len(message.histograms))


def _fit(group: Group, schema: _GroupSchema) -> bool:
    """Bring the group's values to the lengths of its schema: additional ones mean nothing, missing ones are absent."""
    before = (len(group.counters), len(group.gauges), len(group.histograms))
    if before == schema.lengths:
        return False
    counters, gauges, histograms = schema.lengths
    group.counters = [*group.counters[:counters], *[None] * (counters - before[0])]
    group.gauges = [*group.gauges[:gauges], *[None] * (gauges - before[1])]
    group.histograms = [*group.histograms[:histograms], *[None] * (histograms - before[2])]
    return True


_SchemaKey = tuple[str, tuple[int, int]]


def _flat_series(
    make: MakeSeries, counters: list[Counter], gauges: list[Gauge], histograms: list[FlatHistogram]
) -> SeriesLists:
    return (
        [make("counter", metric.name, metric.metadata, None) for metric in counters],
        [make("gauge", metric.name, metric.metadata, None) for metric in gauges],
        [make("histogram", metric.name, metric.metadata, metric.value.config) for metric in histograms],
    )


def _grouped_series(
    make: MakeSeries, parts: list[tuple[_GroupSchema, Present, tuple[H2Config | None, ...]]]
) -> SeriesLists:
    lists: SeriesLists = ([], [], [])
    for schema, present, configs in parts:
        message = schema.message
        lists[0].extend(make("counter", desc.name, desc.metadata, None) for desc in chosen(message.counters, present))
        lists[1].extend(make("gauge", desc.name, desc.metadata, None) for desc in message.gauges)
        pairs = zip(message.histograms, configs, strict=True)
        lists[2].extend(make("histogram", d.name, d.metadata, config) for d, config in pairs if config is not None)
    return lists


def _check_histogram(histogram: H2) -> H2Config:
    """Its configuration. Raises WireError when that is none, or when the number of buckets is another."""
    config = histogram.config
    expected = _buckets_of(config)
    if len(histogram.buckets) != expected:
        raise WireError(f"a histogram has {len(histogram.buckets)} buckets where its configuration says {expected}")
    return config


def _check_together(buckets: Iterable[list[int]]) -> None:
    """Raises WireError when all histograms together have more than a snapshot may."""
    if sum(map(len, buckets)) > BUCKETS_TOGETHER:
        raise WireError(f"its histograms have more than {BUCKETS_TOGETHER} buckets together")


@lru_cache(maxsize=64)
def _buckets_of(config: H2Config) -> int:
    power, max_power = config.grouping_power, config.max_value_power
    try:
        right = h2_config(power, max_power)
    except ValueError as error:
        raise WireError(str(error)) from None
    if config != right:
        raise WireError(f"the configuration of a histogram contradicts its powers {power} and {max_power}")
    return histogram_buckets(power, max_power)


def _present(values: list[int | None]) -> Present:
    absent = values.count(None)
    if not absent:
        return None
    return () if absent == len(values) else tuple(at for at, value in enumerate(values) if value is not None)


def _length(body: bytes | memoryview) -> int:
    """Elements of the outermost array. Raises WireError when there is none, or when no version has so many."""
    first = body[0] if len(body) else 0
    if 0x90 <= first <= 0x9F:
        length = first & 0x0F
    elif first in {0xDC, 0xDD}:
        length = int.from_bytes(body[1 : 3 if first == 0xDC else 5], "big")
    else:
        raise WireError("it does not begin with an array" if len(body) else "it is empty")
    if length not in VERSIONS:
        raise WireError(f"its outermost array has {length} elements; V1, V2 and V3 have 5, 6 and 4")
    return length


def _time_ns(time: SystemTime) -> int:
    return time.secs_since_epoch * NS + time.nanos_since_epoch


def _duration_ns(duration: Duration) -> int:
    return duration.secs * NS + duration.nanos


def _show(name: str) -> str:
    """A name from elsewhere, on one line and not longer than one reads."""
    name = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
    return name if name.isprintable() else repr(name)


def _sentence(error: Exception) -> str:
    text = str(error)
    if isinstance(error, UnicodeDecodeError) or text.startswith("Invalid UTF-8"):
        return "a text in it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"{text[:1].lower()}{text[1:]}"
