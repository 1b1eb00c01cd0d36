"""The one configuration file: what may stand in it, its defaults, and `load`, which checks it as a whole.

The structures are the reference. Durations are whole nanoseconds.
"""

from __future__ import annotations

import contextlib
import glob
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import tomli

from rezolus.errors import UserError
from rezolus.tables import (
    ADDRESS,
    FILE,
    SIZE,
    SWITCH,
    WORDS,
    Rule,
    TableReader,
    duration,
    http_url,
    integer,
    nearest,
    one_of,
    one_or_more,
    show,
    text,
    texts,
)
from rezolus.units import Address, format_duration, parse_duration

SHIPPED_PROBES = Path(__file__).resolve().parent.parent / "probes"
"""The folder of the metric definitions that come with the program."""

HTTP_URL = Rule('an address such as "http://host:4241"', http_url)
DURATION = duration("1ns")
INTERVAL = duration("1ms")
GLOBS = texts('a list of metric names or patterns, such as ["cpu_*", "syscall"]')
HOSTS = texts('a list of host names, such as ["node1.example.org"]')
SOURCES = one_or_more("the name of a source, an http:// address, or a list of them")
PROBES = texts('a list of .rzl files or patterns, such as ["../probes/*.rzl"]')


LOCAL = "local"
"""The source that is the agent in this process."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which metrics a sink takes, by name."""

    include: Annotated[tuple[str, ...], GLOBS] = ("*",)
    exclude: Annotated[tuple[str, ...], GLOBS] = ()

    def wants(self, name: str) -> bool:
        """Whether the metric called `name` is selected; `exclude` wins."""
        if any(fnmatchcase(name, pattern) for pattern in self.exclude):
            return False
        return any(fnmatchcase(name, pattern) for pattern in self.include)


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What happens on the measured host."""

    enabled: Annotated[bool, SWITCH] = True
    """False: nothing is measured here, the sinks are fed by other sources; nothing is listened on."""
    interval: Annotated[int, INTERVAL] = parse_duration("1s")
    """The sampling clock; a sink's own interval is a multiple of it."""
    user: Annotated[str, text("a user name")] = "rezolus"
    """Who the process that listens on the network becomes when root started it."""
    probes: Annotated[tuple[str, ...], PROBES] = ()
    """Files and patterns as written; `Config.probes` are the files found."""
    btf_path: Annotated[Path | None, FILE] = None
    """Kernel type information; None for what the running kernel says itself."""
    listen: Annotated[Address, ADDRESS] = Address("127.0.0.1", 4241)
    """The wire and the status pages."""
    hosts: Annotated[tuple[str, ...], HOSTS] = ()
    """Names beside `listen` and loopback's under which a client may address it."""
    token_file: Annotated[Path | None, FILE] = None
    """File with the token that whoever reloads over HTTP must send; None: none is needed."""
    metrics: Selection = Selection()
    """What the wire serves."""
    snapshot_format: Annotated[Literal["v2", "v3"], one_of("v2", "v3")] = "v2"
    """Of `/metrics/binary` and `/metrics/json`."""
    ttl: Annotated[int, DURATION] = parse_duration("10ms")
    """How old a reading may be that answers a request."""
    stats: Annotated[Literal["sample", "off", "hold"], one_of("sample", "off", "hold")] = "sample"
    """When the kernel times our programs: now and then, never, always."""


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the kernel schedules the daemon."""

    policy: Annotated[Literal["normal", "round_robin", "fifo"], one_of("normal", "round_robin", "fifo")] = "normal"
    priority: Annotated[int, integer(1, 99)] = 15
    """Of the two real-time policies."""
    niceness: Annotated[int, integer(-20, 19)] = 0
    """Of the normal policy."""


class SourceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """An agent or Prometheus endpoint elsewhere."""

    url: Annotated[str, HTTP_URL] = ""
    protocol: Annotated[Literal["auto", "msgpack", "prometheus"], one_of("auto", "msgpack", "prometheus")] = "auto"
    """What it speaks; `auto`: what its path or its answers show."""
    label: Annotated[str, text("a name")] = ""
    """Value of the label `source`; empty: `rezolus` for an agent, host and port for others."""
    role: Annotated[str, text("a word")] = ""
    """Kept in the metadata of recordings."""
    token_file: Annotated[Path | None, FILE] = None
    """File with the token to send."""


class SamplerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One sampler, or the default for those that have no table."""

    enabled: Annotated[bool, SWITCH] = True


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is said on stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], one_of("debug", "info", "warning", "error")] = "info"


class ExporterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Prometheus text over HTTP."""

    enabled: Annotated[bool, SWITCH] = True
    listen: Annotated[Address, ADDRESS] = Address("127.0.0.1", 4242)
    hosts: Annotated[tuple[str, ...], HOSTS] = ()
    interval: Annotated[int, INTERVAL] = 0
    """`load` puts the agent's interval where none is written; the same in the other sinks."""
    metrics: Selection = Selection()
    source: Annotated[tuple[str, ...], SOURCES] = (LOCAL,)
    """Where its readings come from: `local`, names in `Config.sources`; the same in the other sinks."""
    histograms: Annotated[
        Literal["summary", "buckets", "both", "none"], one_of("summary", "buckets", "both", "none")
    ] = "summary"
    summaries: Annotated[Literal["percentile", "quantile"], one_of("percentile", "quantile")] = "percentile"
    """Percentiles of an interval as gauges with the label `percentile`, as Rezolus has them, or as standard summaries."""
    timestamps: Annotated[bool, SWITCH] = True
    """Whether samples say when they were read: rates are then exact whatever the scrape interval."""
    grouping_power: Annotated[int, integer(0, 7)] = 3


class RecorderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A Parquet file."""

    enabled: Annotated[bool, SWITCH] = True
    path: Annotated[Path, FILE] = Path("rezolus.parquet")
    """Relative to the working directory, like the output of any command."""
    interval: Annotated[int, INTERVAL] = 0
    metrics: Selection = Selection()
    source: Annotated[tuple[str, ...], SOURCES] = (LOCAL,)
    separate: Annotated[bool, SWITCH] = False
    """One file per source instead of one for all."""
    format: Annotated[Literal["parquet", "raw"], one_of("parquet", "raw")] = "parquet"
    """Raw: snapshots as they are on the wire, one after the other."""
    metadata: Annotated[Mapping[str, str], WORDS] = {}
    """Added to the file's."""
    duration: Annotated[int | None, DURATION] = None
    """After this long the recording is complete; None records until the daemon ends."""
    fsync: Annotated[bool, SWITCH] = False
    """Whether each reading reaches the disk before the next, to survive a power cut and not only a crash."""


class HindsightConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The last `duration`, kept on disk and written to `path` on request."""

    enabled: Annotated[bool, SWITCH] = True
    listen: Annotated[Address | None, ADDRESS] = None
    """None: no HTTP, dumps come by SIGHUP only."""
    hosts: Annotated[tuple[str, ...], HOSTS] = ()
    token_file: Annotated[Path | None, FILE] = None
    """File with the token that whoever writes dumps on this host must send."""
    path: Annotated[Path, FILE] = Path("hindsight.parquet")
    """What a dump on this host writes."""
    buffer: Annotated[Path | None, FILE] = None
    """Folder of the rolling buffer; None: `path` with `.buffer` behind it."""
    interval: Annotated[int, INTERVAL] = 0
    source: Annotated[tuple[str, ...], SOURCES] = (LOCAL,)
    duration: Annotated[int, INTERVAL] = parse_duration("15m")
    max_bytes: Annotated[int, SIZE] = 4 << 30
    """Of the buffer on disk; the oldest goes, even before `duration`."""
    metrics: Selection = Selection()
    fsync: Annotated[bool, SWITCH] = False
    """Whether each reading reaches the disk before the next."""


SinkConfig = ExporterConfig | RecorderConfig | HindsightConfig

SINK_TYPES: Mapping[str, type[SinkConfig]] = {
    "exporter": ExporterConfig,
    "recorder": RecorderConfig,
    "hindsight": HindsightConfig,
}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration, checked."""

    path: Path
    """The file it was read from, absolute."""
    agent: AgentConfig
    defaults: SamplerConfig
    samplers: dict[str, SamplerConfig]
    log: LogConfig
    scheduler: SchedulerConfig = SchedulerConfig()
    sources: dict[str, SourceConfig] = {}
    """The remote sources by name. One that a sink gave as an address has host and port for a name."""
    sinks: dict[str, SinkConfig]
    """The enabled sinks by name, in the order of the file."""
    probes: tuple[Path, ...]
    """The .rzl files, absolute, without repetition."""
    warnings: tuple[str, ...]
    """Allowed, but worth saying once: `path: sentence`."""

    def sampler_enabled(self, name: str) -> bool:
        """Whether the sampler called `name` is to run."""
        return self.samplers.get(name, self.defaults).enabled

    def unknown_samplers(self, known: Iterable[str]) -> tuple[str, ...]:
        """`path: sentence` for each configured sampler that no probe defines; only the compiler knows `known`."""
        names = frozenset(known)
        return tuple(
            f"samplers.{name}: no probe defines this sampler{nearest(name, names)}"
            for name in self.samplers
            if name not in names
        )


class ConfigError(UserError):
    """The configuration cannot be used; `problems` says why, one line each."""

    def __init__(self, path: Path, problems: tuple[str, ...]) -> None:
        super().__init__(path, problems)
        self.path = path
        self.problems = problems

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.path}: {self.problems[0]}"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        return f"{self.path}: {len(self.problems)} problems{lines}"


def load(path: Path | str) -> Config:
    """Reads and checks the configuration file at `path`; ConfigError carries every problem found.

    Also looks for the files it names: probes and type information.
    """
    path = Path(path)
    document = _read_toml(path)
    reader = TableReader()
    reader.known_keys(document, "", ("agent", "defaults", "samplers", "log", "sinks"))
    agent = reader.table(document.get("agent", {}), "agent", AgentConfig)
    if agent.btf_path is not None:
        agent = msgspec.structs.replace(agent, btf_path=_find_btf(path.parent, agent.btf_path, reader))
    sinks = _read_sinks(document.get("sinks", {}), agent, reader)
    probes = _find_probes(path.parent, agent, reader)
    config = Config(
        path=path.absolute(),
        agent=agent,
        defaults=reader.table(document.get("defaults", {}), "defaults", SamplerConfig),
        samplers={
            name: reader.table(value, f"samplers.{name}", SamplerConfig)
            for name, value in reader.named_tables(document.get("samplers", {}), "samplers")
        },
        log=reader.table(document.get("log", {}), "log", LogConfig),
        sinks=sinks,
        probes=probes,
        warnings=(*_warnings(agent, sinks), *_writable_by_all((path, *probes))),
    )
    _check_together(config, reader)
    if reader.problems:
        raise ConfigError(path, tuple(reader.problems))
    return config


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomli.loads(path.read_bytes().decode())
    except OSError as error:
        problem = f"cannot be read: {(error.strerror or str(error)).lower()}"
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
    except tomli.TOMLDecodeError as error:
        problem = f"is not valid TOML: {str(error)[:1].lower()}{str(error)[1:]}"
    raise ConfigError(path, (problem,))


def _read_sinks(value: object, agent: AgentConfig, reader: TableReader) -> dict[str, SinkConfig]:
    """The enabled sinks. Those that are switched off are checked too: a key that is wrong now is wrong later."""
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
            if sink.enabled:
                sinks[name] = msgspec.structs.replace(sink, interval=sink.interval or agent.interval)
    return sinks


def _find_btf(folder: Path, name: Path, reader: TableReader) -> Path:
    file = (folder / name).absolute()
    if not file.is_file():
        reader.report("agent.btf_path", f"no such file: {file}")
    return file


def _find_probes(folder: Path, agent: AgentConfig, reader: TableReader) -> tuple[Path, ...]:
    """The files that the patterns name, each once; without patterns the shipped ones."""
    found: dict[Path, None] = {}
    for pattern in agent.probes or (str(SHIPPED_PROBES / "*.rzl"),):
        files = sorted(glob.glob(str(folder.absolute() / pattern), recursive=True))  # noqa: PTH207 - may be absolute
        if not files and agent.probes:
            reader.report("agent.probes", f"no file matches {show(pattern)} (looked from {folder.absolute()})")
        found.update(dict.fromkeys(Path(file).resolve() for file in files))
    return tuple(found)


def _check_together(config: Config, reader: TableReader) -> None:
    """What no single value shows: intervals that do not fit, and two sinks that want the same thing."""
    owners = defaultdict(list)
    owners[f"address {config.agent.listen}"].append("agent.listen")
    for name, sink in config.sinks.items():
        path = f"sinks.{name}"
        if isinstance(sink, HindsightConfig):
            reader.report(path, "this version has no hindsight sink yet: remove the table or set enabled = false")
        if sink.interval % config.agent.interval:
            interval = format_duration(config.agent.interval)
            found = format_duration(sink.interval)
            reader.report(f"{path}.interval", f"expected a multiple of agent.interval ({interval}), found {found}")
        if not isinstance(sink, ExporterConfig):
            owners[f"file {sink.path}"].append(f"{path}.path")
        if not isinstance(sink, RecorderConfig) and sink.listen is not None:
            owners[f"address {sink.listen}"].append(f"{path}.listen")
    for what, users in owners.items():
        if len(users) > 1 and not what.endswith(":0"):
            reader.report(users[-1], f"the {what} is taken by {users[0]}")


def _writable_by_all(files: Iterable[Path]) -> Iterator[str]:
    """Warnings about files that say what root loads into the kernel, and that any user could change."""
    for file in files:
        with contextlib.suppress(OSError):  # who reads the file will say so
            if file.stat().st_mode & stat.S_IWOTH:
                yield f"{file}: everybody can change what root measures with this file: chmod o-w {file}"


def _warnings(agent: AgentConfig, sinks: Mapping[str, SinkConfig]) -> tuple[str, ...]:
    listening: dict[str, Address | None] = {"agent": agent.listen}
    for name, sink in sinks.items():
        listening[f"sinks.{name}"] = None if isinstance(sink, RecorderConfig) else sink.listen
    open_to_others = tuple(
        f"{path}.listen: {address} can be reached from other hosts"
        for path, address in listening.items()
        if address is not None and not address.is_loopback
    )
    return open_to_others if sinks else (*open_to_others, "sinks: none is enabled, so nothing is sampled")
