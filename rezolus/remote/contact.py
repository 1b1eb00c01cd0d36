"""One stay with a remote, from finding out what it speaks to the first failure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio

from rezolus.config import SourceConfig
from rezolus.errors import UserError
from rezolus.guard import read_token
from rezolus.remote.details import About, Details
from rezolus.remote.feeds import Feed, Received
from rezolus.remote.fetch import INLINE_BYTES, Fetcher, FetchError, Page, decoded


@dataclass(frozen=True, slots=True)
class Answer:
    """A reading and how it came."""

    received: Received
    seconds: float
    size: int


class Contact:
    """A remote and what it speaks. Its connection is closed by `aclose`. `about`: what was known before, and what will be."""

    def __init__(self, config: SourceConfig, feed: Feed, about: About) -> None:
        self.feed = feed
        self._about = about
        self._url = config.url
        self._token = read_token(config.token_file) if config.token_file else ""
        self._fetcher = Fetcher(config.url, token=self._token)
        self._details_of = ("", 0)

    @property
    def details(self) -> Details:
        """What the agent says of itself; nothing of what is none."""
        return self._about.details if self.feed.protocol == "msgpack" else Details()

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
        return Answer(received, seconds, len(page.body))

    async def look_closer(self, answer: Answer) -> None:
        """Ask an agent what it is, where that is not known or may have changed since, but not all the time. Raises nothing."""
        now = (answer.received.version, self._fetcher.connections)  # a new connection may mean a restart
        if self.feed.protocol != "msgpack" or now == self._details_of:
            return
        async with Fetcher(self._url, token=self._token) as fetcher:  # its troubles are not those of the readings
            asked = await self._about.ask(fetcher)
        if asked:
            self._details_of = now

    async def describe(self, answer: Answer) -> None:
        """Put the help that is known into the reading. Raises nothing."""
        reading = answer.received.reading
        if self.feed.protocol != "msgpack":
            return
        describe = partial(self._about.describe, reading.catalog)
        reading.catalog = describe() if answer.size <= INLINE_BYTES else await trio.to_thread.run_sync(describe)

    async def _decode(self, page: Page) -> Received:
        try:
            return await decoded(self.feed.decode, page)
        except UserError:
            raise
        except Exception as error:
            raise FetchError(f"its answer cannot be decoded ({type(error).__name__}: {error})") from error


async def make_contact(
    config: SourceConfig, feeds: Sequence[Feed], about: About, timeout_s: float
) -> tuple[Contact, Answer]:
    """The first of the feeds that the remote has, and a reading from there. Raises UserError when it has none."""
    problems = []
    for feed in feeds:
        contact = Contact(config, feed, about)
        try:
            answer = await contact.receive(timeout_s)
            await contact.look_closer(answer)
            await contact.describe(answer)
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
