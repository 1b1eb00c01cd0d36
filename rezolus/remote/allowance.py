"""What a remote may cause in a time: a store that is used up at once or little by little, and fills again."""

from __future__ import annotations

import trio

from rezolus.reading import Catalog, Series
from rezolus.remote.fetch import FetchError
from rezolus.wire.messages import MOST_SERIES

NEW_AT_ONCE, NEW_PER_S = 2 * MOST_SERIES, 500.0
"""Series that a remote may bring which it did not have before, and how many it may bring each second for ever.

Everything behind a source works out something for each: 10 to 50 us, partly on the event loop.
"""
PAUSE_S = 30.0
"""After too many of them: even to find out that there are too many takes a second of a thread."""


class Allowance:
    """`most` of something at once, and `per_s` of it a second in the long run."""

    def __init__(self, most: float, per_s: float) -> None:
        self._most = most
        self._per_s = per_s
        self._left = most
        self._at = -1.0

    def take(self, amount: float = 1.0) -> bool:
        """Whether there is so much left; then it is taken."""
        now = trio.current_time()
        if self._at >= 0:
            self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        if amount > self._left:
            return False
        self._left -= amount
        return True


class Novelty:
    """Lets catalogs pass as long as they do not bring too many series that the last one that passed had not."""

    def __init__(self) -> None:
        self._allowance = Allowance(NEW_AT_ONCE, NEW_PER_S)
        self._catalog: Catalog | None = None
        self._known: dict[int, Series] = {}

    def admit(self, catalog: Catalog) -> None:
        """Raises FetchError when there are too many; then the last catalog stays the one that is compared with."""
        if catalog is self._catalog:
            return
        groups = (catalog.counters, catalog.gauges, catalog.histograms)
        known = {id(series): series for group in groups for series in group}
        new = len(known.keys() - self._known.keys())
        if not self._allowance.take(new):
            raise FetchError(
                f"its series change too fast: {new} are new, and in the long run {NEW_PER_S:g} a second may be",
                pause_s=PAUSE_S,
            )
        self._catalog, self._known = catalog, known
