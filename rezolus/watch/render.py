"""A frame as lines of text."""

from __future__ import annotations

import itertools
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from rezolus.units import format_amount
from rezolus.watch.bars import Axis
from rezolus.watch.frame import Frame, Row, Section

_NUMBER = 10
"""Columns of a number, the space before it included."""
_LABELS_LEAST, _BAR_LEAST, _BAR_MOST = 12, 16, 65
_QUANTILES = ("p50", "p90", "p99", "max")
_IDLE_LINES = 2


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What does not change from frame to frame, or not with it."""

    title: str
    """What is watched, and how it was attached."""
    remarks: tuple[tuple[str, str], ...] = ()
    """(text, style): hooks that are missing, problems, files that cannot be read."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where lines go: columns, lines (None without a limit), whether block characters can be shown, series per metric."""

    width: int
    height: int | None = None
    ascii_only: bool = False
    top: int = 10


def render(frame: Frame, around: Surroundings, room: Room) -> list[Text]:
    """As many series per metric as fit, but no more than `room.top`; none wider than the room."""
    head = [_headline(frame, around)]
    foot = list(_foot(frame, around, room))
    if room.height is None:
        return [*head, *_body(frame, room, room.top), *foot]
    free = max(room.height - len(head) - len(foot), 3)
    body: list[Text] = []
    for top in range(room.top, 0, -1):
        body = _body(frame, room, top)
        if len(body) <= free:
            break
    if len(body) > free:
        body = [*body[: free - 1], Text("  ... more than fits: name the metrics to be shown", style="dim")]
    return [*head, *body, *foot]


def _headline(frame: Frame, around: Surroundings) -> Text:
    clock = time.strftime("%H:%M:%S", time.localtime(frame.time_ns / 1e9))
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(clock, style="bold")
    line.append(f"  {around.title}; a reading takes {format_amount(frame.duration_ns, 'nanoseconds')}", style="dim")
    return line


def _foot(frame: Frame, around: Surroundings, room: Room) -> Iterator[Text]:
    yield from _idle(frame, room)
    for found in frame.discards:
        rate = f", {_rate(found.rate, '')}" if found.rate else ""
        yield _one_line(f"{found.sampler}: discarded {found.total:,} ({found.reason}{rate})", "yellow")
    for text, style in around.remarks:
        yield _one_line(text, style)


def _idle(frame: Frame, room: Room) -> Iterator[Text]:
    names = [section.metric.name for section in frame.sections if not section.rows]
    if not names:
        return
    lines = textwrap.wrap(f"nothing yet: {', '.join(names)}", max(room.width - 4, 20))
    shown = lines[:_IDLE_LINES]
    if len(lines) > _IDLE_LINES:
        shown[-1] += " ..."
    yield Text()
    for line in shown:
        yield _one_line(line, "dim")


def _body(frame: Frame, room: Room, top: int) -> list[Text]:
    lines: list[Text] = []
    shown = [section for section in frame.sections if section.rows]
    for single, group in itertools.groupby(shown, key=_is_single):
        if single:
            lines += _singles(list(group), room)
        else:
            for section in group:
                lines += _section(section, room, top)
    return lines


def _is_single(section: Section) -> bool:
    """Whether a metric is one number."""
    return not section.labels and section.metric.kind != "histogram"


def _singles(sections: Sequence[Section], room: Room) -> Iterator[Text]:
    """Metrics of one number each, as one table."""
    longest = max(cell_len(section.metric.name) for section in sections)
    width = max(_LABELS_LEAST, min(longest + 2, room.width - 2 * _NUMBER))
    yield Text()
    if any(section.metric.kind == "counter" for section in sections):
        yield _one_line(" " * width + _numbers("rate", "total"), "dim")
    for section in sections:
        unit, row = section.metric.unit, section.rows[0]
        rate = _rate(row.rate, unit) if section.metric.kind == "counter" else ""
        line = Text(_cut(section.metric.name, width), style="bold", no_wrap=True, overflow="ellipsis")
        line.append(_numbers(rate, format_amount(row.value, unit)), style="not bold")
        line.append(f"  {section.metric.help}", style="not bold dim")
        yield line


def _section(section: Section, room: Room, top: int) -> Iterator[Text]:
    """A blank line, name and help, the head of the columns, the busiest series."""
    rows = section.rows[:top]
    histogram = section.metric.kind == "histogram"
    numbers = _NUMBER * (1 + len(_QUANTILES) if histogram else 2 if section.metric.kind == "counter" else 1)
    bar_room = min(_BAR_MOST, room.width - numbers - _LABELS_LEAST - 2) if histogram else 0
    spreads = [row.spread.octaves for row in section.rows if row.spread]
    axis = Axis.over(spreads, bar_room) if spreads and bar_room >= _BAR_LEAST else None
    labels = _aligned([section.labels, *(row.labels for row in rows)])
    wanted = max(cell_len(text) for text in labels) + 2
    reserved = numbers + (axis.columns + 2 if axis else 0)
    width = max(_LABELS_LEAST, min(max(wanted, 24), room.width - reserved))
    yield Text()
    yield _title(section)
    yield _columns(section, labels[0], width, axis)
    for label, row in zip(labels[1:], rows, strict=True):
        yield _row(section, label, row, width, axis, room)
    if len(section.rows) > len(rows):
        yield _rest(section, section.rows[len(rows) :], width)


def _rest(section: Section, rows: Sequence[Row], width: int) -> Text:
    """What is not shown, added up where that means something."""
    text = _cut(f"  {len(rows)} more", width)
    unit = section.metric.unit
    if section.metric.kind == "counter":
        text += _numbers(
            _rate(sum(row.rate for row in rows), unit), format_amount(sum(row.value for row in rows), unit)
        )
    elif section.metric.kind == "histogram":
        text += _numbers(_rate(sum(row.rate for row in rows), ""))
    return _one_line(text, "dim")


def _title(section: Section) -> Text:
    line = Text(section.metric.name, style="bold", no_wrap=True, overflow="ellipsis")
    line.append(f"  {section.metric.help}", style="not bold dim")
    return line


def _columns(section: Section, labels: str, width: int, axis: Axis | None) -> Text:
    match section.metric.kind:
        case "counter":
            names: Sequence[str] = ("rate", "total")
        case "gauge":
            names = ("value",)
        case "histogram":
            names = ("rate", *_QUANTILES)
    line = _cut(f"  {labels}", width) + _numbers(*names)
    if axis:
        line += f"  {axis.marks(section.metric.unit)}"
    return Text(line, style="dim", no_wrap=True, overflow="crop")


def _row(section: Section, labels: str, row: Row, width: int, axis: Axis | None, room: Room) -> Text:
    unit = section.metric.unit
    match section.metric.kind:
        case "counter":
            numbers: list[str] = [_rate(row.rate, unit), format_amount(row.value, unit)]
        case "gauge":
            numbers = [format_amount(row.value, unit)]
        case "histogram":
            values = row.spread.quantiles if row.spread else ()
            numbers = [_rate(row.rate, ""), *(format_amount(value, unit) for value in values)]
    quiet = section.metric.kind != "gauge" and not row.recent
    line = Text(_cut(f"  {labels}", width), style="dim" if quiet else "", no_wrap=True, overflow="crop")
    line.append(_numbers(*numbers))
    if axis and row.spread:
        line.append(f"  {axis.bar(row.spread.octaves, ascii_only=room.ascii_only)}", style="cyan")
    return line


def _numbers(*texts: str) -> str:
    return "".join(f" {text}".rjust(_NUMBER) for text in texts)


def _rate(value: float, unit: str) -> str:
    return f"{format_amount(value, unit)}/s"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Label values of each row as one text, in columns."""
    clean = [[_printable(value) for value in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*clean, strict=True)]
    return [
        "  ".join(set_cell_size(value, width) for value, width in zip(row, widths, strict=True)).rstrip()
        for row in clean
    ]


def _printable(text: str) -> str:
    """Names come from processes and files: without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _cut(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, width - 2) + ".."


def _one_line(text: str, style: str) -> Text:
    return Text(_printable(text), style=style, no_wrap=True, overflow="ellipsis")


def as_text(lines: Iterable[Text]) -> Text:
    """All lines as one renderable."""
    return Text("\n", no_wrap=True, overflow="crop").join(lines)
