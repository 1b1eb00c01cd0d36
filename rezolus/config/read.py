"""From a file to a `Config`: every table read, names put in place of addresses, all mistakes reported at once."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import tomli

from rezolus.config import classic
from rezolus.config.check import check, warnings
from rezolus.config.sources import Sources
from rezolus.config.structures import (
    LOCAL,
    SHIPPED_PROBES,
    SINK_TYPES,
    AgentConfig,
    Config,
    ConfigError,
    Form,
    LogConfig,
    RecorderConfig,
    SamplerConfig,
    SchedulerConfig,
    SinkConfig,
    SourceConfig,
)
from rezolus.tables import SOCKET, TableReader, nearest, show
from rezolus.units import Address, address_url

_TUPLE, _KEY = re.compile(r"\('[^()]*'[^()]*\)"), re.compile(r"'([^']*)'")
"""Python's spelling of a dotted key, in tomli's messages."""
TABLES = ("agent", "defaults", "samplers", "log", "scheduler", "sources", "sinks")


def load(path: Path | str, form: Form | None = "agent") -> Config:
    """Reads and checks the configuration file at `path`; as `parse`, and ConfigError when it cannot be read."""
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")  # editors of another system begin a file with a mark
    except OSError as error:
        raise ConfigError(path, (f"cannot be read: {(error.strerror or str(error)).lower()}",)) from None
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        raise ConfigError(path, (problem,)) from None
    return parse(text, path, form)


def parse(text: str, path: Path, form: Form | None = "agent") -> Config:
    """The configuration in `text`, which was read from `path`; ConfigError carries every problem found.

    Looks for the files that it names: definitions and type information. `form` is the command it is for: `rezolus exporter`
    runs no agent and only exporters, and takes Rezolus' own exporter.toml. None for whichever the keys are of.
    """
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        text = _TUPLE.sub(lambda found: ".".join(_KEY.findall(found[0])), str(error))
        raise ConfigError(path, (f"is not valid TOML: {text[:1].lower()}{text[1:]}",)) from None
    except RecursionError:
        raise ConfigError(path, ("is nested too deeply",)) from None
    return interpret(document, path, form)


def interpret(document: Mapping[str, Any], path: Path, form: Form | None = "agent") -> Config:
    """As `parse`, from the tables of the file."""
    reader = TableReader()
    theirs = classic.is_classic(document, form)
    if theirs:
        config, notes = classic.read(document, path, form, reader)
    else:
        config, notes = _read(document, path, form or "agent", reader), []
    agent = msgspec.structs.replace(config.agent, **_found_from(path.parent, config.agent))
    config = msgspec.structs.replace(config, agent=agent)
    if agent.enabled:
        if agent.btf_path is not None and not agent.btf_path.is_file():
            reader.report("agent.btf_path", f"no such file: {agent.btf_path}")
        config = msgspec.structs.replace(config, probes=_find_probes(path.parent, agent, reader))
        if theirs:
            config = classic.without_unknown_samplers(config, notes)
    check(config, reader)
    told = classic.in_their_words if theirs else tuple
    if reader.problems:
        raise ConfigError(path, told(reader.problems), config)
    return msgspec.structs.replace(config, warnings=(*notes, *config.warnings, *told(warnings(config))))


def _read(document: Mapping[str, Any], path: Path, form: Form, reader: TableReader) -> Config:
    """Our own form."""
    reader.known_keys(document, "", TABLES)
    agent = _read_agent(document.get("agent", {}), reader)
    sources = _read_sources(document.get("sources", {}), path.parent, reader)
    sinks = _read_sinks(document.get("sinks", {}), path.parent, reader)
    routes = Sources(sources, "" if form == "agent" else _address_of(agent, form, sinks.values(), reader))
    enabled: dict[str, SinkConfig] = {}
    for name, sink in sinks.items():
        names = routes.resolve(sink.source, f"sinks.{name}.source", reader, enabled=sink.enabled)
        if sink.enabled and (form == "agent" or isinstance(sink, SINK_TYPES[form])):
            interval = sink.interval or agent.interval
            enabled[name] = msgspec.structs.replace(sink, source=names, interval=interval)
    if form != "agent":
        agent = msgspec.structs.replace(agent, enabled=False)
        if not enabled:
            reader.report("sinks", f'none with type = "{form}" is enabled, so `rezolus {form}` has nothing to do')
    return Config(
        path=path.absolute(),
        agent=agent,
        defaults=reader.table(document.get("defaults", {}), "defaults", SamplerConfig),
        samplers={
            name: reader.table(value, f"samplers.{name}", SamplerConfig)
            for name, value in reader.named_tables(document.get("samplers", {}), "samplers")
        },
        log=reader.table(document.get("log", {}), "log", LogConfig),
        scheduler=reader.table(document.get("scheduler", {}), "scheduler", SchedulerConfig),
        sources=routes.taken(enabled.values()),
        sinks=enabled,
        probes=(),
        warnings=routes.unused(),
    )


def _read_agent(value: object, reader: TableReader) -> AgentConfig:
    agent = reader.table(value, "agent", AgentConfig)
    external = value.get("external") if isinstance(value, dict) else None
    if isinstance(external, dict) and "socket" not in external:
        reader.report("agent.external.socket", f"missing; expected {SOCKET.expected}")
    return agent


def _address_of(agent: AgentConfig, form: Form, sinks: Iterable[SinkConfig], reader: TableReader) -> str:
    """Where sinks that run without the agent reach it; empty when they cannot, which is reported if they would have to."""
    if not agent.enabled or not any(
        sink.enabled and LOCAL in sink.source for sink in sinks if isinstance(sink, SINK_TYPES[form])
    ):
        return ""
    if isinstance(agent.listen, Address) and agent.listen.port:
        return address_url(agent.listen)
    expected = f"expected HOST:PORT, where `rezolus {form}` can reach the agent"
    reader.report("agent.listen", f"{expected}, found {show(str(agent.listen))}")
    return address_url(Address("127.0.0.1", 4241))  # reported already: nothing more is to be said about it


def _read_sources(value: object, folder: Path, reader: TableReader) -> dict[str, SourceConfig]:
    sources: dict[str, SourceConfig] = {}
    for name, table in reader.named_tables(value, "sources"):
        path = f"sources.{name}"
        source = reader.table(table, path, SourceConfig)
        if name == LOCAL:
            reader.report(path, "this name is the agent in this process; choose another")
        elif isinstance(table, dict) and "url" not in table:
            reader.report(f"{path}.url", 'missing; expected an address such as "http://host:4241"')
        sources[name] = msgspec.structs.replace(source, **_found_from(folder, source))
    return sources


def _read_sinks(value: object, folder: Path, reader: TableReader) -> dict[str, SinkConfig]:
    """All sinks. Those that are switched off are checked too: a key that is wrong now is wrong later."""
    sinks: dict[str, SinkConfig] = {}
    for name, table in reader.named_tables(value, "sinks"):
        path = f"sinks.{name}"
        kind = table.get("type") if isinstance(table, dict) else None
        expected = "expected one of " + ", ".join(f'"{known}"' for known in SINK_TYPES)
        if not isinstance(table, dict):
            reader.report(path, f"expected a table, found {show(table)}")
        elif kind is None:
            reader.report(f"{path}.type", f"missing; {expected}")
        elif not isinstance(kind, str) or kind not in SINK_TYPES:
            hint = nearest(kind, SINK_TYPES) if isinstance(kind, str) else ""
            reader.report(f"{path}.type", f"{expected}, found {show(kind)}{hint}")
        else:
            sink = reader.table(table, path, SINK_TYPES[kind], skip=("type",))
            if not isinstance(sink, RecorderConfig):
                sink = msgspec.structs.replace(sink, **_found_from(folder, sink))
            sinks[name] = sink
    return sinks


def _found_from(folder: Path, table: msgspec.Struct) -> dict[str, Path]:
    """The files to be read that a table names, as found from the configuration's folder."""
    found = {key: getattr(table, key, None) for key in ("btf_path", "token_file")}
    return {key: (folder / name).absolute() for key, name in found.items() if name is not None}


def _find_probes(folder: Path, agent: AgentConfig, reader: TableReader) -> tuple[Path, ...]:
    """The files that the patterns name, each once; without patterns the shipped ones."""
    found: dict[Path, None] = {}
    for pattern in agent.probes or (str(SHIPPED_PROBES / "*.rzl"),):
        files = sorted(glob.glob(str(folder.absolute() / pattern), recursive=True))  # noqa: PTH207 - may be absolute
        if not files and agent.probes:
            reader.report("agent.probes", f"no file matches {show(pattern)} (looked from {folder.absolute()})")
        found.update(dict.fromkeys(Path(file).resolve() for file in files))
    return tuple(found)
