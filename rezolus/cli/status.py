"""`rezolus status`: what a running agent does and what it costs."""

from __future__ import annotations

import contextlib
import http
import http.client
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import click
import msgspec

from rezolus.cli.status_text import is_bad, show, show_service
from rezolus.errors import UserError
from rezolus.status import DaemonStatus, ServiceStatus
from rezolus.terminal import console

DEFAULT = "http://127.0.0.1:4241"
UNIX = "unix:"
"""Before the path of a Unix socket."""
TIMEOUT_S = 5.0
MAXIMUM_BYTES = 64 << 20
"""Of an answer; one with hundreds of samplers has a megabyte."""

NOBODY = (
    "is the agent running, and is this its `agent.listen`? (Where no agent runs, give the address of an exporter or of "
    "hindsight.)"
)
OTHERS: Mapping[str, str] = {"scrapes": "an exporter", "buffer_duration_secs": "hindsight"}
"""Keys by which the status of our other services is known."""


@click.command()
@click.argument("url", default=DEFAULT)
@click.option("--json", "as_json", is_flag=True, help="Print what the agent answers, unchanged.")
def command(url: str, *, as_json: bool) -> int:
    """Show what the agent at URL (default http://127.0.0.1:4241) does and what it costs.

    URL may be unix:FILE. Of an exporter or hindsight it shows the sources elsewhere. The exit status is 1 when the agent
    does not answer, definitions could not be used, a sampler is degraded or failed, or a sink does not run.
    """
    if url.startswith(UNIX):
        address, body = url, fetch_unix(url.removeprefix(UNIX))
    else:
        address = normal_url(url)
        body = fetch(f"{address}/status")
    status = parse(address, body)
    if as_json:
        sys.stdout.write(body.decode() + "\n")
    elif isinstance(status, ServiceStatus):
        show_service(status, console())
    else:
        show(status, console())
    return 1 if isinstance(status, DaemonStatus) and is_bad(status) else 0


def normal_url(url: str) -> str:
    """`host:port` and URLs with or without a path, as a base URL. Raises UserError."""
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UserError(f"{url!r} is not an address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url!r} is not an address; expected something like {DEFAULT}")
    default = "" if port else ":4241"
    return f"{parts.scheme}://{parts.netloc}{default}"


def fetch(url: str, most: int = MAXIMUM_BYTES) -> bytes:
    """The body at `url`, of `most` bytes. Raises UserError."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the scheme was checked
            return b"".join(_parts(answer, most))
    except urllib.error.HTTPError as error:
        with error:
            raise UserError(f"{url} answers {error.code} {error.reason}; is it the agent's address?") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        text = str(getattr(reason, "strerror", None) or reason).lower()
        raise UserError(f"cannot read {url}: {text}; {NOBODY}") from None


def _parts(answer: http.client.HTTPResponse, most: int) -> Iterator[bytes]:
    """The body as it comes; OSError when there is no end of it."""
    deadline, size = time.monotonic() + TIMEOUT_S, 0
    while part := answer.read1(1 << 16):
        size += len(part)
        if size > most or time.monotonic() > deadline:
            raise OSError("the answer does not end")
        yield part


def fetch_unix(path: str) -> bytes:
    """The status of the agent that listens at a Unix socket. Raises UserError."""
    connection = http.client.HTTPConnection("localhost", timeout=TIMEOUT_S)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream, contextlib.closing(connection):
            stream.settimeout(TIMEOUT_S)
            stream.connect(path)
            connection.sock = stream
            connection.request("GET", "/status")
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                raise UserError(f"{UNIX}{path} answers {answer.status} {answer.reason}; is it the agent's address?")
            return b"".join(_parts(answer, MAXIMUM_BYTES))
    except (OSError, http.client.HTTPException) as error:
        text = str(getattr(error, "strerror", None) or error).lower()
        raise UserError(f"cannot read {UNIX}{path}: {text}; {NOBODY}") from None


def parse(url: str, body: bytes) -> DaemonStatus | ServiceStatus:
    """The status in an answer. Raises UserError."""
    try:
        return msgspec.json.decode(body, type=DaemonStatus)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return msgspec.json.decode(body, type=ServiceStatus)
        raise UserError(f"{url} {_what_else(url, body)}") from None


def _what_else(url: str, body: bytes) -> str:
    """What there is to say of an answer that is no agent's."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        keys = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        for key, kind in OTHERS.items():
            if key in keys:
                place = "/status there" if url.startswith(UNIX) else f"{url}/status"
                return f"is {kind}, not an agent; what it does is told as JSON by {place}"
    return "does not answer as an agent does; is it the agent's address?"
