"""The verifier's log, reduced to the lines that say what is wrong.

A log holds every instruction with the state of its registers; the reason for a refusal is in the last one
or two lines, after the last instruction and before the statistics. The number of the last instruction leads to the
source line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_STATISTICS: Final = re.compile(
    r"processed \d+ insns|verification time|stack depth|max_states_per_insn|mark_precise: |insns processed"
)
_INSTRUCTION: Final = re.compile(r"\s*(\d+): \([0-9a-f]{2}\)")
_STATE: Final = re.compile(
    r"\s*\d+: R\d|;|from \d+ to \d+|\s*(frame\d+:)?\s*R\d+(_\w+)?=|func '\w+' arg\d+ has btf_id|last_idx |regs=|parent "
)
_CONTINUED: Final = re.compile(r"\t|R\d+ |invalid bpf_context access|old state|cur state")
"""A line that only makes sense with the one before."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why the verifier refused a program."""

    reason: str
    """One or two of its lines, joined by `; `; empty when the log says nothing."""
    instruction: int | None
    """Index of the instruction at fault, when the log names one."""


def reduce_log(log: str) -> Verdict:
    """Find the reason in a log of level 1."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    while lines and _STATISTICS.match(lines[-1].strip()):
        lines.pop()
    reason: list[str] = []
    for line in reversed(lines):
        if _INSTRUCTION.match(line) or _STATE.match(line):
            break
        reason.insert(0, line.strip())
        if len(reason) == 2:
            break
    if len(reason) == 2 and not _CONTINUED.match(reason[1]):
        # Two whole sentences: the last is the verdict. Two that belong together stay.
        reason = reason if _belongs(reason) else reason[1:]
    return Verdict("; ".join(reason), _last_instruction(lines))


def _belongs(reason: list[str]) -> bool:
    """Whether the verdict needs the line before it: that one names the value, this one what is wrong with it."""
    return reason[0].startswith(("invalid access to", "math between", "The sequence of", "Unreleased", "back-edge"))


def _last_instruction(lines: list[str]) -> int | None:
    for line in reversed(lines):
        found = _INSTRUCTION.match(line)
        if found:
            return int(found[1])
    return None
