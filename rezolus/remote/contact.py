"""One stay with a remote, from finding out what it speaks to the first failure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from rezolus.config import SourceConfig
from rezolus.errors import UserError
from rezolus.guard import read_token
from rezolus.remote.details import Describer, Details, fetch_details
from rezolus.remote.feeds import Feed, Received
from rezolus.remote.fetch import Fetcher, FetchError, Page

INLINE_BYTES = 256 << 10
"""A longer answer is decoded in a thread, so that no other source's tick is late for it."""
DETAILS_S = 30.0
"""A new connection may mean a restart; what the agent says of itself is then asked again, but not more often than this."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reading and how it came."""

    received: Received
    seconds: float
    size: int


class Contact:
    """A remote and what it speaks. Its connection is closed by `aclose`."""

    def __init__(self, config: SourceConfig, feed: Feed) -> None:
        self.feed = feed
        self.details = Details()
        self._url = config.url
        self._token = read_token(config.token_file) if config.token_file else ""
        self._fetcher = Fetcher(config.url, token=self._token)
        self._describer = Describer({})
        self._details_of = ("", 0)
        self._details_at = 0.0

    async def aclose(self) -> None:
        """Close the connection."""
        await self._fetcher.aclose()

    async def receive(self, timeout_s: float) -> Answer:
        """A reading taken now. Raises UserError."""
        began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        feed = self.feed
        page = await self._fetcher.get(feed.path, timeout_s=timeout_s, limit=feed.limit, accept=feed.accept)
        arrived = time.time_ns()
        seconds = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - began) / 1e9
        received = await self._decode(page)
        reading = received.reading
        reading.monotonic_ns = began
        if self.feed.protocol == "prometheus":
            reading.time_ns = arrived
        reading.catalog = self._describer.catalog(reading.catalog)
        return Answer(received, seconds, len(page.body))

    async def look_closer(self, answer: Answer) -> None:
        """Ask an agent what it is, where that is not known or may have changed since. Raises nothing."""
        version, connections = self._details_of
        now = trio.current_time()
        changed = answer.received.version != version or not connections
        again = self._fetcher.connections != connections and now - self._details_at >= DETAILS_S
        if self.feed.protocol != "msgpack" or not (changed or again):
            return
        async with Fetcher(self._url, token=self._token) as fetcher:  # its troubles are not those of the readings
            self.details = await fetch_details(fetcher)
        self._details_of = (answer.received.version, self._fetcher.connections)
        self._details_at = now
        self._describer = Describer(self.details.descriptions)
        answer.received.reading.catalog = self._describer.catalog(answer.received.reading.catalog)

    async def _decode(self, page: Page) -> Received:
        try:
            if len(page.body) <= INLINE_BYTES:
                return self.feed.decode(page)
            return await trio.to_thread.run_sync(self.feed.decode, page)
        except UserError:
            raise
        except Exception as error:
            raise FetchError(f"its answer cannot be decoded ({type(error).__name__}: {error})") from error


async def make_contact(config: SourceConfig, feeds: Sequence[Feed], timeout_s: float) -> tuple[Contact, Answer]:
    """The first of the feeds that the remote has, and a reading from there. Raises UserError when it has none."""
    problems = []
    for feed in feeds:
        contact = Contact(config, feed)
        try:
            answer = await contact.receive(timeout_s)
            await contact.look_closer(answer)
        except UserError as error:
            await contact.aclose()
            if len(feeds) == 1 or (isinstance(error, FetchError) and not error.reached):
                raise
            problems.append(f"{feed.path}: {error}")
        except BaseException:
            await contact.aclose()
            raise
        else:
            return contact, answer
    raise FetchError("; ".join(problems))
