"""The agent's pages: the metrics in Rezolus' wire format, what the host is, and how the agent is doing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from quart import Response
from quart_trio import QuartTrio

from rezolus import __version__
from rezolus.agent.report import AgentStatus
from rezolus.agent.snapshots import Form, Snapshots
from rezolus.compression import compress
from rezolus.pages import JSON, SNAPSHOT_TYPES, TEXT, accepted_encoding, encoded, refuse_in_words, text

BANNER = f"Rezolus {__version__} Agent\nMetrics are at /metrics/binary and /metrics/json, how the agent is doing at /status.\n"
"""The first line is what a viewer of Rezolus looks at: source and version."""

SMALL = 256
"""Bodies below this many bytes are not worth compressing."""

PAGES: Mapping[str, str] = {**SNAPSHOT_TYPES, "descriptions": JSON}
"""Below `/metrics/`."""


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
        encoding = accepted_encoding()
        body = await snapshots.body(form, encoding)
        if body is None:
            return text("nothing is measured yet: the definitions are being loaded\n", 503, {"Retry-After": "1"})
        return encoded(body, PAGES[form], encoding)

    @app.get("/systeminfo")
    async def system() -> Response:
        return _answer(about, JSON)

    @app.get("/samplers")
    async def samplers() -> Response:
        return _answer(msgspec.json.encode(status().samplers), JSON)

    @app.get("/status")
    async def whole() -> Response:
        return _answer(msgspec.json.encode(status()), JSON)

    refuse_in_words(app)
    return app


def _answer(body: bytes, content_type: str) -> Response:
    """`body`, compressed as the client likes it."""
    encoding = accepted_encoding() if len(body) >= SMALL else None
    return encoded(body if encoding is None else compress(body, encoding), content_type, encoding)
