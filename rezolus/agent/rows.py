"""Which rows of a bank are series now: cgroups that live, keys that were seen.

A row set is polled once per reading. It compares one column of the bank with what it saw last, so
a reading in which nothing came or went costs one strided copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dsl.schema import KeyField
from rezolus.agent.cgroups import CgroupIdentity, CgroupNames
from rezolus.reading import U64

Index = npt.NDArray[np.intp]
Labels = Mapping[str, str]

OTHER = "(other)"
"""Label value of the row that collects what went past a bound."""


class RowSet(Protocol):
    """Rows of one bank that are series at this time."""

    rows: Index
    """Row numbers; several may share a series."""
    series: Index
    """For each of `rows`, the series it belongs to: an index into `labels`."""
    labels: tuple[Labels, ...]

    def poll(self) -> bool:
        """Look at the bank; true when `rows` or `labels` changed."""
        ...


@dataclass(slots=True)
class FixedRows:
    """Rows that never change: the possible CPUs."""

    rows: Index
    series: Index
    labels: tuple[Labels, ...]

    @classmethod
    def of_cpus(cls, cpus: tuple[int, ...], rows: int) -> FixedRows:
        """One series per CPU number below `rows`, label `id`."""
        present = np.array([cpu for cpu in cpus if cpu < rows], dtype=np.intp)
        return cls(present, np.arange(present.size), tuple({"id": str(cpu)} for cpu in present))

    def poll(self) -> bool:
        return False


class Earlier(Protocol):
    """What rows had counted in a bank before this one (`bases.Base`)."""

    values: U64

    def expire(self, serials: U64) -> U64:
        """Drop what belongs to other cgroups than these; returns the serials of all rows, then and now."""
        ...


class CgroupRows:
    """Rows of cgroups whose directory exists, by the serial in word 0 of each row."""

    def __init__(self, bank: U64, names_map: U64, names: CgroupNames, base: Earlier | None = None) -> None:
        self._bank = bank
        self._base = base
        self._serial_column = bank[:, 0]
        self._names_map = names_map
        self._names = names
        self._last = np.zeros(bank.shape[0], dtype=np.uint64)
        self._generation = -1
        self._overflow = False
        self._pending = False
        self._shown: tuple[tuple[int, ...], tuple[Labels, ...], tuple[int, ...]] = ((), (), ())
        self.rows: Index = np.zeros(0, dtype=np.intp)
        self.series: Index = self.rows
        self.labels: tuple[Labels, ...] = ()

    def poll(self) -> bool:
        serials = self._serial_column.copy()
        overflow = bool(self._bank[0, 1:].any())
        if self._base is not None:
            serials = self._base.expire(serials)
            overflow = overflow or bool(self._base.values[0, 1:].any())
        serials[0] = 0  # row 0 belongs to no cgroup
        generation = self._names.generation
        if (
            generation == self._generation
            and overflow == self._overflow
            and not self._pending
            and np.array_equal(serials, self._last)
        ):
            return False
        self._last, self._overflow, self._generation = serials, overflow, generation
        return self._rebuild(serials)

    def _rebuild(self, serials: U64) -> bool:
        rows: list[int] = []
        labels: list[Labels] = []
        self._pending = False
        for row in np.flatnonzero(serials).tolist():
            serial = int(serials[row])
            # A program that sees the cgroup for the first time since a reload writes the same name once more.
            identity = read_identity(self._names_map, row, serial) or self._names.identity(serial)
            if identity is None:  # the program writes the name row after it has noticed the cgroup
                self._pending = True
                continue
            name = self._names.name(identity)
            if name is not None:
                rows.append(row)
                labels.append({"id": str(row), "name": name})
        if self._overflow:
            rows.append(0)
            labels.append({"id": "0", "name": OTHER})
        self.rows = np.array(rows, dtype=np.intp)
        self.series = np.arange(len(rows))
        # A reused id keeps its row and perhaps its name, but is a new series: compare the serials too.
        shown = (tuple(rows), tuple(labels), tuple(serials[rows].tolist()))
        changed = shown != self._shown
        self.labels, self._shown = shown[1], shown
        return changed

    @property
    def serials(self) -> set[int]:
        """Serials of the cgroups in the bank at the last poll."""
        return set(self._last[self._last != 0].tolist())


def read_identity(names_map: U64, row: int, serial: int) -> CgroupIdentity | None:
    """The name record of a row, or None while it does not (yet) belong to `serial`."""
    words = names_map[row].copy()
    if int(words[0]) != serial or int(names_map[row, 0]) != serial:
        return None
    texts = words[3:].tobytes()
    own, parent, grandparent = (_text(texts[at : at + 64]) for at in (0, 64, 128))
    return CgroupIdentity(
        serial=serial,
        inode=int(words[1]),
        level=int(words[2]),
        names=(grandparent, parent, own),
    )


class KeyRows:
    """Rows that have an open-ended key now; the last row is the overflow. A row may change hands (`forget`)."""

    def __init__(self, bank: U64, keys: npt.NDArray[np.uint8], fields: tuple[KeyField, ...]) -> None:
        self._bank = bank
        self._flags = bank[:-1, 0]
        self._keys = keys
        self._fields = fields
        self._seen = np.zeros(self._flags.shape, dtype=np.uint64)
        self._overflow = False
        self.rows: Index = np.zeros(0, dtype=np.intp)
        self.series: Index = self.rows
        self.labels: tuple[Labels, ...] = ()

    def poll(self) -> bool:
        seen = self._flags.copy()
        overflow = bool(self._bank[-1, 1:].any())
        if overflow == self._overflow and np.array_equal(seen, self._seen):
            return False
        self._seen, self._overflow = seen, overflow
        rows = np.flatnonzero(seen).tolist()
        index: dict[tuple[str, ...], int] = {}
        series = [index.setdefault(self._key(row), len(index)) for row in rows]
        if overflow:
            rows.append(self._bank.shape[0] - 1)
            series.append(index.setdefault((OTHER,) * len(self._fields), len(index)))
        names = tuple(field.label for field in self._fields)
        self.rows = np.array(rows, dtype=np.intp)
        self.series = np.array(series, dtype=np.intp)
        self.labels = tuple(dict(zip(names, key, strict=True)) for key in index)
        return True

    def _key(self, row: int) -> tuple[str, ...]:
        data = self._keys[row].tobytes()
        return tuple(decode_field(data, field) for field in self._fields)


def decode_field(data: bytes, field: KeyField) -> str:
    r"""A key field as a label value; bytes that are no UTF-8 are shown as `\xNN`."""
    part = data[field.offset : field.offset + field.size]
    if field.kind == "string":
        return _text(part)
    return str(int.from_bytes(part, "little", signed=field.kind == "signed"))


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
