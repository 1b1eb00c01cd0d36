"""The kernel structures a unit loads from, as C: only the members it uses, at their exact offsets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dsl.plan.names import identifier

_SIZES = {"u8": 1, "s8": 1, "u16": 2, "s16": 2, "u32": 4, "s32": 4}


def _size(ctype: str) -> int:
    return _SIZES.get(ctype, 8)


@dataclass(slots=True)
class Structures:
    """Members used so far, by structure: name to (offset, C type)."""

    members: dict[str, dict[str, tuple[int, str]]] = field(default_factory=dict)
    mentioned: set[str] = field(default_factory=set)

    def mention(self, name: str) -> str:
        """The C type of a pointer to a structure, which may stay incomplete."""
        self.mentioned.add(name)
        return f"struct {name} *"

    def member(self, structure: str, path: str, offset: int, ctype: str) -> str | None:
        """The C name of a member; None when it lies at an odd address or before the structure, where C cannot express it."""
        if offset < 0 or offset % _size(ctype):
            return None
        self.mentioned.add(structure)
        known = self.members.setdefault(structure, {})
        name = identifier(path.replace(".", "_"))
        if known.get(name, (offset, ctype)) != (offset, ctype):
            name = f"{name}_{ctype.strip(' *').replace('struct ', '')}_at_{offset}"
        known[name] = (offset, ctype)
        return name

    def definitions(self) -> list[str]:
        """Declarations of all structures, in alphabetical order."""
        lines = [f"struct {name};" for name in sorted(self.mentioned)]
        for name in sorted(self.members):
            lines += ["", *_define(name, self.members[name])]
        return lines


def _define(name: str, members: dict[str, tuple[int, str]]) -> list[str]:
    lanes = _lanes(sorted((offset, _size(ctype), ctype, member) for member, (offset, ctype) in members.items()))
    if len(lanes) == 1:
        return [f"struct {name} {{", *_lane(lanes[0], 1), "};"]
    lines = [f"struct {name} {{", "    union {"]
    for lane in lanes:
        lines += ["        struct {", *_lane(lane, 3), "        };"]
    return [*lines, "    };", "};"]


def _lanes(members: Iterable[tuple[int, int, str, str]]) -> list[list[tuple[int, int, str, str]]]:
    """Members that overlap (of unions, or read in two widths) go to different lanes."""
    lanes: list[list[tuple[int, int, str, str]]] = []
    for item in members:
        for lane in lanes:
            if lane[-1][0] + lane[-1][1] <= item[0]:
                lane.append(item)
                break
        else:
            lanes.append([item])
    return lanes


def _lane(members: list[tuple[int, int, str, str]], depth: int) -> list[str]:
    lines: list[str] = []
    end = 0
    for offset, size, ctype, name in members:
        if offset > end:
            lines.append(f"{'    ' * depth}char before_{name}[{offset - end}];")
        space = "" if ctype.endswith("*") else " "
        lines.append(f"{'    ' * depth}{ctype}{space}{name};")
        end = offset + size
    return lines
