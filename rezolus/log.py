"""What the daemon says on stderr: one line per message, its level in front unless it is mere information."""

from __future__ import annotations

import logging
import os
import sys

logger = logging.getLogger("rezolus")
accepting = logging.getLogger("trio.serve_listeners")
"""Trio's, which has a line and a traceback ten times a second while no descriptor is left for another connection."""
EVERY_S = 60.0


_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Of syslog."""


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno == logging.INFO else f"{record.levelname.lower()}: {text}"


class _JournalFormat(logging.Formatter):
    """Each line with its priority in front, which the journal takes off and keeps."""

    def format(self, record: logging.LogRecord) -> str:
        priority = _PRIORITIES.get(record.levelno, 6)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


class _NowAndThen(logging.Filter):
    """Lets a message pass once a minute, without its traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._last = -EVERY_S

    def filter(self, record: logging.LogRecord) -> bool:
        if record.created - self._last < EVERY_S:
            return False
        self._last = record.created
        record.exc_info = record.exc_text = None
        return True


def start(level: str) -> None:
    """Print messages of the program from this level on (`debug`, `info`, `warning`, `error`)."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JournalFormat() if _goes_to_journal() else _Format())
    accepting.filters[:] = [_NowAndThen()]
    for one in (logger, accepting):
        one.handlers[:] = [handler]
        one.propagate = False
    logger.setLevel(level.upper())


def _goes_to_journal() -> bool:
    """Whether stderr is the stream that the service manager opened to its journal."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def set_level(level: str) -> None:
    """Print messages from another level on."""
    logger.setLevel(level.upper())
