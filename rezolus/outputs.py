"""What sinks need on this host for themselves: files and folders they write, addresses they listen on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from rezolus.config import Config, HindsightConfig, RecorderConfig, SinkConfig
from rezolus.units import Address, UnixAddress

WORK_SUFFIX = ".recording"
_WITHOUT_SEPARATORS = str.maketrans("/\0", "__")


@dataclass(frozen=True, slots=True)
class Outputs:
    """What whoever starts sinks with privileges prepares for them."""

    files: tuple[Path, ...] = ()
    """Under this very name."""
    folders: tuple[Path, ...] = ()
    """Theirs alone."""
    crowded: tuple[Path, ...] = ()
    """Folders that others may use as well, for files whose names are known when they are made."""
    sockets: tuple[Path, ...] = ()
    """Unix sockets they make."""


def outputs_of(config: Config) -> Outputs:
    """What agent and sinks of a configuration make when they start."""
    files: list[Path] = []
    folders: list[Path] = []
    crowded: list[Path] = []
    listening: list[Address | UnixAddress | None] = []
    if config.agent.enabled:
        listening += [config.agent.listen, config.agent.external.socket]
    for sink in sinks_of(config).values():
        if isinstance(sink, RecorderConfig) and "%" in sink.path.name:
            crowded.append(sink.path.parent)
        elif isinstance(sink, RecorderConfig):
            files.append(sink.path)
            folders.append(work_folder(sink.path))
        elif isinstance(sink, HindsightConfig):
            files.append(sink.path)
            folders.append(sink.buffer_folder)
        if not isinstance(sink, RecorderConfig):
            listening.append(sink.listen)
    sockets = [Path(address.path) for address in listening if isinstance(address, UnixAddress)]
    return Outputs(tuple(files), tuple(folders), tuple(crowded), tuple(sockets))


def sinks_of(config: Config) -> dict[str, SinkConfig]:
    """The sinks by name; a recorder with `separate` becomes one for each of its sources, called `NAME/SOURCE`."""
    sinks: dict[str, SinkConfig] = {}
    for name, sink in config.sinks.items():
        if isinstance(sink, RecorderConfig) and sink.separate:
            for source in sink.source:
                path = separate_path(sink.path, source)
                sinks[f"{name}/{source}"] = msgspec.structs.replace(sink, source=(source,), separate=False, path=path)
        else:
            sinks[name] = sink
    return sinks


def separate_path(path: Path, source: str) -> Path:
    """The file of one source: `out_node1.parquet` of `out.parquet`."""
    return path.with_name(f"{path.stem}_{source.translate(_WITHOUT_SEPARATORS)}{path.suffix}")


def recording_path(path: Path, start_ns: int) -> Path:
    """The file of a recording begun now: `%Y`, `%m`, ... in the configured name stand for the start (UTC)."""
    if "%" not in path.name:
        return path
    return path.with_name(datetime.fromtimestamp(start_ns / 1e9, UTC).strftime(path.name))


def work_folder(output: Path) -> Path:
    """Where unfinished recordings of `output` are."""
    return output.with_name(output.name + WORK_SUFFIX)


def work_folders(path: Path) -> list[Path]:
    """Where unfinished recordings of a configured path are: for a name with `%` all that its starts may have made.

    Those that are there, oldest name first. Raises OSError.
    """
    if "%" not in path.name:
        return [work for work in (work_folder(path),) if work.is_dir()]
    parts = re.split(r"(%[-_0^#]?.)", path.name)
    pattern = "".join("%" if part == "%%" else ".+" if part.startswith("%") else re.escape(part) for part in parts)
    names = re.compile(pattern + re.escape(WORK_SUFFIX), re.DOTALL)
    folders = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted(found for found in folders if names.fullmatch(found.name) and found.is_dir())


def output_of(work: Path) -> Path:
    """Whose work folder it is: the inverse of `work_folder`."""
    return work.with_name(work.name.removesuffix(WORK_SUFFIX))


def address_needs(listen: Address | UnixAddress | None) -> Iterator[str]:
    """The same of an address: of TCP the port, for one that stands for all hosts takes it from each of them."""
    if isinstance(listen, UnixAddress):
        yield f"socket {listen.path}"
    elif listen is not None and listen.port:
        yield f"port {listen.port}"


def needs_of(sink: SinkConfig) -> frozenset[str]:
    """What no two sinks can have at the same time: addresses, files, folders."""
    needs = set(address_needs(None if isinstance(sink, RecorderConfig) else sink.listen))
    if isinstance(sink, RecorderConfig | HindsightConfig):
        needs.add(f"file {sink.path}")
    if isinstance(sink, HindsightConfig):
        needs.add(f"folder {sink.buffer_folder}")
    return frozenset(needs)
