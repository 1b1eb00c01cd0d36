"""A source of readings that is somewhere else. Whatever it does costs its own samples only.

Each tick one fetch: no answer, a wrong one or one that takes too long is a reading less, a sentence in the status and, when
things turn from good to bad, a line in the log. After any failure nothing is taken for granted: the next attempt finds
out anew what is there, so a remote may come back as another version or as something else.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit, urlunsplit

import msgspec
import trio

from rezolus.agent.clock import NS, SamplingClock
from rezolus.config import SourceConfig
from rezolus.errors import UserError
from rezolus.reading import Reading
from rezolus.remote.allowance import Novelty
from rezolus.remote.contact import Answer, Contact, make_contact
from rezolus.remote.details import About, Details
from rezolus.remote.feeds import feeds_of
from rezolus.remote.fetch import FetchError, shorten
from rezolus.remote.status import RemoteStatus
from rezolus.sinks.stream import Demand
from rezolus.units import format_duration

log = logging.getLogger(__name__)

TIMEOUT_S = (2.0, 10.0)
"""Bounds of the time a fetch may take, which otherwise is two intervals."""
RETRY_S = (0.1, 1.0)
"""Pause after not reaching it, doubled from the first to the second. No longer: an attempt costs nothing, a reading does."""
CHANGES, CHANGES_S = 6, 60.0
"""So many changes in so many seconds are worth a line in the log."""
MAX_SENTENCE, MAX_WARNINGS = 400, 8
"""Characters and number of what is said of a remote: it may have chosen the words."""
DAY_NS = 86_400 * NS
"""A clock that is further from ours is worth a warning."""


class RemoteSource:
    """An agent or Prometheus endpoint; implements `rezolus.sinks.stream.Source`."""

    def __init__(self, name: str, config: SourceConfig) -> None:
        self.name = name
        self._config = config
        self._feeds = feeds_of(config)
        self._feed = self._feeds[0]
        self._contact: Contact | None = None
        self._about = About()
        self._novelty = Novelty()
        self._known: tuple[Details, str] | None = None
        self._clock = SamplingClock(1.0)
        self._pause = trio.CancelScope()
        self._asked = False
        self._retry_at = 0.0
        self._unreached = 0
        self._told: deque[float] = deque(maxlen=CHANGES)
        self._newest: Reading | None = None
        self._published_ns = -1
        self._settled = trio.Event()
        self._status = RemoteStatus(name=name, url=config.url, protocol=config.protocol, state="connecting")

    async def run(
        self,
        demand: Demand,
        publish: Callable[[Reading], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Publish a reading per interval, as far as there are any, until cancelled; started at once."""
        task_status.started()
        self._clock = SamplingClock(demand.interval_ns / NS)
        try:
            await self._attempt(None)  # finds out what is there, before the first tick
            while True:
                if self._asked:
                    self._asked = False
                    await self._attempt(publish)
                with trio.CancelScope() as self._pause:
                    tick = await self._clock.wait()
                if self._pause.cancelled_caught:
                    continue  # the interval is another one now, or somebody asked
                early = trio.current_time() < self._retry_at
                self._count(skipped=tick.skipped + early)
                if not early:
                    await self._attempt(publish)
        finally:
            await self._lose_contact()

    def adjust(self, demand: Demand) -> None:
        """Another interval from the next fetch on; a fetch that is under way is not disturbed."""
        interval = demand.interval_ns / NS
        if interval != self._clock.interval:
            self._clock.change(interval)
            self._pause.cancel()

    def ask(self) -> None:
        """One reading out of turn, now or after the fetch that is under way; the clock goes on as before."""
        self._asked = True
        self._pause.cancel()

    def status(self) -> RemoteStatus:
        """How it is now."""
        return self._status

    async def settled(self) -> None:
        """Returns once it was reached, or was found not to be there."""
        await self._settled.wait()

    def labels(self) -> Mapping[str, str]:
        """Where its series come from: `source` and `endpoint`. Before the first contact, what can be told from the URL."""
        return {"source": self._source, "endpoint": self._endpoint}

    def merge_labels(self) -> Mapping[str, str]:
        """The same for series among those of other sources: an agent is a `node`, anything else an `instance`."""
        kind = "node" if self._feed.protocol == "msgpack" else "instance"
        return {**self.labels(), kind: self.name}

    def metadata(self) -> Mapping[str, str]:
        """For recordings: `source`, `version`, `systeminfo`, `descriptions`, `sampler_status` (JSON), `role`.

        Only what is known; nothing before the first contact. What was known stays when contact is lost.
        """
        if self._known is None:
            return {}
        details, version = self._known
        helps = details.descriptions or self._feed.helps()
        known = {
            "source": self._source,
            "version": version,
            "role": self._config.role,
            "systeminfo": details.systeminfo,
            "descriptions": msgspec.json.encode(helps).decode() if helps else "",
            "sampler_status": details.samplers,
        }
        return {key: text for key, text in known.items() if text}

    @property
    def _source(self) -> str:
        if self._config.label:
            return self._config.label
        if self._feed.protocol == "msgpack":
            return "rezolus"
        parts = urlsplit(self._config.url)
        return parts.hostname or "" if parts.port is None else f"{parts.hostname}-{parts.port}"

    @property
    def _endpoint(self) -> str:
        parts = urlsplit(self._config.url)
        default = "/" if self._feed.protocol == "msgpack" else self._feed.path
        path = default if parts.path in {"", "/"} else parts.path
        return urlunsplit((parts.scheme, parts.netloc, path, "", ""))

    async def _attempt(self, publish: Callable[[Reading], None] | None) -> None:
        """One reading, or a failure more."""
        timeout_s = min(max(2 * self._clock.interval, TIMEOUT_S[0]), TIMEOUT_S[1])
        try:
            if self._contact is None:
                self._contact, answer = await make_contact(self._config, self._feeds, self._about, timeout_s)
                self._novelty.admit(answer.received.reading.catalog)
                self._found(self._contact, answer)
            else:
                answer = await self._contact.receive(timeout_s)
                await self._contact.describe(answer)
                self._novelty.admit(answer.received.reading.catalog)
        except UserError as error:
            await self._failed(error)
        else:
            self._known = (self._contact.details, answer.received.version)
            self._received(answer, publish)
            await self._contact.look_closer(answer)
        finally:
            self._settled.set()

    def _found(self, contact: Contact, answer: Answer) -> None:
        self._feed = contact.feed
        self._count(contacts=1)
        version = f" {answer.received.version}" if answer.received.version else ""
        log.info("source %s: %s%s at %s (%s)", self.name, self._source, version, self._endpoint, answer.received.format)

    def _tell(self, level: int, text: str) -> None:
        """Log a change, but not each of a remote that comes and goes all the time: the status has the count."""
        now = trio.current_time()
        often = len(self._told) == CHANGES and now - self._told[0] < CHANGES_S
        if not often:
            self._told.append(now)
        log.log(logging.DEBUG if often else level, "source %s: %s", self.name, text)

    async def _failed(self, error: UserError) -> None:
        sentence = shorten(str(error), MAX_SENTENCE)
        reached = not isinstance(error, FetchError) or error.reached
        if reached:
            self._unreached = 0
            self._retry_at = trio.current_time() + (error.pause_s if isinstance(error, FetchError) else 0.0)
        else:
            pause = min(RETRY_S[0] * 2 ** min(self._unreached, 10), RETRY_S[1])
            self._retry_at = trio.current_time() + pause
            self._unreached += 1
        if self._status.state != "down":
            self._tell(logging.WARNING, f"{self._config.url}: {sentence}; trying again")
        self._count(failed=1)
        self._status = msgspec.structs.replace(self._status, state="down", error=sentence)
        await self._lose_contact()

    async def _lose_contact(self) -> None:
        contact, self._contact = self._contact, None
        if contact is not None:
            await contact.aclose()

    def _received(self, answer: Answer, publish: Callable[[Reading], None] | None) -> None:
        received, reading = answer.received, answer.received.reading
        before, self._newest = self._newest, reading
        self._unreached, self._retry_at = 0, 0.0
        self._count(fetched=1)
        self._status = msgspec.structs.replace(
            self._status,
            protocol=self._feed.protocol,
            state="up",
            error="",
            warnings=_warnings(received.problems, _oddities(reading, before)),
            format=received.format,
            version=received.version,
            last_fetch_ns=time.time_ns(),
            fetch_seconds=round(answer.seconds, 6),
            bytes=answer.size,
            counters=len(reading.catalog.counters),
            gauges=len(reading.catalog.gauges),
            histograms=len(reading.catalog.histograms),
        )
        if publish is None:
            return
        if self._feed.protocol == "msgpack" and reading.time_ns == self._published_ns:
            self._count(repeated=1)
            return
        self._published_ns = reading.time_ns
        publish(reading)

    def _count(
        self, *, fetched: int = 0, failed: int = 0, repeated: int = 0, skipped: int = 0, contacts: int = 0
    ) -> None:
        now = self._status
        self._status = msgspec.structs.replace(
            now,
            fetched=now.fetched + fetched,
            failed=now.failed + failed,
            repeated=now.repeated + repeated,
            skipped=now.skipped + skipped,
            contacts=now.contacts + contacts,
        )


def _warnings(problems: Sequence[str], oddities: Sequence[str]) -> tuple[str, ...]:
    told = [*oddities, *(shorten(problem, MAX_SENTENCE) for problem in problems[:MAX_WARNINGS])]
    more = len(problems) - MAX_WARNINGS
    return (*told, f"and {more} more like that") if more > 0 else tuple(told)


def _oddities(reading: Reading, before: Reading | None) -> list[str]:
    """What is strange about the time a reading says it is from. It is kept all the same: nobody else knows better."""
    found = []
    ahead = reading.time_ns - time.time_ns()
    if abs(ahead) > DAY_NS:
        off = format_duration(abs(ahead) // NS * NS)
        found.append(f"its clock is {off} {'ahead of' if ahead > 0 else 'behind'} ours")
    if before is not None and reading.time_ns < before.time_ns:
        back = format_duration(before.time_ns - reading.time_ns)
        found.append(f"its clock went back by {back} since the reading before")
    return found
