"""How far a recording is: one line that is kept up to date on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TextIO

import trio

from rezolus.sinks.recorder import RecorderStatistics
from rezolus.units import format_amount

REDRAW_S = 0.5
TELL_S = 30.0
"""Between lines where there is no terminal."""
_CLEAR = "\r\x1b[K"


@dataclass(frozen=True, slots=True)
class Tally:
    """A recording so far."""

    seconds: float
    """Since it was begun."""
    samples: int
    lost: int
    """Ticks that left no sample, from the first reading to the last: none came, or it could not be written."""
    bytes: int
    """Written to disk meanwhile; the file becomes smaller."""
    down: tuple[str, ...] = ()
    """Endpoints that do not answer."""

    def __str__(self) -> str:
        minutes, seconds = divmod(int(self.seconds), 60)
        parts = [
            f"{minutes // 60}:{minutes % 60:02}:{seconds:02}",
            f"{self.samples} sample{'' if self.samples == 1 else 's'}",
            f"{self.lost} lost",
            format_amount(self.bytes, "bytes"),
        ]
        if self.down:
            parts.append("no answer from " + ", ".join(self.down))
        return "  ".join(parts)


def tally(
    statistics: Iterable[RecorderStatistics], interval_ns: int, *, seconds: float, down: tuple[str, ...] = ()
) -> Tally:
    """The sum over files."""
    each = tuple(statistics)
    due = [round((one.last_ns - one.first_ns) / interval_ns) + 1 for one in each if one.first_ns]
    samples = sum(one.rows for one in each)
    return Tally(seconds, samples, max(0, sum(due) - samples), sum(one.written_bytes for one in each), down)


class Progress:
    """Shows tallies on `stream`. Also what the log is written to, so that the two do not overwrite each other.

    A terminal that is another's as well, so not `alone`, is left to that one.
    """

    def __init__(self, look: Callable[[], Tally], stream: TextIO | None = None, *, alone: bool = True) -> None:
        self._look = look
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._quiet = self._live and not alone
        self._line = ""

    async def run(self) -> None:
        """Keep it up to date until cancelled."""
        if self._quiet:
            return
        try:
            while True:
                await trio.sleep(REDRAW_S if self._live else TELL_S)
                if self._live:
                    self._line = _cut(str(self._look()), self._width())
                    self._put(_CLEAR + self._line)
                else:
                    self._put(f"{self._look()}\n")
        finally:
            if self._line:
                self._line = ""
                self._put(_CLEAR)

    def write(self, text: str) -> int:
        """Text of the log: the line makes room for it and comes again behind it."""
        self._put((_CLEAR if self._line else "") + text + (self._line if text.endswith("\n") else ""))
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def _width(self) -> int | None:
        """Columns of the terminal, as far as it says."""
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or None
        except (OSError, ValueError):
            return None

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # nobody reads it: the recording matters more
            self._live = False


def _cut(line: str, width: int | None) -> str:
    """A line that is wrapped cannot be taken back as one."""
    if width is None or len(line) < width:
        return line
    return (line[: max(0, width - 4)] + "...")[: width - 1]
