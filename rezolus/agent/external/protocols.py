"""Which protocol a connection speaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, assert_never

from rezolus.agent.external.frames import MAGIC, FrameParser
from rezolus.agent.external.lines import LineParser
from rezolus.agent.external.updates import Update
from rezolus.config.structures import Protocol as ProtocolName


class Parser(Protocol):
    """Of what comes over one connection."""

    def feed(self, data: bytes) -> Iterator[Update]:
        """The values that are now whole; to be gone through before the next call. Raises PushError."""
        ...

    def end(self) -> None:
        """Nothing more comes. Raises PushError when something is not whole."""
        ...


def parser_of(protocol: ProtocolName) -> Parser:
    """A parser for a new connection."""
    match protocol:
        case "line":
            return LineParser()
        case "binary":
            return FrameParser()
        case "auto":
            return AutoParser()
    assert_never(protocol)


class AutoParser:
    """Of frames if the first bytes are theirs, else of lines."""

    def __init__(self) -> None:
        self._begin = b""
        self._parser: Parser | None = None

    def feed(self, data: bytes) -> Iterator[Update]:
        """As of `Parser`."""
        if self._parser is None:
            data = self._begin + data
            if len(data) < len(MAGIC) and MAGIC.startswith(data):
                self._begin = data
                return
            self._parser = FrameParser() if data.startswith(MAGIC) else LineParser()
        yield from self._parser.feed(data)

    def end(self) -> None:
        """As of `Parser`."""
        if self._parser is None:
            self._parser = LineParser()
            for _ in self._parser.feed(self._begin):
                pass
        self._parser.end()
