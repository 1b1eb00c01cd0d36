"""What the exporter takes to make a page of a real agent's reading, by its own account."""

from __future__ import annotations

import json

from tests.bench.daemons import EXPORTER, Daemon, daemon, fetch
from tests.bench.rows import Result, Row

TARGET_MS = 3.0
TURNS = 60
FRESH_S = 0.11
"""Longer than the interval: each page is made of another reading."""
SYNTAXES = {"text": "text/plain", "OpenMetrics": "application/openmetrics-text;version=1.0.0"}


def run() -> Result:
    """Median and best of many, for both formats and for percentiles and distributions."""
    rows = []
    for form in ("summary", "buckets", "both"):
        with daemon("100ms", EXPORTER, more={EXPORTER: f'histograms = "{form}"'}) as running:
            rows += [_measure(running, form, syntax) for syntax in SYNTAXES]
    return Result("Rendering, without HTTP", tuple(rows))


def _measure(running: Daemon, form: str, syntax: str) -> Row:
    running.scrape(SYNTAXES[syntax])  # the first one prepares what is the same in all
    times, size = [], 0
    for _ in range(TURNS):
        running.wait(FRESH_S)
        running.scrape(SYNTAXES[syntax])
        status = json.loads(fetch(f"http://{running.exporter}/status"))
        times.append(status["render_ns"] / 1e6)
        size = status["body_bytes"]
    times.sort()
    note = f"best {times[0]:.2f} ms; {size} bytes"
    return Row(f'histograms = "{form}", {syntax}, median', times[len(times) // 2], "ms", TARGET_MS, note)
