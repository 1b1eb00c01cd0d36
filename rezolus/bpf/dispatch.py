"""Programs that can be exchanged while they are attached.

Something stays attached to a hook and reads one number for each event, the switch, which all hooks share: it says in which of
two slots the program is that is to run, and a tail call goes there. A new set of programs is put into the slots that are
not in use; one store to the switch then exchanges all of them. Every event runs one program or the other: the number is
read once per event, so none is missed and none counted twice, which two attached programs that each compare a number
cannot promise (both, or neither, may run for the event during which it changes).

What is attached is the first program itself, with a few instructions before it: while the switch is 0 they go on with the
program, which costs a nanosecond. A tail call through another program's code costs 10 to 20 here, and is paid only after a
reload. Hooks that come with a reload get a *dispatcher*, which is those instructions and no program.

The kernel's books (runs, time) are those of what is attached, and go on over an exchange. A table of slots forgets them
when the last process closes it: whoever keeps the attachment keeps the slots as well.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rezolus.bpf import syscall
from rezolus.bpf.stats import check_map

SLOTS: Final = 2
_SWITCH_BYTES: Final = 8
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2
_TAIL_CALL: Final = 12


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """What is attached to a hook, and the programs it chooses from; descriptors of whoever owns the set."""

    program: int
    """A program made for this, or the first one itself with `prefix` before its code."""
    slots: int


def make_switch() -> int:
    """The number that says what runs, 0 at first; user space may map it."""
    return syscall.map_create(
        syscall.MAP_ARRAY, value_size=_SWITCH_BYTES, rows=1, name="switch", flags=syscall.MAP_MMAPABLE
    )


def make_slots() -> int:
    """Room for a hook's programs: they must all be of one type, and of one target where the type has targets."""
    return syscall.map_create(syscall.MAP_PROG_ARRAY, value_size=4, rows=SLOTS, name="slots")


def check_switch(fd: int) -> None:
    """ValueError when a descriptor that came from elsewhere is no switch."""
    check_map(fd, "switch", kind=syscall.MAP_ARRAY, value_size=_SWITCH_BYTES, rows=1)


def check_slots(fd: int) -> None:
    """ValueError when a descriptor that came from elsewhere is no room for a hook's programs."""
    check_map(fd, "table of programs", kind=syscall.MAP_PROG_ARRAY, value_size=4, rows=SLOTS)


def value_of(switch: int) -> int:
    """What the switch says now."""
    value = syscall.map_lookup(switch, _number(0), _SWITCH_BYTES) or bytes(_SWITCH_BYTES)
    return int.from_bytes(value, sys.byteorder)


def following(value: int) -> int:
    """What the switch is to say next: 0, the beginning, does not come again."""
    return 2 if value == 1 else 1


def slot_of(value: int) -> int:
    """The slot that a value of the switch stands for."""
    return 0 if value == 1 else 1


def put(slots: int, slot: int, program: int) -> None:
    """Put a program into a slot. OSError EINVAL when it is of another type or target than what was there first."""
    syscall.map_update(slots, _number(slot), _number(program))


def clear(tables: Iterable[int], slot: int) -> None:
    """Empty a slot of every table; afterwards no event runs what was there any more."""
    for table in tables:
        syscall.map_delete(table, _number(slot))


def dispatcher(switch: int, slots: int) -> bytes:
    """The code of a dispatcher: what the switch says, and nothing else."""
    return _look(switch) + _choose(slots)


def prefix(switch: int, slots: int) -> bytes:
    """What comes before the code of a program so that it runs while the switch is 0, and others in its place after that."""
    choice = _choose(slots)
    return _look(switch) + _instruction(0x15, 4, offset=len(choice) // 8) + choice


def _look(switch: int) -> bytes:
    """Register 4 becomes the value of the switch."""
    return _load(4, _PSEUDO_MAP_VALUE, switch) + _instruction(0x79, 4, 4)


def _choose(slots: int) -> bytes:
    """Go to the slot for the value in register 4, and leave when it is empty. Register 1 is the context still.

    The slots are written out, so that the kernel makes fixed jumps of the calls.
    """
    leave = _instruction(0xB7, 0) + _instruction(0x95)
    jump = _instruction(0x85, immediate=_TAIL_CALL) + leave
    first = _instruction(0xB7, 3, immediate=slot_of(1)) + jump
    return b"".join(
        (
            _load(2, _PSEUDO_MAP_FD, slots),
            _instruction(0x55, 4, offset=len(first) // 8, immediate=1),
            first,
            _instruction(0xB7, 3, immediate=slot_of(2)) + jump,
        )
    )


def _load(register: int, source: int, descriptor: int) -> bytes:
    return _instruction(0x18, register, source, immediate=descriptor) + _instruction(0)


def _instruction(code: int, target: int = 0, source: int = 0, *, offset: int = 0, immediate: int = 0) -> bytes:
    registers = target | source << 4 if sys.byteorder == "little" else target << 4 | source
    return struct.pack("=BBhi", code, registers, offset, immediate)


def _number(number: int) -> bytes:
    return struct.pack("=I", number)
