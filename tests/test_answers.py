"""Bodies are made once, in the right thread, and what is asked for later does not mix with what is being made."""

from __future__ import annotations

import json
import random
import threading
import zlib

import trio

from rezolus.agent.snapshots import Snapshots
from rezolus.answers import INLINE_BYTES, Answers
from rezolus.compression import Encoding
from rezolus.reading import Reading
from tests.synthetic import Walk

ASKING = 8


async def test_a_body_made_aside_is_made_once_and_in_another_thread() -> None:
    answers = Answers()
    makers: list[int] = []
    found: list[bytes] = []

    def make() -> bytes:
        makers.append(threading.get_ident())
        return b"body"

    async def ask() -> None:
        found.append(await answers.body_aside("key", make))

    async with trio.open_nursery() as nursery:
        for _ in range(ASKING):
            nursery.start_soon(ask)
    assert found == [b"body"] * ASKING
    assert len(makers) == 1
    assert makers[0] != threading.get_ident()
    assert answers.body("key", make) == b"body"


async def test_small_and_large_bodies_are_compressed_once() -> None:
    answers = Answers()
    for key, size in (("small", 1000), ("large", 2 * INLINE_BYTES)):
        body = random.Random(size).randbytes(size)
        answers.body(key, lambda: body)  # noqa: B023 - called at once
        packed: list[bytes] = []

        async def ask(key: str, packed: list[bytes], encoding: Encoding | None) -> None:
            packed.append(await answers.encoded(key, encoding))

        async with trio.open_nursery() as nursery:
            for _ in range(ASKING):
                nursery.start_soon(ask, key, packed, "gzip")
        assert {id(one) for one in packed} == {id(packed[0])}
        assert zlib.decompress(packed[0], zlib.MAX_WBITS | 16) == await answers.encoded(key, None) == body


async def test_who_waits_for_one_reading_is_not_given_the_next() -> None:
    walk = Walk()
    taken: list[Reading] = []
    found: list[int] = []

    def reading() -> Reading:
        taken.append(walk.step())
        return taken[-1]

    snapshots = Snapshots(reading)

    async def ask() -> None:
        body = await snapshots.body("json", "gzip")
        assert body is not None
        when = json.loads(zlib.decompress(body, zlib.MAX_WBITS | 16))["systemtime"]
        found.append(when["secs_since_epoch"] * 10**9 + when["nanos_since_epoch"])

    async with trio.open_nursery() as nursery:
        for number in range(ASKING):
            nursery.start_soon(ask)
            while len(taken) == number:  # each is to have its own
                await trio.lowlevel.checkpoint()
    assert sorted(found) == [one.time_ns for one in taken]
    assert len(taken) == ASKING


async def test_all_who_ask_at_the_same_time_share_one_reading_however_long_it_takes_to_answer_them() -> None:
    walk = Walk()
    taken: list[Reading] = []

    def reading() -> Reading:  # none is younger than the time to live
        taken.append(walk.step())
        return taken[-1]

    snapshots = Snapshots(reading)
    bodies: list[bytes | None] = []

    async def ask() -> None:
        bodies.append(await snapshots.body("binary"))

    for times in (1, 2):
        async with trio.open_nursery() as nursery:
            for _ in range(ASKING):
                nursery.start_soon(ask)
        assert len(taken) == times
    assert len(bodies) == 2 * ASKING
    assert len(set(bodies)) == 2
