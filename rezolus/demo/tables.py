"""The demo's result as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rezolus.agent.report import AgentStatus
from rezolus.demo.recording import Distribution, Labels, Rate, Summary
from rezolus.demo.workload import Tally

_PARTS = 3
"""Label combinations shown per metric."""
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_TIME_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns"))


def amount(value: float, unit: str) -> str:
    """A value with its unit at a readable scale: `1.2 ms`, `64.0 KiB`, `22,862`."""
    if unit == "nanoseconds":
        scale, name = next((entry for entry in _TIME_UNITS if value >= entry[0]), _TIME_UNITS[-1])
        return f"{value / scale:.3g} {name}" if value < 1000 * scale else f"{value / scale:,.0f} {name}"
    if unit == "bytes":
        index = 0
        while value >= 1024 and index < len(_BYTE_UNITS) - 1:
            value, index = value / 1024, index + 1
        return f"{value:.1f} {_BYTE_UNITS[index]}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def result(summary: Summary, tally: Tally, status: AgentStatus) -> RenderableType:
    """Everything the demo shows at its end."""
    tables = [_rates(summary), _distributions(summary), _comparison(summary, tally), _cost(summary, status)]
    return Group(*(part for table in tables for part in (table, Text())), _not_running(status), Text())


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    return table


def _rates(summary: Summary) -> RenderableType:
    table = _table(f"Rates over {summary.seconds:.1f} s", "metric", "per second", "of which")
    table.columns[2].justify = "left"
    for rate in summary.rates:
        if rate.total and not _is_own(rate.metric):
            table.add_row(rate.metric, amount(rate.total, rate.unit), ", ".join(_parts(rate)))
    still = [rate.metric for rate in summary.rates if not rate.total]
    return Group(table, Text(f"no change: {', '.join(still)}", style="dim")) if still else table


def _is_own(metric: str) -> bool:
    return metric.startswith("rezolus_")


def _parts(rate: Rate) -> Iterator[str]:
    for labels, value in rate.parts[:_PARTS]:
        if labels:
            yield f"{_join(labels)} {amount(value, rate.unit)}"
    if len(rate.parts) > _PARTS:
        yield f"{len(rate.parts) - _PARTS} more"


def _join(labels: Labels) -> str:
    return " ".join(labels)


def _distributions(summary: Summary) -> Table:
    table = _table("Distributions", "metric", "per second", "p50", "p90", "p99", "max")
    shown: dict[str, int] = {}
    for found in summary.distributions:
        shown[found.metric] = shown.get(found.metric, 0) + 1
        if shown[found.metric] <= 1 + _PARTS:
            table.add_row(_name(found), amount(found.per_second, ""), *(amount(q, found.unit) for q in found.quantiles))
    return table


def _name(found: Distribution) -> Text:
    return Text(f"  {_join(found.labels)}", style="dim") if found.labels else Text(found.metric)


def _comparison(summary: Summary, tally: Tally) -> Table:
    """What the workload counted itself beside what was recorded of the whole machine in the same time."""
    table = _table("The workload's own count", "what", "counted", "recorded on the whole machine")
    for what, counted, metric, label in (
        ("bytes sent over loopback TCP", tally.tcp_bytes, "tcp_bytes", "transmit"),
        ("bytes received over it", tally.tcp_bytes, "tcp_bytes", "receive"),
        ("bytes written and synced", tally.disk_bytes, "blockio_bytes", "write"),
        ("getppid system calls", tally.system_calls, "syscall", "query"),
    ):
        unit = "bytes" if metric.endswith("bytes") else ""
        recorded = _increase(summary, metric, label)
        shown = "not recorded" if recorded is None else amount(recorded, unit)
        table.add_row(what, amount(counted, unit), shown)
    table.add_row("processes started", amount(tally.processes, ""), "not recorded")
    return table


def _increase(summary: Summary, metric: str, label: str) -> float | None:
    """By how much the series of `metric` with the label value `label` grew."""
    for rate in summary.rates:
        if rate.metric == metric:
            return sum(value for labels, value in rate.parts if label in labels) * summary.seconds
    return None


def _cost(summary: Summary, status: AgentStatus) -> Table:
    table = _table("What it cost", "", "")
    own = {rate.metric: rate for rate in summary.rates if _is_own(rate.metric)}
    costs = [sampler.cost for sampler in status.samplers if sampler.cost is not None]
    if cpu := own.get("rezolus_cpu_usage"):
        table.add_row("CPU of the daemon", f"{cpu.total / 1e7:.2f} % of one CPU")
    if costs:
        table.add_row("CPU of the BPF programs", f"{100 * sum(cost.cpu_share for cost in costs):.2f} % of one CPU")
    time, count = own.get("rezolus_bpf_run_time"), own.get("rezolus_bpf_run_count")
    if time and count and count.total:
        table.add_row("a run of a BPF program, on average", amount(time.total / count.total, "nanoseconds"))
    if memory := summary.gauges.get("rezolus_memory_usage_resident_set_size"):
        table.add_row("resident memory of the daemon", amount(memory, "bytes"))
    if status.map_memory_bytes:
        table.add_row("kernel memory of the BPF maps", amount(status.map_memory_bytes, "bytes"))
    table.add_row("one reading of everything (median)", amount(summary.sampling_us * 1e3, "nanoseconds"))
    series = f"{summary.rows} readings of {summary.columns - 2} series"
    table.add_row("recording", f"{series}, {amount(summary.bytes, 'bytes')}")
    return table


def _not_running(status: AgentStatus) -> Text:
    """Which samplers do not do all they should, and where to read why."""
    partly = [sampler.name for sampler in status.samplers if sampler.health not in {None, "healthy"}]
    if not partly:
        return Text(f"all {len(status.samplers)} samplers are healthy", style="green")
    return Text(f"not healthy: {', '.join(partly)}; `rezolus status` of a running agent says why", style="yellow")
