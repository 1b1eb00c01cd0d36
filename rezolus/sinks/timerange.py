"""Which part of a buffer a dump is to hold, as a request says it: `last`, or `start` and `end`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rezolus.errors import UserError
from rezolus.units import parse_humantime

PARAMETERS = ("last", "start", "end")
MAX_NS = 2**64 - 1
DAY_S = 86_400
LEAP_SECOND = "60"
"""Only the last minute of a day in UTC may have one. Which days had one is nothing that a range needs to know."""
_RFC_3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class RangeError(UserError):
    """The range cannot be understood, or holds nothing by itself; the text says why."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Wall clock times in ns since the Unix epoch, both included."""

    start_ns: int = 0
    end_ns: int = MAX_NS


def parse_range(parameters: Mapping[str, str], now_ns: int) -> TimeRange:
    """The range that the parameters of a request name; none of them: everything. Raises RangeError.

    `last` (a duration back from now) wins over `start` and `end` (Unix seconds or RFC 3339), of which either may be missing.
    """
    for name in parameters:
        if name not in PARAMETERS:
            raise RangeError(f"{name!r} is no parameter of a dump: use last, or start and end")
    if "last" in parameters:
        text = parameters["last"]
        try:
            return TimeRange(max(0, now_ns - parse_humantime(text)), now_ns)
        except ValueError:
            raise RangeError(f"last: expected a duration such as 30s, 5m or 1h30m, found {text!r}") from None
    start = _parse_time("start", parameters["start"]) if "start" in parameters else 0
    end = _parse_time("end", parameters["end"]) if "end" in parameters else MAX_NS
    if start > end:
        raise RangeError("start must be before end")
    return TimeRange(start, end)


def _parse_time(name: str, text: str) -> int:
    """Nanoseconds since the Unix epoch; what is before it counts as the epoch itself, what is after `MAX_NS` as that."""
    if text.isascii() and text.isdecimal() and len(text) <= 20:
        return min(int(text) * 10**9, MAX_NS)
    found = _RFC_3339.fullmatch(text)
    if found is not None:
        date, minute, second, fraction, zone = found.groups()
        try:
            seconds = _unix_seconds(f"{date}T{minute}", second, zone.upper())
        except ValueError:
            pass  # a 13th month, 25 o'clock
        else:
            return min(max(0, seconds * 10**9 + int((fraction or "").ljust(9, "0"))), MAX_NS)
    hint = "; write the + of an offset as %2B" if re.search(r" \d\d:\d\d$", text) else ""
    raise RangeError(
        f"{name}: expected Unix seconds or a time such as 2026-01-31T12:00:00Z or 2026-01-31T13:00:00%2B01:00, "
        f"found {text!r}{hint}"
    )


def _unix_seconds(minute: str, second: str, zone: str) -> int:
    """A leap second is the second after it, as Unix time has it. Raises ValueError, also for a 60th second at noon."""
    leap = second == LEAP_SECOND
    seconds = int(datetime.fromisoformat(f"{minute}:{'59' if leap else second}{zone}").timestamp()) + leap
    if leap and seconds % DAY_S:
        raise ValueError(second)
    return seconds
