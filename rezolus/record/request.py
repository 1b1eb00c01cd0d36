"""What is to be recorded: from the options of the command or from Rezolus' file form, and as a configuration of the daemon."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
import tomli

from rezolus.config import AgentConfig, Config, ConfigError, RecorderConfig, SourceConfig
from rezolus.errors import UserError
from rezolus.tables import FILE, SWITCH, Rule, TableReader, host_and_port, human_duration, one_of, show, text

DEFAULT_URL = "http://localhost:4241"
DEFAULT_INTERVAL = 10**9
DEFAULT_OUTPUTS = {"parquet": Path("rezolus.parquet"), "raw": Path("rezolus.raw")}
SINK = "record"
"""What the one sink is called in messages."""

Format = Literal["parquet", "raw"]

INTERVAL = human_duration("1ms")
FORMATS = one_of("parquet", "raw")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where readings come from."""

    url: Annotated[str, Rule('an address such as "http://host:4241" or "host:4241"', host_and_port)] = ""
    source: Annotated[str, text("a name")] = ""
    role: Annotated[str, text("a word")] = ""
    protocol: Annotated[Literal["auto", "msgpack", "prometheus"], one_of("msgpack", "prometheus")] = "auto"


class RecordingTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[recording]` of the file."""

    output: Annotated[Path | None, FILE] = None
    interval: Annotated[int | None, INTERVAL] = None
    format: Annotated[Format | None, FORMATS] = None
    separate: Annotated[bool | None, SWITCH] = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A recording to make. What is None was not said."""

    endpoints: tuple[Endpoint, ...] = ()
    output: Path | None = None
    interval: int | None = None
    """ns."""
    duration: int | None = None
    """ns."""
    format: Format | None = None
    separate: bool | None = None
    metadata: Mapping[str, str] = {}
    command: tuple[str, ...] = ()
    """What to record the life of."""


class SpecError(UserError):
    """An endpoint or a file that describes a recording is wrong; the text says all that is."""


def parse_spec(spec: str) -> Endpoint:
    """`URL[,source=S][,role=R][,protocol=msgpack|prometheus]`. Raises SpecError."""
    url, *options = spec.split(",")
    table: dict[str, Any] = {"url": url}
    reader = TableReader()
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or key == "url" or key in table:
            reader.report(
                option or "an empty part", "expected KEY=VALUE, each once, with the keys source, role, protocol"
            )
        else:
            table[key] = value
    endpoint = reader.table(table, "", Endpoint)
    if reader.problems:
        raise SpecError(f"{show(spec)}: " + "; ".join(reader.problems))
    return endpoint


def read_file(path: Path) -> Request:
    """The recording that a file with `[recording]` and `[[endpoints]]` describes. Raises ConfigError and OSError."""
    try:
        document = tomli.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(path, (f"is not valid TOML: {error}",)) from None
    reader = TableReader()
    reader.known_keys(document, "", ("recording", "endpoints"))
    recording = reader.table(document.get("recording", {}), "recording", RecordingTable)
    tables = document.get("endpoints", [])
    if not isinstance(tables, list) or not tables:
        reader.report("endpoints", "missing; expected at least one table [[endpoints]] with a url")
        tables = []
    endpoints = [reader.table(table, f"endpoints[{at}]", Endpoint) for at, table in enumerate(tables, 1)]
    for at, table in enumerate(tables, 1):
        if isinstance(table, dict) and "url" not in table:
            reader.report(f"endpoints[{at}].url", "missing")
    if reader.problems:
        raise ConfigError(path, tuple(reader.problems))
    return Request(
        endpoints=tuple(endpoints),
        output=recording.output,
        interval=recording.interval,
        format=recording.format,
        separate=recording.separate,
    )


def merge(flags: Request, file: Request) -> Request:
    """What the flags say, and where they say nothing the file."""
    said = {name: value for name, value in msgspec.structs.asdict(flags).items() if value not in (None, (), {})}
    return msgspec.structs.replace(file, **said)


def configuration(request: Request) -> Config:
    """The daemon that makes this recording: no agent, the endpoints, one recorder. Raises UserError.

    Raw snapshots of several endpoints go into a file for each.
    """
    endpoints = request.endpoints or (Endpoint(url=DEFAULT_URL),)
    form = request.format or "parquet"
    output = request.output or DEFAULT_OUTPUTS[form]
    if not output.name or output.is_dir():
        raise UserError(f"{output} is a folder; choose the name of a file in it")
    if output.suffix == ".rez":
        raise UserError(
            f"{output}: .rez archives are not written; choose a name that ends in {DEFAULT_OUTPUTS[form].suffix}"
        )
    sources = dict(zip(names_of(endpoints), map(_source, endpoints), strict=True))
    recorder = RecorderConfig(
        path=output,
        interval=request.interval or DEFAULT_INTERVAL,
        source=tuple(sources),
        separate=len(sources) > 1 and (bool(request.separate) or form == "raw"),
        format=form,
        metadata=dict(request.metadata),
        # A command is recorded to its end, wherever that leaves the last reading.
        duration=None if request.command else request.duration,
        replace=True,  # as of the output of any command: who typed the name meant it
    )
    return Config(agent=AgentConfig(enabled=False), sources=sources, sinks={SINK: recorder})


def names_of(endpoints: Sequence[Endpoint]) -> list[str]:
    """A name for each: its `source` where only it has that, else host and port, numbered where that does not do."""
    labels = [endpoint.source for endpoint in endpoints]
    places = [_place(endpoint.url) for endpoint in endpoints]
    wished = [
        label if label and labels.count(label) == 1 else place for label, place in zip(labels, places, strict=True)
    ]
    return list(_numbered(wished))


def _numbered(names: Iterable[str]) -> Iterable[str]:
    taken: set[str] = set()
    for name in names:
        unique, copies = name, 1
        while unique in taken:
            copies += 1
            unique = f"{name}-{copies}"
        taken.add(unique)
        yield unique


def _place(url: str) -> str:
    parts = urlsplit(url)
    host = (parts.hostname or "").replace(":", "_")
    return host if parts.port is None else f"{host}-{parts.port}"


def _source(endpoint: Endpoint) -> SourceConfig:
    return SourceConfig(url=endpoint.url, protocol=endpoint.protocol, label=endpoint.source, role=endpoint.role)
