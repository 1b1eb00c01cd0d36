"""Serving an ASGI application: one listening socket, hypercorn under trio, and only for clients that address us by name.

The name check (`Host`) is against DNS rebinding: a page in somebody's browser whose name is made to point at this host may
not read what is served here. Addresses cannot be rebound, so any literal address passes where others may connect at all.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve as hypercorn_serve

from rezolus.errors import UserError
from rezolus.units import Address

GRACE_S = 0.3
"""How long open requests may take once serving ends; agent and exporter end one after the other, both within a second."""
STALL_S = 10
"""How long a client may take nothing of its answer before its connection is dropped."""
IDLE_S = 75
"""How long a connection may idle: longer than a usual scrape interval, so that a scraper keeps its connection."""
BACKLOG = 100

App = Callable[[Any, Any, Any], Awaitable[None]]


class ListenError(UserError):
    """The address cannot be listened on."""

    def __init__(self, address: Address, reason: OSError) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        text = self.reason.strerror or str(self.reason)
        return f"cannot listen on {self.address}: {text[:1].lower()}{text[1:]}"


def open_listener(address: Address) -> socket.socket:
    """A listening TCP socket. Raises ListenError."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections inherit these.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALL_S * 1000)
            listener.bind(where)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ListenError(address, error) from error
    return listener


class HostCheck:
    """Passes on what addresses this server by a name it goes by; everything else gets 421."""

    def __init__(self, app: App, address: Address, names: Iterable[str]) -> None:
        self._app = app
        self._open = not address.is_loopback
        self._names = {"localhost", address.host, *(name.lower().rstrip(".") for name in names)}
        if self._open:
            self._names.add(socket.gethostname().lower())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application."""
        if scope["type"] == "http" and not self.allows(_host_of(scope)):
            await _refuse(send)
        else:
            await self._app(scope, receive, send)

    def allows(self, host: str) -> bool:
        """Whether a `Host` header names this server; `host` with or without a port."""
        name = _without_port(host).lower().rstrip(".")
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._open or address.is_loopback


async def serve(
    app: App,
    address: Address,
    *,
    hosts: Iterable[str] = (),
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` at `address` until cancelled; then open requests get `GRACE_S` to end and are cut off.

    Started with the address really bound (port 0 takes any free one) once connections are accepted. `hosts`: names beside
    loopback's and the address itself under which clients may ask. Raises ListenError.
    """
    listener = open_listener(address)
    bound = Address(*listener.getsockname()[:2])
    config = HypercornConfig()
    config.bind = [f"fd://{listener.detach()}"]
    config.accesslog = None
    config.errorlog = logging.getLogger("rezolus.http")
    config.errorlog.setLevel(logging.WARNING)  # its information is the address, which we say ourselves
    config.graceful_timeout = GRACE_S
    config.shutdown_timeout = GRACE_S
    config.keep_alive_timeout = IDLE_S
    config.read_timeout = IDLE_S  # of a request that was begun and does not go on
    config.keep_alive_max_requests = 10**9
    config.alpn_protocols = ["http/1.1"]
    config.include_server_header = False
    checked = HostCheck(app, bound, hosts)

    # Hypercorn drains only when asked to, a cancelled server drops its requests: so cancellation is turned into asking.
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_set_when_cancelled, stop)
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as server:
                server.start_soon(_serve, checked, config, stop, bound, task_status)
        nursery.cancel_scope.cancel()


async def _serve(
    app: App, config: HypercornConfig, stop: trio.Event, bound: Address, task_status: trio.TaskStatus[Address]
) -> None:
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
            await hypercorn_serve(app, config, shutdown_trigger=stop.wait, task_status=task_status)
            nursery.cancel_scope.cancel()

        nursery.start_soon(_cut_off_when, stop, bound)
        await nursery.start(run)
        task_status.started(bound)


async def _cut_off_when(stop: trio.Event, bound: Address) -> None:
    await stop.wait()
    await trio.sleep(GRACE_S)
    _cut_off(bound.port)


def _cut_off(port: int) -> None:
    """Break the connections to this port of ours.

    Hypercorn shields its sending from cancellation: a client that does not read its answer would hold up the end of the
    daemon for as long as it likes. They are found among the process's descriptors, because Hypercorn hands out none.
    """
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # no socket, or closed meanwhile
            connection = socket.socket(fileno=int(entry.name))
            try:
                if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getsockname()[1] == port:
                    connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()


async def _set_when_cancelled(event: trio.Event) -> None:
    try:
        await trio.sleep_forever()
    finally:
        event.set()


def _host_of(scope: Any) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


async def _refuse(send: Any) -> None:
    body = b"this server does not go by that name: use its address, or configure the name in `hosts`\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 421, "headers": headers})
    await send({"type": "http.response.body", "body": body})
