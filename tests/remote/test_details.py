"""What an agent says of itself beside the snapshots."""

from __future__ import annotations

import itertools
import threading

import pytest

from rezolus.remote.details import DETAILS_AT_ONCE
from rezolus.remote.fetch import INLINE_BYTES, Page, decoded
from tests.remote.servers import agent_like_rezolus, polling, serving
from tests.remote.test_source import Agent


@pytest.mark.parametrize(("depth", "kept"), [(32, True), (33, False)])
async def test_pages_that_are_nested_without_end_are_left_out(depth: int, kept: bool) -> None:
    agent = agent_like_rezolus()
    nested = '{"a[{":' * (depth - 1) + '["]}", "\\"]"]' + "}" * (depth - 1)
    agent.pages["/systeminfo"] = nested.encode()
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_readings(1)
        assert polled.source.metadata().get("systeminfo") == (nested if kept else None)


async def test_a_version_that_is_another_with_every_snapshot_does_not_ask_for_the_pages_each_time() -> None:
    agent = Agent()
    versions = itertools.count()

    def snapshot() -> bytes:
        agent.version = str(next(versions))
        return agent.snapshot()

    agent.pages["/metrics/binary"] = snapshot
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}") as polled:
        await polled.until_readings(DETAILS_AT_ONCE + 10)
    assert agent.count("/systeminfo") <= DETAILS_AT_ONCE + 1


async def test_every_new_contact_does_not_ask_for_the_pages_and_what_they_said_stays_known() -> None:
    agent = Agent()
    agent.pages["/systeminfo"] = b'{"hostname": "web1"}'
    agent.pages["/metrics/descriptions"] = b'{"requests": "Requests served."}'
    async with serving(agent) as port, polling(f"http://127.0.0.1:{port}") as polled:
        for contacts in range(1, DETAILS_AT_ONCE + 5):
            agent.pages["/metrics/binary"] = agent.snapshot
            await polled.until(lambda: polled.source.status().state == "up")
            await polled.until_readings(1)
            assert polled.source.status().contacts == contacts
            agent.pages["/metrics/binary"] = b"garbage"
            await polled.until_state("down")
        assert polled.source.metadata()["systeminfo"] == '{"hostname": "web1"}'
    assert agent.count("/systeminfo") <= DETAILS_AT_ONCE + 1
    assert polled.readings[-1].catalog.counters[0].help == "Requests served."
    assert len({id(reading.catalog.counters[0]) for reading in polled.readings}) == 1


async def test_long_pages_are_decoded_aside() -> None:
    here = threading.get_ident()
    short, long = (Page(bytes(length), "") for length in (INLINE_BYTES, INLINE_BYTES + 1))
    assert await decoded(lambda page: threading.get_ident(), short) == here
    assert await decoded(lambda page: threading.get_ident(), long) != here
