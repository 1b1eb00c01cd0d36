"""The series that other programs push, with their latest values, as long as they are pushed.

It is the agent's, for as long as that runs: neither a connection that ends nor definitions that are loaded anew
change it. Nothing here waits, and all of it is used from one thread.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from rezolus.agent.external.columns import Column, Contributor
from rezolus.agent.external.updates import Update
from rezolus.agent.report import ExternalStatus
from rezolus.agent.selfmetrics import SelfMetric, counter, gauge
from rezolus.config.structures import ExternalConfig
from rezolus.reading import Kind, Series

HELP = "Pushed by another program."
SAMPLER = "external"
"""The `sampler` of what is pushed, and its label `source`."""
OWN = "rezolus_"
"""Names that begin so are the agent's."""
RESERVED = frozenset({"grouping_power", "max_value_power", "metric", "sampler", "source"})
"""Labels by which readers tell what a series is."""
GRAIN_NS = 10**9
"""So often at most it is looked what is too old, which costs as much as there are series."""
MAX_BUCKETS = 1 << 22
"""Of all histograms together: 32 MiB, and as much in every reading."""

UPDATES = ("rezolus_external_updates", "", "Values that other programs pushed and that were taken")
REJECTED = ("rezolus_external_rejected", "", "Values that other programs pushed and that were not taken, by reason")
REFUSED = ("rezolus_external_refused", "", "Connections of programs that push that were closed, by reason")
SERIES = ("rezolus_external_series", "", "Series that other programs push")
CONNECTIONS = ("rezolus_external_connections", "", "Connections of programs that push")

Rejection = Literal["name", "label", "kind", "metrics", "connection", "buckets"]
REJECTIONS: Mapping[Rejection, str] = {
    "name": f"the agent has a metric of this name, or names that begin with {OWN}",
    "label": f"these labels are not for others: {', '.join(sorted(RESERVED))}",
    "kind": "it is there as another kind of metric, or with other powers",
    "metrics": "there are as many series as max_metrics allows",
    "connection": "this connection has brought as many series as max_metrics_per_connection allows",
    "buckets": f"all histograms together would have more than {MAX_BUCKETS} buckets",
}
REFUSALS = ("malformed", "connections")


def boot_time() -> int:
    """Nanoseconds since the start of the host: what is pushed grows old while it is suspended, too."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Store:
    """Off until it is opened. `clock` gives nanoseconds."""

    def __init__(self, clock: Callable[[], int] = boot_time) -> None:
        self.columns: dict[Kind, Column] = {"counter": Column(), "gauge": Column(), "histogram": Column()}
        self.version = 0
        """Another one whenever series came or went."""
        self.connections = 0
        self.listening = False
        self.problem = ""
        """What was wrong with the last connection that was closed for it."""
        self.last_rejected = ""
        """Of the last value that was not taken: whose it was, and why."""
        self.accepted = 0
        self.rejected: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._clock = clock
        self._limits = ExternalConfig()
        self._on = False
        self._names: frozenset[str] = frozenset()
        self._kinds: dict[str, tuple[Kind, int]] = {}
        """Of each name that is there: its kind, and how many series it has."""
        self._next = 0
        """Before this time nothing grows too old."""
        self._metrics = self._own_metrics()

    def __len__(self) -> int:
        """How many series there are."""
        return sum(len(column.series) for column in self.columns.values())

    @property
    def metrics(self) -> tuple[SelfMetric, ...]:
        """What it tells of itself: nothing while it is off."""
        return self._metrics if self._on else ()

    def open(self, limits: ExternalConfig) -> None:
        """From now on values come, within these limits. What is there stays, unless it is too old by them."""
        self._limits = limits
        self._on = True
        self._next = 0
        self.version += 1

    def close(self) -> None:
        """No more values come; those that are there stay until they are too old."""
        self._on = self.listening = False
        self.version += 1

    def reserve(self, names: Iterable[str]) -> None:
        """Metrics of these names are the agent's; what others pushed under them is dropped."""
        self._names = frozenset(names)
        if not self._names.isdisjoint(self._kinds):
            for kind, column in self.columns.items():
                self._keep(kind, np.array([series.name not in self._names for series in column.series], np.bool_))

    def put(self, update: Update, by: Contributor) -> Rejection | None:
        """Take a value, or count why not and say so."""
        reason = self._put(update, by)
        if reason is None:
            self.accepted += 1
        else:
            self.rejected[reason] += 1
        return reason

    def expire(self) -> None:
        """Drop what has not been pushed for too long. Costs nothing while nothing is that old."""
        if not self._kinds:
            return
        now = self._clock()
        if now < self._next:
            return
        ttl, oldest = self._limits.ttl, now
        for kind, column in self.columns.items():
            self._keep(kind, column.times > now - ttl)
            oldest = min(oldest, int(self.columns[kind].times.min(initial=now)))
        self._next = max(oldest + ttl, now + min(ttl, GRAIN_NS))

    def status(self) -> ExternalStatus | None:
        """None while it is off."""
        if not self._on:
            return None
        return ExternalStatus(
            socket=str(self._limits.socket),
            listening=self.listening,
            connections=self.connections,
            series=len(self),
            updates=self.accepted,
            rejected=dict(self.rejected),
            refused=dict(self.refused),
            problem=self.problem,
            last_rejected=self.last_rejected,
        )

    def _put(self, update: Update, by: Contributor) -> Rejection | None:
        column, key = self.columns[update.kind], (update.name, update.labels)
        at = column.find(key)
        if at is None:
            reason = self._reason_against(update, by)
            if reason is not None:
                return reason
            at = column.add(key, _series(update), update.shape, by)
            by.series += 1
            self._kinds[update.name] = (update.kind, self._count(update.name) + 1)
            self.version += 1
        elif column.shapes[at] != update.shape:
            return "kind"
        column.put(at, update.value, update.buckets, self._clock())
        return None

    def _reason_against(self, update: Update, by: Contributor) -> Rejection | None:
        """Why a series cannot be added."""
        if update.name in self._names or update.name.startswith(OWN):
            return "name"
        if any(key in RESERVED for key, _ in update.labels):
            return "label"
        if update.name in self._kinds and self._kinds[update.name][0] != update.kind:
            return "kind"
        if len(self) >= self._limits.max_metrics:
            return "metrics"
        if by.series >= self._limits.max_metrics_per_connection:
            return "connection"
        if update.buckets is not None and self.columns["histogram"].size + update.buckets.size > MAX_BUCKETS:
            return "buckets"
        return None

    def _keep(self, kind: Kind, mask: npt.NDArray[np.bool_]) -> None:
        """Drop what is false in the mask."""
        if mask.all():
            return
        column = self.columns[kind]
        for at in np.flatnonzero(~mask).tolist():
            name = column.series[at].name
            column.contributors[at].series -= 1
            left = self._count(name) - 1
            del self._kinds[name]
            if left:
                self._kinds[name] = (kind, left)
        self.columns[kind] = column.of_those(mask)
        self.version += 1

    def _count(self, name: str) -> int:
        return self._kinds[name][1] if name in self._kinds else 0

    def _own_metrics(self) -> tuple[SelfMetric, ...]:
        return (
            counter(UPDATES, lambda: self.accepted),
            *(counter(REJECTED, partial(self.rejected.__getitem__, reason), reason=reason) for reason in REJECTIONS),
            *(counter(REFUSED, partial(self.refused.__getitem__, reason), reason=reason) for reason in REFUSALS),
            gauge(SERIES, lambda: len(self)),
            gauge(CONNECTIONS, lambda: self.connections),
        )


def _series(update: Update) -> Series:
    """The series of a value. A label `unit` says the unit, as it does for Rezolus."""
    labels = dict(update.labels)
    unit = labels.pop("unit", "")
    labels = dict(sorted({**labels, "source": SAMPLER}.items()))
    if update.kind != "histogram":
        return Series(update.name, update.kind, labels, unit=unit, help=HELP, sampler=SAMPLER)
    power, max_power = update.shape
    return Series(
        update.name, update.kind, labels, unit=unit, help=HELP, sampler=SAMPLER, power=power, max_power=max_power
    )
