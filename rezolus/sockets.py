"""Listening sockets: addresses and socket files, for whatever is spoken on them."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from rezolus.errors import UserError
from rezolus.units import Address, UnixAddress

STALL_S = 10
"""How long a client may take nothing of its answer before its connection is dropped."""
BACKLOG = 1024

Bound = Address | UnixAddress


class ListenError(UserError):
    """The address cannot be listened on."""

    def __init__(self, address: Bound, reason: OSError) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        text = self.reason.strerror or str(self.reason)
        return f"cannot listen on {self.address}: {text[:1].lower()}{text[1:]}"


def open_listener(address: Bound, *, mode: int = 0o660, group: int | None = None) -> socket.socket:
    """A listening stream socket. Raises ListenError. `mode` and `group`: of a socket file; None leaves our own group."""
    try:
        if isinstance(address, UnixAddress):
            return _listen_unix(Path(address.path), mode, group)
        return _listen_tcp(address)
    except OSError as error:
        raise ListenError(address, error) from error


def check_free(address: Bound) -> None:
    """Raises ListenError when a TCP address cannot be listened on now. A Unix socket is not tried: it would be seen."""
    if isinstance(address, Address):
        open_listener(address).close()


def _listen_tcp(address: Address) -> socket.socket:
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
    return listener


def _listen_unix(path: Path, mode: int, group: int | None) -> socket.socket:
    """Listen on a socket file; one that a killed process left is replaced. Its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_left_over(path):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        try:
            if group is not None:
                os.chown(path, -1, group)
            path.chmod(mode)  # nobody can connect before `listen`
            listener.listen(BACKLOG)
        except BaseException:
            path.unlink()
            raise
    except BaseException:
        listener.close()
        raise
    return listener


def _is_left_over(path: Path) -> bool:
    """Whether a socket lies there on which nobody listens."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            probe.connect(str(path))
    except FileNotFoundError:
        return False
    except ConnectionRefusedError:
        return True
    return False


@contextlib.contextmanager
def removed_at_end(path: Path) -> Iterator[None]:
    """Remove the socket file at `path` in the end, unless another one lies there by then."""
    made = path.lstat()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # gone, or the folder is no longer ours to write
            if os.path.samestat(path.lstat(), made):
                path.unlink()
