"""The daemon: one source of readings, the configured sinks, and the order in which they start and stop.

The nesting of the nurseries is the order of shutdown: signals are watched to the very end; the source stops first;
its end closes the streams; the sinks finish what they have. What a sink's surroundings do to it (an address in use, a folder
that cannot be written) is reported and concerns that sink only. A defect ends the daemon.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, assert_never

import trio

from rezolus.config import Config, ExporterConfig, HindsightConfig, RecorderConfig, SinkConfig
from rezolus.errors import UserError
from rezolus.http import ListenError
from rezolus.reading import Reading
from rezolus.recording.child import Finisher, finish_in_child
from rezolus.sinks.exporter import Exporter
from rezolus.sinks.recorder import Recorder, work_folder
from rezolus.sinks.stream import Demand, Hub, Source, StreamStatistics, demand_of
from rezolus.systemd import notify

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""Pause before an address in use is tried again."""
PATIENCE_S = 1.0
"""A shutdown that takes longer says what it waits for."""

Service = Callable[..., Awaitable[None]]
"""Something that runs beside the source, such as the status pages: called with `task_status`, runs until cancelled."""


class Sink(Protocol):
    """What becomes of readings."""

    @property
    def name(self) -> str:
        """The sink's table in the configuration."""
        ...

    async def run(
        self,
        readings: trio.MemoryReceiveChannel[Reading],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take readings until the stream ends, finish and return. Raises UserError for what only the user can mend."""
        ...

    def statistics(self) -> object:
        """Counts, as a frozen dataclass."""
        ...


@dataclass(frozen=True, slots=True)
class DaemonStatistics:
    """The sinks of a daemon."""

    streams: tuple[StreamStatistics, ...]
    sinks: Mapping[str, object]
    """Each sink's own `statistics()`."""
    failures: Mapping[str, str]
    """Why sinks do not run."""


@dataclass(slots=True)
class _Shutdown:
    """What the signal handler may cancel, from the inside out."""

    source: trio.CancelScope = field(default_factory=trio.CancelScope)
    sinks: trio.CancelScope = field(default_factory=trio.CancelScope)


def demand_for(config: Config) -> Demand:
    """What the enabled sinks want sampled; without sinks nothing at the agent's interval."""
    if not config.sinks:
        return Demand(config.agent.interval, ())
    return demand_of((sink.interval, sink.metrics) for sink in config.sinks.values())


class Daemon:
    """Runs once. `metadata` goes into recordings, `finisher` runs what completes them."""

    def __init__(
        self, config: Config, *, metadata: Mapping[str, str] | None = None, finisher: Finisher = finish_in_child
    ) -> None:
        self._finisher = finisher
        self.demand = demand_for(config)
        self._hub = Hub(self.demand.interval_ns)
        self._subscriptions = {
            name: self._hub.subscribe(name, sink.interval, sink.metrics) for name, sink in config.sinks.items()
        }
        self._sinks = {name: self._build(name, sink, metadata or {}) for name, sink in config.sinks.items()}
        self._running = set(self._sinks)
        self._failures: dict[str, UserError] = {}
        self._stopping = trio.Event()

    async def run(
        self,
        source: Source,
        *,
        services: Mapping[str, Service] | None = None,
        signals: Sequence[int] = (signal.SIGINT, signal.SIGTERM),
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until a signal comes or every sink is done. A second signal drops what is not finished.

        Started once the sinks take readings and the source is about to give some. When the source fails, the sinks finish
        before the error goes on. Raises the failure of a sink when no sink is left.
        """
        shutdown = _Shutdown()
        failure: BaseException | None = None
        async with trio.open_nursery() as watch:
            await watch.start(self._watch_signals, signals, shutdown)
            with shutdown.sinks:
                async with trio.open_nursery() as sinks:
                    for sink in self._sinks.values():
                        await sinks.start(self._run_sink, sink, shutdown)
                    try:
                        await self._sample(source, services or {}, shutdown, task_status)
                    except Exception as error:  # noqa: BLE001 - goes on below, when the sinks have finished
                        failure = error
                    notify("STOPPING=1")
                    self._stopping.set()
                    self._hub.close()
                    watch.start_soon(self._tell_if_slow)
            watch.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if self._failures and len(self._failures) == len(self._sinks):
            raise next(iter(self._failures.values()))

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Files that sinks will write."""
        return tuple(sink.output for sink in self._sinks.values() if isinstance(sink, Recorder))

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders that sinks will work in."""
        return tuple(work_folder(output) for output in self.outputs)

    def statistics(self) -> DaemonStatistics:
        """Counts so far."""
        return DaemonStatistics(
            streams=self._hub.statistics(),
            sinks={name: sink.statistics() for name, sink in self._sinks.items()},
            failures={name: str(error) for name, error in self._failures.items()},
        )

    def _build(self, name: str, config: SinkConfig, metadata: Mapping[str, str]) -> Sink:
        match config:
            case ExporterConfig():
                return Exporter(name, config, self._hub.statistics)
            case RecorderConfig():
                return Recorder(name, config, metadata, self._finisher)
            case HindsightConfig():
                raise UserError(f"sinks.{name}: this version has no hindsight sink yet")
        assert_never(config)

    async def _sample(
        self, source: Source, services: Mapping[str, Service], shutdown: _Shutdown, task_status: trio.TaskStatus[None]
    ) -> None:
        """Source and services, until the scope is cancelled."""
        with shutdown.source:
            async with trio.open_nursery() as nursery:
                for name, service in services.items():
                    await nursery.start(self._run_service, name, service)
                await nursery.start(source.run, self.demand, self._hub.publish)
                notify("READY=1")
                task_status.started()

    async def _run_sink(self, sink: Sink, shutdown: _Shutdown, *, task_status: trio.TaskStatus[None]) -> None:
        """One sink until it is done. The last one to be done ends the source."""
        channel = self._subscriptions[sink.name].channel

        async def attempt(task_status: trio.TaskStatus[None]) -> None:
            await sink.run(channel, task_status=task_status)

        try:
            failure = await _persistently(sink.name, attempt, self._stopping, task_status)
            if failure is not None:
                self._failures[sink.name] = failure
        finally:
            channel.close()
            self._running.discard(sink.name)
            if not self._running:
                shutdown.source.cancel()

    async def _run_service(self, name: str, service: Service, *, task_status: trio.TaskStatus[None]) -> None:
        async def attempt(task_status: trio.TaskStatus[None]) -> None:
            await service(task_status=task_status)

        await _persistently(name, attempt, self._stopping, task_status)

    async def _watch_signals(
        self, signals: Sequence[int], shutdown: _Shutdown, *, task_status: trio.TaskStatus[None]
    ) -> None:
        with trio.open_signal_receiver(*signals) as received:
            task_status.started()
            async for number in received:
                if shutdown.source.cancel_called:
                    log.warning("second signal (%s): leaving at once", signal.Signals(number).name)
                    shutdown.sinks.cancel()
                else:
                    log.info("%s: stopping", signal.Signals(number).name)
                    shutdown.source.cancel()

    async def _tell_if_slow(self) -> None:
        await trio.sleep(PATIENCE_S)
        log.warning(
            "still finishing: %s; a second signal leaves at once, recordings are then completed by the next start",
            ", ".join(sorted(self._running)),
        )


async def run(
    config: Config,
    source: Source,
    *,
    metadata: Mapping[str, str] | None = None,
    services: Mapping[str, Service] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """A `Daemon` of this configuration, until it ends."""
    await Daemon(config, metadata=metadata).run(source, services=services, task_status=task_status)


class _Readiness:
    """Passes on the first `started`; later attempts report it again."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status: trio.TaskStatus[None] | None = task_status

    def started(self, value: None = None) -> None:
        """As of `trio.TaskStatus`."""
        del value
        if self._task_status is not None:
            self._task_status.started()
            self._task_status = None


async def _persistently(
    name: str,
    attempt: Callable[[trio.TaskStatus[None]], Awaitable[None]],
    stopping: trio.Event,
    task_status: trio.TaskStatus[None],
) -> UserError | None:
    """Run something until it is done; while its address is in use, try again, but not once the daemon is stopping.

    Returns what ended it otherwise, reported. What is not the user's to mend is raised.
    """
    ready = _Readiness(task_status)
    reported = ""
    while True:
        failures: list[UserError] = []
        try:
            await attempt(ready)
        except* UserError as group:
            failures = _leaves(group)
        if not failures:
            return None
        failure = failures[0]
        retry = isinstance(failure, ListenError)
        if str(failure) != reported:
            reported = str(failure)
            log.error("%s: %s%s", name, failure, "; trying again" if retry else "")
        ready.started()  # the others need not wait
        if not retry:
            return failure
        with trio.move_on_after(RETRY_S):
            await stopping.wait()
            return None


def _leaves(group: BaseExceptionGroup[UserError]) -> list[UserError]:
    leaves: list[UserError] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves
