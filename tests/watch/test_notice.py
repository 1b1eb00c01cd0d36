"""What is said until there are values: one line on a terminal, which is gone with them; lines in a file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rezolus.watch.notice import ENDED, Notice

ERASE = "\r\x1b[2K"


def written(*, terminal: bool) -> tuple[Notice, io.StringIO]:
    """A notice and what it writes, without colours, 40 columns wide."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, color_system=None, width=40, _environ={"TERM": "xterm"})
    return Notice(console), file


def test_on_a_terminal_each_text_takes_the_place_of_the_one_before_and_values_that_of_the_last() -> None:
    notice, file = written(terminal=True)
    with notice:
        notice.say("compiling")
        notice.say("attached")
        notice.done()
        notice.clear()
    assert file.getvalue() == f"compiling ...{ERASE}attached ...{ERASE}"


def test_a_text_that_is_wider_than_the_terminal_is_cut_because_only_one_line_can_be_erased() -> None:
    notice, file = written(terminal=True)
    notice.say("a" * 100)
    assert file.getvalue() == "a" * 38 + "…"


def test_in_a_file_each_text_is_a_line_and_none_is_repeated() -> None:
    notice, file = written(terminal=False)
    with notice:
        notice.say("compiling")
        notice.clear()
        notice.say("compiling")
        notice.say("attached in " + "a" * 100)
        notice.done()
    assert file.getvalue() == f"compiling ...\nattached in {'a' * 100} ...\n"


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), BaseExceptionGroup("trio", [KeyboardInterrupt()])])
def test_an_end_without_values_is_said(error: BaseException | None) -> None:
    notice, file = written(terminal=True)
    notice.say("compiling")
    notice.__exit__(type(error) if error else None, error, None)
    assert file.getvalue() == f"compiling ...{ERASE}{ENDED}\n"


def test_an_error_speaks_for_itself() -> None:
    notice, file = written(terminal=False)
    notice.say("compiling")
    notice.__exit__(ValueError, ValueError(), None)
    assert file.getvalue() == "compiling ...\n"
