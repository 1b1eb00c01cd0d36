"""The exporter: the latest reading as Prometheus text at `/metrics`."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import trio
from quart import Response, request
from quart_trio import QuartTrio

from rezolus import __version__
from rezolus.config import ExporterConfig
from rezolus.http import serve
from rezolus.reading import Reading
from rezolus.sinks.prometheus import CONTENT_TYPE, Family, Renderer, render_families
from rezolus.sinks.stream import StreamStatistics
from rezolus.units import Address, format_duration

log = logging.getLogger(__name__)

GZIP = 31
"""zlib's window size for the gzip container."""


@dataclass(frozen=True, slots=True)
class ExporterStatistics:
    """An exporter since its start."""

    listen: str
    """Address really bound; empty before."""
    scrapes: int
    renders: int
    """Bodies made; scrapes of one reading share one."""
    render_ns: int
    """Time the latest body took."""
    body_bytes: int
    """Size of the latest body, uncompressed."""


class Exporter:
    """Keeps the last two readings and renders when asked, once per reading.

    `streams` gives the statistics of all sinks of the daemon: what was lost is part of what is exported.
    """

    def __init__(
        self, name: str, config: ExporterConfig, streams: Callable[[], tuple[StreamStatistics, ...]] = tuple
    ) -> None:
        self.name = name
        self._config = config
        self._streams = streams
        self._renderer = Renderer(config.histograms, config.grouping_power)
        self._reading: Reading | None = None
        self._previous: Reading | None = None
        self._body: bytes | None = None
        self._compressed: bytes | None = None
        self._bound: Address | None = None
        self._scrapes = self._renders = self._render_ns = 0

    async def run(
        self,
        readings: trio.MemoryReceiveChannel[Reading],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until the stream of readings ends. Raises ListenError."""
        async with trio.open_nursery() as nursery:

            async def run_server(*, task_status: trio.TaskStatus[Address]) -> None:
                await serve(self.app(), self._config.listen, hosts=self._config.hosts, task_status=task_status)

            self._bound = await nursery.start(run_server)
            log.info("%s: serving http://%s/metrics", self.name, self._bound)
            task_status.started()
            async for reading in readings:
                self.take(reading)
            nursery.cancel_scope.cancel()

    def take(self, reading: Reading) -> None:
        """Make `reading` the one that is served."""
        self._previous, self._reading = self._reading, reading
        self._body = self._compressed = None

    def body(self) -> bytes:
        """The exposition of the latest reading."""
        if self._body is None:
            start = time.perf_counter_ns()
            families = self._families()
            if self._reading is None:
                # Nothing was read yet: only what the daemon knows of itself.
                self._body = render_families(families)
            else:
                self._body = self._renderer.render(self._reading, self._previous) + render_families(families)
            self._renders += 1
            self._render_ns = time.perf_counter_ns() - start
        return self._body

    def compressed(self) -> bytes:
        """The body in gzip; level 1, the text shrinks to a sixth and more would cost more than it saves."""
        if self._compressed is None:
            compressor = zlib.compressobj(1, zlib.DEFLATED, GZIP)
            self._compressed = compressor.compress(self.body()) + compressor.flush()
        return self._compressed

    def statistics(self) -> ExporterStatistics:
        """Counts so far."""
        return ExporterStatistics(
            listen=str(self._bound or ""),
            scrapes=self._scrapes,
            renders=self._renders,
            render_ns=self._render_ns,
            body_bytes=len(self._body or b""),
        )

    def app(self) -> QuartTrio:
        """The pages: `/`, `/metrics`, `/status`."""
        app = QuartTrio("rezolus", static_folder=None)
        app.json.sort_keys = False  # type: ignore[attr-defined]

        @app.get("/")
        async def banner() -> Response:
            text = f"Rezolus {__version__} Exporter\n\n/metrics  Prometheus text\n/status   this exporter, JSON\n"
            return Response(text, content_type="text/plain; charset=utf-8")

        @app.get("/metrics")
        async def metrics() -> Response:
            self._scrapes += 1
            if request.accept_encodings.quality("gzip") > 0:
                response = Response(self.compressed(), content_type=CONTENT_TYPE)
                response.headers["Content-Encoding"] = "gzip"
            else:
                response = Response(self.body(), content_type=CONTENT_TYPE)
            response.headers["Vary"] = "Accept-Encoding"
            return response

        @app.get("/status")
        async def status() -> dict[str, object]:
            return self.status()

        return app

    def status(self) -> dict[str, object]:
        """What `/status` answers."""
        reading = self._reading
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

    def _families(self) -> list[Family]:
        streams = self._streams()
        return [
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
