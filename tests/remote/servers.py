"""Remotes for tests: an agent that answers what it is told to, and raw sockets for what no HTTP server would do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio
from quart import Response, request
from quart_trio import QuartTrio

from rezolus.config import SourceConfig
from rezolus.http import serve
from rezolus.reading import Reading
from rezolus.remote.source import RemoteSource
from rezolus.sinks.stream import Demand
from rezolus.units import Address

DATA = Path(__file__).parent.parent / "data/rezolus"
DEADLINE_S = 60.0
"""For what should happen within a few intervals."""


@dataclass
class Answers:
    """Bodies by path; what is not here is 404. Changed at will while it is served."""

    pages: dict[str, bytes | Callable[[], bytes]] = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    """Path and headers of every request."""

    def count(self, path: str) -> int:
        """How often a page was asked for."""
        return sum(asked == path for asked, _ in self.asked)


def agent_like_rezolus() -> Answers:
    """The pages of a running agent, as Rezolus gave them."""
    live = DATA / "live"
    return Answers(
        {
            "/metrics/binary": (live / "agent-v2.msgpack").read_bytes(),
            "/systeminfo": (live / "systeminfo.json").read_bytes(),
            "/metrics/descriptions": (live / "descriptions.json").read_bytes(),
            "/samplers": (live / "samplers.json").read_bytes(),
        }
    )


@asynccontextmanager
async def serving(answers: Answers, *, port: int = 0) -> AsyncIterator[int]:
    """The answers over HTTP; gives the port."""
    app = QuartTrio(__name__, static_folder=None)

    @app.route("/", defaults={"path": ""})
    @app.route("/<path:path>")
    async def page(path: str) -> Response:
        asked = f"/{path}"
        answers.asked.append((asked, dict(request.headers)))
        body = answers.pages.get(asked)
        if body is None:
            return Response(b"no such page", status=404)
        return Response(body if isinstance(body, bytes) else body(), status=answers.status, headers=answers.headers)

    async with trio.open_nursery() as nursery:
        bound = await nursery.start(serve, app, Address("127.0.0.1", port))
        yield bound.port
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def raw(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    """A server of a few lines; `handler` gets each connection and may do with it what it likes."""

    async def guarded(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the other side has had enough
            await handler(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, guarded, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def next_request(stream: trio.SocketStream) -> bytes:
    """Bytes of one request without a body; empty when the connection was closed."""
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        more = await stream.receive_some(65536)
        if not more:
            return b""
        got += more
    return got


@dataclass
class Polled:
    """A remote source that runs."""

    source: RemoteSource
    readings: list[Reading]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something to become true. TooSlowError."""
        with trio.fail_after(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 - a status has no event
                await trio.sleep(0.005)

    async def until_readings(self, count: int) -> None:
        """Wait for so many more readings than there are. TooSlowError."""
        enough = len(self.readings) + count
        await self.until(lambda: len(self.readings) >= enough)

    async def until_state(self, state: str) -> None:
        """Wait for the source to be `up` or `down`. TooSlowError."""
        await self.until(lambda: self.source.status().state == state)


@asynccontextmanager
async def polling(url: str, *, interval_ms: int = 20, **config: object) -> AsyncIterator[Polled]:
    """A source for a URL, polled."""
    source = RemoteSource("there", SourceConfig(url=url, **config))  # type: ignore[arg-type]
    polled = Polled(source, [])
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run, Demand(interval_ms * 1_000_000, ()), polled.readings.append)
        yield polled
        nursery.cancel_scope.cancel()


def descriptions() -> dict[str, str]:
    """Help by metric, as Rezolus gave it."""
    loaded: dict[str, str] = json.loads((DATA / "live/descriptions.json").read_bytes())
    return loaded
