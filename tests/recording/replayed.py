"""What segments hold, as readings: replayed as dumps and recordings replay them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rezolus.reading import Reading
from rezolus.recording.segment import Row, Segment
from rezolus.recording.store import segment_files


def readings_of(segment: Segment) -> Iterator[Reading]:
    """The readings of a segment."""
    return map(_reading, segment.replay())


def readings_in(folder: Path) -> Iterator[Reading]:
    """The readings of a folder, oldest first; also while it is written."""
    for path in segment_files(folder):
        with contextlib.suppress(FileNotFoundError):  # dropped meanwhile
            yield from readings_of(Segment(path))


def _reading(row: Row) -> Reading:
    """A row with arrays of its own."""
    catalog = row.layout.catalog
    values = row.values[row.layout.slots]
    counters, gauges, histograms = np.split(values, np.cumsum([len(catalog.counters), len(catalog.gauges)]))
    return Reading(
        catalog=catalog,
        time_ns=row.time_ns,
        monotonic_ns=row.monotonic_ns,
        duration_ns=row.duration_ns,
        counters=counters,
        gauges=gauges.view(np.int64),
        histograms=histograms,
    )
