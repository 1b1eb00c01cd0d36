"""The agent's pages: the metrics in Rezolus' wire format, what the host is, and how the agent is doing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from rezolus import __version__
from rezolus.agent.report import AgentStatus
from rezolus.agent.snapshots import Form, Snapshots
from rezolus.compression import Encoding, compress, negotiate

BANNER = f"Rezolus {__version__} Agent\nMetrics are at /metrics/binary and /metrics/json, how the agent is doing at /status.\n"
"""The first line is what a viewer of Rezolus looks at: source and version."""

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
BINARY = "application/octet-stream"
SMALL = 256
"""Bodies below this many bytes are not worth compressing."""

PAGES: Mapping[Form, str] = {"binary": BINARY, "json": TEXT, "descriptions": JSON}
"""Below `/metrics/`; that the JSON is sent as plain text is how Rezolus does it."""


def make_app(
    status: Callable[[], AgentStatus], snapshots: Snapshots, *, systeminfo: Mapping[str, object] | None = None
) -> QuartTrio:
    """The pages as an ASGI application; `status` is asked at every request for it."""
    app = QuartTrio("rezolus.agent", static_folder=None)
    about = msgspec.json.encode(systeminfo or {})

    @app.get("/")
    async def banner() -> Response:
        return _answer(BANNER.encode(), TEXT)

    @app.get("/metrics/<any(binary, json, descriptions):form>")
    async def metrics(form: Form) -> Response:
        encoding = negotiate(request.headers.get("Accept-Encoding", ""))
        body = snapshots.body(form, encoding)
        if body is None:
            return _text("nothing is measured yet: the definitions are being loaded\n", 503, {"Retry-After": "1"})
        return _encoded(body, PAGES[form], encoding)

    @app.get("/systeminfo")
    async def system() -> Response:
        return _answer(about, JSON)

    @app.get("/samplers")
    async def samplers() -> Response:
        return _answer(msgspec.json.encode(status().samplers), JSON)

    @app.get("/status")
    async def whole() -> Response:
        return _answer(msgspec.json.encode(status()), JSON)

    @app.errorhandler(HTTPException)
    async def wrong(error: HTTPException) -> Response:
        headers = {name: value for name, value in error.get_headers() if name == "Allow"}
        return _text(f"{error.name.lower()}: {request.method} {request.path}\n", error.code or 500, headers)

    return app


def _answer(body: bytes, content_type: str) -> Response:
    """`body`, compressed as the client likes it."""
    encoding = negotiate(request.headers.get("Accept-Encoding", "")) if len(body) >= SMALL else None
    return _encoded(body if encoding is None else compress(body, encoding), content_type, encoding)


def _encoded(body: bytes, content_type: str, encoding: Encoding | None) -> Response:
    headers = {"Vary": "Accept-Encoding"}
    if encoding is not None:
        headers["Content-Encoding"] = encoding
    return Response(body, headers=headers, content_type=content_type)


def _text(text: str, status: int, headers: Mapping[str, str]) -> Response:
    return Response(text, status=status, headers=dict(headers), content_type=TEXT)
