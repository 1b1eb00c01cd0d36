"""The kernel and the interpreter agree about generated programs; `make fuzz N=10000` tries as many as asked."""

from __future__ import annotations

import pytest

from tests import fuzz

PROGRAMS = 150
BATCH = 25
TYPED = 8
"""Units of programs for BTF-typed tracepoints, one program for each of `TYPED_EVENTS`."""


@pytest.mark.slow
def test_generated_programs_load_and_leave_what_the_interpreter_says() -> None:
    """Every program that is well typed is accepted by the verifier, and its counters, gauges, histograms and discards agree."""
    failures = list(fuzz.fuzz(0, PROGRAMS, batch=BATCH))
    assert failures == [], "\n".join(f"seed {seed}: {text}" for seed, text in failures)


@pytest.mark.slow
def test_generated_programs_for_typed_tracepoints_load() -> None:
    """Also where memory is read by plain loads and state lives in the kernel's task storage."""
    failures = list(fuzz.fuzz(0, TYPED, typed=True, batch=TYPED // 2))
    assert failures == [], "\n".join(f"seed {seed}: {text}" for seed, text in failures)
