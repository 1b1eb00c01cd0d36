"""Measured values as people read them; what configurations hold is tested with them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rezolus.units import format_amount

SCALES = {
    "ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9,
    "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    "": 1, "M": 10**6, "G": 10**9, "T": 10**12,
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "nanoseconds", "0 ns"),
        (999.6, "nanoseconds", "1 us"),
        (1234, "nanoseconds", "1.23 us"),
        (5 * 10**12, "nanoseconds", "5,000 s"),
        (1023, "bytes", "1,023 B"),
        (1536, "bytes", "1.5 KiB"),
        (0.25, "operations", "0.25"),
        (22_862, "", "22,862"),
        (1_500_000, "packets", "1.5 M"),
        (-2048, "bytes", "-2 KiB"),
    ],
)
def test_amounts(value: float, unit: str, text: str) -> None:
    assert format_amount(value, unit) == text


@given(st.integers(0, 2**64 - 1), st.sampled_from(["nanoseconds", "bytes", "packets", ""]))
def test_an_amount_is_within_half_a_percent_and_short(value: int, unit: str) -> None:
    text = format_amount(value, unit)
    found = re.fullmatch(r"([0-9,.]+(?:e\+\d+)?)(?: (\w+))?", text)
    assert found is not None
    shown = float(found[1].replace(",", "")) * SCALES[found[2] or ""]
    assert shown == pytest.approx(value, rel=0.0051)
    assert len(text) <= 18
