"""The fast way to the hash gives what its definition says."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rezolus.wire.fnv import fnv1a_128


def defined(data: bytes) -> tuple[int, int]:
    """The definition, byte by byte."""
    value = 0x6C62272E07BB014262B821756295C58D
    for byte in data:
        value = (value ^ byte) * 0x1000000000000000000013B % 2**128
    return divmod(value, 2**64)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0x6C62272E07BB014262B821756295C58D),
        (b"a", 0xD228CB696F1A8CAF78912B704E4A8964),
        (b"foobar", 0x343E1662793C64BF6F0D3597BA446F18),
        (b"\x93\x90\x90\x90", 0x6370115622757277B806E79DEAE054AE),
    ],
)
def test_published_values(data: bytes, expected: int) -> None:
    assert fnv1a_128(data) == divmod(expected, 2**64)


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 2047, 2048, 70_000])
def test_any_length(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert fnv1a_128(data) == defined(data)


@given(st.binary(max_size=64), st.integers(0, 255))
def test_long_runs_between_other_bytes(data: bytes, byte: int) -> None:
    whole = data + bytes([byte]) * 2000 + data
    assert fnv1a_128(whole) == defined(whole)
