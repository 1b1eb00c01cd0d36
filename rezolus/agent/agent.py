"""The agent: has programs loaded, samples on its own clock, and hands each reading on.

It knows no sinks: whoever runs it says how often to sample and which metrics are wanted, and takes the readings.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from dsl.schema import Schema
from rezolus import __version__
from rezolus.agent.cgroups import CgroupNames, find_hierarchy
from rezolus.agent.clock import NS, ClockStatistics, SamplingClock
from rezolus.agent.costs import CostMeter
from rezolus.agent.external.store import Store
from rezolus.agent.handover import Handover, problem_lines
from rezolus.agent.helper import Helper, LoadError
from rezolus.agent.reload import Reloaded, done, failed, texts
from rezolus.agent.running import Running
from rezolus.agent.sampling import SamplingStatistics, Wanted, everything
from rezolus.agent.selfmetrics import SelfMetric, counter, gauge
from rezolus.agent.sources import SourceProblem
from rezolus.agent.windows import StatsMode, measure_costs
from rezolus.reading import Catalog, Reading

log = logging.getLogger(__name__)

LATE = ("rezolus_late_ticks", "", "Readings that began later than a tenth of the interval after they were due")
SKIPPED = ("rezolus_skipped_ticks", "", "Readings that were due and did not take place")
RELOADS = ("rezolus_reloads", "", "Reloads of the definitions that went through")
RELOAD_FAILURES = ("rezolus_reload_failures", "", "Reloads that changed nothing because something was wrong")
DURATION = ("rezolus_reading_duration", "nanoseconds", "How long the last reading took")

SOURCE = "rezolus"
"""The kind of source that an agent is."""

CHORES_SECONDS = 1.0

LAST_RUN_S = 1.0
"""After so long no program that was at work when it was replaced still is, where nobody can say so."""

_chores_limiter = trio.CapacityLimiter(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """How the agent works on this host."""

    stats: StatsMode = "sample"
    """When the kernel times our programs: now and then, always, never."""
    root: str = "/"
    """Where /proc and /sys are."""
    systeminfo: str = ""
    """This host, as JSON."""


class Demand(Protocol):
    """What is wanted of the agent."""

    @property
    def interval_ns(self) -> int:
        """Of the sampling clock."""
        ...

    def wants(self, metric: str) -> bool:
        """Whether the metric of this name is to be sampled."""
        ...


@dataclass(frozen=True, slots=True)
class AgentStatistics:
    """The agent as a whole, now."""

    uptime: float
    """Seconds since `run` was called."""
    clock: ClockStatistics
    sampling: SamplingStatistics | None
    helper_alive: bool
    sources: tuple[SourceProblem, ...]
    maps: dict[str, int]


class Agent:
    """Runs once. `helper` is somebody else's, who runs it; None measures nothing but the agent itself."""

    def __init__(self, helper: Helper | None, options: AgentOptions) -> None:
        self._helper = helper
        self._options = options
        self._clock = SamplingClock(1.0)
        self._wanted: Wanted = everything
        self._names = CgroupNames(_hierarchy(options.root))
        self.pushed = Store()
        """What other programs push; whoever opens it lets them."""
        self._started = time.monotonic()
        self._running: Running | None = None
        self._latest: Reading | None = None
        self._pause = trio.CancelScope()
        self._reloads = self._reload_failures = 0
        self.load_error: str | None = None
        """Why the last loader brought nothing."""
        self.loading = False
        """Whether a loader is at work."""

    @property
    def running(self) -> Running | None:
        """What is measured now; None before the first loader is done."""
        return self._running

    @property
    def latest(self) -> Reading | None:
        """The last reading."""
        return self._latest

    @property
    def options(self) -> AgentOptions:
        """As given."""
        return self._options

    @property
    def interval(self) -> float:
        """Of the sampling clock, seconds."""
        return self._clock.interval

    async def run(
        self,
        demand: Demand,
        publish: Callable[[Reading], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Load, then publish a reading each interval until cancelled; `publish` must neither block nor raise.

        Started once readings are about to come.
        """
        self._clock = SamplingClock(demand.interval_ns / NS)
        self._wanted = demand.wants
        self._started = time.monotonic()
        try:
            async with trio.open_nursery() as nursery:
                await self._load_first()
                nursery.start_soon(self._chores)
                if self._helper is not None:
                    nursery.start_soon(measure_costs, self._helper, self._options.stats, self._costs)
                task_status.started()
                while True:
                    with trio.CancelScope() as self._pause:
                        await self._clock.wait()
                    if self._pause.cancelled_caught:
                        continue  # the interval is another one now
                    self._latest = self._read()
                    publish(self._latest)
        finally:
            running, self._running = self._running, None  # requests may still come: there is nothing to read for them
            if running is not None:
                running.close()

    def reading_within(self, ttl_ns: int) -> Reading | None:
        """The last reading when it began at most `ttl_ns` ago, else one taken now; None while there is nothing to read.

        Takes no turn of the event loop, so that all who ask within that time share one reading.
        """
        if self._running is None:
            return None
        latest = self._latest
        if latest is None or time.clock_gettime_ns(time.CLOCK_BOOTTIME) - latest.monotonic_ns > ttl_ns:
            latest = self._latest = self._running.sampling.read(aside=True)
        return latest

    def labels(self) -> Mapping[str, str]:
        """What tells its series from those of other kinds of sources."""
        return {"source": SOURCE}

    def merge_labels(self) -> Mapping[str, str]:
        """The same, and what tells them from those of other hosts."""
        return {"source": SOURCE, "node": os.uname().nodename}

    def metadata(self) -> Mapping[str, str]:
        """What recordings say of this host and its metrics."""
        descriptions = dict(self.described())
        found = {"source": SOURCE, "version": __version__, "systeminfo": self._options.systeminfo}
        if descriptions:
            found["descriptions"] = msgspec.json.encode(descriptions, order="sorted").decode()
        return {key: value for key, value in found.items() if value}

    def described(self) -> list[tuple[str, str]]:
        """The metrics that are defined, with their help."""
        handover = _nothing() if self._running is None else self._running.handover
        return [(metric.name, metric.help) for metric in handover.schema.metrics]

    def adjust(self, demand: Demand) -> None:
        """From now on that is wanted: other metrics, another interval."""
        self._wanted = demand.wants
        if self._running is not None:
            self._running.adjust(self._wanted, self._catalog())
        interval = demand.interval_ns / NS
        if interval != self._clock.interval:
            self._clock.change(interval)
            self._pause.cancel()

    async def reload(self) -> Reloaded:
        """Have configuration and definitions read again and measure what they say now; whatever is wrong, nothing changes.

        What stays the same goes on without a gap, readings included. The demand is the same until `adjust` is called.
        """
        if self.loading:
            return failed("the definitions are being loaded already; try again when that is done")
        if self._helper is None or self._running is None:
            return failed("nothing has been loaded that could be loaded again")
        self.loading = True
        try:
            result = await self._reload(self._helper, self._running)
        except LoadError as error:
            refusals = () if error.partial is None else error.partial.refusals
            result = failed(*(texts(refusals) or (str(error),)))
        finally:
            self.loading = False
        self._reloads += result.ok
        self._reload_failures += not result.ok
        return result

    async def _reload(self, helper: Helper, before: Running) -> Reloaded:
        try:
            return await self._replace(helper, before)
        except LoadError as error:
            if not error.crashed:
                raise
            log.warning("%s; looking for the sampler at fault", error)
            return await self._replace(helper, before, carefully=True)

    async def _replace(self, helper: Helper, before: Running, *, carefully: bool = False) -> Reloaded:
        async with helper.reload(before.handover, before.fds, carefully=carefully) as offer:
            # The descriptors are ours now: whatever happens, this is seen to its end, which is near.
            with trio.CancelScope(shield=True):
                wanted = self._wanted
                # In a thread: files are opened and memory is mapped, which is not to hold up the clock.
                start = partial(self._start, offer.handover, offer.fds, before)
                try:
                    running = await trio.to_thread.run_sync(start)
                except (OSError, ValueError) as error:
                    raise LoadError(f"what the loader handed over cannot be used: {error}") from error
                if self._wanted is not wanted:
                    running.adjust(self._wanted, self._catalog())
                running.turn()
                self._running, self.load_error = running, None
                self._reserve(offer.handover)
                if not await offer.settle():
                    await trio.sleep(LAST_RUN_S)
                running.sampling.settle()
                before.close()
        return done(offer.handover, before.handover)

    async def _load_first(self) -> None:
        """Have everything loaded; a failure leaves what can be read from files."""
        handover, fds = _nothing(), dict[str, int]()
        self.loading = True
        try:
            if self._helper is not None:
                handover, fds = await _load(self._helper)
        except LoadError as error:
            self.load_error = str(error)
            log.error("%s", error)  # noqa: TRY400 - for the user: what happened, without a traceback
            handover = error.partial or handover
        finally:
            self.loading = False
        try:
            self._running = self._start(handover, fds)
            self._reserve(handover)
        except (OSError, ValueError) as error:
            self.load_error = f"what the loader handed over cannot be used: {error}"
            log.error("%s", self.load_error)  # noqa: TRY400
            self._running = self._start(_nothing(), {})
            return
        for line in problem_lines(handover.problems):
            log.error("%s", line)
        _log_running(handover)

    def statistics(self) -> AgentStatistics:
        """Counts and states."""
        running = self._running
        return AgentStatistics(
            uptime=time.monotonic() - self._started,
            clock=self._clock.statistics(),
            sampling=None if running is None else running.sampling.statistics(),
            helper_alive=self._helper is not None and self._helper.alive,
            sources=() if running is None else running.sources.problems(),
            maps={} if running is None else dict(running.maps),
        )

    def _start(self, handover: Handover, fds: dict[str, int], before: Running | None = None) -> Running:
        """Read what was handed over. OSError or ValueError when it is of no use; the descriptors are then closed."""
        try:
            return Running.start(
                handover,
                fds,
                self._names,
                wanted=self._wanted,
                own=self._own(),
                root=self._options.root,
                before=before,
                catalog=self._catalog(),
                pushed=self.pushed,
            )
        except (OSError, ValueError):
            for fd in fds.values():
                os.close(fd)
            raise

    def _reserve(self, handover: Handover) -> None:
        """Nobody pushes what is measured here."""
        self.pushed.reserve(metric.name for metric in handover.schema.metrics)

    def _catalog(self) -> Catalog | None:
        return None if self._latest is None else self._latest.catalog

    def _read(self) -> Reading:
        assert self._running is not None
        return self._running.sampling.read()

    def _own(self) -> list[SelfMetric]:
        return [
            counter(LATE, lambda: self._clock.statistics().late),
            counter(SKIPPED, lambda: self._clock.statistics().skipped),
            counter(RELOADS, lambda: self._reloads),
            counter(RELOAD_FAILURES, lambda: self._reload_failures),
            gauge(DURATION, lambda: self._latest.duration_ns if self._latest is not None else 0),
        ]

    async def _chores(self) -> None:
        """Look after cgroup names between readings; walks may take a while, hence in a thread."""
        while True:
            await trio.sleep(CHORES_SECONDS)
            if self._names.due:
                await trio.to_thread.run_sync(self._names.chores, limiter=_chores_limiter)

    def _costs(self) -> CostMeter | None:
        return None if self._running is None else self._running.costs


def _log_running(handover: Handover) -> None:
    """From here on events are counted: worth a line, since the pages answer before."""
    attached = sum(program.error is None for program in handover.programs)
    if attached:
        seconds = sum(handover.seconds.values())
        samplers = len(handover.schema.samplers)
        log.info("%d samplers run, %d programs attached after %.1f s", samplers, attached, seconds)


def _hierarchy(root: str) -> str | None:
    try:
        return find_hierarchy((Path(root) / "proc/self/mounts").read_text())
    except OSError:
        return None


async def _load(helper: Helper) -> tuple[Handover, dict[str, int]]:
    """Load; when the loader crashes, once more without what makes it crash, and when it is killed at once, once more."""
    try:
        return await helper.load()
    except LoadError as error:
        if error.crashed:
            log.warning("%s; looking for the sampler at fault", error)
            return await helper.load(carefully=True)
        if error.killed and error.partial is None:
            log.warning("%s before it had begun; once more", error)
            return await helper.load()
        raise


def _nothing() -> Handover:
    return Handover(schema=Schema(samplers=(), metrics=()), privileged=False)
