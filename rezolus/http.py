"""Serving an ASGI application: one listening socket, hypercorn's protocol on each connection, and a bound on connections.

Hypercorn's own server knows no bound and hands out no connections: one that takes nothing of its answer would hold up the end of the
daemon, idle ones could use up its descriptors. So connections are accepted here, and what is on them is Hypercorn's.
Lifespan events are not sent; nothing of ours uses them.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h11
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from rezolus.guard import App, Guard, Names, TokenReader
from rezolus.sockets import Bound, open_listener, removed_at_end
from rezolus.units import Address, UnixAddress

log = logging.getLogger(__name__)

GRACE_S = 0.3
"""How long open requests may take once serving ends; agent and exporter end one after the other, both within a second."""
IDLE_S = 75
"""How long a connection may idle: longer than a usual scrape interval, so that a scraper keeps its connection."""
MAX_CONNECTIONS = 1024
"""Beyond that the connection that has idled longest makes room, and without an idle one the newest is closed."""
OTHERS, SERVERS = 256, 4
"""Descriptors left for maps, programs, files and sockets elsewhere, and among how many servers the rest is divided."""


async def serve(
    app: App,
    address: Bound,
    *,
    hosts: Iterable[str] = (),
    token: TokenReader | None = None,
    max_connections: int | None = None,
    task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` at `address` until cancelled; then open requests get `GRACE_S` to end and are cut off.

    Started with the address really bound (port 0 takes any free one) once connections are accepted. `hosts`: names beside
    loopback's and the address itself under which clients may ask. `max_connections`: by default so many that descriptors are
    left for everything else. `token`: see `Guard`. Raises ListenError.
    """
    listener = open_listener(address)
    with contextlib.ExitStack() as stack:
        stack.callback(listener.close)
        bound: Bound = address
        if isinstance(address, UnixAddress):
            stack.enter_context(removed_at_end(Path(address.path)))
        else:
            bound = Address(*listener.getsockname()[:2])
        guard = Guard(app, Names(bound, hosts), token)
        await trio.to_thread.run_sync(guard.read_token)  # that it cannot be read is said before somebody needs it
        server = _Server(guard, max_connections or most_connections())
        accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        task_status.started(bound)
        await server.run(accepting)


def most_connections() -> int:
    """How many one of our servers may have at the same time, as far as descriptors go."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if limit < 0 else max(16, min(MAX_CONNECTIONS, (limit - OTHERS) // SERVERS))


class _Connection:
    """A connection, as Hypercorn's application: so we see when it is in a request."""

    def __init__(self, stream: trio.SocketStream, app: App) -> None:
        self.stream = stream
        self.busy = False
        self.idle_since = trio.current_time()
        self._app = app

    async def __call__(
        self, scope: Any, receive: Any, send: Any, sync_spawn: Callable[..., Any], call_soon: Callable[..., Any]
    ) -> None:
        """Hypercorn calls this for each request; the last two are for applications that are not asynchronous."""
        del sync_spawn, call_soon
        self.busy = True
        try:
            await self._app(scope, receive, send)
        finally:
            self.busy = False
            self.idle_since = trio.current_time()

    def break_off(self) -> None:
        """End it whatever is going on; who reads or writes it sees it broken."""
        with contextlib.suppress(OSError):  # the other side was quicker
            self.stream.socket.shutdown(socket.SHUT_RDWR)


class _Http1(H11Protocol):
    """HTTP/1.1 and nothing else: an `Upgrade` is not heeded, which the protocol allows.

    Nobody needs HTTP/2 or WebSockets here, and a malformed upgrade raises in Hypercorn.
    """

    async def _check_protocol(self, event: h11.Request) -> None:
        """Stay with HTTP/1.1."""

    async def _create_stream(self, request: h11.Request) -> None:
        headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        plain = h11.Request(
            method=request.method, target=request.target, http_version=request.http_version, headers=headers
        )
        await super()._create_stream(plain)


class _Tcp(TCPServer):
    """Hypercorn's connection, for any stream socket and with our protocol only."""

    def __init__(self, connection: _Connection, config: HypercornConfig, context: WorkerContext) -> None:
        # It is declared to take TLS, and takes both.
        super().__init__(connection, config, context, ConnectionState({}), connection.stream)  # type: ignore[arg-type]
        self._connection = connection
        self._ended = False
        """Whether the client sends nothing more."""

    async def run(self) -> None:
        """Serve the connection until either side ends it."""
        try:
            async with TaskGroup() as group:
                self._task_group = group
                self.protocol = _Http1(
                    self.app,
                    self.config,
                    self.context,
                    group,
                    ConnectionState(self.state),
                    False,
                    None,
                    None,
                    self.protocol_send,
                )  # type: ignore[assignment]
                await self.idle_task.restart(group, self._idle_timeout)
                await self._read_data()
                self._ended = True
                await self.idle_task.stop()
        finally:
            await self._close()

    async def protocol_send(self, event: Event) -> None:
        """As inherited; what is to be sent while the connection is being closed is dropped."""
        if self._ended and isinstance(event, Updated):
            return  # an idle connection that the client has ended would wait for its time to be over
        if isinstance(event, Closed) and self._is_answering():
            return  # what follows the request is none, which is no reason to cut the answer off; its end closes
        try:
            await super().protocol_send(event)
        except trio.BusyResourceError:
            await self.protocol.handle(Closed())

    def _is_answering(self) -> bool:
        """Whether an answer has begun and its application is still at it."""
        protocol = self.protocol
        return (
            self._connection.busy
            and isinstance(protocol, H11Protocol)
            and protocol.connection.our_state is h11.SEND_BODY
        )

    async def _close(self) -> None:
        """As inherited, also from a request's task, which is cancelled once it has answered: who sent `Connection: close` waits."""
        with trio.CancelScope(shield=True):  # nothing in it blocks
            await super()._close()


class _Server:
    """The connections of one listener."""

    def __init__(self, app: App, max_connections: int) -> None:
        self._app = app
        self._max = max_connections
        self._open: set[_Connection] = set()
        self._left = trio.Event()
        """Set when a connection ends."""
        self._context = WorkerContext(None)
        self._config = _configuration()

    async def run(self, listener: trio.SocketListener) -> None:
        """Accept until cancelled, then let requests end, then break off what is left."""
        async with trio.open_nursery() as nursery:
            with trio.CancelScope(shield=True):  # cancelled in here, nobody would know the nursery and end it
                connections = await nursery.start(_shielded_nursery)
            try:
                await trio.serve_listeners(self._handle, [listener], handler_nursery=connections)
            finally:
                with trio.CancelScope(shield=True):
                    await self._end()
                connections.cancel_scope.cancel()

    async def _end(self) -> None:
        await self._context.terminated.set()  # idle connections close themselves, busy ones after their answer
        with trio.move_on_after(GRACE_S):
            while self._open:
                self._left = trio.Event()
                await self._left.wait()
        for connection in self._open:
            connection.break_off()

    async def _handle(self, stream: trio.SocketStream) -> None:
        if len(self._open) >= self._max and not self._make_room():
            await trio.aclose_forcefully(stream)
            return
        connection = _Connection(stream, self._app)
        self._open.add(connection)
        try:
            await _Tcp(connection, self._config, self._context).run()
        except Exception as error:
            log.warning("a request could not be handled, its connection is closed: %r", error)
            log.debug("the request's error", exc_info=error)
            await trio.aclose_forcefully(stream)
        finally:
            self._open.discard(connection)
            self._left.set()

    def _make_room(self) -> bool:
        idle = [connection for connection in self._open if not connection.busy]
        if not idle:
            return False
        oldest = min(idle, key=lambda connection: connection.idle_since)
        oldest.break_off()
        self._open.discard(oldest)
        return True


async def _shielded_nursery(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """A nursery that goes on when we are cancelled, until it is cancelled itself."""
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


def _configuration() -> HypercornConfig:
    config = HypercornConfig()
    config.accesslog = None
    config.errorlog = logging.getLogger("rezolus.http")
    config.errorlog.setLevel(logging.WARNING)
    config.keep_alive_timeout = IDLE_S
    config.read_timeout = IDLE_S  # of a request that was begun and does not go on
    config.keep_alive_max_requests = 10**9
    config.include_server_header = False
    return config
