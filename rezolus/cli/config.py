"""`rezolus config check FILE...`: every mistake of configuration files, or what they amount to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rezolus.config import Config, SinkConfig


@click.group()
def command() -> None:
    """Look into configuration files."""


@command.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> int:
    """Report every mistake in configuration files, ours or Rezolus' own, and say what a right one amounts to.

    So are the definitions that a file names, as `rezolus check` does it for this host. Exit status 1 when a file has a
    mistake.
    """
    from rezolus.config import ConfigError, load

    wrong = 0
    for file in files:
        problems: list[str] = []
        config: Config | None
        try:
            config = load(file, form=None)
        except ConfigError as error:
            config = error.config
            problems += error.problems
        warnings: list[str] = []
        if config is not None:
            user_problems, warnings = _about_user(config)
            problems += [*user_problems, *_token_problems(config), *_unknown_samplers(config)]
        if problems:
            sys.stdout.flush()
            print(f"error: {ConfigError(file, tuple(problems))}", file=sys.stderr)
        wrong_definitions = config is not None and _check_definitions(config)
        if problems or wrong_definitions or config is None:
            wrong += 1
            continue
        print(f"{file}: ok")
        for line in _lines(config):
            print(f"  {line}")
        for warning in (*config.warnings, *warnings):
            print(f"  warning: {warning}")
    return 1 if wrong else 0


def _check_definitions(config: Config) -> bool:
    """Report what is wrong with the definitions of a configuration, and whether something is."""
    from rezolus.cli.check import check
    from rezolus.cli.target import TargetOptions

    return config.agent.enabled and bool(check(config.probes, TargetOptions(config.agent.btf_path), praise=False))


def _about_user(config: Config) -> tuple[list[str], list[str]]:
    """Problems and warnings about the user of this host who the daemon becomes when root starts it."""
    from rezolus.agent.privileges import PrivilegeError, find_account, find_group

    try:
        _, warning = find_account(config.agent.user)
        if config.agent.enabled and config.agent.external.group:
            find_group(config.agent.external.group)
    except PrivilegeError as error:
        return [str(error)], []
    return [], [] if warning is None else [warning]


def _unknown_samplers(config: Config) -> tuple[str, ...]:
    known = config.defined_samplers()
    return () if known is None or not config.agent.enabled else config.unknown_samplers(known)


def _token_problems(config: Config) -> Iterator[str]:
    """What is wrong with the files that hold tokens."""
    from rezolus.guard import TokenError, read_token

    tables = {"agent": config.agent} if config.agent.enabled else {}
    named = {
        **{f"{name}.token_file": table.token_file for name, table in tables.items()},
        **{f"sources.{name}.token_file": source.token_file for name, source in config.sources.items()},
        **{f"sinks.{name}.token_file": getattr(sink, "token_file", None) for name, sink in config.sinks.items()},
    }
    for path, file in named.items():
        try:
            if file is not None:
                read_token(file)
        except TokenError as error:
            yield f"{path}: {error}"


def _lines(config: Config) -> Iterator[str]:
    from rezolus.config import SHIPPED_PROBES, type_of
    from rezolus.units import format_duration

    agent = config.agent
    if agent.enabled:
        shipped = all(file.parent == SHIPPED_PROBES for file in config.probes)
        probes = f"{len(config.probes)} {'shipped ' if shipped else ''}files of definitions"
        yield f"agent at {_url(agent.listen)}, every {format_duration(agent.interval)}, {probes}, as user {agent.user}"
        if agent.external.socket is not None:
            yield f"metrics of other programs at {agent.external.socket}, for {format_duration(agent.external.ttl)}"
        off = [name for name, sampler in config.samplers.items() if not sampler.enabled]
        if not config.defaults.enabled:
            on = [name for name, sampler in config.samplers.items() if sampler.enabled]
            yield f"samplers: only {', '.join(on) or 'none'}"
        elif off:
            yield f"samplers: all but {', '.join(off)}"
    for name, sink in config.sinks.items():
        readings = f"{' and '.join(sink.source)}, every {format_duration(sink.interval)}"
        yield f"{type_of(sink)} {name}: {readings}; {_output(sink)}"
    for name, source in config.sources.items():
        yield f"source {name}: {source.url}"


def _output(sink: SinkConfig) -> str:
    """Where what comes out of a sink is."""
    from rezolus.config import ExporterConfig, RecorderConfig
    from rezolus.units import format_duration

    match sink:
        case ExporterConfig():
            return f"{_url(sink.listen)}/metrics"
        case RecorderConfig():
            length = "" if sink.duration is None else f", for {format_duration(sink.duration)}"
            return f"{sink.path}{length}"
        case _:
            where = "" if sink.listen is None else f"{_url(sink.listen)}, "
            return f"{where}the last {format_duration(sink.duration)} in {sink.buffer_folder}, dumps to {sink.path}"


def _url(address: object) -> str:
    text = str(address)
    return text if text.startswith("unix:") else f"http://{text}"
