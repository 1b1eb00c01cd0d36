"""Clients get the encoding they like best of those we have, and what they get is what was to be sent."""

from __future__ import annotations

import gzip

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rezolus.compression import compress, negotiate


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("GZIP", "gzip"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("gzip ; q=0.5 ,zstd;q=0", "gzip"),
        ("*", "zstd"),
        ("*, zstd;q=0", "gzip"),
        ("*;q=0", None),
        ("identity", None),
        ("identity;q=0.5, gzip;q=0.4", None),
        ("identity;q=0, gzip;q=0.1", "gzip"),
        ("br, deflate", None),
        ("gzip;q=2, zstd;q=x, ;;;", None),
        ("gzip;level=9", None),
    ],
)
def test_the_best_liked_one_is_chosen(accepted: str, chosen: str | None) -> None:
    assert negotiate(accepted) == chosen


@given(st.text(max_size=40))
def test_any_header_has_an_answer(accepted: str) -> None:
    assert negotiate(accepted) in {None, "gzip", "zstd"}


@given(st.binary())
def test_what_is_compressed_comes_back(body: bytes) -> None:
    assert gzip.decompress(compress(body, "gzip")) == body
    assert zstandard.ZstdDecompressor().decompress(compress(body, "zstd")) == body
