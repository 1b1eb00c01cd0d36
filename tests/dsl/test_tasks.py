"""The structure of task state: what stays keeps its place."""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from dsl import ir
from dsl.plan.tasks import SPARE_WORDS, TaskLayout, lay_out_tasks
from dsl.schema import TaskMember, TaskMemory


def state(sampler: str, name: str, *widths: Literal[8, 16, 32, 64], zero_is_absent: bool = True) -> ir.State:
    fields = tuple(ir.StateField(f"f{number}", ir.Int(width, False)) for number, width in enumerate(widths))
    return ir.State(sampler, name, "task", fields, zero_is_absent)


def laid_out(*states: ir.State, before: TaskMemory | None = None, version: str = "1", limit: int = 0) -> TaskLayout:
    versions = {item.sampler: version for item in states}
    found = lay_out_tasks(states, "storage", limit, versions=versions, before=before)
    assert found is not None
    return found


def places(layout: TaskLayout) -> dict[str, int]:
    return {f"{item.state.sampler}.{item.state.name}.{item.field.name}": item.offset for item in layout.fields}


def test_widest_fields_come_first_and_room_is_left() -> None:
    layout = laid_out(state("a", "x", 8), state("b", "y", 64, 32))
    assert places(layout) == {"b.y.f0": 8, "b.y.f1": 16, "a.x.f0": 20}
    assert layout.entry_bytes == 24 + 8 * SPARE_WORDS


def test_what_stays_keeps_its_place_and_what_comes_goes_behind() -> None:
    first = laid_out(state("b", "y", 64))
    second = laid_out(state("a", "x", 32), state("b", "y", 64), before=first.memory)
    assert places(second) == {"b.y.f0": 8, "a.x.f0": 16}
    assert (second.memory.words, second.memory.epoch) == (first.memory.words, 0)


def test_a_place_that_was_given_up_is_not_given_to_another() -> None:
    first = laid_out(state("a", "x", 64), state("b", "y", 64))
    second = laid_out(state("b", "y", 64), before=first.memory)
    third = laid_out(state("b", "y", 64), state("c", "z", 64), before=second.memory)
    assert places(third) == {"b.y.f0": 16, "c.z.f0": 24}


def test_state_of_a_sampler_that_changed_has_another_place() -> None:
    first = laid_out(state("a", "x", 64))
    second = laid_out(state("a", "x", 64), before=first.memory, version="2")
    assert places(second) == {"a.x.f0": 16}


def test_bits_keep_their_number() -> None:
    flagged = [state("a", name, 64, zero_is_absent=False) for name in "xyz"]
    first = laid_out(*flagged[:2])
    second = laid_out(flagged[2], flagged[1], before=first.memory)
    assert second.flags == {flagged[1]: 1, flagged[2]: 2}


def test_without_room_everything_is_laid_out_anew_in_another_epoch() -> None:
    first = laid_out(state("a", "x", 64))
    full = laid_out(*(state("a", f"x{number}", 64) for number in range(SPARE_WORDS + 1)), before=first.memory)
    assert full.memory.epoch == 1
    assert min(places(full).values()) == 8


def test_another_bound_is_another_map() -> None:
    first = laid_out(state("a", "x", 64))
    assert laid_out(state("a", "x", 64), before=first.memory, limit=5).memory.epoch == 1


def test_a_structure_that_makes_no_sense_is_not_continued() -> None:
    good = laid_out(state("a", "x", 64)).memory
    wrong = [
        replace(good, words=10**6),
        replace(good, members=()),
        replace(good, flag_words=-1),
        *(replace(good, members=(TaskMember(owner="o", offset=at, size=size),)) for at, size in WRONG),
    ]
    assert [laid_out(state("a", "x", 64), before=memory).memory.epoch for memory in wrong] == [1] * len(wrong)


WRONG = ((0, 8), (9, 8), (8, 3), (-8, 8), (10**9, 8))


def test_no_state_no_structure() -> None:
    hashed = ir.State("a", "x", "hash", (ir.StateField("f", ir.U64),), zero_is_absent=True, limit=10)
    assert lay_out_tasks([hashed], "storage", 0, versions={}) is None
