"""A part of a buffer as a recording: what a dump's process does.

Nothing of the buffer is changed and nothing it does is waited for. The buffer's short segments become row groups of some hundred
rows, made one after the other, so only the footer's size depends on the range. The file is written under another name in the
buffer's folder and gets its own when it is complete and on the disk.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from rezolus.errors import UserError
from rezolus.reading import U64, Series
from rezolus.recording.body import Body
from rezolus.recording.output import give_name
from rezolus.recording.ring import read_span
from rezolus.recording.segment import Identity, Layout, Row, Segment, SegmentError, identity, width_of
from rezolus.recording.store import DumpResult, Extent, dump_bytes, free_bytes, segment_files

GROUP_ROWS = 1800
GROUP_BYTES = 8 << 20
"""Segments that together have more than either become several row groups. Each costs an entry per series, absent or not."""


class DumpError(UserError):
    """The dump could not be written; the text says why."""


class Stretch:
    """The readings of consecutive segments that lie between two times, both included, as rows of one table.

    A series keeps its last value while it is away, as within a segment.
    """

    def __init__(
        self, segments: Sequence[Segment], start_ns: int, end_ns: int, earlier: Mapping[str, str] | None = None
    ) -> None:
        """`earlier`: metadata of the segments before these; a source may have been out of reach since."""
        self._segments = segments
        self._range = (start_ns, end_ns)
        self._numbers: dict[Identity, int] = {}
        self._bases: list[int] = []
        self._width = 0
        series: list[Series] = []
        for entry in (entry for segment in segments for entry in segment.series):
            if self._numbers.setdefault(identity(entry), len(series)) == len(series):
                series.append(entry)
                self._bases.append(self._width)
                self._width += width_of(entry)
        self.series = tuple(series)
        self.metadata = dict(earlier or {})
        for segment in segments:
            self.metadata.update(segment.metadata)
        self.times = [time for segment in segments for time in segment.times if start_ns <= time <= end_ns]
        """Wall clock of each row, ns."""

    @property
    def rows(self) -> int:
        """Number of readings."""
        return len(self.times)

    @property
    def bases(self) -> tuple[int, ...]:
        """First slot of each of `series`."""
        return tuple(self._bases)

    def replay(self) -> Iterator[Row]:
        """The rows in order. Raises SegmentError."""
        start_ns, end_ns = self._range
        values = np.zeros(self._width, np.uint64)
        for segment in self._segments:
            numbers, slots = self._translation(segment)
            known: dict[int, Layout] = {}
            latest: Layout | None = None
            for row in segment.replay():
                own = row.layout
                if id(own) not in known:
                    mine = tuple(numbers[number] for number in own.numbers)
                    known[id(own)] = Layout(own.catalog, mine, partial(_places, slots, own))
                layout = known[id(own)]
                if layout is latest and row.written is not None:
                    values[slots[row.written]] = row.values[row.written]
                else:  # the first row of a segment says nothing of what is 0
                    values[layout.slots] = row.values[own.slots]
                latest = layout
                if start_ns <= row.time_ns <= end_ns:
                    yield Row(row.time_ns, row.monotonic_ns, row.duration_ns, layout, values)

    def _translation(self, segment: Segment) -> tuple[list[int], U64]:
        """Of each series of a segment, and of each of its slots, the number among ours."""
        numbers = [self._numbers[identity(series)] for series in segment.series]
        parts = [np.arange(self._bases[n], self._bases[n] + width_of(self.series[n]), dtype=np.uint64) for n in numbers]
        return numbers, np.concatenate(parts) if parts else np.empty(0, np.uint64)


def _places(slots: U64, own: Layout) -> U64:
    """Where a segment's values are among ours."""
    return slots[own.slots]


def dump(
    folder: Path, start_ns: int, end_ns: int, output: Path, work_name: str, extent: Extent | None = None
) -> DumpResult:
    """Write the readings of the buffer `folder` between two wall clock times, both included, to the file `output`.

    `work_name`: what the unfinished dump is called in `folder`, or its whole path. `extent`: the segments that are the buffer,
    in a folder that may have others; None: all of them are. Without readings no file is written.
    Damaged segments are left out, from the damage on, and reported on stderr. Raises OSError and UserError.
    """
    buffer = [path for path in segment_files(folder) if extent is None or path in extent]
    files = [path for path in buffer if _overlaps(path, start_ns, end_ns)]
    work = folder / work_name
    _check_space(work.parent, files)
    work.mkdir()
    ends: list[int] = []
    try:
        with contextlib.closing(Body(work)) as body:
            for number, stretch in enumerate(_stretches(files, start_ns, end_ns)):
                if body.add(number, stretch):
                    ends = [*ends[:1], stretch.times[0], stretch.times[-1]]
            if not ends:
                return DumpResult(0)
            file = work / "complete"
            body.finish(file)
            rows = body.rows
        size = file.stat().st_size
        output.parent.mkdir(parents=True, exist_ok=True)
        give_name(file, output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return DumpResult(rows, ends[0], ends[-1], size)


def _overlaps(path: Path, start_ns: int, end_ns: int) -> bool:
    try:
        span = read_span(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # to be reported by who reads it
    return span is None or (span.first_ns <= end_ns and span.last_ns >= start_ns)


def _check_space(folder: Path, files: Sequence[Path]) -> None:
    """Refuse what does not fit into `folder`, where the buffer itself may need the space. Raises DumpError."""
    size = 0
    for path in files:
        with contextlib.suppress(OSError):
            size += path.stat().st_size
    needed, free = dump_bytes(size), free_bytes(folder)
    if free < needed:
        mebibytes = f"{needed / (1 << 20):.0f} MiB", f"{free / (1 << 20):.0f} MiB"
        raise DumpError(
            f"not enough space in {folder}: this range may need {mebibytes[0]} and {mebibytes[1]} are free; "
            "ask for a shorter one, or copy the folder to another disk and recover it there (rezolus record --recover COPY)"
        )


def _stretches(files: Sequence[Path], start_ns: int, end_ns: int) -> Iterator[Stretch]:
    """The readings of the range in portions that become row groups."""
    portion: list[Segment] = []
    metadata: dict[str, str] = {}
    for path in files:
        segment = _read(path)
        if segment is None:
            continue
        rows = segment.rows + sum(entry.rows for entry in portion)
        size = segment.size + sum(entry.size for entry in portion)
        if portion and (rows > GROUP_ROWS or size > GROUP_BYTES):
            stretch = Stretch(portion, start_ns, end_ns, metadata)
            yield stretch
            portion, metadata = [], stretch.metadata
        portion.append(segment)
    if portion:
        yield Stretch(portion, start_ns, end_ns, metadata)


def _read(path: Path) -> Segment | None:
    try:
        segment = Segment(path)
    except FileNotFoundError:  # a segment that never got a row
        return None
    except SegmentError as error:
        print(f"error: left out of the dump: {error}", file=sys.stderr)  # noqa: T201 - the parent passes it on
        return None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        print(f"error: left out of the dump: {path}: {reason}", file=sys.stderr)  # noqa: T201
        return None
    if damage := segment.damage():
        print(f"error: {damage}", file=sys.stderr)  # noqa: T201
    return segment if segment.rows else None
