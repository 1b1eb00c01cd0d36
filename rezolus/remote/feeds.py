"""What a remote may speak: where its readings are, and how they are decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import urlsplit

from rezolus.config import SourceConfig
from rezolus.reading import Reading
from rezolus.remote.exposition import PageError
from rezolus.remote.fetch import Page, shorten
from rezolus.remote.prometheus import PageDecoder
from rezolus.wire.decode import Decoder

AGENT_PATH = "/metrics/binary"
PAGE_PATH = "/metrics"
OPENMETRICS = "application/openmetrics-text"

MIB = 1 << 20

Spoken = Literal["msgpack", "prometheus"]


@dataclass(frozen=True, slots=True)
class Received:
    """A decoded answer."""

    reading: Reading
    """Without the times of a page, which says none."""
    format: str
    """`v1`, `v2`, `v3`, `text` or `openmetrics`."""
    version: str = ""
    """Of the program that measured, as it says itself."""
    problems: tuple[str, ...] = ()
    """What had to be left out, one sentence each."""


class Feed(Protocol):
    """One way to get readings from a remote; keeps what it learnt from one answer for the next."""

    protocol: Spoken
    path: str
    accept: str
    limit: int
    """Bytes of an answer; a longer one, or one without end, is cut off there."""

    def decode(self, page: Page) -> Received:
        """Raises UserError when the page is nothing of the kind."""
        ...

    def helps(self) -> Mapping[str, str]:
        """Help by metric, as far as the answers have it."""
        ...


class AgentFeed:
    """Snapshots of an agent."""

    protocol: Spoken = "msgpack"
    accept = "*/*"
    # Ten times the largest that are known. How many series may be in it the decoder bounds.
    limit = 16 * MIB

    def __init__(self, path: str) -> None:
        self.path = path
        self._decoder = Decoder()

    def decode(self, page: Page) -> Received:
        """Raises WireError."""
        snapshot = self._decoder.decode(page.body)
        return Received(
            reading=snapshot.reading,
            format=snapshot.version,
            version=shorten(snapshot.metadata.get("version", "")),
            problems=snapshot.problems,
        )

    def helps(self) -> Mapping[str, str]:
        """None: they are on a page of their own."""
        return {}


class PageFeed:
    """Pages of a Prometheus endpoint."""

    protocol: Spoken = "prometheus"
    # Not by name, because there are endpoints that choose OpenMetrics, and other names, for everybody who mentions it.
    accept = "text/plain;version=0.0.4,*/*;q=0.5"
    limit = 32 * MIB

    def __init__(self, path: str) -> None:
        self.path = path
        self._decoder = PageDecoder()

    def decode(self, page: Page) -> Received:
        """Raises PageError."""
        openmetrics = page.content_type.startswith(OPENMETRICS)
        try:
            scrape = self._decoder.decode(page.body, openmetrics=openmetrics)
        except PageError:
            if page.content_type.startswith("text/html"):
                raise PageError("it is a web page, not a page of metrics") from None
            raise
        return Received(scrape.reading, "openmetrics" if openmetrics else "text", problems=scrape.problems)

    def helps(self) -> Mapping[str, str]:
        """Of the last page."""
        return self._decoder.helps


def feeds_of(config: SourceConfig) -> tuple[Feed, ...]:
    """What to try for a source, in this order; more than one only when neither its protocol nor its path says."""
    path = urlsplit(config.url).path.removesuffix("/")
    match config.protocol:
        case "msgpack":
            return (AgentFeed(path or AGENT_PATH),)
        case "prometheus":
            return (PageFeed(path or PAGE_PATH),)
        case "auto":
            if not path:
                return (AgentFeed(AGENT_PATH), PageFeed(PAGE_PATH))
            return (AgentFeed(path) if path.endswith(AGENT_PATH) else PageFeed(path),)
