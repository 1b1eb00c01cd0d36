"""Sources, sinks and services together, as a configuration has them, and the way from one configuration to the next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

import msgspec
import trio

from rezolus.config import LOCAL, Config, ExporterConfig, HindsightConfig, RecorderConfig, SinkConfig
from rezolus.daemon.feeds import Feed, Feeds
from rezolus.daemon.metadata import metadata_of
from rezolus.daemon.outlets import Checking, Outlet, Sink
from rezolus.daemon.services import Service, Services
from rezolus.errors import UserError
from rezolus.outputs import needs_of, sinks_of
from rezolus.recording.child import Finisher
from rezolus.sinks.recorder import Recorder
from rezolus.sinks.stream import StreamStatistics
from rezolus.sockets import check_free

log = logging.getLogger(__name__)

ServicesOf = Callable[[Config], Mapping[str, Service]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How patient the daemon is; seconds."""

    retry_s: float = 5.0
    """Pause before an address in use is tried again."""
    patience_s: float = 1.0
    """A shutdown that takes longer says what it waits for."""
    together_s: float = 0.1
    """Signals to stop that come within so long are one: timeout(1) sends it to the process and to its group."""
    replace_s: float = 30.0
    """How long a sink that a reload removes may hold up the one that wants its address or file."""


@dataclass(frozen=True, slots=True)
class Nurseries:
    """Where tasks run, by when they end: the sources first."""

    sources: trio.Nursery
    sinks: trio.Nursery


@dataclass(frozen=True, slots=True)
class Changes:
    """What a change of configuration did."""

    names: tuple[str, ...]
    """Sinks and sources that were begun, ended or begun anew."""
    problems: tuple[str, ...]
    """Why some of them do not run."""


class Ensemble:
    """What runs. `on_end` is called when no sink is left that runs."""

    def __init__(
        self, config: Config, feeds: Feeds, services_of: ServicesOf, finisher: Finisher, timing: Timing
    ) -> None:
        self.config = config
        self.feeds = feeds
        self.services = Services(timing.retry_s)
        self._services_of = services_of
        self._finisher = finisher
        self._timing = timing
        self._new_feeds = feeds.change(config)
        self.outlets = {name: self._outlet(name, sink) for name, sink in sinks_of(config).items()}
        self._leaving: set[Outlet] = set()
        """Sinks that were removed, while they finish."""
        self._waiting: dict[str, Outlet] = {}
        """Sinks that did not run after the last change, by what was said of them."""
        self._changing = False
        self._changed = False
        self.done = trio.Event()
        """Set when every sink is done."""

    async def start(self, nurseries: Nurseries) -> None:
        """Start the sinks, then services, then sources."""
        for outlet in self.outlets.values():
            await nurseries.sinks.start(self._run, outlet)
        await self.change_services(nurseries)
        for feed in self._new_feeds:
            await nurseries.sources.start(feed.run)

    async def change(self, config: Config, nurseries: Nurseries) -> Changes:
        """Become what `config` says, services excepted; what it does not change goes on undisturbed.

        Raises UserError, and has changed nothing, when a source cannot be made.
        """
        self._changing = self._changed = True
        try:
            return await self._change(config, nurseries)
        finally:
            self._changing = False
            self._look_for_the_end()

    async def change_services(self, nurseries: Nurseries) -> None:
        """Have the services that the configuration asks for."""
        await self.services.change(self._services_of(self.config), nurseries.sinks)

    def stop(self) -> None:
        """No more readings come: let the sinks finish, and the services answer what they were asked."""
        self.services.stop()
        for outlet in self.outlets.values():
            outlet.stop()

    def unfinished(self) -> list[str]:
        """Names of the sinks that are not done."""
        outlets = (*self.outlets.values(), *self._leaving)
        return sorted({outlet.name for outlet in outlets if not outlet.done.is_set()})

    def mended(self, problem: str) -> bool:
        """Whether this problem of the last change was a sink's that runs now."""
        outlet = self._waiting.get(problem)
        return outlet is not None and not outlet.trouble.text

    def streams(self) -> tuple[StreamStatistics, ...]:
        """Counts of all sinks' streams. What a sink took and could not write is lost as well."""
        found = []
        for outlet in self.outlets.values():
            stream = outlet.stream.statistics()
            unwritten: int = getattr(outlet.sink.statistics(), "lost", 0)
            found.append(replace(stream, lost=stream.lost + unwritten))
        return tuple(found)

    async def _change(self, config: Config, nurseries: Nurseries) -> Changes:
        config, refused = self._without_broken(config)
        before = {feed.name for feed in self.feeds}
        new_feeds = self.feeds.change(config)
        sinks = sinks_of(config)
        gone = [name for name, outlet in self.outlets.items() if self._differs(outlet, sinks.get(name), config)]
        for name in gone:
            outlet = self.outlets.pop(name)
            outlet.stop()
            if not outlet.done.is_set():
                self._leaving.add(outlet)
        self.config = config
        for feed in new_feeds:
            await nurseries.sources.start(feed.run)
        for outlet in self.outlets.values():
            outlet.connect()
        begun = [name for name in sinks if name not in self.outlets]
        for name in begun:
            await self._begin(name, sinks[name], nurseries)
        self.outlets = {name: self.outlets[name] for name in sinks}
        sources = before ^ {feed.name for feed in self.feeds} | {feed.name for feed in new_feeds}
        self._waiting = {
            f"sinks.{name}: {text}": self.outlets[name] for name in begun if (text := self.outlets[name].trouble.text)
        }
        names = dict.fromkeys((*gone, *begun))
        services = self._services_of(config)
        soon_free = frozenset[str]().union(*(needs_of(outlet.config) for outlet in self._leaving))
        stubborn = self.services.refusals(services, soon_free)
        refused += [f"{name}: {error}; it goes on as it was" for name, error in stubborn.items()]
        pages = (f"service {name}" for name in self.services.differing(services) if name not in stubborn)
        return Changes((*names, *(f"source {name}" for name in sorted(sources)), *pages), (*refused, *self._waiting))

    def _without_broken(self, config: Config) -> tuple[Config, list[str]]:
        """The configuration with running sinks as they are where the new ones could not start, and why those could not."""
        kept: dict[str, SinkConfig] = {}
        problems = []
        taken = self.services.needs().union(*(needs_of(outlet.config) for outlet in self.outlets.values()))
        for table, sink in config.sinks.items():
            old = self.config.sinks.get(table)
            if old is None or old == sink or not self._can_stay(table, old, config):
                continue
            try:
                self._check(table, sink)
                if not needs_of(sink) & taken and not isinstance(sink, RecorderConfig) and sink.listen is not None:
                    check_free(sink.listen)
            except UserError as error:
                kept[table] = old
                problems.append(f"sinks.{table}: {error}; it goes on as it was")
        return msgspec.structs.replace(config, sinks={**config.sinks, **kept}), problems

    def _can_stay(self, table: str, sink: SinkConfig, config: Config) -> bool:
        """Whether the sinks of a table run and will have what feeds them."""
        running = all(
            (outlet := self.outlets.get(name)) is not None and not outlet.done.is_set() and outlet.failure is None
            for name in sinks_of(msgspec.structs.replace(config, sinks={table: sink}))
        )
        return running and all(source == LOCAL or source in config.sources for source in sink.source)

    def _check(self, table: str, sink: SinkConfig) -> None:
        """Raises UserError when a sink could not start."""
        for name, one in sinks_of(msgspec.structs.replace(self.config, sinks={table: sink})).items():
            successor = self._build(name, one, {})
            if isinstance(successor, Checking):
                successor.check()

    def _differs(self, outlet: Outlet, sink: SinkConfig | None, config: Config) -> bool:
        """Whether a sink cannot stay as it is."""
        if isinstance(sink, ExporterConfig) and config.agent.snapshot_format != self.config.agent.snapshot_format:
            return True
        return outlet.config != sink or outlet.failure is not None  # what was in its way may have been mended

    async def _begin(self, name: str, config: SinkConfig, nurseries: Nurseries) -> None:
        """Start a sink once those that have what it needs are done with it."""
        needs = needs_of(config)
        for outlet in [leaving for leaving in self._leaving if needs_of(leaving.config) & needs]:
            with trio.move_on_after(self._timing.replace_s):
                await outlet.done.wait()
            if not outlet.done.is_set():
                log.warning("%s: does not finish; given up for its successor", outlet.name)
                outlet.give_up()
                await outlet.done.wait()
        self.outlets[name] = self._outlet(name, config)
        await nurseries.sinks.start(self._run, self.outlets[name])

    async def _run(self, outlet: Outlet, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await outlet.run(self._timing.retry_s, task_status=task_status)
        finally:
            self._leaving.discard(outlet)
            self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        """The last sink to be done ends the daemon; but what a reload brought and did not work does not."""
        outlets = self.outlets.values()
        if self._changing or not outlets or not all(outlet.done.is_set() for outlet in outlets):
            return
        if not self._changed or any(outlet.failure is None for outlet in outlets):
            self.done.set()

    def _outlet(self, name: str, config: SinkConfig) -> Outlet:
        return Outlet(name, config, self.feeds, partial(self._build, name, config))

    def _build(self, name: str, config: SinkConfig, connected: Mapping[str, Feed]) -> Sink:
        metadata = partial(metadata_of, connected, config.source)
        match config:
            case ExporterConfig():
                from rezolus.sinks.exporter import Exporter

                return Exporter(
                    name,
                    config,
                    self.streams,
                    up=partial(self.feeds.deliver, config.source),
                    remotes=partial(self.feeds.statuses, config.source),
                    snapshot_format=self.config.agent.snapshot_format,
                )
            case RecorderConfig():
                return Recorder(name, config, metadata, self._finisher)
            case HindsightConfig():
                from rezolus.sinks.hindsight import Hindsight

                remotes = partial(self.feeds.statuses, config.source)
                return Hindsight(name, config, metadata, self._finisher, remotes=remotes)
        assert_never(config)
