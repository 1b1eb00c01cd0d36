"""What an agent says of itself beside the snapshots."""

from __future__ import annotations

import pytest

from tests.remote.servers import agent_like_rezolus, polling, serving


@pytest.mark.parametrize(("depth", "kept"), [(32, True), (33, False)])
async def test_pages_that_are_nested_without_end_are_left_out(depth: int, kept: bool) -> None:
    agent = agent_like_rezolus()
    nested = '{"a[{":' * (depth - 1) + '["]}", "\\"]"]' + "}" * (depth - 1)
    agent.pages["/systeminfo"] = nested.encode()
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_readings(1)
        assert polled.source.metadata().get("systeminfo") == (nested if kept else None)
