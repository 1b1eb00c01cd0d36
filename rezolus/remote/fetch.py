"""Getting pages from a remote that may be slow, gone or hostile: everything is bounded, every failure is a sentence."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit

import httpcore
import trio

from rezolus import __version__
from rezolus.errors import UserError
from rezolus.units import format_amount

MAX_BODY = 64 << 20
"""Bytes of an answer; a longer one, or one without end, is cut off there."""
MAX_TEXT = 120
"""Characters of what a remote or a library says that go into our own sentences."""


class FetchError(UserError):
    """No usable answer; the text is a sentence without the address. Meant for the status, so nothing in it is secret."""

    def __init__(self, problem: str, *, reached: bool = True) -> None:
        super().__init__(problem)
        self.reached = reached
        """False when there was no connection."""


@dataclass(frozen=True, slots=True)
class Page:
    """An answer with status 2xx."""

    body: bytes
    content_type: str
    """In lower case; empty when the remote says none."""


class Fetcher:
    """One remote, reached over one connection that is kept open. An async context manager; one request at a time.

    Redirects are not followed, compressed answers are refused (so a few bytes never become gigabytes), proxies
    of the environment are ignored. Raises FetchError for a host name that is none.
    """

    def __init__(self, url: str, *, token: str = "") -> None:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        try:
            self._host = host.encode("ascii" if host.isascii() else "idna")
        except UnicodeError:
            raise FetchError(f"{host} is no host name", reached=False) from None
        self._port = port or 80
        self._backend = _Backend()
        self._pool = self._new_pool()
        name = b"[%s]" % self._host if b":" in self._host else self._host
        self._headers = [
            (b"Host", name if port is None else b"%s:%d" % (name, port)),
            (b"User-Agent", f"rezolus/{__version__}".encode()),
            (b"Accept-Encoding", b"identity"),
        ]
        if token:
            self._headers.append((b"Authorization", f"Bearer {token}".encode("ascii")))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def connections(self) -> int:
        """How many connections were made: a remote that was restarted needs a new one."""
        return self._backend.connections

    async def get(self, path: str, *, timeout_s: float, accept: str = "*/*", limit: int = MAX_BODY) -> Page:
        """The page at `path`. Raises FetchError, after `timeout_s` at the latest."""
        answered = trio.Event()
        try:
            with trio.fail_after(timeout_s):
                return await self._get(path, accept, limit, answered)
        except trio.TooSlowError:
            error = self._too_slow(timeout_s, answered=answered.is_set())
        except httpcore.ConnectError as failure:
            error = FetchError(f"cannot connect: {_reason(failure)}", reached=False)
        except (httpcore.NetworkError, httpcore.ProtocolError) as failure:
            error = FetchError(f"the answer is broken: {_reason(failure)}")
        except FetchError as failure:
            error = failure
        # What is left of the connection is not trusted with another request.
        await self.aclose()
        self._pool = self._new_pool()
        raise error

    async def _get(self, path: str, accept: str, limit: int, answered: trio.Event) -> Page:
        target = quote(path or "/", safe="/%:@!$&'()*+,;=~")
        url = httpcore.URL(scheme=b"http", host=self._host, port=self._port, target=target)
        headers = [*self._headers, (b"Accept", accept.encode("ascii"))]
        async with self._pool.stream("GET", url, headers=headers) as response:
            answered.set()
            known = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            _check(response.status, known, limit)
            body = bytearray()
            async for chunk in response.aiter_stream():
                body += chunk
                if len(body) > limit:
                    raise FetchError(_too_long(limit))
        return Page(bytes(body), known.get(b"content-type", "").lower())

    def _too_slow(self, timeout_s: float, *, answered: bool) -> FetchError:
        if self._backend.connecting:
            return FetchError(f"no connection within {timeout_s:g} s", reached=False)
        what = "the answer did not end" if answered else "no answer"
        return FetchError(f"{what} within {timeout_s:g} s")

    def _new_pool(self) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            max_connections=1, max_keepalive_connections=1, network_backend=self._backend
        )

    async def aclose(self) -> None:
        """Close the connection, also when cancelled."""
        with trio.CancelScope(shield=True):
            await self._pool.aclose()


class _Backend(httpcore.TrioBackend):
    """Counts the connections and knows when one is being made."""

    def __init__(self) -> None:
        self.connections = 0
        self.connecting = False

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of the library
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """As of the library."""
        self.connecting = True
        stream = await super().connect_tcp(host, port, timeout, local_address, socket_options)
        self.connecting = False
        self.connections += 1
        return stream


def _check(status: int, headers: Mapping[bytes, str], limit: int) -> None:
    """Raises FetchError for what is not worth reading on."""
    if 300 <= status < 400:
        where = shorten(headers.get(b"location", "nowhere"))
        raise FetchError(
            f"it answers {status} and points to {where}; redirects are not followed, configure that address"
        )
    if not 200 <= status < 300:
        raise FetchError(f"it answers {status}{_phrase(status)}")
    coding = headers.get(b"content-encoding", "identity").lower()
    if coding != "identity":
        raise FetchError(f"it compresses its answer ({shorten(coding)}) although it was asked not to")
    length = headers.get(b"content-length", "")
    if length.isdecimal() and len(length) < 20 and int(length) > limit:
        raise FetchError(_too_long(limit))


def shorten(text: str) -> str:
    """Somebody else's words for use in a sentence: printable and not long."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[: MAX_TEXT + 1])
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


def _too_long(limit: int) -> str:
    return f"the answer is longer than {format_amount(limit, 'bytes')}"


def _phrase(status: int) -> str:
    try:
        return f" ({HTTPStatus(status).phrase})"
    except ValueError:
        return ""


def _reason(error: BaseException) -> str:
    """The operating system's reason when there is one behind it, else the library's words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):  # an attempt per address of the host
            cause = cause.exceptions[0]
        if isinstance(cause, OSError) and cause.errno is not None:
            resolver = isinstance(cause, socket.gaierror)
            text = str(cause.strerror) if resolver else os.strerror(cause.errno)
            return text[:1].lower() + text[1:]
        cause = cause.__cause__ or cause.__context__
    text = shorten(str(error) or type(error).__name__)
    return text[:1].lower() + text[1:].rstrip(".")
