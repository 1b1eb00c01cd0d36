"""`rezolus status` against answers that are none."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from rich.console import Console

from rezolus.cli import status
from rezolus.errors import UserError


@contextmanager
def answering(first: bytes, then: bytes = b"") -> Iterator[str]:
    """A server that answers one request with `first`, and `then` for as long as somebody reads; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + first)
                    while then:
                        connection.sendall(then)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join(20)
    assert not thread.is_alive()


def test_an_answer_is_read_to_its_end() -> None:
    with answering(b"{}") as url:
        assert status.fetch(url) == b"{}"


def test_an_answer_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "MAXIMUM_BYTES", 1 << 20)
    with answering(b"{", b" " * 65536) as url, pytest.raises(UserError, match="the answer does not end"):
        status.fetch(url)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"samplers": 1}', b"\xff", b"[" * 100_000])
def test_what_is_no_status_is_an_error(body: bytes) -> None:
    with pytest.raises(UserError, match="does not answer as an agent does"):
        status.parse("http://host", body)


def test_names_are_shown_as_they_are() -> None:
    hook = "uprobe:/opt/[app]/bin/[/red]:main"
    sampler = {"name": "own", "state": "active", "health": "healthy", "events": [{"hook": hook, "event": "main"}]}
    output = io.StringIO()
    status.show({"samplers": [sampler]}, Console(file=output, width=200))
    assert hook in output.getvalue()
