"""The daemon itself: starts sources and sinks, changes them at a reload, and ends them in order.

The nesting of the nurseries is the order of shutdown: signals are watched to the very end; the sources stop first;
their end closes the streams; the sinks finish what they have. What a sink's surroundings do to it (an address in use, a folder
that cannot be written) is reported and concerns that sink only. A defect ends the daemon.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import assert_never

import trio

from rezolus.config import Config, ExporterConfig, HindsightConfig, RecorderConfig, SinkConfig
from rezolus.daemon.feeds import Connect, Feeds, connect_remote
from rezolus.daemon.metadata import metadata_of
from rezolus.daemon.outlets import Outlet, Sink
from rezolus.daemon.services import Service, Services
from rezolus.outputs import outputs_of, sinks_of
from rezolus.recording.child import Finisher, finish_in_child
from rezolus.sinks.exporter import Exporter
from rezolus.sinks.recorder import Recorder
from rezolus.sinks.stream import Source, StreamStatistics
from rezolus.systemd import notify

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How patient the daemon is; seconds."""

    retry_s: float = 5.0
    """Pause before an address in use is tried again."""
    patience_s: float = 1.0
    """A shutdown that takes longer says what it waits for."""
    replace_s: float = 30.0
    """How long a sink that a reload removes may take to finish before its successor is not kept waiting any longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Which signals mean what."""

    stop: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
    capture: tuple[int, ...] = (signal.SIGHUP,)
    reload: tuple[int, ...] = (signal.SIGUSR1,)


@dataclass(frozen=True, slots=True)
class DaemonStatistics:
    """The sinks of a daemon."""

    streams: tuple[StreamStatistics, ...]
    sinks: Mapping[str, object]
    """Each sink's own `statistics()`."""
    failures: Mapping[str, str]
    """Why sinks do not run."""


@dataclass(slots=True)
class _Scopes:
    """What a signal may cancel, from the inside out."""

    sources: trio.CancelScope = field(default_factory=trio.CancelScope)
    sinks: trio.CancelScope = field(default_factory=trio.CancelScope)


class Daemon:
    """Runs once. `sources`: those that it need not make from the configuration, such as the agent in this process.

    `services` says what runs beside them for a configuration; `finisher` runs what completes recordings.
    """

    def __init__(
        self,
        config: Config,
        sources: Mapping[str, Source] | None = None,
        *,
        services: Callable[[Config], Mapping[str, Service]] | None = None,
        connect: Connect = connect_remote,
        finisher: Finisher = finish_in_child,
        timing: Timing | None = None,
    ) -> None:
        self.config = config
        self._timing = timing or Timing()
        self._finisher = finisher
        self._feeds = Feeds(sources or {}, connect)
        self._services_of = services or (lambda _: {})
        self._services = Services(self._timing.retry_s)
        self._new_feeds = self._feeds.change(config)
        self._outlets = {name: self._outlet(name, sink) for name, sink in sinks_of(config).items()}
        self._leaving: set[Outlet] = set()
        """Sinks that a reload removed, while they finish."""
        self._scopes = _Scopes()
        self.gave_up = False
        """Whether a second signal ended it before everything was finished."""

    async def run(
        self, *, signals: Signals | None = None, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run until a signal comes, `stop` is called or every sink is done. A second signal drops what is not finished.

        Started once the sinks take readings and the sources are about to give some. When a source fails, the sinks
        finish before the error goes on. Raises the failure of a sink when no sink is left.
        """
        failure: BaseException | None = None
        async with trio.open_nursery() as watch:
            await watch.start(self._watch_signals, signals or Signals())
            with self._scopes.sinks:
                async with trio.open_nursery() as sinks:
                    for outlet in self._outlets.values():
                        await sinks.start(self._run_outlet, outlet)
                    try:
                        await self._sample(sinks, task_status)
                    except Exception as error:  # noqa: BLE001 - goes on below, when the sinks have finished
                        failure = error
                    notify("STOPPING=1")
                    self._services.stop()
                    for outlet in self._outlets.values():
                        outlet.stop()
                    watch.start_soon(self._tell_if_slow)
            watch.cancel_scope.cancel()
        if failure is not None:
            raise failure
        failures = [outlet.failure for outlet in self._outlets.values() if outlet.failure is not None]
        if failures and len(failures) == len(self._outlets):
            raise failures[0]

    def stop(self) -> None:
        """As the first signal does: end the sources, let the sinks finish."""
        self._scopes.sources.cancel()

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Files that sinks will write."""
        return outputs_of(self.config, time.time_ns()).files

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders that sinks will work in."""
        return outputs_of(self.config, time.time_ns()).folders

    def streams(self) -> tuple[StreamStatistics, ...]:
        """Counts of all sinks' streams."""
        return tuple(outlet.stream.statistics() for outlet in self._outlets.values())

    def statistics(self) -> DaemonStatistics:
        """Counts so far."""
        return DaemonStatistics(
            streams=self.streams(),
            sinks={name: outlet.sink.statistics() for name, outlet in self._outlets.items()},
            failures={name: outlet.trouble.text for name, outlet in self._outlets.items() if outlet.trouble.text},
        )

    def _outlet(self, name: str, config: SinkConfig) -> Outlet:
        outlet = Outlet(name, config, self._feeds)
        outlet.use(self._build(name, config))
        return outlet

    def _build(self, name: str, config: SinkConfig) -> Sink:
        metadata = partial(metadata_of, self._feeds, config.source)
        match config:
            case ExporterConfig():
                return Exporter(name, config, self.streams)
            case RecorderConfig():
                return Recorder(name, config, metadata, self._finisher)
            case HindsightConfig():
                from rezolus.sinks.hindsight import Hindsight  # noqa: PLC0415

                return Hindsight(name, config, metadata, self._finisher)
        assert_never(config)

    async def _sample(self, sinks: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        """Services and sources, until the scope is cancelled."""
        with self._scopes.sources:
            await self._services.change(self._services_of(self.config), sinks)
            async with trio.open_nursery() as nursery:
                for feed in self._new_feeds:
                    await nursery.start(feed.run)
                notify("READY=1")
                task_status.started()
                await trio.sleep_forever()

    async def _run_outlet(self, outlet: Outlet, *, task_status: trio.TaskStatus[None]) -> None:
        """One sink until it is done. The last one to be done ends the sources."""
        try:
            await outlet.run(self._timing.retry_s, task_status=task_status)
        finally:
            if all(outlet.done.is_set() for outlet in self._outlets.values()):
                self._scopes.sources.cancel()

    async def _watch_signals(self, signals: Signals, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*signals.stop, *signals.capture, *signals.reload) as received:
            task_status.started()
            async for number in received:
                if number in signals.stop:
                    self._stop_by(signal.Signals(number).name)

    def _stop_by(self, name: str) -> None:
        if self._scopes.sources.cancel_called:
            log.warning("second signal (%s): leaving at once", name)
            self.gave_up = True
            self._scopes.sinks.cancel()
        else:
            log.info("%s: stopping", name)
            self.stop()

    async def _tell_if_slow(self) -> None:
        await trio.sleep(self._timing.patience_s)
        log.warning(
            "still finishing: %s; a second signal leaves at once, recordings are then completed by the next start",
            ", ".join(sorted(_names(self._outlets.values()) | _names(self._leaving))) or "pages",
        )


def _names(outlets: Iterable[Outlet]) -> set[str]:
    """Of the sinks that are not done."""
    return {outlet.name for outlet in outlets if not outlet.done.is_set()}
