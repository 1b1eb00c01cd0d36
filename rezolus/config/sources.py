"""Where sinks get their readings: the words they are given become names of sources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from rezolus.config.structures import HTTP_URL, LOCAL, SinkConfig, SourceConfig
from rezolus.tables import TableReader, http_url, nearest, show


class Sources:
    """The sources of a configuration while its sinks are read.

    `local` is the address that `local` stands for; empty for the agent in this process.
    """

    def __init__(self, named: Mapping[str, SourceConfig], local: str = "") -> None:
        self._named = dict(named)
        self._written = tuple(named)
        self._local = local
        self._mentioned: set[str] = set()

    def resolve(self, words: Iterable[str], path: str, reader: TableReader, *, enabled: bool = True) -> tuple[str, ...]:
        """The names for what a sink was given: `local`, names, addresses. Reports what is none of these.

        `local` of a sink that is not `enabled` stays as it is.
        """
        names: dict[str, None] = {}
        for word in words:
            if word == LOCAL and not (self._local and enabled):
                names[LOCAL] = None
            elif word == LOCAL:
                names[self.name_of(self._local)] = None
            elif word in self._named:
                names[word] = None
            elif ":" in word:
                self._add_address(word, path, reader, names)
            else:
                hint = nearest(word, (LOCAL, *self._named)) or f"; expected {LOCAL}, {self._choices()}"
                reader.report(path, f"no source is called {show(word)}{hint}")
        self._mentioned.update(names)
        return tuple(names)

    def taken(self, sinks: Iterable[SinkConfig]) -> dict[str, SourceConfig]:
        """The remote sources that these sinks take, resolved."""
        wanted = {name for sink in sinks for name in sink.source}
        return {name: source for name, source in self._named.items() if name in wanted}

    def unused(self) -> tuple[str, ...]:
        """A warning for each source that was written and that no sink takes."""
        return tuple(
            f"sources.{name}: no sink takes it" for name in self._written if name not in self._mentioned | {LOCAL}
        )

    def _choices(self) -> str:
        named = "".join(f"{name}, " for name in self._written)
        return f'{named}an address such as "http://host:4241", or a list of them'

    def _add_address(self, word: str, path: str, reader: TableReader, names: dict[str, None]) -> None:
        try:
            names[self.name_of(http_url(word))] = None
        except ValueError:
            hint = f'; did you mean "http://{word}"?' if re.fullmatch(r"[\w.-]+:\d+", word) else ""
            reader.report(path, f"expected {HTTP_URL.expected}, found {show(word)}{hint}")

    def name_of(self, url: str) -> str:
        """The name of the source with this address, which is added if there is none."""
        same = url.rstrip("/")
        for name, source in self._named.items():
            if source.url.rstrip("/") == same:
                return name
        parts = urlsplit(url)
        host = parts.hostname or ""
        name = f"[{host}]:{parts.port or 80}" if ":" in host else f"{host}:{parts.port or 80}"
        if name in self._named:
            name += parts.path
        self._named[name] = SourceConfig(url=url)
        return name
