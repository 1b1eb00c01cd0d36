"""The socket on which other programs push. Nobody is answered: who wants to know asks for the status."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio

from rezolus.agent.external.columns import Contributor
from rezolus.agent.external.protocols import parser_of
from rezolus.agent.external.store import REJECTIONS, Store
from rezolus.agent.external.updates import PushError, Update
from rezolus.agent.privileges import PrivilegeError, find_group
from rezolus.config.structures import ExternalConfig
from rezolus.sockets import open_listener, removed_at_end

log = logging.getLogger(__name__)

READ_BYTES = 16_384
"""At a time from one connection."""
BATCH = 64
"""Values that are taken before others get a turn: a millisecond or two."""

_PEER = struct.Struct("3i")
"""`struct ucred`: process, user, group."""


async def serve_pushes(
    store: Store, config: ExternalConfig, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Put what is pushed at `config.socket` into the store until cancelled; connections are then closed.

    Started once connections are accepted. Raises ListenError and PrivilegeError.
    """
    address = config.socket
    if address is None:
        raise ValueError("a configuration without a socket asks for no server")
    store.open(config)
    try:
        listener = open_listener(address, mode=config.mode, group=_group(config.group))
        with ExitStack() as stack:
            stack.callback(listener.close)
            stack.enter_context(removed_at_end(Path(address.path)))
            server = _Server(store, config)
            accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
            store.listening = True
            task_status.started()
            await trio.serve_listeners(server.handle, [accepting])
    finally:
        store.close()


def _group(name: str) -> int | None:
    """The group to give the socket file to; None for our own. Raises PrivilegeError."""
    if not name:
        return None
    found = find_group(name)
    if os.geteuid() != 0 and found not in (os.getegid(), *os.getgroups()):
        raise PrivilegeError(f"agent.external.group: this process is not in the group {name!r}; start it as root")
    return found


class _Server:
    """The connections of one listener."""

    def __init__(self, store: Store, config: ExternalConfig) -> None:
        self._store = store
        self._config = config
        self._told: set[str] = set()
        """Reasons that were logged: once, or whoever may push could fill the log; the status has the last of each."""

    async def handle(self, stream: trio.SocketStream) -> None:
        """Take what comes over a connection until it ends or makes no sense."""
        async with stream:
            if self._store.connections >= self._config.max_connections:
                self._store.refused["connections"] += 1
                return
            with self._counted():
                try:
                    await self._take(stream)
                except PushError as error:
                    self._refuse(stream, error)
                except trio.BrokenResourceError:
                    log.debug("a connection broke off")  # with what it had sent

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._store.connections += 1
        try:
            yield
        finally:
            self._store.connections -= 1

    async def _take(self, stream: trio.SocketStream) -> None:
        by, parser = Contributor(), parser_of(self._config.protocol)
        while data := await stream.receive_some(READ_BYTES):
            await self._put(parser.feed(data), by, stream)
        parser.end()

    async def _put(self, updates: Iterator[Update], by: Contributor, stream: trio.SocketStream) -> None:
        for number, update in enumerate(updates, 1):
            reason = self._store.put(update, by)
            if reason is not None:
                self._store.last_rejected = f"{update.name} of {_peer(stream)}: {REJECTIONS[reason]}"
                self._tell(reason, f"not taken: {self._store.last_rejected}")
            if number % BATCH == 0:
                await trio.lowlevel.checkpoint()

    def _refuse(self, stream: trio.SocketStream, error: PushError) -> None:
        self._store.refused["malformed"] += 1
        self._store.problem = f"{_peer(stream)}: {error}"
        self._tell("malformed", self._store.problem)

    def _tell(self, reason: str, text: str) -> None:
        log.log(logging.DEBUG if reason in self._told else logging.WARNING, "external metrics: %s", text)
        self._told.add(reason)


def _peer(stream: trio.SocketStream) -> str:
    """Who is at the other end."""
    credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    process, user, _ = _PEER.unpack(credentials)
    return f"process {process} of user {user}"
