"""From snapshots of Rezolus (V1, V2, V3) to readings.

A decoder stays with one remote: what it worked out for the previous snapshot (schemas, series, the catalog) is used again as
long as the next one has the same series, so that a snapshot costs little more than taking its numbers apart. All it
remembers is of the previous snapshot, so its memory is bounded by the size of what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Literal, TypeVar

import msgspec
import numpy as np

from rezolus.errors import UserError
from rezolus.reading import ABSENT_GAUGE, I64, U64, Catalog, Kind, Reading, Series, histogram_buckets
from rezolus.wire.fnv import fnv1a_128
from rezolus.wire.messages import (
    H2,
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
from rezolus.wire.split import BadMessageError, message_end

NS = 10**9
POWERS = frozenset({"grouping_power", "max_value_power"})
NOT_LABELS = POWERS | {"metric", "unit", "sampler"}
"""Metadata that says what a series is rather than which one of its metric."""

LONGEST = 80
"""Characters of a group's name that are shown."""
PROBLEMS = 8
"""How many problems of a snapshot are told."""

_DECODERS = {length: msgspec.msgpack.Decoder(version) for length, version in VERSIONS.items()}
_SCHEMA = msgspec.msgpack.Decoder(Schema)
_DAMAGE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")
Version = Literal["v1", "v2", "v3"]
SeriesLists = tuple[list[Series], list[Series], list[Series]]


class WireError(UserError):
    """The bytes are no snapshot."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"not a snapshot of Rezolus: {self.problem}"


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
        self._columns = _Columns()
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
        configs = [_check_histogram(histogram.value) for histogram in histograms]
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
            [histogram.value.buckets for histogram in histograms],
        )
        reading.time_ns, reading.duration_ns = _time_ns(message.systemtime), _duration_ns(duration)
        return Snapshot(reading, message.metadata, version)

    def _grouped(self, message: V3) -> Snapshot:
        problems: list[str] = []
        used: dict[_SchemaKey, _GroupSchema] = {}
        parts: list[tuple[_GroupSchema, _Present, tuple[H2Config | None, ...]]] = []
        counters: list[int] = []
        gauges: list[int] = []
        buckets: list[list[int]] = []
        for group in message.groups:
            schema = self._schema_of(group, problems)
            if schema is None:
                continue
            used[group.name, group.schema_hash] = schema
            present = _present(group.counters)
            configs = tuple(None if value is None else _check_histogram(value) for value in group.histograms)
            parts.append((schema, present, configs))
            counters += [value for value in group.counters if value is not None]
            gauges += [ABSENT_GAUGE if value is None else value for value in group.gauges]
            buckets += [value.buckets for value in group.histograms if value is not None]
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
_Present = tuple[int, ...] | None
"""Positions of the values that are there; None: all of them."""
_MakeSeries = Callable[[Kind, str, Mapping[str, str], H2Config | None], Series]


_Key = tuple[Kind, frozenset[tuple[str, str]], H2Config | None]
_Entry = tuple[Mapping[str, str], H2Config | None, _Key, Series]
"""What stood under a name of the wire: its labels and configuration as they came, and the series that makes."""


class _Columns:
    """Makes readings, with the catalog of the one before when the signature is the same."""

    def __init__(self) -> None:
        self._signature: object = None
        self._catalog = Catalog((), (), ())
        self._kept: tuple[_Present, _Present, _Present] = (None, None, None)
        self._series: dict[_Key, Series] = {}
        self._entries: dict[tuple[Kind, str], _Entry] = {}

    def reading(
        self,
        signature: object,
        series: Callable[[_MakeSeries], SeriesLists],
        counters: Sequence[int],
        gauges: Sequence[int],
        buckets: Sequence[list[int]],
    ) -> Reading:
        """A reading of these values without its times; `series` is asked only if `signature` is a new one."""
        if signature != self._signature:
            self._enter(series)
            self._signature = signature
        kept = self._kept
        return Reading(
            catalog=self._catalog,
            time_ns=0,
            monotonic_ns=0,
            duration_ns=0,
            counters=_u64(_chosen(counters, kept[0])),
            gauges=_i64(_chosen(gauges, kept[1])),
            histograms=_u64(list(chain.from_iterable(_chosen(buckets, kept[2])))),
        )

    def _enter(self, series: Callable[[_MakeSeries], SeriesLists]) -> None:
        """Make a new catalog of series, those of the catalog before being the same objects."""
        before, now = self._series, dict[_Key, Series]()
        entries: dict[tuple[Kind, str], _Entry] = {}

        def make(kind: Kind, name: str, metadata: Mapping[str, str], config: H2Config | None) -> Series:
            entry = self._entries.get((kind, name))
            if entry is None or entry[0] != metadata or entry[1] != config:
                key = (kind, frozenset(_normal(metadata, name).items()), config)
                found = now.get(key) or before.get(key) or _make_series(*key)
                entry = (metadata, config, key, found)
            entries[kind, name] = entry
            now[entry[2]] = entry[3]
            return entry[3]

        groups = series(make)
        self._signature = None
        self._kept = (_last_of_each(groups[0]), _last_of_each(groups[1]), _last_of_each(groups[2]))
        self._catalog = Catalog(*(tuple(_chosen(group, kept)) for group, kept in zip(groups, self._kept, strict=True)))
        self._series, self._entries = now, entries


def _flat_series(
    make: _MakeSeries, counters: list[Counter], gauges: list[Gauge], histograms: list[FlatHistogram]
) -> SeriesLists:
    return (
        [make("counter", metric.name, metric.metadata, None) for metric in counters],
        [make("gauge", metric.name, metric.metadata, None) for metric in gauges],
        [make("histogram", metric.name, metric.metadata, metric.value.config) for metric in histograms],
    )


def _grouped_series(
    make: _MakeSeries, parts: list[tuple[_GroupSchema, _Present, tuple[H2Config | None, ...]]]
) -> SeriesLists:
    lists: SeriesLists = ([], [], [])
    for schema, present, configs in parts:
        message = schema.message
        lists[0].extend(make("counter", desc.name, desc.metadata, None) for desc in _chosen(message.counters, present))
        lists[1].extend(make("gauge", desc.name, desc.metadata, None) for desc in message.gauges)
        pairs = zip(message.histograms, configs, strict=True)
        lists[2].extend(make("histogram", d.name, d.metadata, config) for d, config in pairs if config is not None)
    return lists


def _normal(metadata: Mapping[str, str], name: str) -> dict[str, str]:
    """The same for the same series: the name as a label, without powers and without what is empty and no label."""
    normal = {key: value for key, value in metadata.items() if key not in NOT_LABELS or (value and key not in POWERS)}
    normal.setdefault("metric", name)
    return normal


def _make_series(kind: Kind, normal: Iterable[tuple[str, str]], config: H2Config | None) -> Series:
    metadata = dict(sorted(normal))
    if not metadata["metric"]:
        raise WireError(f"a {kind} has neither a name nor the label `metric`")
    labels = {key: value for key, value in metadata.items() if key not in NOT_LABELS}
    power, max_power = (3, 64) if config is None else (config.grouping_power, config.max_value_power)
    return Series(
        metadata["metric"],
        kind,
        labels,
        unit=metadata.get("unit", ""),
        sampler=metadata.get("sampler", ""),
        power=power,
        max_power=max_power,
    )


def _check_histogram(histogram: H2) -> H2Config:
    """Its configuration. Raises WireError when that is none, or when the number of buckets is another."""
    config = histogram.config
    expected = _buckets_of(config)
    if len(histogram.buckets) != expected:
        raise WireError(f"a histogram has {len(histogram.buckets)} buckets where its configuration says {expected}")
    return config


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


def _last_of_each(series: list[Series]) -> _Present:
    """Positions without those of series that come again later in the list; of one catalog, the same are one object."""
    last = {id(one): at for at, one in enumerate(series)}
    return None if len(last) == len(series) else tuple(sorted(last.values()))


def _present(values: list[int | None]) -> _Present:
    absent = values.count(None)
    if not absent:
        return None
    return () if absent == len(values) else tuple(at for at, value in enumerate(values) if value is not None)


def _chosen(values: Sequence[T], present: _Present) -> Sequence[T]:
    return values if present is None else [values[at] for at in present]


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


def _u64(values: Sequence[int]) -> U64:
    return np.fromiter(values, np.uint64, len(values))


def _i64(values: Sequence[int]) -> I64:
    return np.fromiter(values, np.int64, len(values))


def _show(name: str) -> str:
    """A name from elsewhere, on one line and not longer than one reads."""
    name = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
    return name if name.isprintable() else repr(name)


def _sentence(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "a text in it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = str(error)
    return f"{text[:1].lower()}{text[1:]}"
