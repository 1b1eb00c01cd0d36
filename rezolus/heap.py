"""One heap for all threads."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8
"""malloc.h of glibc."""


def share_heap() -> None:
    """Keep glibc from giving each thread a heap of its own. To be called before any thread is started.

    Threads here come and go and hardly ever allocate at the same time (the interpreter has one lock for all), so heaps of
    their own bring nothing but holes: without this every reload, and whatever else needs a thread, leaves a tenth to a
    third of a megabyte behind.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have one heap anyway
        mallopt(_M_ARENA_MAX, 1)
