"""Reading maps from user space: arrays of the kernel as numpy views, no system call per value."""

from __future__ import annotations

import mmap
from typing import Final

import numpy as np
import numpy.typing as npt

from rezolus.bpf.stats import read_fdinfo

_ALIGNMENT: Final = 8
"""Array elements begin at multiples of 8 bytes."""


def map_array(fd: int, rows: int, words: int, *, writable: bool = False) -> npt.NDArray[np.uint64]:
    """The mmapable array `fd` as a live `(rows, words)` view: values change while one looks.

    The view keeps the memory, so the descriptor may be closed. `ValueError` when the map is smaller than that,
    `OSError` when it cannot be mapped.
    """
    return _mapped(fd, rows, words * 8, writable=writable).view(np.uint64)


def map_bytes(fd: int, rows: int, row_bytes: int, *, writable: bool = False) -> npt.NDArray[np.uint8]:
    """The mmapable array `fd` as a live `(rows, row_bytes)` view of bytes."""
    return _mapped(fd, rows, row_bytes, writable=writable)


def _mapped(fd: int, rows: int, row_bytes: int, *, writable: bool) -> npt.NDArray[np.uint8]:
    info = read_fdinfo(fd)
    have = (info.get("max_entries", 0), info.get("value_size", 0))
    # A mapping longer than the map would be refused, a shorter row would show shifted values.
    if have[0] < rows or have[1] != row_bytes:
        raise ValueError(f"map has {have[0]} rows of {have[1]} bytes, expected {rows} of {row_bytes}")
    stride = -(-row_bytes // _ALIGNMENT) * _ALIGNMENT
    length = -(-rows * stride // mmap.PAGESIZE) * mmap.PAGESIZE
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    memory = mmap.mmap(fd, length, flags=mmap.MAP_SHARED, prot=access)
    flat = np.frombuffer(memory, dtype=np.uint8, count=rows * stride)
    return flat.reshape(rows, stride)[:, :row_bytes]
