"""Who may ask a server of ours what: checks before any request reaches an application.

- A name (`Host`) by which the server does not go gets 421. That is against DNS rebinding: a page in somebody's browser whose name
  is made to point at this host may not read what is served here. Addresses cannot be rebound, so any literal address
  passes where others may connect at all.
- What a browser sends for another site's page, which it says in `Origin` or `Sec-Fetch-Site`, is refused with 403: such a
  page could not read the answer, but might have one made again and again. Following a link to a page is allowed.
- A request that may change something (any method but GET, HEAD and OPTIONS) gets 401 without the token where one is configured.
- Bodies are bounded.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rezolus.errors import UserError
from rezolus.units import Address, UnixAddress

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application."""

MAX_BODY = 64 * 1024
"""Bytes of a request's body; none of ours has one."""
MAX_TOKEN = 4096
READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""
SAME_SITE = frozenset({b"same-origin", b"none"})
"""`Sec-Fetch-Site` of our own pages and of what a user typed."""


class TokenError(UserError):
    """The token file cannot be used; the text says why."""


def read_token(path: Path) -> str:
    """The token in a file: its text without surrounding space. Raises TokenError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TOKEN + 1)
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
    """Passes on to the application what may pass; `token`: what writing requests must bear."""

    def __init__(self, app: App, names: Names, token: str | None = None) -> None:
        self._app = app
        self._names = names
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application."""
        refusal = self.refusal(scope)
        if refusal is None:
            await self._app(scope, _bounded(receive), send)
        else:
            await _answer(send, *refusal)

    def refusal(self, scope: Any) -> tuple[int, str] | None:
        """Status and text with which to refuse a request; None to let it pass."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value.strip())
        if scope["http_version"] not in {"1.0", "1.1"}:
            return 505, "only HTTP/1.1 is spoken here"
        hosts = headers.get(b"host", [b""])
        reading = scope["method"] in READING
        if len(hosts) > 1 or not self._names.allow(hosts[0].decode("latin-1"), reading=reading):
            return 421, "this server does not go by that name: use its address, or configure the name in `hosts`"
        if _length(headers) > MAX_BODY:
            return 413, f"the body is too long: at most {MAX_BODY} bytes"
        if _is_cross_site(headers, hosts[0]) and not (reading and _follows_a_link(headers)):
            return 403, "refused: a browser sent this for another site's page"
        if not reading and self._token is not None and not _bears(headers, self._token):
            return 401, "this needs the token of the configured token_file: send `Authorization: Bearer TOKEN`"
        return None


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


def _bounded(receive: Any) -> Any:
    """`receive` that breaks off a body which is longer than it may be, whatever it had announced."""
    got = 0

    async def bounded() -> Any:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        return message if got <= MAX_BODY else {"type": "http.disconnect"}

    return bounded


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


async def _answer(send: Any, status: int, text: str) -> None:
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
