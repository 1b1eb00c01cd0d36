"""What the pages of all our servers have in common: types of answers, compressed answers, refusals."""

from __future__ import annotations

from collections.abc import Mapping

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from rezolus.compression import Encoding, negotiate

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
BINARY = "application/octet-stream"
SNAPSHOT_TYPES: Mapping[str, str] = {"binary": BINARY, "json": TEXT}
"""Of a reading in Rezolus' wire format; that the JSON is sent as plain text is how Rezolus does it."""


def text(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in words."""
    return Response(text, status=status, headers=dict(headers or {}), content_type=TEXT)


def accepted_encoding() -> Encoding | None:
    """How whoever sent the request likes the answer compressed."""
    return negotiate(request.headers.get("Accept-Encoding", ""))


def encoded(body: bytes, content_type: str, encoding: Encoding | None, *, vary: str = "Accept-Encoding") -> Response:
    """A body that is compressed already; `vary`: the request's headers on which it depends."""
    headers = {"Vary": vary}
    if encoding is not None:
        headers["Content-Encoding"] = encoding
    return Response(body, headers=headers, content_type=content_type)


def refuse_in_words(app: QuartTrio) -> None:
    """Have wrong paths and methods answered with a line of text that says what was asked for."""

    @app.errorhandler(HTTPException)
    async def wrong(error: HTTPException) -> Response:
        headers = {name: value for name, value in error.get_headers() if name == "Allow"}
        return text(f"{error.name.lower()}: {request.method} {request.path}\n", error.code or 500, headers)
