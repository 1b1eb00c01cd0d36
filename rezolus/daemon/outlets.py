"""The sinks that run, each with the stream that feeds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, runtime_checkable

import trio

from rezolus.config import LOCAL, ExporterConfig, SinkConfig
from rezolus.daemon.feeds import Feed, Feeds
from rezolus.daemon.services import Trouble, persistently
from rezolus.errors import UserError
from rezolus.reading import Reading
from rezolus.sinks.merge import Merger, Relabel
from rezolus.sinks.stream import Hub, Send, Stream, Subscription


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


@runtime_checkable
class Capturing(Protocol):
    """A sink that can write out what it keeps."""

    async def capture(self) -> None:
        """Write it now. What goes wrong is reported by the sink."""
        ...


@runtime_checkable
class Checking(Protocol):
    """A sink that can say beforehand whether it could start."""

    def check(self) -> None:
        """Look at files and folders, and change nothing. Raises UserError with what keeps it from starting."""
        ...


class Outlet:
    """A sink as configured, and what feeds it: one stream, whatever number of sources there is.

    `build` makes the sink, given its sources by name: always the present ones, and those that it has lost.
    """

    def __init__(
        self, name: str, config: SinkConfig, feeds: Feeds, build: Callable[[Mapping[str, Feed]], Sink]
    ) -> None:
        self.name = name
        self.config = config
        self.stream = Stream(name, config.interval)
        self.trouble = Trouble()
        self.failure: UserError | None = None
        """What ended it, if it did not end well."""
        self.done = trio.Event()
        self.connected: dict[str, Feed] = {}
        """What feeds it. A source that a reload removed stays here: the sink has something to say of it to its end."""
        self.sink = build(self.connected)
        """What takes the readings."""
        self._feeds = feeds
        self._merger = self._make_merger() if len(config.source) > 1 else None
        self._wires: dict[str, tuple[Hub, Subscription]] = {}
        self._stopping = trio.Event()
        self._scope = trio.CancelScope()
        self.connect()

    def connect(self) -> None:
        """Take readings from the sources as they are now; nothing changes for those that are the same as before."""
        for name in self.config.source:
            feed = self.connected[name] = self._feeds[name]
            hub = feed.hub
            wire = self._wires.get(name)
            if wire is not None and wire[0] is hub:
                continue
            if wire is not None:
                wire[0].unsubscribe(wire[1])
            self._wires[name] = hub, hub.subscribe(self.config.interval, self.config.metrics, self._entry(name))

    async def run(self, retry_s: float, *, task_status: trio.TaskStatus[None]) -> None:
        """The sink until it is done, cannot go on, or is given up."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    if self._merger is not None:
                        await nursery.start(self._merger.run)
                    self.failure = await persistently(
                        self.name,
                        partial(self.sink.run, self.stream.channel),
                        retry_s=retry_s,
                        stopping=self._stopping,
                        trouble=self.trouble,
                        task_status=task_status,
                    )
                    nursery.cancel_scope.cancel()
        finally:
            self.stop()
            self.stream.channel.close()
            self.done.set()

    def expect_extra(self) -> None:
        """Its sources are going to give a reading out of turn."""
        if self._merger is not None:
            self._merger.expect_extra()

    def stop(self) -> None:
        """No more readings come: let it finish."""
        self._stopping.set()
        for hub, subscription in self._wires.values():
            hub.unsubscribe(subscription)
        self._wires.clear()
        if self._merger is not None:
            self._merger.flush()
        self.stream.close()

    def give_up(self) -> None:
        """Drop what it has not finished."""
        self._scope.cancel()

    def _make_merger(self) -> Merger:
        labels = {name: partial(self._merge_labels, name) for name in self.config.source}
        return Merger(self.config.interval, labels, self.stream.send)

    def _merge_labels(self, name: str) -> dict[str, str]:
        return dict(self.connected[name].source.merge_labels())

    def _entry(self, name: str) -> Send:
        """Where readings of a source go. A recording says where its series are from, unless that is this host."""
        if self._merger is not None:
            return partial(self._merger.put, name)
        if name == LOCAL or isinstance(self.config, ExporterConfig):
            return self.stream.send
        return _through(Relabel(self.connected[name].source.labels).relabel, self.stream.send)


def _through(change: Callable[[Reading], Reading], send: Send) -> Send:
    return lambda reading: send(change(reading))
