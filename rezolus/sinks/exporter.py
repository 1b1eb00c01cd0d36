"""The exporter: the latest reading at `/metrics`, as Prometheus text or OpenMetrics, whichever the scraper likes better.

A scrape renders what is in memory; it waits for no agent. What was made of a reading is kept until the next one, so any
number of scrapers cost one rendering.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio

from rezolus import __version__
from rezolus.answers import Answers
from rezolus.config import ExporterConfig
from rezolus.http import serve
from rezolus.pages import SNAPSHOT_TYPES, accepted_encoding, encoded, refuse_in_words, text
from rezolus.reading import Catalog, Reading
from rezolus.sinks.exposition import TEXT, Syntax
from rezolus.sinks.negotiation import choose
from rezolus.sinks.prometheus import Family, Renderer, Style
from rezolus.sinks.stream import StreamStatistics
from rezolus.sockets import Bound
from rezolus.units import UnixAddress, format_duration
from rezolus.wire.encode import Encoder, Version, to_json

log = logging.getLogger(__name__)

FRESH_INTERVALS = 5
FRESH_NS = 15_000_000_000
"""A reading older than both of these is not served any more: whoever looks must see that nothing comes."""

LONG_SERIES, LONG_VALUES = 2_000, 100_000
"""New series whose names and labels, and values, buckets included, whose lines take 10 to 20 ms to make."""

BANNER = f"""Rezolus {__version__} Exporter

/metrics         Prometheus text or OpenMetrics, whichever the scraper prefers
/metrics/binary  the same reading as a snapshot of Rezolus
/metrics/json    the same as JSON
/status          this exporter, JSON
"""


@dataclass(frozen=True, slots=True)
class ExporterStatistics:
    """An exporter since its start."""

    listen: str
    """Address really bound; empty before."""
    scrapes: int
    renders: int
    """Bodies made; scrapes of one reading in one format share one."""
    render_ns: int
    """Time the latest body took."""
    body_bytes: int
    """Size of the latest body, uncompressed."""


class Exporter:
    """Keeps the last two readings and renders when asked, once per reading and format.

    `streams` gives the statistics of all sinks of the daemon: what was lost is part of what is exported. `up` says of
    the sources of this one which deliver, `remotes` how those elsewhere are. `clock`: monotonic ns.
    """

    def __init__(
        self,
        name: str,
        config: ExporterConfig,
        streams: Callable[[], tuple[StreamStatistics, ...]] = tuple,
        *,
        up: Callable[[], Mapping[str, bool]] = dict,
        remotes: Callable[[], tuple[msgspec.Struct, ...]] = tuple,
        snapshot_format: Version = "v2",
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name = name
        self._config = config
        self._streams = streams
        self._up = up
        self._remotes = remotes
        self._encoder = Encoder(snapshot_format, {"source": "rezolus", "version": __version__})
        self._clock = clock
        self._fresh_ns = max(FRESH_INTERVALS * config.interval, FRESH_NS)
        self._renderers: dict[Syntax, Renderer] = {}
        self._reading: Reading | None = None
        self._previous: Reading | None = None
        self._taken_ns = 0
        self._answers = Answers()
        self._answers_up: Mapping[str, bool] = {}
        self._one_at_a_time = trio.Lock()
        self._prepared: dict[str, Catalog | None] = {}
        self._bound: Bound | None = None
        self._scrapes = self._renders = self._render_ns = self._body_bytes = 0

    async def run(
        self,
        readings: trio.MemoryReceiveChannel[Reading],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until the stream of readings ends. Raises ListenError."""
        async with trio.open_nursery() as nursery:

            async def run_server(*, task_status: trio.TaskStatus[Bound]) -> None:
                await serve(self.app(), self._config.listen, hosts=self._config.hosts, task_status=task_status)

            self._bound = await nursery.start(run_server)
            where = self._bound if isinstance(self._bound, UnixAddress) else f"http://{self._bound}/metrics"
            log.info("%s: serving %s", self.name, where)
            task_status.started()
            async for reading in readings:
                self.take(reading)
            nursery.cancel_scope.cancel()

    def take(self, reading: Reading) -> None:
        """Make `reading` the one that is served."""
        self._previous, self._reading = self._reading, reading
        self._taken_ns = self._clock()
        self._answers = Answers()

    def current(self) -> Reading | None:
        """The reading that is served; None before the first, and when none has come for long."""
        if self._reading is not None and self._clock() - self._taken_ns > self._fresh_ns:
            self._reading = self._previous = None
        return self._reading

    async def body(self, syntax: Syntax = TEXT) -> bytes:
        """The exposition of the latest reading. Made in a thread when that takes long."""
        return await self._exposition(self._current_answers(), syntax)

    def statistics(self) -> ExporterStatistics:
        """Counts so far."""
        return ExporterStatistics(
            listen=str(self._bound or ""),
            scrapes=self._scrapes,
            renders=self._renders,
            render_ns=self._render_ns,
            body_bytes=self._body_bytes,
        )

    def app(self) -> QuartTrio:
        """The pages: `/`, `/metrics`, `/metrics/binary`, `/metrics/json`, `/status`."""
        app = QuartTrio("rezolus.exporter", static_folder=None)
        app.json.sort_keys = False  # type: ignore[attr-defined]

        @app.get("/")
        async def banner() -> Response:
            return text(BANNER)

        @app.get("/metrics")
        async def metrics() -> Response:
            self._scrapes += 1
            syntax = choose(request.accept_mimetypes) if self._config.openmetrics else TEXT
            answers = self._current_answers()
            await self._exposition(answers, syntax)
            return await _answer(answers, syntax.name, syntax.content_type)

        @app.get("/metrics/<any(binary, json):form>")
        async def snapshot(form: Literal["binary", "json"]) -> Response:
            reading = self.current()
            if reading is None:
                return text("there is no reading, or none that is not too old\n", 503)
            answers = self._current_answers()
            binary = await self._made(answers, "binary", partial(self._encoder.encode, reading), reading)
            if form == "json":
                await answers.body_aside(form, partial(to_json, binary))
            return await _answer(answers, form, SNAPSHOT_TYPES[form])

        @app.get("/status")
        async def status() -> dict[str, object]:
            return self.status()

        refuse_in_words(app)
        return app

    def status(self) -> dict[str, object]:
        """What `/status` answers."""
        reading = self.current()
        statistics = self.statistics()
        series = None
        if reading is not None:
            catalog = reading.catalog
            kinds = {"counters": catalog.counters, "gauges": catalog.gauges, "histograms": catalog.histograms}
            series = {kind: len(group) for kind, group in kinds.items()}
        return {
            "name": self.name,
            "version": __version__,
            "listen": statistics.listen,
            "interval": format_duration(self._config.interval),
            "histograms": self._config.histograms,
            "reading": None
            if reading is None
            else {"time_ns": reading.time_ns, "duration_ns": reading.duration_ns, "series": series},
            "scrapes": statistics.scrapes,
            "render_ns": statistics.render_ns,
            "body_bytes": statistics.body_bytes,
            "sources": {source: "up" if alive else "down" for source, alive in self._up().items()},
            "remotes": msgspec.to_builtins(self._remotes()),
            "sinks": [
                {
                    "name": stream.name,
                    "interval": format_duration(stream.interval_ns),
                    "delivered": stream.delivered,
                    "lost": stream.lost,
                    "waiting": stream.waiting,
                }
                for stream in self._streams()
            ],
        }

    def _current_answers(self) -> Answers:
        """What was made of the current reading. Without one nothing is kept: only the values of the daemon itself change."""
        up = self._up()
        if self.current() is None or up != self._answers_up:
            self._answers = Answers()
            self._answers_up = dict(up)
        return self._answers

    async def _exposition(self, answers: Answers, syntax: Syntax) -> bytes:
        """The body of the current reading, which `answers` are of."""
        if syntax not in self._renderers:
            config = self._config
            style = Style(syntax, config.histograms, config.summaries, config.grouping_power, config.timestamps)
            self._renderers[syntax] = Renderer(style)
        renderer, reading, previous = self._renderers[syntax], self._reading, self._previous
        make = partial(self._render, renderer, reading, previous, self._families(reading))
        return await self._made(answers, syntax.name, make, reading)

    async def _made(self, answers: Answers, key: str, make: Callable[[], bytes], reading: Reading | None) -> bytes:
        """The body called `key` of a reading, made in a thread when that takes long.

        One at a time, also where they are of different readings: what makes them remembers the series of the last one.
        """
        async with self._one_at_a_time:
            if reading is None or not _takes_long(reading.catalog, self._prepared.get(key)):
                body = answers.body(key, make)
            else:
                body = await answers.body_aside(key, make)
            self._prepared[key] = None if reading is None else reading.catalog
            return body

    def _render(
        self, renderer: Renderer, reading: Reading | None, previous: Reading | None, families: Sequence[Family]
    ) -> bytes:
        start = time.perf_counter_ns()
        body = renderer.render(reading, previous, families)
        self._renders += 1
        self._render_ns = time.perf_counter_ns() - start
        self._body_bytes = len(body)
        return body

    def _families(self, reading: Reading | None) -> list[Family]:
        streams, up = self._streams(), self._up()
        return [
            Family(
                "rezolus_source_up",
                "gauge",
                "Whether a source of this exporter delivers readings.",
                tuple(({"source": source}, int(alive)) for source, alive in up.items()),
            ),
            Family(
                "rezolus_reading_timestamp_seconds",
                "gauge",
                "When the reading that is exported here was made; absent when there is none.",
                () if reading is None else (({}, reading.time_ns / 1e9),),
            ),
            Family(
                "rezolus_sink_readings_total",
                "counter",
                "Readings delivered to a sink.",
                tuple(({"sink": stream.name}, stream.delivered) for stream in streams),
            ),
            Family(
                "rezolus_sink_lost_readings_total",
                "counter",
                "Readings a sink was too slow to take.",
                tuple(({"sink": stream.name}, stream.lost) for stream in streams),
            ),
        ]


def _takes_long(catalog: Catalog, prepared: Catalog | None) -> bool:
    """Whether making a body takes longer than a sampling clock can wait, the last one having been of `prepared`."""
    scalars = len(catalog.counters) + len(catalog.gauges)
    if scalars + catalog.histogram_offsets[-1] > LONG_VALUES:
        return True
    return catalog is not prepared and scalars + len(catalog.histograms) > LONG_SERIES


async def _answer(answers: Answers, key: str, content_type: str) -> Response:
    """The body called `key`, compressed as the client likes it."""
    encoding = accepted_encoding()
    return encoded(await answers.encoded(key, encoding), content_type, encoding, vary="Accept, Accept-Encoding")
