"""Who may ask a server of ours what: checks before any request reaches an application.

- A name (`Host`) by which the server does not go gets 421. That is against DNS rebinding: a page in somebody's browser whose name
  is made to point at this host may not read what is served here. Addresses cannot be rebound, so any literal address
  passes where others may connect at all.
- What a browser sends for another site's page, which it says in `Origin` or `Sec-Fetch-Site`, is refused with 403: such a
  page could not read the answer, but might have one made again and again. Following a link to a page is allowed.
- A request that may change something (any method but GET, HEAD and OPTIONS) gets 401 without the token where one is configured,
  and 503 while that cannot be read.
- Bodies are bounded.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

from rezolus.errors import UserError
from rezolus.files import NotRegularError, read_beginning
from rezolus.units import Address, UnixAddress

log = logging.getLogger(__name__)

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application."""
TokenReader = Callable[[], str]
"""The token that is valid now. Raises TokenError. It is called in a thread: a file may be on a disk that hangs."""

MAX_BODY = 64 * 1024
"""Bytes of a request's body; none of ours has one."""
TOO_LONG = (413, f"the body is too long: at most {MAX_BODY} bytes")
MAX_TOKEN = 4096
"""Bytes of a file with a token."""
RETRY_AFTER_S = 5
"""When it is worth while to ask again after a 503: somebody may be exchanging the token."""
READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""
SAME_SITE = frozenset({b"same-origin", b"none"})
"""`Sec-Fetch-Site` of our own pages and of what a user typed."""


class TokenError(UserError):
    """The token file cannot be used; the text says why."""


def read_token(path: Path) -> str:
    """The token in a regular file: its text without surrounding space. Raises TokenError, and never waits for a writer."""
    try:
        raw = read_beginning(path, MAX_TOKEN + 1)
    except (NotRegularError, IsADirectoryError):
        raise TokenError(f"{path}: cannot read the token: it is no regular file") from None
    except OSError as error:
        raise TokenError(f"{path}: cannot read the token: {(error.strerror or str(error)).lower()}") from error
    token = raw.strip()
    if not token or len(raw) > MAX_TOKEN or not token.isascii() or any(byte <= 32 for byte in token):
        raise TokenError(f"{path}: expected a token: one word of ASCII, at most {MAX_TOKEN} bytes")
    return token.decode()


ANY_NAME = "*"
"""In `hosts`: reading is answered under any name, as Rezolus does; what changes something never is."""


class Names:
    """The names by which a server may be addressed."""

    def __init__(self, address: Address | UnixAddress, names: Iterable[str] = ()) -> None:
        names = tuple(names)
        self._anyone = isinstance(address, UnixAddress)  # no browser gets there
        self._any_reader = ANY_NAME in names
        self._open = isinstance(address, Address) and not address.is_loopback
        self._names = {"localhost", *(name.lower().rstrip(".") for name in names)}
        if isinstance(address, Address):
            self._names.add(address.host)
        if self._open:
            self._names.add(socket.gethostname().lower())

    def allow(self, host: str, *, reading: bool = True) -> bool:
        """Whether a `Host` header names this server; `host` with or without a port."""
        if self._anyone or (reading and self._any_reader):
            return True
        name = _without_port(host).lower().rstrip(".")
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._open or address.is_loopback


class Guard:
    """Passes on to the application what may pass.

    `token`: what writing requests must bear. It is asked for each of them, so that a token that was exchanged counts at once, and
    the old one no longer. While it cannot be read nothing that writes passes; that is logged once for each reason.
    """

    def __init__(self, app: App, names: Names, token: TokenReader | None = None) -> None:
        self._app = app
        self._names = names
        self._token = token
        self._reading = trio.CapacityLimiter(1)
        """On a disk that hangs, requests take up one thread and not all that there are."""
        self._told = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application."""
        refusal = self.refusal(scope) or await self.token_refusal(scope)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        exchange = _Exchange(receive, send)
        await self._app(scope, exchange.receive, exchange.send)
        if exchange.too_long and not exchange.answered:
            await _answer(send, *TOO_LONG)

    def refusal(self, scope: Any) -> tuple[int, str] | None:
        """Status and text with which to refuse a request whatever token it bears; None to let it pass."""
        headers = _headers(scope)
        if scope["http_version"] not in {"1.0", "1.1"}:
            return 505, "only HTTP/1.1 is spoken here"
        hosts = headers.get(b"host", [b""])
        reading = scope["method"] in READING
        if len(hosts) > 1 or not self._names.allow(hosts[0].decode("latin-1"), reading=reading):
            return 421, "this server does not go by that name: use its address, or configure the name in `hosts`"
        if _length(headers) > MAX_BODY:
            return TOO_LONG
        if b"content-length" in headers and b"transfer-encoding" in headers:
            return 400, "a body has a Content-Length or a Transfer-Encoding, not both"
        if _is_cross_site(headers, hosts[0]) and not (reading and _follows_a_link(headers)):
            return 403, "refused: a browser sent this for another site's page"
        return None

    async def token_refusal(self, scope: Any) -> tuple[int, str] | None:
        """Status and text with which to refuse a request that writes, for want of the token; None to let it pass."""
        if self._token is None or scope["method"] in READING:
            return None
        token = await trio.to_thread.run_sync(self.read_token, abandon_on_cancel=True, limiter=self._reading)
        if token is None:
            return 503, "the configured token cannot be read: see the log"
        if not _bears(_headers(scope), token.encode()):
            return 401, "this needs the token of the configured token_file: send `Authorization: Bearer TOKEN`"
        return None

    def read_token(self) -> str | None:
        """The token; None when there is none to be had, which is logged unless it was the last time."""
        if self._token is None:
            return None
        try:
            token = self._token()
        except TokenError as error:
            if str(error) != self._told:
                log.error("%s; until it can be read, what asks for a change is refused", error)  # noqa: TRY400
            self._told = str(error)
            return None
        self._told = ""
        return token


def _headers(scope: Any) -> dict[bytes, list[bytes]]:
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.lower(), []).append(value.strip())
    return headers


def _length(headers: dict[bytes, list[bytes]]) -> int:
    lengths = headers.get(b"content-length", [])
    return max((int(length) for length in lengths if length.isdigit()), default=0)


def _is_cross_site(headers: dict[bytes, list[bytes]], host: bytes) -> bool:
    if any(site not in SAME_SITE for site in headers.get(b"sec-fetch-site", [])):
        return True
    return any(not _same_origin(origin, host) for origin in headers.get(b"origin", []))


def _follows_a_link(headers: dict[bytes, list[bytes]]) -> bool:
    """Whether somebody goes to a page, as against one that is shown inside of another."""
    return headers.get(b"sec-fetch-mode") == [b"navigate"] and headers.get(b"sec-fetch-dest") == [b"document"]


def _same_origin(origin: bytes, host: bytes) -> bool:
    try:
        return urlsplit(origin.decode("latin-1")).netloc.lower() == host.decode("latin-1").lower() != ""
    except ValueError:
        return False


def _bears(headers: dict[bytes, list[bytes]], token: bytes) -> bool:
    given = headers.get(b"authorization", [])
    if len(given) != 1:
        return False
    scheme, _, presented = given[0].partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(presented.strip(), token)


class _Exchange:
    """A request and its answer as the application sees them: a body that is too long is broken off, whatever it had announced."""

    def __init__(self, receive: Any, send: Any) -> None:
        self._receive = receive
        self._send = send
        self._got = 0
        self.answered = False

    @property
    def too_long(self) -> bool:
        return self._got > MAX_BODY

    async def receive(self) -> Any:
        message = await self._receive()
        self._got += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self.too_long else message

    async def send(self, message: Any) -> None:
        self.answered = True
        await self._send(message)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


async def _answer(send: Any, status: int, text: str) -> None:
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    if status in {400, 413}:
        headers.append((b"connection", b"close"))  # what comes of the body would be taken for the next request
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 503:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
