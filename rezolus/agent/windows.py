"""The windows in which the kernel times our programs: opened and closed through the helper, which is root."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import trio

from rezolus.agent.costs import CostMeter
from rezolus.agent.helper import Helper, LoadError

WINDOW_S = 1.0
PERIOD_S = 60.0
"""With `sample` the kernel times programs for a window at the beginning of each period."""

StatsMode = Literal["sample", "hold", "off"]
"""Now and then, always, never."""


async def measure_costs(helper: Helper, mode: StatsMode, current: Callable[[], CostMeter | None]) -> None:
    """Open and close windows until the helper is gone. `current`: the costs of what runs now, which a reload replaces."""
    if mode == "off":
        return
    pause = PERIOD_S - WINDOW_S if mode == "sample" else 0.0
    while helper.alive:
        try:
            measured = await _measure_window(helper, current, keep_on=not pause)
        except LoadError:
            return  # the helper is gone, and has said so
        await trio.sleep(pause if measured else 0)


async def _measure_window(helper: Helper, current: Callable[[], CostMeter | None], *, keep_on: bool) -> bool:
    """One window; false when there was nothing to measure."""
    # Costs that are not those of what runs now have no descriptors any more.
    costs = current()
    if costs is None or costs.empty:
        await trio.sleep(WINDOW_S)
        return False
    await helper.start_statistics()
    if current() is costs:
        costs.begin()
        await trio.sleep(WINDOW_S)
    if current() is costs:
        costs.end()
    if not keep_on:
        await helper.stop_statistics()
    return True
