"""Names in the generated C: readable, unique, and the same for the same input."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from dsl.hooks import Hook

_C_WORDS = frozenset(
    (
        "auto",
        "break",
        "case",
        "char",
        "const",
        "continue",
        "default",
        "do",
        "double",
        "else",
        "enum",
        "extern",
        "float",
        "for",
        "goto",
        "if",
        "inline",
        "int",
        "long",
        "register",
        "restrict",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "struct",
        "switch",
        "typedef",
        "union",
        "unsigned",
        "void",
        "volatile",
        "while",
        "bool",
        "true",
        "false",
        "asm",
        "typeof",
        "ctx",
        "u8",
        "u16",
        "u32",
        "u64",
        "s8",
        "s16",
        "s32",
        "s64",
        "likely",
        "unlikely",
    )
)

_PREFIXES = {"fexit": "on_return", "kretprobe": "on_return", "uretprobe": "on_return"}


def identifier(text: str) -> str:
    """`text` as a C identifier."""
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "value"
    return f"_{name}" if name[0].isdigit() or name in _C_WORDS else name


def function_names(hooks: Iterable[Hook]) -> list[str]:
    """A C function per hook: `on_sched_switch`; where that is taken, with the kind of the hook, then with a number."""
    names: list[str] = []
    for hook in hooks:
        base = identifier(f"{_PREFIXES.get(hook.kind, 'on')}_{hook.name.rpartition(':')[2]}")
        candidates = [base, f"{base}_{hook.kind}", *(f"{base}_{number}" for number in range(2, len(names) + 3))]
        names.append(next(name for name in candidates if name not in names))
    return names


@dataclass(slots=True)
class Names:
    """The names taken in one function."""

    taken: set[str] = field(default_factory=set)

    def unique(self, wanted: str) -> str:
        """`wanted`, or with a number behind it when it is taken."""
        base = identifier(wanted)
        name, number = base, 1
        while name in self.taken or name in _C_WORDS:
            number += 1
            name = f"{base}_{number}"
        self.taken.add(name)
        return name
