"""What the agent counts about itself, as ordinary series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dsl.schema import Kind
from rezolus.reading import U64, Series

Value = Callable[[], int]

SAMPLER = "rezolus"
"""The `sampler` of series that belong to the agent as a whole."""

RUN_COUNT = ("rezolus_bpf_run_count", "", "Runs of the sampler's eBPF programs")
RUN_TIME = (
    "rezolus_bpf_run_time",
    "nanoseconds",
    "Time spent in the sampler's eBPF programs, of shared programs its part",
)
DISCARDS = ("rezolus_discards", "", "Samples thrown away instead of recording something wrong, by reason")


@dataclass(frozen=True, slots=True)
class SelfMetric:
    """A series and where its value comes from."""

    series: Series
    value: Value


def counter(about: tuple[str, str, str], value: Value, *, sampler: str = SAMPLER, **labels: str) -> SelfMetric:
    """A self-metric that only grows; `about` is name, unit, help."""
    return SelfMetric(_series("counter", about, sampler, labels), value)


def gauge(about: tuple[str, str, str], value: Value, *, sampler: str = SAMPLER, **labels: str) -> SelfMetric:
    """A self-metric that goes up and down."""
    return SelfMetric(_series("gauge", about, sampler, labels), value)


def _series(kind: Kind, about: tuple[str, str, str], sampler: str, labels: dict[str, str]) -> Series:
    name, unit, text = about
    return Series(
        name=name,
        kind=kind,
        labels={key: labels[key] for key in sorted(labels)},
        unit=unit,
        help=text,
        sampler=sampler,
    )


class SelfPart:
    """The self-metrics of one kind."""

    def __init__(self, metrics: Sequence[SelfMetric]) -> None:
        self.kind: Kind = metrics[0].series.kind
        self.series = tuple(metric.series for metric in metrics)
        self.size = len(self.series)
        self._values = tuple(metric.value for metric in metrics)

    def poll(self) -> bool:
        return False

    def fill(self, out: U64) -> None:
        for at, value in enumerate(self._values):
            out[at] = value() & 0xFFFF_FFFF_FFFF_FFFF
