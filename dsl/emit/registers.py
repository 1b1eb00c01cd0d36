"""Where functions and USDT sites have their arguments, as words of the `pt_regs` a probe's program gets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Arch = Literal["x86_64", "aarch64"]

_X86_REGISTERS = (
    "r15",
    "r14",
    "r13",
    "r12",
    "bp",
    "bx",
    "r11",
    "r10",
    "r9",
    "r8",
    "ax",
    "cx",
    "dx",
    "si",
    "di",
    "orig_ax",
    "ip",
    "cs",
    "flags",
    "sp",
    "ss",
)

_X86: Mapping[str, int] = {name: index for index, name in enumerate(_X86_REGISTERS)}
_ARM: Mapping[str, int] = {**{f"x{index}": index for index in range(31)}, "sp": 31, "pc": 32}

_ARGUMENTS: Mapping[Arch, tuple[int, ...]] = {
    "x86_64": tuple(_X86[name] for name in ("di", "si", "dx", "cx", "r8", "r9")),
    "aarch64": tuple(range(8)),
}
STACK_POINTER: Mapping[Arch, int] = {"x86_64": _X86["sp"], "aarch64": _ARM["sp"]}
RETURN_VALUE: Mapping[Arch, int] = {"x86_64": _X86["ax"], "aarch64": 0}


@dataclass(frozen=True, slots=True)
class Place:
    """A register's value, or with `memory` what lies at base + index * scale + displacement; without any register a constant."""

    memory: bool
    base: int | None = None
    index: int | None = None
    scale: int = 1
    displacement: int = 0


def argument(arch: Arch, index: int) -> Place:
    """An argument by position, as a probe on the function's first instruction finds it."""
    registers = _ARGUMENTS[arch]
    if index < len(registers):
        return Place(False, registers[index])
    # x86-64 has the return address on top of the arguments passed on the stack.
    behind = index - len(registers) + (1 if arch == "x86_64" else 0)
    return Place(True, STACK_POINTER[arch], displacement=8 * behind)


_X86_MEMORY = re.compile(r"(?P<disp>-?(?:0x)?[0-9a-f]*)\((?P<base>%\w+)?(?:,(?P<index>%\w+)(?:,(?P<scale>[1248]))?)?\)")
_ARM_MEMORY = re.compile(r"\[(?P<base>\w+)(?:,\s*(?P<rest>-?\w+))?\]")


def usdt_place(arch: Arch, notation: str) -> Place:
    """An argument of a USDT site. Raises `ValueError` when the notation is not one of this architecture's."""
    _, _, operand = notation.partition("@")
    found = _x86_place(operand) if arch == "x86_64" else _arm_place(operand)
    if found is None:
        raise ValueError(f"cannot read a USDT argument written `{notation}` on {arch}")
    return found


def _x86_place(operand: str) -> Place | None:
    if operand.startswith("$"):
        return Place(False, displacement=int(operand[1:], 0))
    if operand.startswith("%"):
        register = _x86_register(operand)
        return None if register is None else Place(False, register)
    found = _X86_MEMORY.fullmatch(operand)
    if found is None:
        return None
    base = _x86_register(found["base"]) if found["base"] else None
    index = _x86_register(found["index"]) if found["index"] else None
    if (found["base"] and base is None) or (found["index"] and index is None) or (base is None and index is None):
        return None
    return Place(True, base, index, int(found["scale"] or 1), int(found["disp"] or "0", 0))


def _x86_register(name: str) -> int | None:
    """`%rdi`, `%edi`, `%di`, `%dil` and `%r8d` by the 64-bit register they are part of; narrower than the argument is never used."""
    plain = name.lstrip("%")
    numbered = re.fullmatch(r"(r(?:8|9|1[0-5]))[dwb]?", plain)
    if numbered:
        return _X86[numbered[1]]
    stem = re.fullmatch(r"[re]?(ax|bx|cx|dx|si|di|bp|sp|ip)", plain) or re.fullmatch(r"(si|di|bp|sp)l", plain)
    if stem:
        return _X86[stem[1]]
    byte = re.fullmatch(r"([abcd])l", plain)
    return _X86[f"{byte[1]}x"] if byte else None


def _arm_place(operand: str) -> Place | None:
    if re.fullmatch(r"-?(0x[0-9a-f]+|\d+)", operand):
        return Place(False, displacement=int(operand, 0))
    register = _arm_register(operand)
    if register is not None:
        return Place(False, register)
    found = _ARM_MEMORY.fullmatch(operand)
    base = _arm_register(found["base"]) if found else None
    if found is None or base is None:
        return None
    rest = found["rest"]
    if rest is None:
        return Place(True, base)
    index = _arm_register(rest)
    if index is not None:
        return Place(True, base, index)
    return Place(True, base, displacement=int(rest, 0))


def _arm_register(name: str) -> int | None:
    found = re.fullmatch(r"[xw](\d+)", name)
    if found and int(found[1]) < 31:
        return int(found[1])
    return {"sp": _ARM["sp"], "x29": 29, "x30": 30, "fp": 29, "lr": 30}.get(name)
