"""`rezolus record`: a recording of agents and Prometheus endpoints, made from here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rezolus.record.request import Request

COMMAND = "rezolus.command"
INTERVAL_KEY = "sampling_interval_ms"
"""What readers of recordings compute with."""


class _WithCommand(click.Command):
    """Takes what stands behind `--` as a command of its own; click would mix it with the arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, up to the `--`."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[COMMAND] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The forms of the command line."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND ...]"]


def _duration(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A duration as nanoseconds."""
    from rezolus.units import parse_humantime

    if value is None:
        return None
    try:
        nanoseconds = parse_humantime(value)
    except ValueError:
        nanoseconds = 0
    if nanoseconds < 1_000_000:
        expected = "expected a duration of at least 1ms, such as 100ms, 15m or 1h30m"
        raise click.BadParameter(f"{expected}, found {value!r}", ctx, param)
    return nanoseconds


@click.command(cls=_WithCommand)
@click.argument("old_form", nargs=-1, metavar="[URL OUTPUT]")
@click.option("--url", metavar="URL", help="Record this endpoint.  [default: http://localhost:4241]")
@click.option(
    "--endpoint",
    "specs",
    multiple=True,
    metavar="SPEC",
    help="Record this endpoint too: URL[,source=S][,role=R][,protocol=msgpack|prometheus]. May be repeated.",
)
@click.option(
    "--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Endpoints and more from a file."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="[default: rezolus.parquet]")
@click.option("-i", "--interval", callback=_duration, metavar="TIME", help="Between two samples.  [default: 1s]")
@click.option("-d", "--duration", callback=_duration, metavar="TIME", help="How long; without it until Ctrl-C.")
@click.option("-f", "--format", "form", type=click.Choice(["parquet", "raw"]), help="[default: parquet]")
@click.option("--separate", is_flag=True, help="A file for each endpoint instead of one for all.")
@click.option(
    "-m", "--metadata", multiple=True, metavar="KEY=VALUE", help="Add to the file's metadata. May be repeated."
)
@click.option("--node", metavar="NAME", help="The same as --metadata node=NAME.")
@click.option("--instance", metavar="NAME", help="The same as --metadata instance=NAME.")
@click.option("-l", "--label", "labels", multiple=True, hidden=True)
@click.option("--recover", type=click.Path(path_type=Path), metavar="PATH", help="Finish a recording that was cut off.")
@click.option("-v", "--verbose", count=True, help="Say more.")
def command(**options: Any) -> int:
    """Record agents and Prometheus endpoints into a file.

    Until Ctrl-C, for a duration, or for as long as the COMMAND behind `--` runs.
    """
    recover: Path | None = options.pop("recover")
    verbose: int = options.pop("verbose")
    wrapped: tuple[str, ...] | None = click.get_current_context().meta.get(COMMAND)
    if recover is not None:
        others = [name for name, value in options.items() if value and name != "output"]
        if others or wrapped is not None:
            raise click.UsageError("--recover makes no recording: besides --output and -v it takes no other option")
        return _recover(recover, options["output"])
    if wrapped == ():
        raise click.UsageError("there is no command behind --")
    request = _request(wrapped or (), **options)
    return _record(request, verbose=verbose > 0)


def _request(
    wrapped: tuple[str, ...],
    *,
    old_form: Sequence[str],
    url: str | None,
    specs: Sequence[str],
    file: Path | None,
    output: Path | None,
    interval: int | None,
    duration: int | None,
    form: Any,
    separate: bool,
    metadata: Sequence[str],
    node: str | None,
    instance: str | None,
    labels: Sequence[str],
) -> Request:
    """What the options ask for. Raises UsageError, and UserError for a file that is wrong."""
    from rezolus.record.request import Request, SpecError, merge, parse_spec, read_file

    if labels:
        raise click.UsageError("--label belongs to .rez archives, which are not written; use --metadata")
    if old_form:
        url, output = _old_form(old_form, url, specs, file, output)
    if sum((url is not None, bool(specs), file is not None)) > 1:
        raise click.UsageError("--url, --endpoint and --config each say what to record: give one of them")
    try:
        endpoints = tuple(parse_spec(spec) for spec in ((url,) if url is not None else specs))
    except SpecError as error:
        raise click.UsageError(f"{'--url' if url is not None else '--endpoint'} {error}") from None
    texts = [
        *metadata,
        *(f"node={node}" for _ in (node,) if node),
        *(f"instance={instance}" for _ in (instance,) if instance),
    ]
    flags = Request(
        endpoints=endpoints,
        output=output,
        interval=interval,
        duration=duration,
        format=form,
        separate=separate or None,
        metadata=dict(map(_pair, texts)),
        command=wrapped,
    )
    return flags if file is None else merge(flags, read_file(file))


def _old_form(
    words: Sequence[str], url: str | None, specs: Sequence[str], file: Path | None, output: Path | None
) -> tuple[str, Path]:
    if url is not None or specs or file is not None or output is not None:
        raise click.UsageError(
            "URL OUTPUT is the older form: with it, neither --url, --endpoint, --config nor --output"
        )
    if len(words) != 2:
        raise click.UsageError(
            f"expected URL and OUTPUT or options, found {' '.join(words)!r}; a command goes behind --"
        )
    click.echo(f"note: the same as --url {words[0]} --output {words[1]}", err=True)
    return words[0], Path(words[1])


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise click.UsageError(f"--metadata {text}: expected KEY=VALUE")
    if key == INTERVAL_KEY and not (value.isascii() and value.isdecimal() and int(value)):
        raise click.UsageError(f"--metadata {text}: readers take this for a whole number of milliseconds, 1 or more")
    return key, value


def _record(request: Request, *, verbose: bool) -> int:
    import logging

    import trio

    from rezolus import log
    from rezolus.heap import share_heap
    from rezolus.record.run import Recording

    recording = Recording(request)
    log.start("debug" if verbose else "info")
    for handler in log.logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(recording.progress)
    share_heap()
    return trio.run(recording.run)


def _recover(path: Path, output: Path | None) -> int:
    """Finishes what is there and says what became of it; 1 when nothing did."""
    from rezolus.record.rescue import rescue

    outcomes = rescue(path, output)
    for outcome in outcomes:
        if outcome.file:
            print(f"{outcome.file}: {outcome.rows} readings")
        else:
            click.echo(f"error: {outcome.folder}: {outcome.problem or 'holds no whole reading'}", err=True)
    return 0 if all(outcome.file for outcome in outcomes) else 1
