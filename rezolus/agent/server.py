"""The agent's own pages: `/`, `/status`, `/samplers`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from quart import Response
from quart_trio import QuartTrio

from rezolus import __version__
from rezolus.agent.status import AgentStatus

BANNER = f"Rezolus {__version__} Agent\nSee /status and /samplers here; metrics are at the exporter's address.\n"
"""The first line is what a viewer of Rezolus looks at: source and version."""


def make_app(status: Callable[[], AgentStatus]) -> QuartTrio:
    """The pages as an ASGI application; `status` is asked at every request."""
    app = QuartTrio("rezolus.agent", static_folder=None)

    @app.get("/")
    async def banner() -> Response:
        return Response(BANNER, content_type="text/plain; charset=utf-8")

    @app.get("/status")
    async def whole() -> Response:
        return _json(status())

    @app.get("/samplers")
    async def samplers() -> Response:
        return _json(status().samplers)

    return app


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), content_type="application/json")
