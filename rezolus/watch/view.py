"""Where frames appear: in place on a terminal, one after the other anywhere else."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rezolus.watch.notice import Notice
from rezolus.watch.render import Room, as_text


class View(AbstractContextManager["View"], Protocol):
    """Shows lines. What is on it when it is closed stays."""

    def room(self) -> Room:
        """What fits now."""
        ...

    def show(self, lines: list[Text]) -> None:
        """Show a frame."""
        ...

    def wait_for(self, what: str) -> None:
        """Say why there is nothing to be seen yet."""
        ...


def view_on(console: Console, top: int, notice: Notice) -> View:
    """The view for a console; `top` is the greatest number of series per metric. `notice` learns of the first frame."""
    return Screen(console, top, notice) if console.is_terminal else Printer(console, top, notice)


class Screen:
    """A terminal: each frame takes the place of the one before, the first that of what was waited for."""

    def __init__(self, console: Console, top: int, notice: Notice) -> None:
        self._console = console
        self._top = top
        self._notice = notice
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop", transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def room(self) -> Room:
        size = self._console.size
        return Room(size.width, size.height - 1, self._console.options.ascii_only, self._top)

    def show(self, lines: list[Text]) -> None:
        self._notice.done()
        self._live.transient = False
        self._live.update(as_text(lines), refresh=True)

    def wait_for(self, what: str) -> None:
        self._notice.clear()
        self._live.update(Text(f"{what} ...", style="dim"), refresh=True)


class Printer:
    """A file or pipe: every frame is printed, as tables without colour, and nothing else is."""

    def __init__(self, console: Console, top: int, notice: Notice) -> None:
        self._console = console
        self._top = top
        self._notice = notice

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def room(self) -> Room:
        return Room(self._console.width, None, self._console.options.ascii_only, self._top)

    def show(self, lines: list[Text]) -> None:
        self._notice.done()
        for line in lines:
            self._console.print(line, soft_wrap=True)
        self._console.print()
        self._console.file.flush()

    def wait_for(self, what: str) -> None:
        self._notice.say(what)
