"""From positions in the C text back to the `.rzl` line they came from.

The compiler writes `#line N "file.rzl"` before each statement. LLVM keeps one file per function in the line
records it makes, and a fused function comes from several files, so clang never sees these directives: each is
replaced by one that says where in the C text we are, and the way from there to the `.rzl` line is kept here.
Resynchronising at each directive also cancels the lines that BCC's rewriter inserts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sortedcontainers import SortedDict

UNIT: Final = "unit.c"
"""What clang and the kernel call the C text."""

_DIRECTIVE: Final = re.compile(r'[ \t]*#[ \t]*line[ \t]+(\d+)(?:[ \t]+"([^"]*)")?[ \t]*\Z')


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a `.rzl` file; an empty `file` is code that belongs to no line."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.file else ""


NOWHERE: Final = Place("", 0)


@dataclass(frozen=True, slots=True)
class SourceMap:
    """The C text as clang gets it, and where each of its lines comes from."""

    text: str
    stretches: SortedDict[int, Place]
    """First C line of each stretch that comes from one `.rzl` line."""

    def place(self, c_line: int) -> Place:
        """The `.rzl` line of a C line: that of the nearest directive above."""
        index = self.stretches.bisect_right(c_line)
        return self.stretches.peekitem(index - 1)[1] if index else NOWHERE

    def source(self, c_line: int) -> str:
        """The C line itself, trimmed."""
        lines = self.text.split("\n")
        return lines[c_line - 1].strip() if 0 < c_line <= len(lines) else ""


def map_lines(text: str) -> SourceMap:
    """Replace the `#line` directives of a unit. A directive holds until the next one, however many C lines follow."""
    lines: list[str] = []
    stretches: SortedDict[int, Place] = SortedDict()
    here = NOWHERE
    for number, line in enumerate(text.split("\n"), start=1):
        found = _DIRECTIVE.match(line)
        if found is None:
            lines.append(line)
        else:
            here = Place(found[2] if found[2] is not None else here.file, int(found[1]))
            lines.append(f'#line {number + 1} "{UNIT}"')
            stretches[number] = here
    stretches[len(lines) + 1] = NOWHERE
    return SourceMap("\n".join(lines), stretches)
