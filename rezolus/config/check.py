"""What no single value shows: parts of a configuration that do not fit together, and what is worth a warning."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from rezolus.config.structures import (
    LOCAL,
    Config,
    ExporterConfig,
    HindsightConfig,
    Listen,
    RecorderConfig,
    SinkConfig,
)
from rezolus.tables import TableReader
from rezolus.units import Address, UnixAddress, format_duration

ANY_HOST = ("0.0.0.0", "::")  # noqa: S104 - compared, not listened on


def check(config: Config, reader: TableReader) -> None:
    """Reports intervals that do not fit, sources that are not there, and two sinks that want the same thing."""
    for name, sink in config.sinks.items():
        _check_sink(f"sinks.{name}", sink, config, reader)
    if not config.agent.enabled and not config.sinks and not reader.problems:
        reader.report("sinks", "none is enabled, and agent.enabled is false: there is nothing to do")
    _check_addresses(config, reader)
    _check_files(config, reader)


def warnings(config: Config) -> tuple[str, ...]:
    """What is allowed but worth saying: `path: sentence`."""
    open_to_others = tuple(
        f"{path}: {address} can be reached from other hosts"
        for path, address in _addresses(config)
        if not address.is_loopback
    )
    return (*open_to_others, *_writable_by_all((config.path, *config.probes)))


def _check_sink(path: str, sink: SinkConfig, config: Config, reader: TableReader) -> None:
    if LOCAL in sink.source and not config.agent.enabled:
        reader.report(
            f"{path}.source",
            f'"{LOCAL}" is the agent in this process, which agent.enabled = false switches off: name another source, '
            'such as "http://127.0.0.1:4241"',
        )
    elif LOCAL in sink.source and sink.interval % config.agent.interval:
        interval = format_duration(config.agent.interval)
        found = format_duration(sink.interval)
        reader.report(f"{path}.interval", f"expected a multiple of agent.interval ({interval}), found {found}")
    duration = None if isinstance(sink, ExporterConfig) else sink.duration
    if duration is not None and duration < sink.interval:
        interval, found = format_duration(sink.interval), format_duration(duration)
        reader.report(f"{path}.duration", f"expected at least the interval ({interval}), found {found}")


def _addresses(config: Config) -> Iterator[tuple[str, Listen]]:
    """Who listens where."""
    if config.agent.enabled:
        yield "agent.listen", config.agent.listen
        if config.agent.external.socket is not None:
            yield "agent.external.socket", config.agent.external.socket
    for name, sink in config.sinks.items():
        if not isinstance(sink, RecorderConfig) and sink.listen is not None:
            yield f"sinks.{name}.listen", sink.listen


def _check_addresses(config: Config, reader: TableReader) -> None:
    taken: list[tuple[str, Listen]] = []
    for path, address in _addresses(config):
        for owner, other in taken:
            if _collide(address, other):
                reader.report(path, f"the address {other} is taken by {owner}")
                break
        taken.append((path, address))


def _collide(one: Listen, other: Listen) -> bool:
    """Whether only one of two can be listened on."""
    if isinstance(one, UnixAddress) or isinstance(other, UnixAddress):
        return one == other
    if one.port != other.port or one.port == 0:
        return False
    return _host(one) == _host(other) or one.host in ANY_HOST or other.host in ANY_HOST


def _host(address: Address) -> str:
    return "127.0.0.1" if address.host == "localhost" else address.host


def _check_files(config: Config, reader: TableReader) -> None:
    taken: dict[str, str] = {}
    for name, sink in config.sinks.items():
        if not isinstance(sink, ExporterConfig) and sink.path.name in ("", ".."):
            reader.report(f"sinks.{name}.path", f"expected the name of a file, found the folder {str(sink.path)!r}")
            continue
        for key, file in _files(sink):
            # Not resolved: what a link points to now says nothing about when it is written.
            owner = taken.setdefault(os.path.abspath(file), f"sinks.{name}.{key}")  # noqa: PTH100
            if owner != f"sinks.{name}.{key}":
                reader.report(f"sinks.{name}.{key}", f"the file {file} is taken by {owner}")


def _files(sink: SinkConfig) -> Iterator[tuple[str, Path]]:
    """What a sink writes, by the key that says so."""
    match sink:
        case RecorderConfig():
            yield "path", sink.path
        case HindsightConfig():
            yield "path", sink.path
            yield "path" if sink.buffer is None else "buffer", sink.buffer_folder
        case ExporterConfig():
            return


def _writable_by_all(files: Iterable[Path]) -> Iterator[str]:
    """Warnings about files that say what root loads into the kernel, and that any user could change."""
    for file in files:
        with contextlib.suppress(OSError):  # who reads the file will say so
            if file.stat().st_mode & stat.S_IWOTH:
                yield f"{file}: everybody can change what root measures with this file: chmod o-w {file}"
