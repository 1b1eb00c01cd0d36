"""Map descriptors in instructions are exchanged, nothing else is."""

from __future__ import annotations

import struct

from rezolus.bpf.instructions import point_at


def ld_imm64(kind: int, value: int, upper: int = 0) -> bytes:
    return struct.pack("<BBhi", 0x18, 1 | kind << 4, 0, value) + struct.pack("<BBhi", 0, 0, 0, upper)


def test_only_loads_of_map_descriptors_change() -> None:
    move = struct.pack("<BBhi", 0xB7, 0, 0, 5)
    # The second slot of a constant looks like an instruction of its own when one steps through it.
    constant = ld_imm64(0, 5, 5)
    before = move + constant + ld_imm64(1, 5) + ld_imm64(1, 6) + ld_imm64(2, 5)
    after = move + constant + ld_imm64(1, 9) + ld_imm64(1, 6) + ld_imm64(2, 5)
    assert point_at(before, {5: 9}) == after
    assert point_at(before, {}) == before
