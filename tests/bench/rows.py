"""A measured figure beside its target, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a result. The target is an upper bound; None where a figure is only for comparison."""

    what: str
    measured: float
    unit: str
    target: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Measured to target: at most 1 where the budget is kept."""
        return None if not self.target else self.measured / self.target


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark found."""

    title: str
    rows: tuple[Row, ...]


def render(result: Result) -> str:
    """A table for the terminal."""
    lines = [("", "target", "measured", "ratio", "")]
    lines += [_cells(row) for row in result.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join((result.title, *(_line(line, widths) for line in lines), ""))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    what, target, measured, ratio, note = cells
    numbers = f"{target:>{widths[1]}}  {measured:>{widths[2]}}  {ratio:>{widths[3]}}"
    return f"  {what:{widths[0]}}  {numbers}  {note}".rstrip()


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    ratio = row.ratio
    return (
        row.what,
        "" if row.target is None else f"{number(row.target)} {row.unit}",
        f"{number(row.measured)} {row.unit}",
        "" if ratio is None else f"{ratio:.2f}",
        row.note,
    )


def number(value: float) -> str:
    """Three or more significant digits, no more than needed."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"
