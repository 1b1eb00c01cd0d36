"""What was made of one reading: each body once, each compressed form of it once, however many ask at the same time."""

from __future__ import annotations

from collections.abc import Callable

import trio

from rezolus.compression import Encoding, compress

INLINE_BYTES = 128 << 10
"""A larger body is compressed in a thread: 2 MB of buckets take 5 ms, in which the sampling clock may tick."""


class Answers:
    """Bodies by key, made when they are first asked for."""

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}
        self._compressed: dict[tuple[str, Encoding], bytes] = {}
        self._one_at_a_time = trio.Lock()

    def body(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The body called `key`."""
        body = self._bodies.get(key)
        if body is None:
            body = self._bodies[key] = make()
        return body

    async def body_aside(self, key: str, make: Callable[[], bytes]) -> bytes:
        """As `body`, but made in a thread: for what takes long and needs nothing that others may change."""
        async with self._one_at_a_time:
            body = self._bodies.get(key)
            if body is None:
                body = self._bodies[key] = await trio.to_thread.run_sync(make)
        return body

    async def encoded(self, key: str, encoding: Encoding | None) -> bytes:
        """The body called `key`, which was made before, compressed if that is wanted."""
        body = self._bodies[key]
        if encoding is None:
            return body
        async with self._one_at_a_time:
            found = self._compressed.get((key, encoding))
            if found is None:
                if len(body) <= INLINE_BYTES:
                    found = compress(body, encoding)
                else:
                    found = await trio.to_thread.run_sync(compress, body, encoding)
                self._compressed[key, encoding] = found
        return found
