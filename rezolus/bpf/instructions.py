"""Changes to finished instructions."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

_LD_IMM64: Final = 0x18
_PSEUDO_MAP_FD: Final = 1


def point_at(instructions: bytes, maps: Mapping[int, int]) -> bytes:
    """Exchange map descriptors: each load of a key of `maps` becomes one of its value."""
    if not maps:
        return instructions
    changed = bytearray(instructions)
    offset = 0
    while offset < len(changed):
        code, registers, _, immediate = struct.unpack_from("=BBhi", changed, offset)
        if code == _LD_IMM64:
            # The source register is the upper half of the byte on little-endian hosts, the lower on big-endian ones.
            source = registers >> 4 if struct.pack("=H", 1) == b"\x01\x00" else registers & 15
            if source == _PSEUDO_MAP_FD and immediate in maps:
                struct.pack_into("=i", changed, offset + 4, maps[immediate])
            offset += 8
        offset += 8
    return bytes(changed)
