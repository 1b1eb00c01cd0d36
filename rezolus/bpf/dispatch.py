"""Programs that can be exchanged while they are attached.

What is attached to a hook is a *dispatcher*: a few instructions that read one number, the switch that all dispatchers
share, and go on (a tail call) in the program of that slot, 0 or 1. A new set of programs is put into the slots that are
not in use; one store to the switch then exchanges all of them. Every event runs one program or the other: each
dispatcher looks once per event, so none is missed and none is counted twice, which two attached programs that each
compare a number cannot promise (both, or neither, may run for the event during which the number changes).

It costs 3 to 4 ns an event here: the kernel turns tail calls to a fixed slot into jumps. The kernel's books (runs,
time) are those of the dispatcher and go on over an exchange. A map of programs forgets them when the last process
closes it: whoever keeps the attachment keeps the slots as well.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rezolus.bpf import syscall
from rezolus.bpf.stats import read_fdinfo

SLOTS: Final = 2
_SWITCH_BYTES: Final = 8
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2
_TAIL_CALL: Final = 12


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """What is attached to a hook, and the programs it chooses from; descriptors of whoever owns the set."""

    program: int
    slots: int


def make_switch() -> int:
    """The number that says which slot is in use, 0 at first; user space may map it."""
    return syscall.map_create(
        syscall.MAP_ARRAY, value_size=_SWITCH_BYTES, rows=1, name="switch", flags=syscall.MAP_MMAPABLE
    )


def make_slots() -> int:
    """Room for a hook's programs: they must all be of one type, and of one target where the type has targets."""
    return syscall.map_create(syscall.MAP_PROG_ARRAY, value_size=4, rows=SLOTS, name="slots")


def check_switch(fd: int) -> None:
    """ValueError when a descriptor that came from elsewhere is no switch."""
    _check(fd, syscall.MAP_ARRAY, _SWITCH_BYTES, 1, "switch")


def check_slots(fd: int) -> None:
    """ValueError when a descriptor that came from elsewhere is no room for a hook's programs."""
    _check(fd, syscall.MAP_PROG_ARRAY, 4, SLOTS, "table of programs")


def _check(fd: int, kind: int, value_size: int, rows: int, what: str) -> None:
    info = read_fdinfo(fd)
    if (info.get("map_type"), info.get("value_size"), info.get("max_entries")) != (kind, value_size, rows):
        raise ValueError(f"what was given as the {what} is something else")


def slot_in_use(switch: int) -> int:
    """The slot that dispatchers go to now."""
    value = syscall.map_lookup(switch, _number(0), _SWITCH_BYTES) or bytes(_SWITCH_BYTES)
    return int.from_bytes(value, sys.byteorder) & 1


def put(slots: int, slot: int, program: int) -> None:
    """Put a program into a slot. OSError EINVAL when it is of another type or target than what was there first."""
    syscall.map_update(slots, _number(slot), _number(program))


def clear(tables: Iterable[int], slot: int) -> None:
    """Empty a slot of every table; afterwards no event runs what was there any more."""
    for table in tables:
        syscall.map_delete(table, _number(slot))


def instructions(switch: int, slots: int) -> bytes:
    """The code of a dispatcher: registers 1 to 3 are the context, the table and the slot."""
    leave = _instruction(0xB7, 0) + _instruction(0x95)
    jump = _instruction(0x85, immediate=_TAIL_CALL) + leave
    return b"".join(
        (
            _load(4, _PSEUDO_MAP_VALUE, switch),
            _instruction(0x79, 4, 4),
            _load(2, _PSEUDO_MAP_FD, slots),
            # The slots are written out so that each jump is a fixed one.
            _instruction(0x55, 4, offset=1 + len(jump) // 8),
            _instruction(0xB7, 3, immediate=0) + jump,
            _instruction(0xB7, 3, immediate=1) + jump,
        )
    )


def _load(register: int, source: int, descriptor: int) -> bytes:
    return _instruction(0x18, register, source, immediate=descriptor) + _instruction(0)


def _instruction(code: int, target: int = 0, source: int = 0, *, offset: int = 0, immediate: int = 0) -> bytes:
    registers = target | source << 4 if sys.byteorder == "little" else target << 4 | source
    return struct.pack("=BBhi", code, registers, offset, immediate)


def _number(number: int) -> bytes:
    return struct.pack("=I", number)


def close(dispatcher: Dispatcher) -> None:
    """Close both descriptors."""
    os.close(dispatcher.program)
    os.close(dispatcher.slots)
