"""The kernel and the interpreter agree about generated programs; `make fuzz N=10000` tries as many as asked."""

from __future__ import annotations

import pytest

from tests import fuzz

PROGRAMS = 200
SHARES = 4


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_generated_programs_load_and_leave_what_the_interpreter_says(share: int) -> None:
    count = PROGRAMS // SHARES
    failures = list(fuzz.fuzz(share * count, count, batch=count))
    assert failures == [], "\n".join(f"seed {seed}: {text}" for seed, text in failures)
