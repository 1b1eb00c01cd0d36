"""What passes the guard, and with which status everything else is refused."""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from rezolus.guard import MAX_BODY, MAX_TOKEN, Guard, Names, TokenError, read_token
from rezolus.units import Address, UnixAddress

LOOPBACK = Names(Address("127.0.0.1", 4243), ["metrics.example"])


async def nobody(_scope: Any, _receive: Any, _send: Any) -> None:
    raise AssertionError


def request(method: str = "GET", /, host: str = "127.0.0.1:4243", version: str = "1.1", **headers: str) -> Any:
    pairs = [(b"host", host.encode())] if host else []
    pairs += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "http_version": version, "headers": pairs}


def status(scope: Any, names: Names = LOOPBACK) -> int:
    refusal = Guard(nobody, names).refusal(scope)
    return 200 if refusal is None else refusal[0]


async def token_status(guard: Guard, scope: Any) -> int:
    refusal = await guard.token_refusal(scope)
    return 200 if refusal is None else refusal[0]


def bearing(token: str, method: str = "POST") -> Any:
    return request(method, authorization=f"Bearer {token}")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:4243", 200),
        ("[::1]", 200),
        ("localhost", 200),
        ("Metrics.Example.:80", 200),
        ("evil.example", 421),
        ("192.0.2.7", 421),
        ("", 421),
    ],
)
def test_only_our_names_are_answered(host: str, expected: int) -> None:
    assert status(request(host=host)) == expected


def test_any_name_may_read_where_that_was_configured() -> None:
    names = Names(Address("0.0.0.0", 4242), ["*"])
    assert status(request(host="evil.example"), names) == 200
    assert status(request("POST", host="evil.example"), names) == 421
    assert status(request("POST", host="192.0.2.7"), names) == 200


def test_two_hosts_are_none_of_ours() -> None:
    scope = request()
    scope["headers"].append((b"Host", b"localhost"))
    assert status(scope) == 421


def test_whoever_opened_the_socket_file_may_use_any_name() -> None:
    assert status(request(host="whatever.example"), Names(UnixAddress("/run/x.sock"))) == 200


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:4243"}, 200),
        ({"sec_fetch_site": "same-origin", "origin": "http://127.0.0.1:4243"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:8080"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
def test_nothing_is_done_for_other_sites(method: str, headers: dict[str, str], expected: int) -> None:
    assert status(request(method, **headers)) == expected


@pytest.mark.parametrize(
    ("mode", "destination", "expected"),
    [("navigate", "document", 200), ("navigate", "iframe", 403), ("no-cors", "image", 403), ("cors", "empty", 403)],
)
def test_a_link_on_another_site_may_be_followed(mode: str, destination: str, expected: int) -> None:
    headers = {"sec_fetch_site": "cross-site", "sec_fetch_mode": mode, "sec_fetch_dest": destination}
    assert status(request("GET", **headers)) == expected
    assert status(request("POST", **headers)) == 403


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        ("Bearer s3cret", 200),
        ("bearer  s3cret ", 200),
        ("Bearer s3cre", 401),
        ("Basic s3cret", 401),
        ("", 401),
        ("Bearer", 401),
    ],
)
async def test_a_token_is_needed_for_what_changes_something(authorization: str, expected: int) -> None:
    guard = Guard(nobody, LOOPBACK, lambda: "s3cret")
    scope = request("POST", **({"authorization": authorization} if authorization else {}))
    assert await token_status(guard, scope) == expected
    assert await token_status(guard, request("GET")) == 200


async def test_a_token_that_was_exchanged_counts_at_once_and_the_old_one_no_longer(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    guard = Guard(nobody, LOOPBACK, partial(read_token, file))
    assert await token_status(guard, bearing("old")) == 200
    file.write_text("new\n")
    assert await token_status(guard, bearing("old")) == 401
    assert await token_status(guard, bearing("new")) == 200


async def test_while_the_token_cannot_be_read_nothing_that_writes_passes_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    guard = Guard(nobody, LOOPBACK, partial(read_token, file))
    for _ in range(3):
        assert await guard.token_refusal(bearing("s3cret")) == (
            503,
            "the configured token cannot be read: see the log",
        )
        assert await token_status(guard, bearing("s3cret", "GET")) == 200
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        f"{file}: cannot read the token: no such file or directory; until it can be read, what asks for a change is refused"
    )
    file.write_text("s3cret")
    assert await token_status(guard, bearing("s3cret")) == 200
    file.unlink()
    assert await token_status(guard, bearing("s3cret")) == 503
    assert len(caplog.records) == 2


async def test_a_token_on_a_disk_that_hangs_takes_up_one_thread_and_ends_with_its_requests() -> None:
    go_on = threading.Event()
    calls: list[None] = []

    def hanging() -> str:
        calls.append(None)
        assert go_on.wait(60)
        return "s3cret"

    guard = Guard(nobody, LOOPBACK, hanging)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(guard.token_refusal, bearing("s3cret"))
            while not calls:  # noqa: ASYNC110 - a thread begins
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        go_on.set()
        assert await token_status(guard, bearing("s3cret")) == 200
    assert len(calls) == 2


def test_bodies_and_protocols_are_bounded() -> None:
    assert status(request("POST", content_length=str(MAX_BODY))) == 200
    assert status(request("POST", content_length=str(MAX_BODY + 1))) == 413
    assert status(request("GET", content_length="9" * 30)) == 413
    assert status(request("POST", content_length="3", transfer_encoding="chunked")) == 400
    assert status(request(version="2")) == 505


async def test_a_body_that_grows_beyond_the_bound_is_broken_off() -> None:
    seen: list[str] = []

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        while not seen or seen[-1] == "http.request":
            seen.append((await receive())["type"])

    async def endless() -> dict[str, object]:
        return {"type": "http.request", "body": bytes(MAX_BODY // 4), "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await Guard(app, LOOPBACK)(request("POST"), endless, send)
    assert seen == ["http.request"] * 4 + ["http.disconnect"]
    assert sent[0]["status"] == 413


@pytest.mark.parametrize("text", ["", " \n", "two words", "x" * 5000, "zu\u00e4"])
def test_what_is_no_token_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(TokenError, match="expected a token"):
        read_token(file)


def test_what_is_no_file_is_no_token_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(TokenError, match=f"{path}: cannot read the token: it is no regular file"):
            read_token(path)


def test_a_long_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(TokenError, match=f"at most {MAX_TOKEN} bytes"):
        read_token(file)


def test_a_token_is_read_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    assert read_token(file) == "s3cret"
    with pytest.raises(TokenError, match="no such file"):
        read_token(tmp_path / "none")
