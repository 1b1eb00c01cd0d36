"""Compressing answers for clients that ask for it."""

from __future__ import annotations

import re
import zlib
from typing import Literal

import zstandard

Encoding = Literal["zstd", "gzip"]

ENCODINGS: tuple[Encoding, ...] = ("zstd", "gzip")
"""What we can do; of two that a client likes alike, the one that comes first is taken."""
GZIP_LEVEL = 1
"""Metrics compress 8-fold at any level; the first costs a third of the usual sixth."""
ZSTD_LEVEL = 1

_ELEMENT = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:;\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*)?", re.ASCII)


def negotiate(accept_encoding: str) -> Encoding | None:
    """The encoding that a client with this `Accept-Encoding` likes best; None: as it is.

    An element that is not understood counts for nothing.
    """
    weights: dict[str, float] = {}
    for element in accept_encoding.split(","):
        match = _ELEMENT.fullmatch(element)
        if match is not None:
            weights[match[1].lower()] = float(match[2] or 1)
    others = weights.get("*", 0.0)
    offers = {encoding: weights.get(encoding, others) for encoding in ENCODINGS}
    best = max(ENCODINGS, key=lambda encoding: offers[encoding])
    return best if offers[best] > 0 and offers[best] >= weights.get("identity", 0.0) else None


def compress(body: bytes, encoding: Encoding) -> bytes:
    """`body` in this encoding."""
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(body)
    return zlib.compress(body, GZIP_LEVEL, zlib.MAX_WBITS | 16)
