"""From a source of readings to several sinks, each with its own interval and its own metrics.

Publishing never waits: it runs on the sampling clock. A sink that is not done with earlier readings loses the new
one, and that is counted. Selecting metrics is worked out once per catalog, so a reading costs a sink three `take`s, and
nothing when the sink takes everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import trio

from rezolus.config import Selection
from rezolus.reading import Catalog, Reading

CAPACITY = 8
"""Readings a sink may be behind before it loses some."""

Positions = npt.NDArray[np.intp]
Send = Callable[[Reading], None]
"""Takes a reading at once: it neither waits nor raises."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the sinks want from the source, all together."""

    interval_ns: int
    """The longest interval of which each sink's is a multiple."""
    selections: tuple[Selection, ...]

    def wants(self, metric: str) -> bool:
        """Whether any sink takes the metric of this name."""
        return any(selection.wants(metric) for selection in self.selections)


class Source(Protocol):
    """Where readings come from: the agent in this process, or something over HTTP."""

    def labels(self) -> Mapping[str, str]:
        """What recordings add to its series to say where they are from: `source`, `endpoint`."""
        ...

    def merge_labels(self) -> Mapping[str, str]:
        """The same where there are several sources, with what tells one from the others: `node` or `instance`."""
        ...

    def metadata(self) -> Mapping[str, str]:
        """What recordings say of it as a whole: `source`, `version`, `systeminfo`, ...; what is not known is left out."""
        ...

    async def run(
        self,
        demand: Demand,
        publish: Callable[[Reading], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Publish a reading each interval until cancelled; started once readings are about to come."""
        ...

    def adjust(self, demand: Demand) -> None:
        """From now on that is wanted, of a source that runs: what it has, connections included, it keeps."""
        ...


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """Counts of one sink's stream since the start."""

    name: str
    interval_ns: int
    delivered: int
    """Readings put into the channel."""
    lost: int
    """Readings that were due while the channel was full."""
    waiting: int
    """Readings in the channel now."""


def demand_of(wishes: Iterable[tuple[int, Selection]]) -> Demand:
    """The demand of sinks with these intervals (ns) and selections. ValueError when there is none."""
    pairs = list(wishes)
    if not pairs:
        raise ValueError("no sink wants anything")
    return Demand(math.gcd(*(interval for interval, _ in pairs)), tuple(selection for _, selection in pairs))


class Selector:
    """Cuts readings down to the metrics of a selection."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._full: Catalog | None = None
        self._part: Catalog | None = None
        self._positions: tuple[Positions, Positions, Positions] | None = None
        self._wanted: dict[str, bool] = {}
        """Of each metric of the catalog."""

    def select(self, reading: Reading) -> Reading:
        """The reading of the selected metrics: the same object when that is all of them."""
        if reading.catalog is not self._full:
            self._enter(reading.catalog)
        part, positions = self._part, self._positions
        if part is None or positions is None:
            return reading
        return Reading(
            catalog=part,
            time_ns=reading.time_ns,
            monotonic_ns=reading.monotonic_ns,
            duration_ns=reading.duration_ns,
            counters=reading.counters[positions[0]],
            gauges=reading.gauges[positions[1]],
            histograms=reading.histograms[positions[2]],
        )

    def _enter(self, catalog: Catalog) -> None:
        """Work out which elements of a reading's arrays are selected."""
        groups = (catalog.counters, catalog.gauges, catalog.histograms)
        before, names = self._wanted, {series.name for group in groups for series in group}
        wanted = {name: before[name] if name in before else self._selection.wants(name) for name in names}
        self._full, self._wanted = catalog, wanted
        if all(wanted.values()):
            self._part = self._positions = None
            return
        chosen = [[at for at, series in enumerate(group) if wanted[series.name]] for group in groups]
        self._part = Catalog(*(tuple(group[at] for at in ats) for group, ats in zip(groups, chosen, strict=True)))
        offsets = catalog.histogram_offsets
        buckets = [np.arange(offsets[at], offsets[at + 1]) for at in chosen[2]]
        self._positions = (
            np.array(chosen[0], np.intp),
            np.array(chosen[1], np.intp),
            np.concatenate(buckets) if buckets else np.empty(0, np.intp),
        )


class Stream:
    """What one sink reads from: a channel that loses readings rather than making anybody wait."""

    def __init__(self, name: str, interval_ns: int) -> None:
        self.name = name
        self.interval_ns = interval_ns
        self._send, self.channel = trio.open_memory_channel[Reading](CAPACITY)
        self._delivered = 0
        self._lost = 0

    def send(self, reading: Reading) -> None:
        """Put a reading into the channel, or count it as lost."""
        try:
            self._send.send_nowait(reading)
        except trio.WouldBlock:
            self._lost += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the sink is done, or is to be, and wants no more
        else:
            self._delivered += 1

    def close(self) -> None:
        """No more readings come; the sink still gets those in the channel."""
        self._send.close()

    def statistics(self) -> StreamStatistics:
        """Counts so far."""
        waiting = self._send.statistics().current_buffer_used
        return StreamStatistics(self.name, self.interval_ns, self._delivered, self._lost, waiting)


class Subscription:
    """One sink's share of what a source publishes: every so often, and some of the metrics."""

    def __init__(self, interval_ns: int, selection: Selection, send: Send, *, tick_ns: int) -> None:
        self._interval_ns = interval_ns
        self._selector = Selector(selection)
        self._send = send
        self._tick_ns = tick_ns
        self._due_ns: int | None = None
        self._last_ns: int | None = None

    def offer(self, reading: Reading) -> None:
        """Pass the reading on if it is due."""
        if self._is_due(reading):
            self._last_ns = reading.monotonic_ns
            self._send(self._selector.select(reading))

    def change_tick(self, tick_ns: int) -> None:
        """The source now publishes this often; the sink's own rhythm goes on."""
        if self._last_ns is not None and self._interval_ns <= self._tick_ns:
            self._due_ns = self._last_ns + self._interval_ns
        self._tick_ns = tick_ns

    def _is_due(self, reading: Reading) -> bool:
        """Due are the first reading and then those at multiples of the interval of the wall clock at the start.

        Only the monotonic clock counts after the first: half a tick is allowed for jitter, and a tick
        that was skipped or a machine that slept makes the next reading due, once.
        """
        if self._interval_ns <= self._tick_ns:
            return True
        now = reading.monotonic_ns
        if self._due_ns is None:
            wall = round(reading.time_ns / self._tick_ns) * self._tick_ns
            self._due_ns = now + (-wall % self._interval_ns or self._interval_ns)
            return True
        early = now + self._tick_ns // 2 - self._due_ns
        if early < 0:
            return False
        self._due_ns += (early // self._interval_ns + 1) * self._interval_ns
        return True


class Hub:
    """The fan-out of a source: what is published goes to every subscription."""

    def __init__(self, tick_ns: int) -> None:
        self._tick_ns = tick_ns
        self._subscriptions: tuple[Subscription, ...] = ()
        self.published = 0
        """Readings so far."""

    def subscribe(self, interval_ns: int, selection: Selection, send: Send) -> Subscription:
        """Pass on to `send` what is published from now on."""
        subscription = Subscription(interval_ns, selection, send, tick_ns=self._tick_ns)
        self._subscriptions += (subscription,)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Pass on no more."""
        self._subscriptions = tuple(other for other in self._subscriptions if other is not subscription)

    def change_tick(self, tick_ns: int) -> None:
        """The source now publishes this often."""
        self._tick_ns = tick_ns
        for subscription in self._subscriptions:
            subscription.change_tick(tick_ns)

    def publish(self, reading: Reading) -> None:
        """Offer a reading to every subscription; never waits."""
        self.published += 1
        for subscription in self._subscriptions:
            subscription.offer(reading)
