"""Says why there is nothing to be seen yet: on stderr, so that it is in no pipe or file with the values."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

ENDED = "ended before the first reading"


def compiling(what: str) -> str:
    """What is said of the time until the programs of these files are attached."""
    return f"{what}: compiling and attaching"


class Notice:
    """What is going on until the first values are there.

    On a terminal it is one line, which what follows takes the place of. Neither is the cursor hidden nor anything else
    changed that a signal at this time would leave behind. In a file or pipe each text is a line.
    """

    def __init__(self, console: Console) -> None:
        """`console` is on stderr."""
        self._console = console
        self._in_place = console.is_terminal and not console.is_dumb_terminal
        self._said = ""
        self._on_screen = False
        self._waiting = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Before the first values only a signal ends without an error, or Ctrl-C with its own."""
        self.clear()
        if self._waiting and (error is None or _is_interrupt(error)):
            self._print(ENDED, end="\n")

    def say(self, what: str) -> None:
        """Show a text in place of the one before; where lines stay, what was said last is not said again."""
        self.clear()
        if self._in_place or what != self._said:
            self._print(f"{what} ...", end="" if self._in_place else "\n")
        self._said = what
        self._on_screen = self._in_place

    def clear(self) -> None:
        """Make room for other output."""
        if self._on_screen:
            self._on_screen = False
            with contextlib.suppress(OSError):
                self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))

    def done(self) -> None:
        """There are values to be seen."""
        self.clear()
        self._waiting = False

    def _print(self, text: str, *, end: str) -> None:
        line = Text(text, style="dim" if self._in_place else "")
        if self._in_place:  # a line that wraps could not be erased
            line.truncate(self._console.width - 1, overflow="ellipsis")
        with contextlib.suppress(OSError):  # nobody reads stderr: the values still come
            self._console.print(line, end=end, soft_wrap=True)


def _is_interrupt(error: BaseException) -> bool:
    """Ctrl-C, also when trio has put it into a group."""
    if isinstance(error, BaseExceptionGroup):
        return any(_is_interrupt(member) for member in error.exceptions)
    return isinstance(error, KeyboardInterrupt)
