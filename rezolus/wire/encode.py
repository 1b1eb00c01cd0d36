"""From readings to snapshots of Rezolus: V2, which every version of it reads, and V3.

All that does not change between readings of one catalog (keys, labels, schemas) is encoded once; a snapshot then is these
bytes and the numbers. In V2 every metric has three elements: a fourth makes versions before 5.17.1 refuse the snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from rezolus.reading import ABSENT_GAUGE, Catalog, Reading, Series
from rezolus.recording.segment import Identity, identity
from rezolus.wire.fnv import fnv1a_128
from rezolus.wire.messages import V2, V3, Group, Schema, h2_config

Version = Literal["v2", "v3"]

HIDDEN = "log_"
"""Metrics whose name begins with this are nobody's business."""
UNSAMPLED = "rezolus"
"""Group of what belongs to no sampler."""
REMEMBERED = 65_536
"""Series that are gone and keep their key in case they come back."""

NS = 10**9
V3_BEGINS = 0x94
"""An array of four elements."""
_SLOT = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_encode = msgspec.msgpack.Encoder().encode

Positions = npt.NDArray[np.intp]


class Encoder:
    """Encodes the readings of one agent, one after the other. `metadata`: of the snapshots: `source` and `version`."""

    def __init__(self, version: Version, metadata: Mapping[str, str]) -> None:
        self._version = version
        self._metadata = msgspec.Raw(_encode(dict(metadata)))
        self._keys = Keys()
        self._catalog: Catalog | None = None
        self._flat = _Flat((), (), ())
        self._groups: tuple[_Group, ...] = ()

    def encode(self, reading: Reading) -> bytes:
        """The snapshot of a reading.

        V2 leaves out gauges without a value and counters at 0 that have an `id`, as Rezolus does. A series has the same
        key in every snapshot.
        """
        if reading.catalog is not self._catalog:
            self._enter(reading.catalog)
        begin, duration = divmod(reading.time_ns, NS), divmod(reading.duration_ns, NS)
        if self._version == "v2":
            return _encode((begin, duration, self._metadata, *self._flat.values(reading)))
        window = (reading.time_ns, reading.time_ns + reading.duration_ns)
        return _encode((begin, duration, self._metadata, [group.values(reading, window) for group in self._groups]))

    def _enter(self, catalog: Catalog) -> None:
        kinds = [
            [_Member.of(at, series, self._keys.key_of(series)) for at, series in enumerate(group) if _is_shown(series)]
            for group in (catalog.counters, catalog.gauges, catalog.histograms)
        ]
        if self._version == "v2":
            self._flat = _Flat(*(tuple(members) for members in kinds))
        else:
            self._groups = _grouped(kinds)
        self._keys.forget(sum(map(len, kinds)))
        self._catalog = catalog


class Keys:
    """Gives every series a key of its own: `<number>x<id>` when it has an `id` that is a number, `<number>` otherwise.

    Series that differ in their `id` only have the same number.
    """

    def __init__(self) -> None:
        self._numbers: dict[Identity, int] = {}
        self._next = 0

    def key_of(self, series: Series) -> str:
        """The series' key, the same one as before if it had one."""
        slot = _slot(series)
        owner = identity(series)
        if slot is not None:
            rest = tuple(label for label in owner[2] if label[0] != "id")
            owner = (*owner[:2], rest, *owner[3:])
        number = self._numbers.pop(owner, None)
        if number is None:
            number = self._next
            self._next += 1
        self._numbers[owner] = number  # again at the end: those at the beginning are forgotten first
        return str(number) if slot is None else f"{number}x{slot}"

    def forget(self, in_use: int) -> None:
        """Drop what has been gone for longest; at most `in_use` of the last ones asked for are in use."""
        for owner in list(self._numbers)[: max(0, len(self._numbers) - in_use - REMEMBERED)]:
            del self._numbers[owner]


@dataclass(frozen=True, slots=True)
class _Member:
    """A series as it is written."""

    at: int
    """Position among those of its kind in the catalog."""
    series: Series
    key: str
    labels: msgspec.Raw
    config: msgspec.Raw | None
    """Of a histogram."""

    @classmethod
    def of(cls, at: int, series: Series, key: str) -> _Member:
        labels = {**series.labels, "metric": series.name}
        if series.unit:
            labels["unit"] = series.unit
        if series.sampler:
            labels["sampler"] = series.sampler
        config = None
        if series.kind == "histogram":
            labels |= {"grouping_power": str(series.power), "max_value_power": str(series.max_power)}
            config = msgspec.Raw(_encode(h2_config(series.power, series.max_power)))
        return cls(at, series, key, msgspec.Raw(_encode(dict(sorted(labels.items())))), config)


class _Flat:
    """Members one after the other, each with its labels: V2."""

    def __init__(self, counters: Sequence[_Member], gauges: Sequence[_Member], histograms: Sequence[_Member]) -> None:
        self._counters = [(one.key, one.labels, one.at, _slot(one.series) is not None) for one in counters]
        self._gauges = [(one.key, one.labels, one.at) for one in gauges]
        self._histograms = histograms

    def values(self, reading: Reading) -> tuple[list[object], list[object], list[object]]:
        """The three last elements of a snapshot."""
        counters = reading.counters.tolist()
        gauges = reading.gauges.tolist()
        return (
            [
                (key, counters[at], labels)
                for key, labels, at, optional in self._counters
                if not optional or counters[at]
            ],
            [(key, gauges[at], labels) for key, labels, at in self._gauges if gauges[at] != ABSENT_GAUGE],
            [(one.key, _histogram(reading, one), one.labels) for one in self._histograms],
        )


class _Group:
    """Members of one sampler with their schema: V3."""

    def __init__(self, name: str, kinds: Sequence[Sequence[_Member]]) -> None:
        schema = _encode([[(one.key, one.labels) for one in members] for members in kinds])
        self._head = (name, fnv1a_128(schema), msgspec.Raw(schema))
        self._counters, self._gauges = _positions(kinds[0]), _positions(kinds[1])
        self._histograms = kinds[2]

    def values(self, reading: Reading, window: tuple[int, int]) -> tuple[object, ...]:
        """The group as it is written."""
        gauges = reading.gauges[self._gauges].tolist()
        return (
            *self._head,
            window,
            reading.counters[self._counters].tolist(),
            [None if value == ABSENT_GAUGE else value for value in gauges],
            [_histogram(reading, one) for one in self._histograms],
        )


def _grouped(kinds: Iterable[Sequence[_Member]]) -> tuple[_Group, ...]:
    groups: dict[str, tuple[list[_Member], list[_Member], list[_Member]]] = {}
    for kind, members in enumerate(kinds):
        for member in members:
            groups.setdefault(f"{member.series.sampler or UNSAMPLED}/main", ([], [], []))[kind].append(member)
    return tuple(_Group(name, groups[name]) for name in sorted(groups))


def _histogram(reading: Reading, member: _Member) -> tuple[msgspec.Raw | None, list[int]]:
    offsets = reading.catalog.histogram_offsets
    return member.config, reading.histograms[offsets[member.at] : offsets[member.at + 1]].tolist()


def _positions(members: Sequence[_Member]) -> Positions:
    return np.array([member.at for member in members], np.intp)


def _is_shown(series: Series) -> bool:
    return not series.name.startswith(HIDDEN)


def _slot(series: Series) -> str | None:
    number = series.labels.get("id", "")
    return number if _SLOT.fullmatch(number) else None


def to_json(body: bytes) -> bytes:
    """A snapshot of V2 or V3 that we encoded, as JSON with the names of the fields."""
    message = msgspec.msgpack.decode(body, type=V3 if body[0] == V3_BEGINS else V2)
    return msgspec.json.encode(_named(message))


def _named(value: object) -> object:
    """Structures, which on the wire are arrays, as objects. A metric without a window has no such field."""
    match value:
        case msgspec.Raw():
            return _named(msgspec.msgpack.decode(value, type=Schema))
        case [first, *_] if not isinstance(first, int):  # numbers, which are most of it, are left as they are
            return [_named(one) for one in value]
        case msgspec.Struct():
            fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
            return {name: _named(field) for name, field in fields if field is not None or isinstance(value, Group)}
        case _:
            return value
