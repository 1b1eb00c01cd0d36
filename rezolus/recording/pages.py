"""Values as column chunks of a Parquet file: one page each, zstd, and for histograms a dictionary.

A library would write them too, but the one there is takes 52 MB to import, more than everything else that runs beside
the sampling clock; and what a recording needs of the format is this little. Only the writing is ours: recordings are
read by the library, here and everywhere.

Numbers stand as they are (encoding PLAIN). Bucket counts repeat from row to row and from bucket to bucket, so they are numbers
of a dictionary's entries, one, two or four bytes wide: a width at which "bit-packed" means an array as it lies in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import zstandard

from rezolus.reading import I64, U64, Kind
from rezolus.recording import thrift

INT64, ZSTD = 2, 6
PLAIN, RLE, RLE_DICTIONARY = 0, 3, 8
DATA_PAGE, DICTIONARY_PAGE = 0, 2
LEVEL = 1
"""Of compression; the next ones take longer for two percent."""

CHUNK_OFFSET, CHUNK_META = 2, 3
META_TYPE, META_ENCODINGS, META_PATH, META_CODEC, META_VALUES, META_SIZE, META_COMPRESSED = 1, 2, 3, 4, 5, 6, 7
META_DATA_PAGE, META_DICTIONARY_PAGE, META_STATISTICS = 9, 11, 12

Bools = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """A column's part of a row group."""

    data: bytes
    size: int
    """Uncompressed, with the headers of the pages."""
    values: int
    """Numbers and nulls; each bucket is one."""
    dictionary: int = 0
    """Length of the dictionary page, which comes first; 0 without one."""
    statistics: thrift.Tree | None = None

    def entry(self, at: int, path: Sequence[str]) -> thrift.Tree:
        """What the footer says of it when it lies at `at` and is the column with this path."""
        encodings = [PLAIN, RLE, RLE_DICTIONARY] if self.dictionary else [PLAIN, RLE]
        meta: thrift.Tree = [
            [META_TYPE, thrift.I32, INT64],
            [META_ENCODINGS, thrift.LIST, (thrift.I32, encodings)],
            [META_PATH, thrift.LIST, (thrift.BINARY, [part.encode() for part in path])],
            [META_CODEC, thrift.I32, ZSTD],
            [META_VALUES, thrift.I64, self.values],
            [META_SIZE, thrift.I64, self.size],
            [META_COMPRESSED, thrift.I64, len(self.data)],
            [META_DATA_PAGE, thrift.I64, at + self.dictionary],
        ]
        if self.dictionary:
            meta.append([META_DICTIONARY_PAGE, thrift.I64, at])
        if self.statistics is not None:
            meta.append([META_STATISTICS, thrift.STRUCT, self.statistics])
        return [[CHUNK_OFFSET, thrift.I64, 0], [CHUNK_META, thrift.STRUCT, meta]]


class Absent:
    """Chunks of nulls for columns that a row group lacks: thousands of them when many series came and went."""

    def __init__(self) -> None:
        self._writer = PageWriter()
        self._chunks: dict[tuple[Kind, int], Chunk] = {}
        self._heads: dict[tuple[str, Chunk], bytes] = {}

    def chunk(self, kind: Kind, rows: int) -> Chunk:
        """As `PageWriter.nulls`."""
        chunk = self._chunks.get((kind, rows))
        if chunk is None:
            chunk = self._chunks[kind, rows] = self._writer.nulls(kind, rows)
        return chunk

    def entry(self, chunk: Chunk, at: int, path: tuple[str, ...]) -> bytes:
        """As `Chunk.entry`, in its final form: the position is the last of its fields."""
        head = self._heads.get((path[0], chunk))
        if head is None:
            head = self._heads[path[0], chunk] = thrift.dump(chunk.entry(0, path))[:-3]
        entry = bytearray(head)
        thrift.put_varint(entry, at << 1)
        return bytes(entry + b"\0\0")


class PageWriter:
    """Makes chunks; holds the compressor."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=LEVEL)

    def required(self, values: U64) -> Chunk:
        """A column without nulls, with its range in the statistics: readers choose row groups by it."""
        page, size = self._page(DATA_PAGE, _data_header(len(values), PLAIN), values.tobytes())
        return Chunk(page, size, len(values), statistics=_statistics(values))

    def optional(self, values: U64 | I64, present: Bools | None = None) -> Chunk:
        """A number per row, null where it is not `present` (None: it is everywhere)."""
        rows = len(values)
        if present is None:
            levels = _run(1, rows, 1)
        else:
            levels = _packed_bits(present)
            values = values[present]
        raw = _levels(levels) + values.tobytes()
        page, size = self._page(DATA_PAGE, _data_header(rows, PLAIN), raw)
        return Chunk(page, size, rows)

    def lists(self, codes: Codes, dictionary: U64, present: Bools) -> Chunk:
        """A list per row of which `present` says that there is one: `codes`, lists x buckets, indices of `dictionary`."""
        width = codes.dtype.itemsize * 8
        count, length = codes.shape
        repetition, definition = _list_levels(present, length)
        # In groups of eight values, the last one filled up.
        missing = -codes.size % 8 * codes.dtype.itemsize
        head = bytes([width]) + _varint((codes.size + 7) // 8 << 1 | 1)
        values = codes.size + len(present) - count
        first, first_size = self._page(DICTIONARY_PAGE, _dictionary_header(len(dictionary)), dictionary.tobytes())
        raw = b"".join((_levels(repetition), _levels(definition), head, codes.data, bytes(missing)))
        second, second_size = self._page(DATA_PAGE, _data_header(values, RLE_DICTIONARY), raw)
        return Chunk(first + second, first_size + second_size, values, dictionary=len(first))

    def nulls(self, kind: Kind, rows: int) -> Chunk:
        """A column of this kind without a value."""
        if kind == "histogram":
            raw = _levels(_run(0, rows, 1)) + _levels(_run(0, rows, 1))
        else:
            raw = _levels(_run(0, rows, 1))
        page, size = self._page(DATA_PAGE, _data_header(rows, PLAIN), raw)
        return Chunk(page, size, rows)

    def _page(self, kind: int, header: thrift.Field, raw: bytes) -> tuple[bytes, int]:
        """The page and its size without compression."""
        compressed = self._compressor.compress(raw)
        head = thrift.dump([[1, thrift.I32, kind], [2, thrift.I32, len(raw)], [3, thrift.I32, len(compressed)], header])
        return head + compressed, len(head) + len(raw)


def _data_header(values: int, encoding: int) -> thrift.Field:
    numbers = (values, encoding, RLE, RLE)
    return [5, thrift.STRUCT, [[at, thrift.I32, number] for at, number in enumerate(numbers, 1)]]


def _dictionary_header(values: int) -> thrift.Field:
    return [7, thrift.STRUCT, [[1, thrift.I32, values], [2, thrift.I32, PLAIN]]]


def _statistics(values: U64) -> thrift.Tree:
    low, high = (int(value).to_bytes(8, "little") for value in (values.min(), values.max()))
    return [[3, thrift.I64, 0], [5, thrift.BINARY, high], [6, thrift.BINARY, low]]


def _list_levels(present: Bools, length: int) -> tuple[bytes, bytes]:
    """Repetition and definition levels of lists of this length and of nulls."""
    begins = _run(0, 1, 1)
    there = begins + (_run(1, length - 1, 1) if length > 1 else b"")
    if present.all():
        return there * len(present), _run(3, len(present) * length, 2)
    whole, missing = _run(3, length, 2), _run(0, 1, 2)
    marks = present.tolist()
    return (
        b"".join(there if mark else begins for mark in marks),
        b"".join(whole if mark else missing for mark in marks),
    )


def _levels(encoded: bytes) -> bytes:
    return len(encoded).to_bytes(4, "little") + encoded


def _run(value: int, count: int, bits: int) -> bytes:
    """`count` times the same level."""
    return _varint(count << 1) + value.to_bytes((bits + 7) // 8, "little")


def _packed_bits(levels: Bools) -> bytes:
    return _varint((len(levels) + 7) // 8 << 1 | 1) + np.packbits(levels, bitorder="little").tobytes()


def _varint(value: int) -> bytes:
    out = bytearray()
    thrift.put_varint(out, value)
    return bytes(out)
