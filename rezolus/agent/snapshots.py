"""The latest reading as the wire serves it, encoded and compressed once for all who ask at the same time.

That is: within the time to live, or before it was taken, because answering many who ask at once takes longer than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

import msgspec
import trio

from rezolus import __version__
from rezolus.answers import Answers
from rezolus.compression import Encoding
from rezolus.reading import Reading, Series
from rezolus.wire.encode import HIDDEN, Encoder, Version, to_json

Form = Literal["binary", "json", "descriptions"]

SNAPSHOT_METADATA = {"source": "rezolus", "version": __version__}
"""`source` is what Rezolus' own recorder and viewer know an agent by."""


class Snapshots:
    """Bodies of the metrics pages.

    `reading` gives the reading to serve, not older than the time to live, or None while there is none; `select` cuts it down
    to what is served; `described` names metrics that have a help text whether or not they have series now.
    """

    def __init__(
        self,
        reading: Callable[[], Reading | None],
        *,
        version: Version = "v2",
        select: Callable[[Reading], Reading] = lambda reading: reading,
        described: Callable[[], Iterable[tuple[str, str]]] = tuple,
    ) -> None:
        self._reading = reading
        self._select = select
        self._described = described
        self._encoder = Encoder(version, SNAPSHOT_METADATA)
        self._encoded: Reading | None = None
        self._taken = 0
        """How often a reading was asked for."""
        self._answers = Answers()

    async def body(self, form: Form, encoding: Encoding | None = None) -> bytes | None:
        """The body of a page; None while there is nothing to read."""
        taken = self._taken
        await trio.lowlevel.checkpoint()  # those whose requests have been read by now get here first, and share it
        if taken != self._taken and self._encoded is not None:
            reading = self._encoded  # taken while this one waited
        else:
            self._taken += 1
            found = self._reading()
            if found is None:
                self._encoded = None
                return None
            reading = found
        if reading is not self._encoded:
            self._encoded = reading
            self._answers = Answers()
        answers = self._answers  # while this one waits, another may begin the next reading's
        if form == "descriptions":
            answers.body(form, lambda: self._descriptions(self._select(reading)))
        else:
            binary = answers.body("binary", lambda: self._encoder.encode(self._select(reading)))
            if form == "json":
                await answers.body_aside(form, partial(to_json, binary))
        return await answers.encoded(form, encoding)

    def _descriptions(self, reading: Reading) -> bytes:
        """The help text of each metric; the first one where they differ."""
        catalog = reading.catalog
        found: dict[str, str] = {}
        series: Iterable[Series] = (*catalog.counters, *catalog.gauges, *catalog.histograms)
        for name, text in (*self._described(), *((one.name, one.help) for one in series)):
            if text and not name.startswith(HIDDEN):
                found.setdefault(name, text)
        return msgspec.json.encode(dict(sorted(found.items())))
