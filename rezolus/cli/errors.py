"""The one place where exceptions become what a user sees: a message on stderr and an exit status.

| outcome | status |
|---|---|
| success | 0, or what the command returned |
| something the user can mend | 1 |
| a wrong command line | 2 |
| a defect of ours | 70 |
| Ctrl-C | 130 |
| the reader of our output went away | 141, silently, as for any program in a pipe |
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from rezolus.errors import ReportedError, UserError

DEFECT = 70
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE
DEBUG = "REZOLUS_DEBUG"
"""Environment variable: when set, a defect is shown with its traceback."""


def run_reporting(command: Callable[[], object]) -> int:
    """Calls `command` and returns the exit status; whatever it raises has been reported."""
    try:
        result = command()
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - this is the root: nothing may pass
        return _report(error)
    return result if isinstance(result, int) else 0


def _report(error: BaseException) -> int:
    """Shows an exception, of a group each member once, and returns the worst status."""
    shown: set[str] = set()
    statuses = []
    for leaf in _leaves(error):
        status, message = _describe(leaf)
        statuses.append(status)
        if message and message not in shown:
            shown.add(message)
            _write(message)
    if INTERRUPTED in statuses:
        return INTERRUPTED
    if BROKEN_PIPE in statuses:
        _forget_stdout()
    return max(statuses)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions of possibly nested groups (trio reports what failed at the same time as one)."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error


def _describe(error: BaseException) -> tuple[int, str]:
    """Exit status and message, empty for none."""
    match error:
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED, ""
        case BrokenPipeError():
            return BROKEN_PIPE, ""
        case SystemExit():
            return _exit_status(error), ""
        case click.exceptions.Exit():
            return error.exit_code, ""
        case click.exceptions.NoArgsIsHelpError():
            return error.exit_code, error.format_message()
        case click.ClickException():
            return error.exit_code, _usage(error)
        case ReportedError():
            return 1, ""
        case UserError():
            return 1, f"error: {error}"
        case OSError():
            return 1, f"error: {_os_error(error)}"
        case _ if _is_compile_error(error):
            return 1, str(error)  # already in the form FILE:LINE:COLUMN: error[CODE]: ...
        case _:
            return DEFECT, _defect(error)


def _exit_status(error: SystemExit) -> int:
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


def _usage(error: click.ClickException) -> str:
    """A wrong command line: what is wrong with it and how to learn more."""
    text = f"error: {error.format_message()}"
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{text}\ntry `{context.command_path} --help`" if context is not None else text


def _os_error(error: OSError) -> str:
    """`FILE: no such file or directory`, or what there is of it."""
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return ": ".join([*names, reason])


def _is_compile_error(error: BaseException) -> bool:
    """Whether the compiler raised it. Asked by name: importing the compiler here would slow down every command."""
    diagnostics = sys.modules.get("dsl.diagnostics")
    return diagnostics is not None and isinstance(error, diagnostics.CompileError)


def _defect(error: BaseException) -> str:
    if os.environ.get(DEBUG):
        return "".join(traceback.format_exception(error)).rstrip()
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return (
        f"error: defect in rezolus{where}: {type(error).__name__}: {error}\nplease report it with what {DEBUG}=1 shows"
    )


def _write(message: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads stderr: the exit status still speaks
        print(message, file=sys.stderr, flush=True)


def _forget_stdout() -> None:
    """Points stdout at nothing, so that the interpreter's last flush does not complain about the pipe again."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
