"""Which of the two formats a scraper gets: what its `Accept` likes best."""

from __future__ import annotations

from collections.abc import Iterable

from werkzeug.http import parse_options_header

from rezolus.sinks.exposition import OPENMETRICS, TEXT, Syntax

_EXACT, _ANY = 3, 0


def choose(accept: Iterable[tuple[str, float]]) -> Syntax:
    """The format for an `Accept` header's ranges with their q values.

    OpenMetrics is for whom names it and likes text no better; who likes neither gets text, which everybody can read.
    `escaping` and `charset` make no difference: names need no escaping, and everything is UTF-8.
    """
    ranges = [(*parse_options_header(value), q) for value, q in accept]
    openmetrics, named = _quality(ranges, "application/openmetrics-text", "1.0.0")
    text, _ = _quality(ranges, "text/plain", "0.0.4")
    return OPENMETRICS if named and openmetrics > 0 and openmetrics >= text else TEXT


def _quality(ranges: Iterable[tuple[str, dict[str, str], float]], kind: str, version: str) -> tuple[float, bool]:
    """How much the ranges like one format, and whether one of them names it. The most specific range decides."""
    best = (-1, 0.0)
    for name, options, q in ranges:
        specificity = _specificity(name.lower(), options.get("version"), kind, version)
        if specificity is not None:
            best = max(best, (specificity, q))
    return best[1], best[0] >= _EXACT - 1


def _specificity(name: str, asked: str | None, kind: str, version: str) -> int | None:
    """How exactly a range names a format: its version, its type, half of its type, not at all; None for another one."""
    if name == kind:
        if asked is None:
            return _EXACT - 1
        return _EXACT if asked == version else None
    if name == f"{kind.partition('/')[0]}/*":
        return 1
    return _ANY if name == "*/*" else None
