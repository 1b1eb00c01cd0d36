"""The sampling clock under a clock of the test's own."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from rezolus.agent.clock import NS, SamplingClock


def aligned() -> int:
    """A wall clock that stands at a whole second."""
    return 1_700_000_000 * NS


async def test_ticks_come_at_multiples_of_the_interval(autojump_clock: MockClock) -> None:
    clock = SamplingClock(0.25, wall=aligned)
    start = trio.current_time()
    times = []
    for _ in range(4):
        await clock.wait()
        times.append(trio.current_time() - start)
    assert times == pytest.approx([0.0, 0.25, 0.5, 0.75])
    assert clock.statistics().skipped == clock.statistics().late == 0


async def test_the_first_tick_is_aligned_to_the_wall_clock(autojump_clock: MockClock) -> None:
    clock = SamplingClock(1.0, wall=lambda: aligned() + 400_000_000)
    start = trio.current_time()
    await clock.wait()
    assert trio.current_time() - start == pytest.approx(0.6)


async def test_a_step_of_the_wall_clock_moves_no_tick(autojump_clock: MockClock) -> None:
    walls = iter([aligned(), 0, 0])
    clock = SamplingClock(1.0, wall=lambda: next(walls))
    start = trio.current_time()
    for _ in range(3):
        await clock.wait()
    assert trio.current_time() - start == pytest.approx(2.0)


async def test_a_slow_reading_makes_the_next_late_and_shifts_nothing(mock_clock: MockClock) -> None:
    clock = SamplingClock(1.0, wall=aligned)
    await clock.wait()
    mock_clock.jump(1.3)  # the reading took longer than the interval
    late = await clock.wait()
    assert late.late == pytest.approx(0.3)
    assert late.skipped == 0
    mock_clock.autojump_threshold = 0
    start = trio.current_time()
    await clock.wait()
    assert trio.current_time() - start == pytest.approx(0.7)
    assert clock.statistics().late == 1


async def test_ticks_missed_altogether_are_counted_as_skipped(mock_clock: MockClock) -> None:
    clock = SamplingClock(1.0, wall=aligned)
    await clock.wait()
    mock_clock.jump(4.5)
    tick = await clock.wait()
    assert (tick.number, tick.skipped) == (4, 3)
    assert tick.late == pytest.approx(0.5)
    assert clock.statistics().skipped == 3


async def test_a_little_late_is_not_late(mock_clock: MockClock) -> None:
    clock = SamplingClock(1.0, wall=aligned)
    await clock.wait()
    mock_clock.jump(1.05)
    await clock.wait()
    assert clock.statistics().late == 0


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        SamplingClock(0)
