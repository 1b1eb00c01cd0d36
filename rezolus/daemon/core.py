"""The daemon itself: starts sources and sinks, changes them at a reload, and ends them in order.

The nesting of the nurseries is the order of shutdown: signals are watched to the very end; the sources stop first;
their end closes the streams; the sinks finish what they have. What a sink's surroundings do to it (an address in use, a folder
that cannot be written) is reported and concerns that sink only. A defect ends the daemon.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import trio

from rezolus.config import AGENT_IS_SETTLED, LOCAL, Config
from rezolus.daemon.ensemble import Ensemble, Nurseries, ServicesOf, Timing
from rezolus.daemon.feeds import Connect, Feeds
from rezolus.daemon.outlets import Capturing
from rezolus.daemon.reload import Request, RereadFiles, refused, unchangeable
from rezolus.errors import ReportedError, UserError
from rezolus.log import set_level
from rezolus.recording.child import Finisher, finish_in_child
from rezolus.remote.source import RemoteSource
from rezolus.sinks.stream import Source, StreamStatistics
from rezolus.status import ReloadResult, ReloadStatus
from rezolus.systemd import notify, notify_reloading, watchdog_s

log = logging.getLogger(__name__)


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

    `services` says what runs beside them for a configuration, `reread` what the files say at a reload, `finisher` runs what
    completes recordings.
    """

    def __init__(
        self,
        config: Config,
        sources: Mapping[str, Source] | None = None,
        *,
        services: ServicesOf = lambda _: {},
        reread: RereadFiles | None = None,
        connect: Connect = RemoteSource,
        finisher: Finisher = finish_in_child,
        timing: Timing | None = None,
    ) -> None:
        self._timing = timing or Timing()
        self._reread = reread
        self._ensemble = Ensemble(config, Feeds(sources or {}, connect), services, finisher, self._timing)
        self._scopes = _Scopes()
        self._nurseries: Nurseries | None = None
        """While it runs and is not stopping."""
        self._signalled: float | None = None
        """When a signal came to stop."""
        self._reloading = False
        self._last_reload: ReloadStatus | None = None
        self.leaving = trio.Event()
        """A second signal ends it before everything is finished."""

    async def run(
        self, *, signals: Signals | None = None, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run until a signal comes, `stop` is called or every sink is done. A second signal drops what is not finished.

        Started once the sinks take readings and the sources are about to give some. When a source fails, the sinks
        finish before the error goes on. Raises ReportedError when no sink is left and none ended well.
        """
        failure: BaseException | None = None
        async with trio.open_nursery() as watch:
            await watch.start(self._watch_signals, signals or Signals())
            watch.start_soon(self._feed_watchdog)
            with self._scopes.sinks:
                async with trio.open_nursery() as sinks:
                    try:
                        await self._run_sources(sinks, task_status)
                    except Exception as error:  # noqa: BLE001 - goes on below, when the sinks have finished
                        failure = error
                    notify("STOPPING=1", "STATUS=finishing")
                    self._ensemble.stop()
                    watch.start_soon(self._tell_if_slow)
            watch.cancel_scope.cancel()
        if failure is not None:
            raise failure
        outlets = self._ensemble.outlets.values()
        failures = [outlet.failure for outlet in outlets if outlet.failure is not None]
        if failures and len(failures) == len(outlets):
            raise ReportedError(str(failures[0])) from failures[0]

    def stop(self) -> None:
        """As the first signal does: end the sources, let the sinks finish."""
        self._scopes.sources.cancel()

    async def reload(self) -> ReloadResult:
        """Take over what the files say now; what they do not change goes on undisturbed. Waits until it is done."""
        if self._nurseries is None:
            return refused("the daemon is starting or stopping")
        if self._reloading:
            return refused("a reload is running already; try again when it is done")
        self._reloading = True
        request = Request.now()
        self._nurseries.sources.start_soon(
            self._carry_out, request
        )  # whoever asked may go, or be a page that is replaced
        await request.done.wait()
        return request.result

    @property
    def config(self) -> Config:
        """What it runs."""
        return self._ensemble.config

    @property
    def last_reload(self) -> ReloadStatus | None:
        """How the last reload went; a sink that did not start and runs by now is no problem any more."""
        last = self._last_reload
        if last is None:
            return None
        mended = [problem for problem in last.problems if self._ensemble.mended(problem)]
        standing = tuple(problem for problem in last.problems if problem not in mended)
        notes = (*last.notes, *(f"{problem}; it runs now" for problem in mended))
        ok = last.ok or not standing
        return msgspec.structs.replace(last, ok=ok, problems=standing, notes=notes)

    @property
    def ensemble(self) -> Ensemble:
        """What runs."""
        return self._ensemble

    def statistics(self) -> DaemonStatistics:
        """Counts so far."""
        outlets = self._ensemble.outlets
        return DaemonStatistics(
            streams=self._ensemble.streams(),
            sinks={name: outlet.sink.statistics() for name, outlet in outlets.items()},
            failures={name: outlet.trouble.text for name, outlet in outlets.items() if outlet.trouble.text},
        )

    async def _run_sources(self, sinks: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        """Until the scope is cancelled or every sink is done."""
        with self._scopes.sources:
            try:
                async with trio.open_nursery() as sources:
                    sources.start_soon(self._stop_when_done)
                    nurseries = Nurseries(sources, sinks)
                    await self._ensemble.start(nurseries)
                    self._nurseries = nurseries
                    notify("READY=1", self._status_line())
                    task_status.started()
            finally:
                self._nurseries = None

    async def _stop_when_done(self) -> None:
        await self._ensemble.done.wait()
        self.stop()

    async def _carry_out(self, request: Request) -> None:
        try:
            notify_reloading()
            result = await self._reload()
            self._last_reload = request.answer(result)
            _log_reload(result, self._last_reload.seconds)
            if result.ok or result.changed:
                assert self._nurseries is not None
                await self._ensemble.change_services(self._nurseries)
            notify("READY=1", self._status_line())
        finally:
            request.done.set()
            self._reloading = False

    async def _reload(self) -> ReloadResult:
        if self._reread is None or self._nurseries is None:
            return refused("this daemon was not made from a file")
        found = await self._reread()
        if not found.ok or found.config is None:
            return ReloadResult(ok=False, problems=found.problems)
        before = self.config
        if found.config.agent.enabled != before.agent.enabled:
            return refused(AGENT_IS_SETTLED)
        config, notes = unchangeable(before, found.config)
        new_warnings = [warning for warning in config.warnings if warning not in before.warnings]
        try:
            changes = await self._ensemble.change(config, self._nurseries)
        except UserError as error:
            return ReloadResult(ok=False, problems=(str(error),), changed=found.changed)
        level = ("log.level",) if config.log.level != before.log.level else ()
        set_level(config.log.level)
        return ReloadResult(
            ok=not changes.problems,
            problems=changes.problems,
            changed=(*found.changed, *changes.names, *level),
            notes=(*found.problems, *notes, *new_warnings),
        )

    async def _watch_signals(self, signals: Signals, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*signals.stop, *signals.capture, *signals.reload) as received:
            task_status.started()
            async for number in received:
                name = signal.Signals(number).name
                if number in signals.stop:
                    self._stop_by(name)
                elif number in signals.capture:
                    self._capture(name)
                else:
                    self._reload_by(name)

    def _stop_by(self, name: str) -> None:
        now = trio.current_time()
        if self._signalled is None:
            self._signalled = now
            log.info("%s: stopping", name)
            self.stop()
        elif now - self._signalled >= self._timing.together_s:
            log.warning("second signal (%s): leaving at once", name)
            self.leaving.set()
            self._scopes.sinks.cancel()

    def _capture(self, name: str) -> None:
        sinks = [outlet.sink for outlet in self._ensemble.outlets.values() if not outlet.done.is_set()]
        able = [sink for sink in sinks if isinstance(sink, Capturing)]
        if not able:
            log.info("%s: no sink keeps a buffer that could be written out", name)
        if self._nurseries is not None:
            for sink in able:
                self._nurseries.sinks.start_soon(_captured, sink)

    def _reload_by(self, name: str) -> None:
        log.info("%s: reloading", name)
        if self._nurseries is None:
            log.warning("%s: the daemon is starting or stopping, nothing is reloaded", name)
        else:
            self._nurseries.sources.start_soon(self._reload_and_tell)

    async def _reload_and_tell(self) -> None:
        already = self._reloading
        result = await self.reload()
        if already:
            log.warning("%s", result.problems[0])

    async def _feed_watchdog(self) -> None:
        """Tell the service manager that all is well, as long as readings are made: a hung sampling is to be ended by it."""
        limit_s = watchdog_s()
        while limit_s is not None:
            feed = self._ensemble.feeds.get(LOCAL)
            if feed is None or self._nurseries is None or feed.publishes(limit_s / 2):
                notify("WATCHDOG=1", self._status_line())
            await trio.sleep(limit_s / 2)

    def _status_line(self) -> str:
        outlets = self._ensemble.outlets
        troubles = {name: outlet.trouble for name, outlet in outlets.items()} | self._ensemble.services.troubles
        failing = [name for name, trouble in troubles.items() if trouble.text]
        sources = len(list(self._ensemble.feeds))
        text = f"STATUS={len(outlets)} sinks, {sources} source{'s' if sources != 1 else ''}"
        return f"{text}; failing: {', '.join(failing)}" if failing else text

    async def _tell_if_slow(self) -> None:
        await trio.sleep(self._timing.patience_s)
        log.warning(
            "still finishing: %s; a second signal leaves at once, recordings are then completed by the next start",
            ", ".join(self._ensemble.unfinished()) or "pages",
        )


async def _captured(sink: Capturing) -> None:
    try:
        await sink.capture()
    except UserError as error:
        log.error("%s", error)  # noqa: TRY400 - for the user: what happened, without a traceback


def _log_reload(result: ReloadResult, seconds: float) -> None:
    for problem in result.problems:
        log.error("reload: %s", problem)
    for note in result.notes:
        log.warning("reload: %s", note)
    if result.ok or result.changed:
        log.info("reloaded in %.1f s; changed: %s", seconds, ", ".join(result.changed) or "nothing")
    else:
        log.error("reload: everything is as before")
