"""The page by which a reload is asked for: `POST /reload`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from quart import Blueprint, Response

from rezolus.status import ReloadResult

CONFLICT = 409
"""Status of the answer when the reload was not, or not wholly, done."""


def control_pages(reload: Callable[[], Awaitable[ReloadResult]]) -> Blueprint:
    """To be mounted beside the agent's pages. Who may ask is told before a request gets here, by `rezolus.guard`."""
    pages = Blueprint("control", __name__)

    @pages.post("/reload")
    async def do_reload() -> Response:
        result = await reload()
        status = 200 if result.ok else CONFLICT
        return Response(msgspec.json.encode(result), status=status, content_type="application/json")

    return pages
