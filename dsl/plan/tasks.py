"""What is remembered of each task: one structure for all samplers, whose layout lasts.

When definitions are compiled again while an earlier set runs, what it remembers of tasks is to stay: times that were taken
before are still to be read after. So the layout of the running set may be given, and then what has a place keeps it, what is
new goes to the spare room at the end, and places that are no longer used stay empty: tasks that live still have something
there. When there is no room left the structure is laid out anew, in a new map, and what was remembered is lost once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dsl import ir
from dsl.schema import TaskMember, TaskMemory

__all__ = ["TaskField", "TaskLayout", "lay_out_tasks"]

SPARE_WORDS = 4
"""Room for what definitions add while a set runs."""

_MOST_WORDS = 512


@dataclass(frozen=True, slots=True, eq=False)
class TaskField:
    """A field of a task state in the structure of all of them; `offset` in bytes."""

    state: ir.State
    field: ir.StateField
    member: str
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class TaskLayout:
    """What is remembered of each task, of all samplers together.

    `storage`: kept by the kernel with the task, and gone with it. `hash`: preallocated, keyed by the task's address,
    changed in place, the entry removed when the kernel frees the task.
    """

    kind: Literal["storage", "hash"]
    limit: int
    fields: tuple[TaskField, ...]
    """By offset."""
    flags: Mapping[ir.State, int]
    """Bit numbers of the states that need one to say that they are there."""
    memory: TaskMemory

    @property
    def entry_bytes(self) -> int:
        """Size of the structure."""
        return 8 * self.memory.words

    def of(self, state: ir.State) -> tuple[TaskField, ...]:
        """The fields of one state."""
        return tuple(item for item in self.fields if item.state is state)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A field to be placed: `owner` names it so that it is found again, which it is only while its sampler is the same."""

    state: ir.State
    field: ir.StateField
    member: str
    owner: str

    @property
    def size(self) -> int:
        return self.field.type.width // 8


def lay_out_tasks(
    states: Sequence[ir.State],
    kind: Literal["storage", "hash"],
    limit: int,
    *,
    versions: Mapping[str, str],
    before: TaskMemory | None = None,
) -> TaskLayout | None:
    """The structure of the states of tasks; None when there are none.

    `versions` are the samplers' digests, `before` is the structure of the set that runs.
    """
    found = [state for state in states if state.kind == "task"]
    if not found:
        return None
    wanted = _wanted(found, versions)
    flagged = {f"{state.sampler}.{state.name} {versions.get(state.sampler, '')}": state for state in found}
    flagged = {owner: state for owner, state in flagged.items() if not state.zero_is_absent}
    memory = _continued(wanted, flagged, before) if before and (before.kind, before.limit) == (kind, limit) else None
    if memory is None:
        memory = _fresh(wanted, flagged, kind, limit, epoch=0 if before is None else before.epoch + 1)
    offsets = {member.owner: member.offset for member in memory.members}
    fields = [TaskField(item.state, item.field, item.member, offsets[item.owner]) for item in wanted]
    fields.sort(key=lambda item: item.offset)
    flags = {state: memory.flags.index(owner) for owner, state in flagged.items()}
    return TaskLayout(kind, limit, tuple(fields), flags, memory)


def _wanted(states: Sequence[ir.State], versions: Mapping[str, str]) -> list[_Wanted]:
    names = [state.name for state in states]
    found = []
    for state in states:
        prefix = state.name if names.count(state.name) == 1 else f"{state.sampler}_{state.name}"
        for item in state.fields:
            member = prefix if len(state.fields) == 1 else f"{prefix}_{item.name}"
            version = versions.get(state.sampler, "")
            owner = f"{state.sampler}.{state.name}.{item.name} {item.type} {state.zero_is_absent} {version}"
            found.append(_Wanted(state, item, member, owner))
    return found


def _fresh(
    wanted: Sequence[_Wanted],
    flags: Mapping[str, ir.State],
    kind: Literal["storage", "hash"],
    limit: int,
    *,
    epoch: int,
) -> TaskMemory:
    """Bits first, then the widest fields, so that nothing is padded."""
    flag_words = max(1, -(-len(flags) // 64))
    offset = 8 * flag_words
    members = []
    for item in sorted(wanted, key=lambda item: -item.size):
        members.append(TaskMember(owner=item.owner, offset=offset, size=item.size))
        offset += item.size
    return TaskMemory(
        kind=kind,
        limit=limit,
        epoch=epoch,
        flag_words=flag_words,
        words=-(-offset // 8) + SPARE_WORDS,
        members=tuple(members),
        flags=tuple(flags),
    )


def _continued(wanted: Sequence[_Wanted], flags: Mapping[str, ir.State], before: TaskMemory) -> TaskMemory | None:
    """The structure before, with what is new behind it; None when it has no room or makes no sense."""
    if not _makes_sense(before):
        return None
    places = {member.owner: member for member in before.members}
    end = max(member.offset + member.size for member in before.members)
    members = list(before.members)
    for item in wanted:
        if item.owner in places:
            if places[item.owner].size != item.size:
                return None
            continue
        end = -(-end // item.size) * item.size
        members.append(TaskMember(owner=item.owner, offset=end, size=item.size))
        end += item.size
    bits = (*before.flags, *(owner for owner in flags if owner not in before.flags))
    if end > 8 * before.words or len(bits) > 64 * before.flag_words:
        return None
    return TaskMemory(
        kind=before.kind,
        limit=before.limit,
        epoch=before.epoch,
        flag_words=before.flag_words,
        words=before.words,
        members=tuple(members),
        flags=bits,
    )


def _makes_sense(memory: TaskMemory) -> bool:
    """Whether members lie beside one another within the structure: it comes from a process that is trusted less."""
    end = 8 * memory.flag_words
    for member in sorted(memory.members, key=lambda item: item.offset):
        if member.size not in (1, 2, 4, 8) or member.offset % member.size or member.offset < end:
            return False
        end = member.offset + member.size
    return bool(memory.members) and memory.flag_words > 0 and end <= 8 * memory.words <= 8 * _MOST_WORDS
