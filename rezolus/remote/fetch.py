"""Getting pages from a remote that may be slow, gone or hostile: everything is bounded, every failure is a sentence."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urlsplit

import h11
import trio

from rezolus import __version__
from rezolus.errors import UserError
from rezolus.units import format_amount

MAX_HEADERS = 16 << 10
"""Bytes of everything before the body, and of a line between its chunks, before the last read.

Taking headers apart gives no other task its turn: as many empty ones as this and a read have room for take 20 ms.
"""
READ_BYTES = 16 << 10
MAX_PIECES, PIECE = 10_000, 256
"""Parts of an answer that may be of any size, and the bytes that further ones have on average.

A part is a chunk, or what one read brought. Each costs 10 us, and chunks of one byte would make minutes of 16 MiB.
"""
TURN = 64
"""Parts that may come out of one read before other tasks have their turn."""
MAX_PRELIMINARIES = 16
"""Answers 1xx before the real one."""
INLINE_BYTES = 256 << 10
"""A longer answer is decoded in a thread, so that no other source's tick is late for it."""
MAX_TEXT = 120
"""Characters of what a remote or a library says that go into our own sentences."""

T = TypeVar("T")


class FetchError(UserError):
    """No usable answer; the text is a sentence without the address. Meant for the status, so nothing in it is secret."""

    def __init__(self, problem: str, *, reached: bool = True, pause_s: float = 0.0) -> None:
        super().__init__(problem)
        self.reached = reached
        """False when there was no connection."""
        self.pause_s = pause_s
        """For so long it is not worth trying again."""


@dataclass(frozen=True, slots=True)
class Page:
    """An answer with status 2xx."""

    body: bytes
    content_type: str
    """In lower case; empty when the remote says none."""


async def decoded(decode: Callable[[Page], T], page: Page) -> T:
    """What `decode` makes of a page, in a thread if the page is long."""
    if len(page.body) <= INLINE_BYTES:
        return decode(page)
    return await trio.to_thread.run_sync(decode, page)


class Fetcher:
    """One remote, reached over one connection that is kept open. An async context manager; one request at a time.

    Redirects are not followed, compressed answers are refused (so a few bytes never become gigabytes), proxies
    of the environment are ignored. Raises FetchError for a host name that is none.
    """

    def __init__(self, url: str, *, token: str = "") -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        try:
            self._host = host if host.isascii() else host.encode("idna").decode("ascii")
        except UnicodeError:
            raise FetchError(f"{host} is no host name", reached=False) from None
        self._port = parts.port or 80
        self._stream: trio.SocketStream | None = None
        self._http = h11.Connection(h11.CLIENT)
        self.connections = 0
        """How many connections were made: a remote that was restarted needs a new one."""
        name = f"[{self._host}]" if ":" in self._host else self._host
        self._headers = [
            ("Host", name if parts.port is None else f"{name}:{parts.port}"),
            ("User-Agent", f"rezolus/{__version__}"),
            ("Accept-Encoding", "identity"),
        ]
        if token:
            self._headers.append(("Authorization", f"Bearer {token}"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, also when cancelled."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await trio.aclose_forcefully(stream)

    async def get(self, path: str, *, timeout_s: float, limit: int, accept: str = "*/*") -> Page:
        """The page at `path`, of `limit` bytes at most. Raises FetchError, after `timeout_s` at the latest."""
        try:
            with trio.fail_after(timeout_s):
                return await self._exchange(await self._connection(), path, accept, limit)
        except trio.TooSlowError:
            raise self._too_slow(timeout_s) from None
        except (h11.ProtocolError, trio.BrokenResourceError) as error:
            raise FetchError(f"the answer is broken: {_reason(error)}") from None
        finally:
            if self._http.our_state is self._http.their_state is h11.DONE:
                self._http.start_next_cycle()
            else:  # what is left of the connection is not trusted with another request
                await self.aclose()

    async def _connection(self) -> trio.SocketStream:
        """The connection kept open, or a new one when there is none or the remote has closed it. Raises FetchError."""
        if self._stream is not None and self._stream.socket.is_readable():
            await self.aclose()
        if self._stream is None:
            try:
                self._stream = await trio.open_tcp_stream(self._host, self._port)
            except OSError as error:
                raise FetchError(f"cannot connect: {_reason(error)}", reached=False) from None
            self.connections += 1
            self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADERS)
        return self._stream

    async def _exchange(self, stream: trio.SocketStream, path: str, accept: str, limit: int) -> Page:
        """One request and its answer."""
        target = quote(path or "/", safe="/%:@!$&'()*+,;=~")
        request = h11.Request(method="GET", target=target, headers=[*self._headers, ("Accept", accept)])
        await stream.send_all((self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b""))
        content_type, body, pieces, preliminaries = "", bytearray(), 0, 0
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._receive(stream)  # which is a turn for others, even when the data are there already
            elif isinstance(event, h11.InformationalResponse):
                preliminaries += 1
                if preliminaries > MAX_PRELIMINARIES:
                    raise FetchError(f"it answers {event.status_code} again and again, and nothing else")
            elif isinstance(event, h11.Response):
                headers = {name: value.decode("latin-1") for name, value in event.headers}
                _check(event.status_code, headers, limit)
                content_type = headers.get(b"content-type", "").lower()
            elif isinstance(event, h11.Data):
                body += event.data
                pieces += 1
                if len(body) > limit:
                    raise FetchError(_too_long(limit))
                if pieces > MAX_PIECES + len(body) // PIECE:
                    raise FetchError("the answer comes in pieces that are too small to be worth reading")
                if not pieces % TURN:
                    await trio.lowlevel.checkpoint()
            elif isinstance(event, h11.EndOfMessage):
                return Page(bytes(body), content_type)

    async def _receive(self, stream: trio.SocketStream) -> None:
        data = await stream.receive_some(READ_BYTES)
        if not data and self._http.their_state is h11.SEND_RESPONSE:
            raise FetchError("it closed the connection without an answer")
        self._http.receive_data(data)

    def _too_slow(self, timeout_s: float) -> FetchError:
        if self._stream is None:
            return FetchError(f"no connection within {timeout_s:g} s", reached=False)
        what = "the answer did not end" if self._http.their_state is h11.SEND_BODY else "no answer"
        return FetchError(f"{what} within {timeout_s:g} s")


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


def shorten(text: str, limit: int = MAX_TEXT) -> str:
    """Somebody else's words for use in ours: printable, and not longer than `limit` characters."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


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
