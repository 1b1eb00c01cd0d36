"""The C library's heap, told to stay small."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""malloc.h of glibc."""
BIG = 1 << 20
"""Bytes of a block that gets memory of its own, which goes back when the block does: pages with buckets (2 MB) and what dumps
and big answers need, not pages with percentiles (43 KB). Kept in the heap, a few of them at the same time leave holes of several
megabytes between small blocks, a few more each time that more of them meet than ever before; rendering such a page takes
15 to 50 % longer this way."""


def share_heap() -> None:
    """Keep glibc from giving each thread a heap of its own. To be called before any thread is started.

    Threads here come and go and hardly ever allocate at the same time (the interpreter has one lock for all), so heaps of
    their own bring little but holes. What that alone saves is small, and was not told apart from noise over 40 reloads.

    And keep it from remembering the biggest block it has seen: after one answer of 16 MiB it would hold on to as much.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have one heap anyway
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, BIG)
        mallopt(_M_TRIM_THRESHOLD, BIG)
