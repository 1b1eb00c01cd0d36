"""Where values live: banks and the words in them, tables of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dsl import ir
from dsl.plan.fuse import bank_name
from dsl.schema import CGROUP_ROWS, Bank, ByKey

STRIPES = 16
"""More rows of histograms than this keep no CPUs further apart, but cost memory."""

_LINE_WORDS = 8
"""A cache line of 64 bytes: rows that different CPUs write share none."""

_DENSE_ROWS = 8
_DENSE_SIZE = 4096
"""A table of at least so many rows below so high a number becomes an array; others become comparisons."""


@dataclass(frozen=True, slots=True)
class Member:
    """Adjacent words of every row of a bank: a metric's cells, or a count of discards."""

    name: str
    offset: int
    words: int


@dataclass(frozen=True, slots=True)
class BankLayout:
    """A bank and what its words are."""

    bank: Bank
    members: tuple[Member, ...]

    def offset(self, name: str) -> int:
        """The first word of a member."""
        return next(member.offset for member in self.members if member.name == name)


@dataclass(frozen=True, slots=True)
class TableLayout:
    """A table as an array: entry `n` is the symbol of `n`, `absent` where there is none."""

    table: str
    width: Literal[1, 2]
    entries: tuple[int, ...]

    @property
    def absent(self) -> int:
        """The entry of a number that no row of the table has."""
        return (1 << (8 * self.width)) - 1

    def image(self) -> bytes:
        """The bytes of the array in the map."""
        return b"".join(entry.to_bytes(self.width, "little") for entry in self.entries)


def buckets(metric: ir.Metric) -> int:
    """Words per label combination: one, or a histogram's buckets."""
    if metric.schema.kind != "histogram":
        return 1
    return (64 - metric.schema.power + 1) << metric.schema.power


def lay_out_banks(metrics: Iterable[ir.Metric], discards: Sequence[str], possible_cpus: int) -> tuple[BankLayout, ...]:
    """The banks that these metrics and counts of discards (by member name, in the bank `cpu`) need."""
    rows = {"cpu": possible_cpus, "hist": min(possible_cpus, STRIPES), "one": 1, "cgroup": CGROUP_ROWS}
    members: dict[str, list[tuple[str, int]]] = {name: [] for name in rows}
    keyed: dict[str, ByKey] = {}
    for metric in metrics:
        name = bank_name(metric)
        if isinstance(metric.schema.dimension, ByKey):
            keyed[name] = metric.schema.dimension
        members.setdefault(name, []).append((metric.schema.name, metric.schema.cells * buckets(metric)))
    members["cpu"] += [(name, 1) for name in discards]
    return tuple(
        _key_bank(name, found, keyed[name]) if name in keyed else _dense_bank(name, found, rows[name])
        for name, found in members.items()
        if found
    )


def _stack(found: Iterable[tuple[str, int]], start: int) -> tuple[tuple[Member, ...], int]:
    members = []
    for name, words in found:
        members.append(Member(name, start, words))
        start += words
    return tuple(members), start


_AXES: Mapping[str, Literal["cpu", "stripe", "one", "cgroup"]] = {
    "cpu": "cpu",
    "hist": "stripe",
    "one": "one",
    "cgroup": "cgroup",
}


def _dense_bank(name: str, found: Sequence[tuple[str, int]], rows: int) -> BankLayout:
    members, words = _stack(found, 1 if name == "cgroup" else 0)
    words = -(-words // _LINE_WORDS) * _LINE_WORDS
    return BankLayout(Bank(name=name, axis=_AXES[name], rows=rows, words=words), members)


def _key_bank(name: str, found: Sequence[tuple[str, int]], key: ByKey) -> BankLayout:
    members, words = _stack(found, 1)
    size = max(part.offset + part.size for part in key.fields)
    bank = Bank(name=name, axis="key", rows=key.limit + 1, words=words, key_size=-(-size // 8) * 8)
    return BankLayout(bank, members)


def lay_out_table(table: ir.Table) -> TableLayout | None:
    """The table as an array; None when it is small or sparse and better compared with one by one."""
    numbers = [number for number, _ in table.mapping]
    if len(numbers) < _DENSE_ROWS or min(numbers) < 0 or max(numbers) >= _DENSE_SIZE:
        return None
    top = max(*(symbol for _, symbol in table.mapping), table.default or 0)
    if top >= 0xFFFF:
        return None
    width: Literal[1, 2] = 1 if top < 0xFF else 2
    layout = TableLayout(table.name, width, ())
    entries = [layout.absent if table.default is None else table.default] * (max(numbers) + 1)
    for number, symbol in reversed(table.mapping):
        entries[number] = symbol
    return TableLayout(table.name, width, tuple(entries))
