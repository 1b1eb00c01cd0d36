"""The name a user may have meant."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MINIMUM_PREFIX = 3
_SLIPS = 2
_BEGINS = 2
_FEW = 4
"""Names in a suggestion of several."""
_SUBSYSTEMS = ("sched", "task", "sys", "signal", "block", "tcp", "sock", "net", "mm", "page", "irq", "softirq", "timer")
"""First words of the kernel's names that a short one is most likely about, rather than about a driver or file system."""


def suggest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate nearest to a name that was not found, None when none is near.

    Near is: the same but for upper and lower case, a few typing slips away (one letter dropped, added, changed, or two
    exchanged; one slip per three letters), or beginning with the name. The first of equally near candidates by name wins.
    """
    best = _nearest(name, candidates)
    return best[2] if best else None


def _nearest(name: str, candidates: Iterable[str]) -> tuple[int, int, str] | None:
    """The candidate behind how it is near, `_BEGINS` for a beginning, and how far it is."""
    folded = name.casefold()
    limit = max(1, len(name) // 3) if len(name) > 1 else 0
    letters = set(folded)
    best: tuple[int, int, str] | None = None
    for candidate in sorted(set(candidates) - {name}):
        other = candidate.casefold()
        rank: tuple[int, int, str] | None = None
        if other == folded:
            rank = (0, 0, candidate)
        elif abs(len(other) - len(folded)) <= limit and len(letters ^ set(other)) <= 2 * limit:
            slips = _distance(folded, other)
            rank = (1, slips, candidate) if slips <= limit else None
        if rank is None and len(folded) >= _MINIMUM_PREFIX and other.startswith(folded):
            rank = (_BEGINS, len(other), candidate)
        if rank is not None and (best is None or rank < best):
            best = rank
    return best


def is_slip(name: str, candidates: Iterable[str]) -> bool:
    """Whether a name is one or two typing slips away from a candidate: too near to be meant as another name."""
    near = (other for other in candidates if abs(len(other) - len(name)) <= _SLIPS)
    return any(_distance(name.casefold(), other.casefold()) <= _SLIPS for other in near)


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """`suggest` as a hint, ready for `Diagnostics.error(hint=...)`."""
    found = suggest(name, candidates)
    return f"did you mean `{found}`?" if found else None


def _containing(word: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """A few candidates that contain a text of at least three letters, the most plausible first.

    Before others stand those that have it as whole words, those of a subsystem that every kernel has, those of fewer words,
    and the shorter ones.
    """
    folded = word.casefold()
    if len(folded) < _MINIMUM_PREFIX:
        return ()
    whole = re.compile(rf"(?:^|[_:]){re.escape(folded)}(?:$|[_:])")
    found: list[tuple[bool, int, int, int, str]] = []
    for candidate in set(candidates) - {word}:
        other = candidate.casefold()
        if folded in other:
            words = other.rpartition(":")[2].split("_")
            known = _SUBSYSTEMS.index(words[0]) if words[0] in _SUBSYSTEMS else len(_SUBSYSTEMS)
            found.append((whole.search(other) is None, known, len(words), len(other), candidate))
    return tuple(entry[-1] for entry in sorted(found)[:_FEW])


def did_you_mean_one_of(name: str, candidates: Iterable[str]) -> str | None:
    """As `did_you_mean`, for names whose parts are words: what is a slip away, else a few that contain the name."""
    known = set(candidates)
    near = _nearest(name, known)
    found = _containing(name, known) if near is None or near[0] == _BEGINS else (near[2],)
    if not found:
        return None
    *others, last = (f"`{candidate}`" for candidate in found)
    return f"did you mean {', '.join(others)} or {last}?" if others else f"did you mean {last}?"


def _distance(left: str, right: str) -> int:
    """Edits from one word to the other; exchanging two neighbours is one edit."""
    before: list[int] = []
    previous = list(range(len(right) + 1))
    for row, char in enumerate(left, 1):
        current = [row]
        for column, other in enumerate(right, 1):
            cost = min(previous[column] + 1, current[column - 1] + 1, previous[column - 1] + (char != other))
            if row > 1 and column > 1 and char == right[column - 2] and left[row - 2] == other:
                cost = min(cost, before[column - 2] + 1)
            current.append(cost)
        before, previous = previous, current
    return previous[-1]
