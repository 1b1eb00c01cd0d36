"""What the daemon says on stderr: one line per message, its level in front unless it is mere information."""

from __future__ import annotations

import logging

logger = logging.getLogger("rezolus")


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno == logging.INFO else f"{record.levelname.lower()}: {text}"


def start(level: str) -> None:
    """Print messages of the program from this level on (`debug`, `info`, `warning`, `error`)."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Format())
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def set_level(level: str) -> None:
    """Print messages from another level on."""
    logger.setLevel(level.upper())
