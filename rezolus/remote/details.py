"""What an agent says of itself and its metrics beside the snapshots: fetched as far as it has it, never insisted on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec
import numpy as np
import trio

from rezolus.reading import Catalog, Series
from rezolus.remote.allowance import Allowance
from rezolus.remote.fetch import Fetcher, FetchError, Page, decoded
from rezolus.sinks.merge import SeriesChange

TIMEOUT_S = 2.0
"""For all pages together."""
MAX_BODY = 1 << 20
"""Bytes of a page; those of Rezolus have 10 kB. 4 MiB can be made to take half a second, in which no thread has its turn."""
DETAILS_AT_ONCE, DETAILS_S = 3, 30.0
"""How often in a row the pages may be asked for, and how often in the long run. A restart or two are followed at once."""
MAX_DEPTH = 32
"""Objects and lists in one another.

A page goes into recordings as it is, and not every reader of these gets to the bottom of a deeper one.
"""
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
_BRACKETS = b"[]{}"
_STEPS = bytes.maketrans(_BRACKETS, b"\x01\xff\x01\xff")
"""One deeper, one back, as int8."""
_OTHERS = bytes(set(range(256)) - set(_BRACKETS))


@dataclass(frozen=True, slots=True)
class Details:
    """Pages of an agent; empty where it has none."""

    systeminfo: str = ""
    """A JSON object, as it came."""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    """Help by metric."""
    samplers: str = ""
    """A JSON array, as it came."""


async def fetch_details(fetcher: Fetcher) -> Details:
    """What the agent has of these. Raises nothing for what it has not, or cannot give in time."""
    deadline = trio.current_time() + TIMEOUT_S
    systeminfo = await _page(fetcher, "/systeminfo", dict[str, object], deadline)
    descriptions = await _page(fetcher, "/metrics/descriptions", dict[str, str], deadline)
    samplers = await _page(fetcher, "/samplers", list[dict[str, object]], deadline)
    helps = await decoded(_helps, descriptions) if descriptions else {}
    return Details(_text(systeminfo), helps, _text(samplers))


async def _page(fetcher: Fetcher, path: str, form: type, deadline: float) -> Page | None:
    """The page; None when there is none of this form, or it is nested too deeply."""
    left = deadline - trio.current_time()
    if left <= 0:
        return None
    try:
        page = await fetcher.get(path, timeout_s=left, accept="application/json", limit=MAX_BODY)
        return page if await decoded(partial(_has_form, form), page) else None
    except (FetchError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _has_form(form: type, page: Page) -> bool:
    """Whether it may be kept as it is. Raises MsgspecError, UnicodeDecodeError or RecursionError when it is nothing of the kind."""
    msgspec.json.decode(page.body, type=form)
    page.body.decode()
    return _depth(page.body) <= MAX_DEPTH


def _helps(page: Page) -> dict[str, str]:
    return msgspec.json.decode(page.body, type=dict[str, str])


def _text(page: Page | None) -> str:
    return "" if page is None else page.body.decode()


def _depth(body: bytes) -> int:
    """How many objects and lists are in one another at most, in valid JSON."""
    steps = np.frombuffer(_STRINGS.sub(b"", body).translate(_STEPS, delete=_OTHERS), np.int8)
    return int(np.cumsum(steps, dtype=np.int64).max(initial=0))


class About:
    """What is known of one agent beside its snapshots. Outlives contacts, so that it is not asked again for each of them."""

    def __init__(self) -> None:
        self.details = Details()
        self._describer = Describer({})
        self._allowance = Allowance(DETAILS_AT_ONCE, 1 / DETAILS_S)

    async def ask(self, fetcher: Fetcher) -> bool:
        """Ask again, unless that was done too often just now; whether it was done. Raises nothing."""
        if not self._allowance.take():
            return False
        before, self.details = self.details.descriptions, await fetch_details(fetcher)
        if self.details.descriptions != before:
            self._describer = Describer(self.details.descriptions)
        return True

    def describe(self, catalog: Catalog) -> Catalog:
        """The catalog with help where there is some and the series has none of its own."""
        return self._describer.catalog(catalog)


class Describer:
    """Puts the help of descriptions into the series of readings. The same catalog gives the same catalog."""

    def __init__(self, descriptions: Mapping[str, str]) -> None:
        self._descriptions = descriptions
        self._change = SeriesChange(self._describe)

    def catalog(self, catalog: Catalog) -> Catalog:
        """The catalog with help where there is some and the series has none of its own."""
        return self._change.catalog(catalog) if self._descriptions else catalog

    def _describe(self, series: Series) -> Series:
        text = self._descriptions.get(series.name, "")
        return replace(series, help=text) if text and not series.help else series
