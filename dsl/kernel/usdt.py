"""The assembler notation of USDT arguments: `-4@-20(%rbp)`, `8@%rdi`, `-4@$5`, on AArch64 `8@x0`, `-4@[sp, 12]`.

Format: https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation, section on argument encoding.
"""

from __future__ import annotations

import re

from dsl import ir

_NOTATION = re.compile(r"(?P<size>-?[1248])@(?P<place>.+)")


def notation_type(notation: str) -> ir.Int | None:
    """The integer type an argument's notation states; None when it is no integer of 1 to 8 bytes."""
    found = _NOTATION.fullmatch(notation)
    if found is None:
        return None
    size = int(found["size"])
    return {1: ir.Int(8, size < 0), 2: ir.Int(16, size < 0), 4: ir.Int(32, size < 0), 8: ir.Int(64, size < 0)}[
        abs(size)
    ]
