from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests import needs
from tests.soak.held import TOLERANCE, Held, growing, growth, heading, line, verdict
from tests.soak.run import soak

ROUNDS = 20
"""Not seconds: what a round leaves behind does not depend on the machine's speed, and a few samples tell nothing."""
PROBES = ("cpu", "syscall")
"""Few, so that a reload takes no second."""
WARMING = {**TOLERANCE, "pss_mb": 4.0, "anonymous_mb": 4.0}
"""In so short a run caches are still being filled."""

FLAT = Held(0.0, 0, 75.0, 70.0, 150, 8, 54, 50, 25)


def samples(count: int = 40) -> list[Held]:
    chance = random.Random(4)
    return [replace(FLAT, second=5.0 * n, pss_mb=75 + chance.random(), threads=8 + n % 2) for n in range(count)]


def test_noise_and_single_outliers_are_flat() -> None:
    run = samples()
    run[35] = replace(run[35], pss_mb=200.0, programs=100)
    assert growing(run) == {}
    assert "GROWS" not in verdict(run)


def test_a_warm_up_does_not_count() -> None:
    run = [replace(held, pss_mb=held.pss_mb - (10 - n if n < 10 else 0)) for n, held in enumerate(samples())]
    assert growing(run) == {}


def test_what_leaks_a_little_every_round_is_found() -> None:
    run = [replace(held, pss_mb=held.pss_mb + n * 0.2, programs=50 + n // 8) for n, held in enumerate(samples())]
    assert set(growing(run)) == {"pss_mb", "programs"}
    assert growth(run, "pss_mb") == pytest.approx(27 * 0.2, abs=1.0)
    assert verdict(run).count("GROWS") == 2


@pytest.mark.kernel
@pytest.mark.slow
def test_a_daemon_with_all_sinks_under_churn_stays_as_it_is() -> None:
    needs.bpf()
    found, done = soak(lambda _: None, rounds=ROUNDS, probes=PROBES)
    assert done["reloads"] >= ROUNDS // 2
    assert growing(found, WARMING) == {}, "\n".join([heading(), *map(line, found)])
