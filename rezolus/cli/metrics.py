"""`rezolus metrics [FILE...]`: every metric there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rezolus.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from dsl import MetricDescription, Parsed, SamplerDescription

_INTRODUCTION = """\
# Metrics

What the shipped definitions measure. This page is made by `rezolus metrics --markdown` from `probes/`: change it there.

Counters only grow; histograms have buckets at most 12.5 % wide. A metric by `cpu` has a label `id`, one by `cgroup` the
labels `id` and `name`. Where an origin reads `A else B`, B is taken on hosts that do not have A: `rezolus compile --plan
FILE` shows what was chosen on this one.
"""


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE...]", type=click.Path(path_type=Path))
@click.option("--markdown", is_flag=True, help="Print a page for a documentation.")
def command(files: tuple[Path, ...], *, markdown: bool) -> None:
    """List the metrics of .rzl files, of the shipped ones if none is named: type, unit, labels, help and origin."""
    samplers = list(_describe(files))
    if not files:
        samplers.append(_own())
    if markdown:
        print(_INTRODUCTION if not files else "# Metrics\n")
        print("\n".join(_page(samplers)), end="")
    else:
        _print_tables(samplers)


def _describe(files: tuple[Path, ...]) -> tuple[SamplerDescription, ...]:
    """The samplers of files; CompileError for what does not follow the grammar."""
    from dsl import CompileError, describe_samplers
    from rezolus import definitions
    from rezolus.config import SHIPPED_PROBES

    names = definitions.find_files(files or [SHIPPED_PROBES / "*.rzl"])
    parsed: Parsed = definitions.parse(definitions.read_files(names).complete())
    if any(item.severity == "error" for item in parsed.diagnostics):
        raise CompileError(parsed.diagnostics)
    return describe_samplers(parsed.modules, parsed.used)


def _own() -> SamplerDescription:
    """What the agent tells of itself, which no definition can."""
    from dsl import MetricDescription, SamplerDescription
    from dsl.schema import Kind, Label
    from rezolus.agent import agent, running, selfmetrics
    from rezolus.agent.external import store

    own: tuple[tuple[Kind, tuple[str, str, str], tuple[str, ...]], ...] = (
        ("counter", selfmetrics.RUN_COUNT, ("sampler",)),
        ("counter", selfmetrics.RUN_TIME, ("sampler",)),
        ("counter", selfmetrics.DISCARDS, ("reason", "sampler")),
        ("counter", agent.LATE, ()),
        ("counter", agent.SKIPPED, ()),
        ("gauge", agent.DURATION, ()),
        ("counter", running.SOURCE_ERRORS, ()),
        ("gauge", running.MAP_MEMORY, ()),
        ("counter", store.UPDATES, ()),
        ("counter", store.REJECTED, ("reason",)),
        ("counter", store.REFUSED, ("reason",)),
        ("gauge", store.SERIES, ()),
        ("gauge", store.CONNECTIONS, ()),
    )
    metrics = tuple(
        MetricDescription(name, kind, unit, text, tuple(Label(label, ()) for label in labels), (), ("the agent",), 0)
        for kind, (name, unit, text), labels in own
    )
    text = "What the agent tells of itself and of each sampler"
    return SamplerDescription(selfmetrics.SAMPLER, text, "", 0, metrics, attaches=False)


# As a page


def _page(samplers: Iterable[SamplerDescription]) -> Iterator[str]:
    for sampler in samplers:
        yield f"## {sampler.name}\n"
        yield f"{sampler.help}." + (f" Defined in `{_shown_path(sampler.file)}`." if sampler.file else "") + "\n"
        yield "| Metric | Type | Unit | Labels | What it is | Origin |"
        yield "|---|---|---|---|---|---|"
        for metric in sampler.metrics:
            cells = (
                f"`{metric.name}`",
                metric.kind,
                metric.unit,
                "; ".join(_labels(metric, quote="`")),
                metric.help,
                ", ".join(f"`{origin}`" for origin in metric.origins),
            )
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        yield ""


def _shown_path(file: str) -> str:
    """A shipped file as seen from the root of the project, so that the page is the same wherever that is."""
    from rezolus.config import SHIPPED_PROBES

    path = Path(file)
    return str(path.relative_to(SHIPPED_PROBES.parent)) if path.is_relative_to(SHIPPED_PROBES.parent) else file


def _labels(metric: MetricDescription, quote: str = "") -> Iterator[str]:
    """`by cpu`, `op: read, write`."""
    if metric.dimension:
        yield f"by {', '.join(f'{quote}{name}{quote}' for name in metric.dimension)}"
    for label in metric.labels:
        values = ", ".join(label.values)
        yield f"{quote}{label.name}{quote}: {values}" if values else f"{quote}{label.name}{quote}"


# For a terminal


def _print_tables(samplers: Iterable[SamplerDescription]) -> None:
    from rezolus.terminal import console

    out = console()
    shown = 0
    for sampler in samplers:
        if sampler.metrics:
            out.print(_table(sampler))
            out.print()
            shown += len(sampler.metrics)
    if not shown:
        raise UserError("these files define no metric")


def _table(sampler: SamplerDescription) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = Text.assemble((sampler.name, "bold"), "  ", (sampler.help, "dim"))
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for name, ratio in (
        ("metric", None),
        ("type", None),
        ("unit", None),
        ("labels", 3),
        ("what it is", 4),
        ("origin", 4),
    ):
        table.add_column(name, ratio=ratio, no_wrap=ratio is None, overflow="fold")
    for metric in sampler.metrics:
        origins = ", ".join(metric.origins)
        labels = "; ".join(_labels(metric))
        table.add_row(metric.name, metric.kind, metric.unit, Text(labels), Text(metric.help), Text(origins, "dim"))
    return table
