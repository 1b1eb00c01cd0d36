"""Bases: what a new bank begins with, word by word."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from dsl.schema import Bank, ByCgroup, Label, Metric, Sampler, Schema, Slots
from rezolus.agent.bases import Base, base_of
from rezolus.reading import U64

CPU = Bank(name="cpu", axis="cpu", rows=2, words=8)
GROUPS = Bank(name="cgroup", axis="cgroup", rows=4, words=8)


def metric(name: str, bank: str, offset: int, **more: object) -> Metric:
    return Metric(name=name, kind="counter", unit="", help="", sampler="s", storage=Slots(bank, offset), **more)  # type: ignore[arg-type]


def schema(*metrics: Metric, bank: Bank = CPU, discards: tuple[tuple[str, int], ...] = ()) -> Schema:
    return Schema(samplers=(Sampler(name="s", help="", file="", discards=discards),), metrics=metrics, banks=(bank,))


def bank_of(*rows: list[int]) -> U64:
    return np.array(rows, dtype=np.uint64)


def based(before: Schema, now: Schema, old: U64, below: Base | None = None) -> Base:
    bank = now.banks[0]
    found = base_of(bank, now, before, {bank.name: old}, {} if below is None else {bank.name: below})
    assert found is not None
    return found


def test_words_move_with_their_metric_and_labels() -> None:
    op = Label("op", ("read", "write"))
    before = schema(metric("a", "cpu", 0), metric("b", "cpu", 1, labels=(op,)), metric("gone", "cpu", 3))
    swapped = Label("op", ("write", "read", "flush"))
    now = schema(metric("new", "cpu", 0), metric("b", "cpu", 1, labels=(swapped,)), metric("a", "cpu", 5))
    base = based(before, now, bank_of([1, 2, 3, 4, 0, 0, 0, 0], [10, 20, 30, 40, 0, 0, 0, 0]))
    assert base.values.tolist() == [[0, 3, 2, 0, 0, 1, 0, 0], [0, 30, 20, 0, 0, 10, 0, 0]]
    assert base.sums.tolist() == [0, 33, 22, 0, 0, 11, 0, 0]


def test_a_metric_that_is_another_one_begins_at_zero() -> None:
    before = schema(metric("a", "cpu", 0), metric("b", "cpu", 1))
    now = schema(metric("a", "cpu", 1), replace(metric("b", "cpu", 2), kind="gauge"))
    base = based(before, now, bank_of([7, 8, 0, 0, 0, 0, 0, 0], [0] * 8))
    assert base.sums.tolist() == [0, 7, 0, 0, 0, 0, 0, 0]


def test_nothing_that_stays_is_no_base() -> None:
    bank = bank_of([1] * 8, [1] * 8)
    assert base_of(CPU, schema(metric("b", "cpu", 0)), schema(metric("a", "cpu", 0)), {"cpu": bank}, {}) is None
    assert base_of(CPU, schema(metric("a", "cpu", 0)), schema(metric("a", "cpu", 0)), {}, {}) is None


def test_discards_of_one_reason_are_added_up_however_many_programs_count_them() -> None:
    before = schema(metric("a", "cpu", 0), discards=(("clock", 1), ("clock", 2), ("null", 3)))
    now = schema(metric("a", "cpu", 0), discards=(("null", 4), ("clock", 5)))
    base = based(before, now, bank_of([0, 1, 2, 5, 0, 0, 0, 0], [0, 10, 20, 0, 0, 0, 0, 0]))
    assert base.sums.tolist() == [0, 0, 0, 0, 5, 33, 0, 0]


def test_an_old_bank_is_followed_until_it_is_settled() -> None:
    old = bank_of([1] + [0] * 7, [0] * 8)
    base = based(schema(metric("a", "cpu", 0)), schema(metric("a", "cpu", 2)), old)
    old[0, 0] = 5
    base.refresh()
    assert base.sums[2] == 5
    base.settle()
    old[0, 0] = 9
    base.refresh()
    assert (base.live, base.sums[2]) == (False, 5)


def test_bases_add_up_over_reloads() -> None:
    first, second, third = (schema(metric("a", "cpu", offset)) for offset in range(3))
    one = based(first, second, bank_of([1] + [0] * 7, [0] * 8))
    one.settle()
    two = based(second, third, bank_of([0, 10] + [0] * 6, [0] * 8), one)
    assert two.sums.tolist() == [0, 0, 11, 0, 0, 0, 0, 0]


def groups(offset: int) -> Schema:
    return schema(metric("a", "cgroup", offset, dimension=ByCgroup()), bank=GROUPS)


def row(serial: int, word: int, at: int) -> list[int]:
    return [serial, *(word if number == at else 0 for number in range(1, 8))]


def test_a_cgroups_base_lasts_until_its_row_is_anothers() -> None:
    old = bank_of(row(1, 4, 1), row(0, 3, 1), row(70, 5, 1), row(80, 6, 1))
    base = based(groups(1), groups(2), old)
    base.settle()
    # Nothing happened yet: the rows are those of the cgroups before.
    assert base.expire(bank_of([0, 0, 0, 0])[0]).tolist() == [1, 0, 70, 80]
    # The root has a number at last, one cgroup goes on, the other's row was given to a new one.
    assert base.expire(bank_of([1, 10, 70, 99])[0]).tolist() == [1, 10, 70, 99]
    assert base.values[:, 2].tolist() == [4, 3, 5, 0]
    assert base.sums[2] == 12


def test_a_cgroups_base_of_a_base_is_dropped_when_the_row_changed_hands_between() -> None:
    one = based(groups(1), groups(2), bank_of(row(1, 0, 1), row(0, 0, 1), row(70, 5, 1), row(80, 6, 1)))
    one.settle()
    two = based(groups(2), groups(3), bank_of(row(0, 0, 2), row(0, 0, 2), row(0, 0, 2), row(90, 2, 2)), one)
    assert two.values[:, 3].tolist() == [0, 0, 5, 2]
    assert two.serials.tolist() == [1, 0, 70, 90]
