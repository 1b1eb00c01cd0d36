"""The sources that run, each once, whatever number of sinks it feeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import trio

from rezolus.config import LOCAL, Config, Selection, SourceConfig
from rezolus.errors import UserError
from rezolus.reading import Reading
from rezolus.remote.status import RemoteStatus
from rezolus.sinks.stream import Demand, Hub, Source, demand_of

PATIENCE_S = 1.0
"""By how much the agent in this process may be late before it counts as not delivering."""

Connect = Callable[[str, SourceConfig], Source]
"""Makes the source of a name and a configuration, without reaching for it yet."""


def demands_of(config: Config) -> dict[str, Demand]:
    """What is wanted of each source that is to run, those elsewhere first: they are there at once.

    The agent in this process always runs: what its wire serves is wanted of it, without sinks at its own interval.
    """
    wishes: dict[str, list[tuple[int, Selection]]] = {}
    for sink in config.sinks.values():
        for source in sink.source:
            wishes.setdefault(source, []).append((sink.interval, sink.metrics))
    local = wishes.pop(LOCAL, [])
    if config.agent.enabled:
        wishes[LOCAL] = [*local, (0 if local else config.agent.interval, config.agent.metrics)]
    return {source: demand_of(pairs) for source, pairs in wishes.items()}


@runtime_checkable
class Reporting(Protocol):
    """A source that says how it is."""

    def status(self) -> RemoteStatus:
        """Now."""
        ...


class Feed:
    """A source, and where its readings go. `config`: None when the source was given to the daemon, not made by it."""

    def __init__(self, name: str, source: Source, config: SourceConfig | None, demand: Demand) -> None:
        self.name = name
        self.source = source
        self.config = config
        self.demand = demand
        self.hub = Hub(demand.interval_ns)
        self._last = time.monotonic()
        self._running = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The source until `end`."""
        with self._running:
            self._last = time.monotonic()
            await self.source.run(self.demand, self._publish, task_status=task_status)

    def change(self, demand: Demand) -> None:
        """From now on that is wanted."""
        self.demand = demand
        self.hub.change_tick(demand.interval_ns)
        self.source.adjust(demand)

    def differs(self, config: Config) -> bool:
        """Whether another source has its name in `config`."""
        return self.config is not None and self.config != config.sources.get(self.name)

    def end(self) -> None:
        """No more of that source."""
        self._running.cancel()

    def delivers(self) -> bool:
        """Whether there are readings to be had of it now."""
        if isinstance(self.source, Reporting):
            return self.source.status().state == "up"
        return self.publishes(PATIENCE_S)

    def publishes(self, patience_s: float) -> bool:
        """Whether readings come as they should, give or take `patience_s`."""
        return time.monotonic() - self._last <= 2 * self.demand.interval_ns / 1e9 + patience_s

    def _publish(self, reading: Reading) -> None:
        self._last = time.monotonic()
        self.hub.publish(reading)


class Feeds:
    """The sources that a configuration asks for, by name. `given`: those that the daemon need not make."""

    def __init__(self, given: Mapping[str, Source], connect: Connect) -> None:
        self._given = given
        self._connect = connect
        self._feeds: dict[str, Feed] = {}

    def __getitem__(self, name: str) -> Feed:
        return self._feeds[name]

    def __iter__(self) -> Iterator[Feed]:
        return iter(self._feeds.values())

    def get(self, name: str) -> Feed | None:
        """The source of a name, if there is one."""
        return self._feeds.get(name)

    def deliver(self, names: Iterable[str]) -> dict[str, bool]:
        """Which of these sources deliver."""
        return {name: self._feeds[name].delivers() for name in names if name in self._feeds}

    def statuses(self, names: Iterable[str]) -> tuple[RemoteStatus, ...]:
        """How those of these sources are that are elsewhere."""
        sources = [self._feeds[name].source for name in names if name in self._feeds]
        return tuple(source.status() for source in sources if isinstance(source, Reporting))

    def change(self, config: Config) -> list[Feed]:
        """End the sources that `config` has not or has otherwise, and tell the others what is wanted now.

        Returns the new ones, which are to be run. Raises UserError, and has done nothing, when one cannot be made.
        """
        demands = demands_of(config)
        kept = {feed.name for feed in self if feed.name in demands and not feed.differs(config)}
        new = [self._make(name, config, demand) for name, demand in demands.items() if name not in kept]
        for feed in [feed for feed in self if feed.name not in kept]:
            feed.end()
            del self._feeds[feed.name]
        for feed in self:
            if feed.demand != demands[feed.name]:
                feed.change(demands[feed.name])
        self._feeds.update((feed.name, feed) for feed in new)
        return new

    def _make(self, name: str, config: Config, demand: Demand) -> Feed:
        if name in self._given:
            return Feed(name, self._given[name], None, demand)
        if name not in config.sources:
            raise UserError(f"sinks: there is no source {name!r}")
        return Feed(name, self._connect(name, config.sources[name]), config.sources[name], demand)
