"""The Parquet layout of a recording: names, types and metadata of its columns, and the file's own metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rezolus.reading import Series
from rezolus.recording import thrift
from rezolus.recording.arrowschema import ArrowField, encode
from rezolus.recording.segment import identity

KIND_ORDER = {"counter": 0, "gauge": 1, "histogram": 2}
LEADING_LABELS = ("name", "op", "state", "direction")
PREFIX_LABELS = ("node", "instance")
"""Of series from several sources: the first of these stands before the name."""
UNNAMED_LABELS = frozenset({*PREFIX_LABELS, "source", "endpoint"})
"""Provenance; in the metadata of the column, not in its name."""
RESERVED_SUFFIXES = (":window_begin", ":window_width")
RESERVED_NAMES = ("timestamp", "duration", ":wall_offset")
LEAVES = {"counter": (), "gauge": (), "histogram": ("list", "item")}
"""Parquet path below the column."""
CREATED_BY = "rezolus-python"

REQUIRED, OPTIONAL, REPEATED = 0, 1, 2
_INT64 = 2
_CONVERTED = {False: 14, True: 18}  # UINT_64, INT_64
_LIST = 3


@dataclass(frozen=True, slots=True)
class Column:
    """A series as a column of the file."""

    name: str
    series: Series

    @property
    def path(self) -> tuple[str, ...]:
        """The column's leaf in the Parquet schema."""
        return (self.name, *LEAVES[self.series.kind])


def canonical_name(series: Series) -> str:
    """Metric and label values joined by `/`: name, op, state, direction, the others by key, id last.

    Of several sources: `NODE::` or `INSTANCE::` before it.
    """
    labels = series.labels
    keys = [key for key in LEADING_LABELS if key in labels]
    keys += sorted(key for key in labels if key not in LEADING_LABELS and key not in UNNAMED_LABELS and key != "id")
    keys += ["id"] if "id" in labels else []
    name = "/".join([series.name, *(labels[key] for key in keys)])
    return next((f"{labels[key]}::{name}" for key in PREFIX_LABELS if key in labels), name)


def columns_of(series: Sequence[Series]) -> list[Column]:
    """Columns for these series in the order of the file: counters, gauges, histograms, each by name.

    Two series whose label values read the same get `#2`, ... after the name.
    """
    taken = set(RESERVED_NAMES)
    columns = []
    for entry in sorted(series, key=identity):
        suffix = ":buckets" if entry.kind == "histogram" else ""
        stem = name = canonical_name(entry)
        copies = 1
        while name + suffix in taken or name.endswith(RESERVED_SUFFIXES):
            copies += 1
            name = f"{stem}#{copies}"
        taken.add(name + suffix)
        columns.append(Column(name + suffix, entry))
    return sorted(columns, key=lambda column: (KIND_ORDER[column.series.kind], column.name))


def field_metadata(series: Series) -> dict[str, str]:
    """What stands with the column of a series: everything that its name may not say."""
    metadata = {**series.labels, "metric": series.name, "metric_type": series.kind}
    if series.unit:
        metadata["unit"] = series.unit
    if series.sampler:
        metadata["sampler"] = series.sampler
    if series.kind == "histogram":
        metadata["grouping_power"] = str(series.power)
        metadata["max_value_power"] = str(series.max_power)
    return dict(sorted(metadata.items()))


def file_metadata(series: Sequence[Series], metadata: Mapping[str, str]) -> dict[str, str]:
    """The recording's own metadata, with the description of each metric that has one.

    What came with the readings stays as it is where it says the same.
    """
    helps = {entry.name: entry.help for entry in sorted(series, key=identity) if entry.help}
    known = parse_descriptions(metadata.get("descriptions", ""))
    merged = {**known, **helps}
    result = {"source": "rezolus", **metadata}
    if merged != known:
        result["descriptions"] = json.dumps(merged, ensure_ascii=False)
    return result


def parse_descriptions(text: str) -> dict[str, str]:
    """Metric to help text; empty for what is no such JSON object."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def footer(columns: Sequence[Column], metadata: Mapping[str, str], rows: int, groups: int) -> tuple[bytes, bytes]:
    """The file's footer: what comes before and behind the RowGroup structs, of which there are `groups`.

    Those are of chunks for timestamp, duration and these columns.
    """
    pairs = {**metadata, "ARROW:schema": encode(_arrow_fields(columns))}
    before: thrift.Tree = [
        [1, thrift.I32, 1],
        [2, thrift.LIST, (thrift.STRUCT, _schema(columns))],
        [3, thrift.I64, rows],
        [4, thrift.LIST, (thrift.STRUCT, [b""] * groups)],
    ]
    behind: thrift.Tree = [
        [5, thrift.LIST, (thrift.STRUCT, [_pair(key, value) for key, value in sorted(pairs.items())])],
        [6, thrift.BINARY, CREATED_BY.encode()],
        # The statistics of an unsigned column can only be trusted when this says how values are ordered.
        [7, thrift.LIST, (thrift.STRUCT, [[[1, thrift.STRUCT, []]]] * (len(columns) + 2))],
    ]
    head = thrift.dump(before)[:-1]  # without the mark of the end
    return head, thrift.dump(behind, after=4)


def _arrow_fields(columns: Sequence[Column]) -> list[ArrowField]:
    types = {"counter": "uint64", "gauge": "int64", "histogram": "list"}
    return [
        ArrowField("timestamp", "uint64", False, {"metric_type": "timestamp", "unit": "nanoseconds"}),
        ArrowField("duration", "uint64", True, {"metric_type": "duration", "unit": "nanoseconds"}),
        *(
            ArrowField(column.name, types[column.series.kind], True, field_metadata(column.series))  # type: ignore[arg-type]
            for column in columns
        ),
    ]


def _schema(columns: Sequence[Column]) -> list[thrift.Tree]:
    elements: list[thrift.Tree] = [
        [[4, thrift.BINARY, b"schema"], [5, thrift.I32, len(columns) + 2]],
        _number("timestamp", REQUIRED),
        _number("duration", OPTIONAL),
    ]
    for column in columns:
        if column.series.kind == "histogram":
            elements += [
                _group(column.name, OPTIONAL, [[6, thrift.I32, _LIST], [10, thrift.STRUCT, [[3, thrift.STRUCT, []]]]]),
                _group("list", REPEATED, []),
                _number("item", OPTIONAL),
            ]
        else:
            elements.append(_number(column.name, OPTIONAL, signed=column.series.kind == "gauge"))
    return elements


def _number(name: str, repetition: int, *, signed: bool = False) -> thrift.Tree:
    integer: thrift.Tree = [[1, thrift.BYTE, 64], [2, thrift.TRUE if signed else thrift.FALSE, None]]
    return [
        [1, thrift.I32, _INT64],
        [3, thrift.I32, repetition],
        [4, thrift.BINARY, name.encode()],
        [6, thrift.I32, _CONVERTED[signed]],
        [10, thrift.STRUCT, [[10, thrift.STRUCT, integer]]],
    ]


def _group(name: str, repetition: int, kind: thrift.Tree) -> thrift.Tree:
    return [[3, thrift.I32, repetition], [4, thrift.BINARY, name.encode()], [5, thrift.I32, 1], *kind]


def _pair(key: str, value: str) -> thrift.Tree:
    return [[1, thrift.BINARY, key.encode()], [2, thrift.BINARY, value.encode()]]
