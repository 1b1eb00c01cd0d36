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
        self._members: dict[Identity, _Member] = {}
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
        """Work out what is the same for all readings of a catalog; for series of the catalog before it is already there."""
        before, self._members = self._members, {}
        kinds = [
            [
                (at, self._member(series, before))
                for at, series in enumerate(group)
                if not series.name.startswith(HIDDEN)
            ]
            for group in (catalog.counters, catalog.gauges, catalog.histograms)
        ]
        if self._version == "v2":
            self._flat = _Flat(*kinds)
        else:
            self._groups = _grouped(kinds, {group.name: group for group in self._groups})
        self._keys.forget_all_but(catalog)
        self._catalog = catalog

    def _member(self, series: Series, before: Mapping[Identity, _Member]) -> _Member:
        what = identity(series)
        member = before.get(what) or _Member.of(series, self._keys.key_of(series))
        self._members[what] = member
        return member


class Keys:
    """Gives every series a key of its own: `<number>x<id>` when it has an `id` that is a number, `<number>` otherwise.

    Series that differ in their `id` only have the same number. No number is given twice. `remembered`: so many keep theirs
    while they are gone.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._numbers: dict[Identity, int] = {}
        self._next = 0

    def key_of(self, series: Series) -> str:
        """The series' key, the same one as before if it had one."""
        owner = _owner(series)
        number = self._numbers.get(owner)
        if number is None:
            number = self._numbers[owner] = self._next
            self._next += 1
        slot = _slot(series)
        return str(number) if slot is None else f"{number}x{slot}"

    def forget_all_but(self, catalog: Catalog) -> None:
        """Forget series that are not in the catalog, if these have become too many."""
        groups = (catalog.counters, catalog.gauges, catalog.histograms)
        if len(self._numbers) > self._remembered + sum(map(len, groups)):
            owners = (_owner(series) for group in groups for series in group)
            self._numbers = {owner: self._numbers[owner] for owner in owners if owner in self._numbers}


def _owner(series: Series) -> Identity:
    """What has a number: a series but for its `id`."""
    what = identity(series)
    if _slot(series) is None:
        return what
    return (*what[:2], tuple(label for label in what[2] if label[0] != "id"), *what[3:])


def _slot(series: Series) -> str | None:
    number = series.labels.get("id", "")
    return number if _SLOT.fullmatch(number) else None


@dataclass(frozen=True, slots=True, eq=False)
class _Member:
    """A series as it is written."""

    key: str
    labels: msgspec.Raw
    config: msgspec.Raw | None
    """Of a histogram."""
    group: str
    optional: bool
    """Of a counter: that V2 leaves it out at 0."""

    @classmethod
    def of(cls, series: Series, key: str) -> _Member:
        labels = {**series.labels, "metric": series.name}
        if series.unit:
            labels["unit"] = series.unit
        if series.sampler:
            labels["sampler"] = series.sampler
        config = None
        if series.kind == "histogram":
            labels |= {"grouping_power": str(series.power), "max_value_power": str(series.max_power)}
            config = msgspec.Raw(_encode(h2_config(series.power, series.max_power)))
        raw = msgspec.Raw(_encode(dict(sorted(labels.items()))))
        return cls(key, raw, config, f"{series.sampler or UNSAMPLED}/main", _slot(series) is not None)


_Placed = tuple[int, _Member]
"""A member and its position among those of its kind in the catalog."""


class _Flat:
    """Members one after the other, each with its labels: V2."""

    def __init__(self, counters: Sequence[_Placed], gauges: Sequence[_Placed], histograms: Sequence[_Placed]) -> None:
        # Unpacked, because these are gone through for every reading.
        self._counters = [(at, one.key, one.labels, one.optional) for at, one in counters]
        self._gauges = [(at, one.key, one.labels) for at, one in gauges]
        self._histograms = histograms

    def values(self, reading: Reading) -> tuple[list[object], list[object], list[object]]:
        """The three last elements of a snapshot."""
        counters = reading.counters.tolist()
        gauges = reading.gauges.tolist()
        return (
            [
                (key, counters[at], labels)
                for at, key, labels, optional in self._counters
                if not optional or counters[at]
            ],
            [(key, gauges[at], labels) for at, key, labels in self._gauges if gauges[at] != ABSENT_GAUGE],
            [(one.key, _histogram(reading, at, one), one.labels) for at, one in self._histograms],
        )


class _Group:
    """Members of one sampler with their schema: V3."""

    def __init__(self, name: str, kinds: Sequence[Sequence[_Placed]], before: _Group | None) -> None:
        """`before`: the group of this name of the catalog before, whose schema stays if the members do."""
        self.name = name
        self._counters, self._gauges = _positions(kinds[0]), _positions(kinds[1])
        self._histograms = kinds[2]
        self.members = [[one for _, one in placed] for placed in kinds]
        self.head: tuple[str, tuple[int, int], msgspec.Raw]
        """Name, hash of the schema, the schema."""
        if before is not None and before.members == self.members:
            self.head = before.head
        else:
            schema = _encode([[(one.key, one.labels) for one in members] for members in self.members])
            self.head = (name, fnv1a_128(schema), msgspec.Raw(schema))

    def values(self, reading: Reading, window: tuple[int, int]) -> tuple[object, ...]:
        """The group as it is written."""
        gauges = reading.gauges[self._gauges].tolist()
        return (
            *self.head,
            window,
            reading.counters[self._counters].tolist(),
            [None if value == ABSENT_GAUGE else value for value in gauges],
            [_histogram(reading, at, one) for at, one in self._histograms],
        )


def _grouped(kinds: Iterable[Sequence[_Placed]], before: Mapping[str, _Group]) -> tuple[_Group, ...]:
    groups: dict[str, tuple[list[_Placed], list[_Placed], list[_Placed]]] = {}
    for kind, members in enumerate(kinds):
        for placed in members:
            groups.setdefault(placed[1].group, ([], [], []))[kind].append(placed)
    return tuple(_Group(name, groups[name], before.get(name)) for name in sorted(groups))


def _histogram(reading: Reading, at: int, member: _Member) -> tuple[msgspec.Raw | None, list[int]]:
    offsets = reading.catalog.histogram_offsets
    return member.config, reading.histograms[offsets[at] : offsets[at + 1]].tolist()


def _positions(members: Sequence[_Placed]) -> Positions:
    return np.array([at for at, _ in members], np.intp)


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
