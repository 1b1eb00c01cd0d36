"""What passes the guard, and with which status everything else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rezolus.guard import MAX_BODY, Guard, Names, TokenError, read_token
from rezolus.units import Address, UnixAddress

LOOPBACK = Names(Address("127.0.0.1", 4243), ["metrics.example"])


async def nobody(_scope: Any, _receive: Any, _send: Any) -> None:
    raise AssertionError


def request(method: str = "GET", /, host: str = "127.0.0.1:4243", version: str = "1.1", **headers: str) -> Any:
    pairs = [(b"host", host.encode())] if host else []
    pairs += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "http_version": version, "headers": pairs}


def status(scope: Any, names: Names = LOOPBACK, token: str | None = None) -> int:
    refusal = Guard(nobody, names, token).refusal(scope)
    return 200 if refusal is None else refusal[0]


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
def test_a_token_is_needed_for_what_changes_something(authorization: str, expected: int) -> None:
    scope = request("POST", **({"authorization": authorization} if authorization else {}))
    assert status(scope, token="s3cret") == expected
    assert status(request("GET"), token="s3cret") == 200


def test_bodies_and_protocols_are_bounded() -> None:
    assert status(request("POST", content_length=str(MAX_BODY))) == 200
    assert status(request("POST", content_length=str(MAX_BODY + 1))) == 413
    assert status(request("GET", content_length="9" * 30)) == 413
    assert status(request(version="2")) == 505


async def test_a_body_that_grows_beyond_the_bound_is_broken_off() -> None:
    seen: list[str] = []

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        while not seen or seen[-1] == "http.request":
            seen.append((await receive())["type"])

    async def endless() -> dict[str, object]:
        return {"type": "http.request", "body": bytes(MAX_BODY // 4), "more_body": True}

    async def send(_message: object) -> None:
        raise AssertionError

    await Guard(app, LOOPBACK)(request("POST"), endless, send)
    assert seen == ["http.request"] * 4 + ["http.disconnect"]


@pytest.mark.parametrize("text", ["", " \n", "two words", "x" * 5000, "zu\u00e4"])
def test_what_is_no_token_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(TokenError, match="expected a token"):
        read_token(file)


def test_a_token_is_read_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    assert read_token(file) == "s3cret"
    with pytest.raises(TokenError, match="no such file"):
        read_token(tmp_path / "none")
