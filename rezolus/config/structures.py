"""What may stand in the configuration file, and the defaults. Durations are whole nanoseconds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from rezolus.errors import UserError
from rezolus.tables import (
    ADDRESS,
    FILE,
    SIZE,
    SOCKET,
    SWITCH,
    WORDS,
    Rule,
    duration,
    http_url,
    integer,
    mode,
    nearest,
    one_of,
    one_or_more,
    text,
    texts,
)
from rezolus.units import Address, UnixAddress, parse_duration

SHIPPED_PROBES = Path(__file__).resolve().parent.parent.parent / "probes"
"""The folder of the metric definitions that come with the program."""

HTTP_URL = Rule('an address such as "http://host:4241"', http_url)
DURATION = duration("1ns")
INTERVAL = duration("1ms")
GLOBS = texts('a list of metric names or patterns, such as ["cpu_*", "syscall"]')
COUNT = integer(1, 2**31 - 1)
MODE = mode()
HOSTS = texts('a list of host names, such as ["node1.example.org"]')
SOURCES = one_or_more("the name of a source, an http:// address, or a list of them")
PROBES = texts('a list of .rzl files or patterns, such as ["../probes/*.rzl"]')

LOCAL = "local"
"""The source that is the agent in this process."""

AGENT_IS_SETTLED = "agent.enabled: whether there is an agent is settled at the start; restart rezolus"
"""What a reload says that would change it."""

Form = Literal["agent", "exporter", "hindsight"]
"""The subcommand that a file is for: which sinks run, and which of Rezolus' files it may be."""

Listen = Address | UnixAddress
Protocol = Literal["auto", "binary", "line"]


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which metrics a sink takes, by name."""

    include: Annotated[tuple[str, ...], GLOBS] = ("*",)
    exclude: Annotated[tuple[str, ...], GLOBS] = ()

    def wants(self, name: str) -> bool:
        """Whether the metric called `name` is selected; `exclude` wins."""
        if any(fnmatchcase(name, pattern) for pattern in self.exclude):
            return False
        return any(fnmatchcase(name, pattern) for pattern in self.include)


class ExternalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics that other programs on this host push."""

    socket: Annotated[UnixAddress | None, SOCKET] = None
    """Where they push; None: nothing is taken."""
    protocol: Annotated[Protocol, one_of("auto", "binary", "line")] = "auto"
    """`auto`: what a connection begins with."""
    ttl: Annotated[int, DURATION] = parse_duration("60s")
    """A series that is not pushed for so long is gone."""
    max_connections: Annotated[int, COUNT] = 1000
    max_metrics: Annotated[int, COUNT] = 100_000
    """Series at one time."""
    max_metrics_per_connection: Annotated[int, COUNT] = 10_000
    """Series that one connection brings."""
    group: Annotated[str, text("the name of a group")] = ""
    """Of the socket file; empty: that of `agent.user`."""
    mode: Annotated[int, MODE] = 0o660
    """Of the socket file."""


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
    listen: Annotated[Listen, ADDRESS] = Address("127.0.0.1", 4241)
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
    external: ExternalConfig = ExternalConfig()


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


class ExporterConfig(msgspec.Struct, frozen=True, kw_only=True, tag="exporter"):
    """Prometheus text over HTTP."""

    enabled: Annotated[bool, SWITCH] = True
    listen: Annotated[Listen, ADDRESS] = Address("127.0.0.1", 4242)
    hosts: Annotated[tuple[str, ...], HOSTS] = ()
    interval: Annotated[int, INTERVAL] = 0
    """`parse` puts the agent's interval where none is written; the same in the other sinks."""
    metrics: Selection = Selection()
    source: Annotated[tuple[str, ...], SOURCES] = (LOCAL,)
    """Where its readings come from: `local` and names in `Config.sources`; in the file also addresses. The same in the other sinks."""
    histograms: Annotated[
        Literal["summary", "buckets", "both", "none"], one_of("summary", "buckets", "both", "none")
    ] = "summary"
    summaries: Annotated[Literal["percentile", "quantile"], one_of("percentile", "quantile")] = "percentile"
    """Percentiles of an interval as gauges with the label `percentile`, as Rezolus has them, or as standard summaries."""
    openmetrics: Annotated[bool, SWITCH] = True
    """Whether who prefers OpenMetrics gets it, in which counters are called `NAME_total`; False: text for all."""
    timestamps: Annotated[bool, SWITCH] = True
    """Whether samples say when they were read: rates are then exact whatever the scrape interval."""
    grouping_power: Annotated[int, integer(0, 7)] = 3


class RecorderConfig(msgspec.Struct, frozen=True, kw_only=True, tag="recorder"):
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
    replace: Annotated[bool, SWITCH] = False
    """Whether an earlier recording of that name goes; it gets another name otherwise."""
    fsync: Annotated[bool, SWITCH] = False
    """Whether each reading reaches the disk before the next, to survive a power cut and not only a crash."""


class HindsightConfig(msgspec.Struct, frozen=True, kw_only=True, tag="hindsight"):
    """The last `duration`, kept on disk and written to `path` on request."""

    enabled: Annotated[bool, SWITCH] = True
    listen: Annotated[Listen | None, ADDRESS] = None
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

    @property
    def buffer_folder(self) -> Path:
        """The folder of the rolling buffer."""
        return self.buffer or self.path.with_name(f"{self.path.name}.buffer")


SinkConfig = ExporterConfig | RecorderConfig | HindsightConfig

SINK_TYPES: Mapping[str, type[SinkConfig]] = {
    "exporter": ExporterConfig,
    "recorder": RecorderConfig,
    "hindsight": HindsightConfig,
}


def type_of(sink: SinkConfig) -> str:
    """The word that stands for a sink's type in the file."""
    return next(name for name, kind in SINK_TYPES.items() if isinstance(sink, kind))


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration, checked."""

    path: Path = Path("rezolus.toml")
    """The file it was read from, absolute."""
    agent: AgentConfig = AgentConfig()
    defaults: SamplerConfig = SamplerConfig()
    samplers: dict[str, SamplerConfig] = {}
    log: LogConfig = LogConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    sources: dict[str, SourceConfig] = {}
    """The remote sources that sinks take, by name. One that a sink gave as an address has host and port for a name."""
    sinks: dict[str, SinkConfig] = {}
    """The enabled sinks by name, in the order of the file."""
    probes: tuple[Path, ...] = ()
    """The .rzl files, absolute, without repetition."""
    warnings: tuple[str, ...] = ()
    """Allowed, but worth saying once: `path: sentence`."""

    def sampler_enabled(self, name: str) -> bool:
        """Whether the sampler called `name` is to run."""
        return self.samplers.get(name, self.defaults).enabled

    def defined_samplers(self) -> frozenset[str] | None:
        """Names of the samplers in the definition files, without compiling them; None when one cannot be read."""
        try:
            texts = [file.read_text() for file in self.probes]
        except (OSError, UnicodeDecodeError):
            return None  # what is wrong with the file is said where it is compiled
        return frozenset(name for text in texts for name in re.findall(r"^sampler\s+(\w+)", text, re.MULTILINE))

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

    def __init__(self, path: Path, problems: tuple[str, ...], config: Config | None = None) -> None:
        super().__init__(path, problems)
        self.path = path
        self.problems = problems
        self.config = config
        """What could be read all the same, for who looks for more that is wrong."""

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.path}: {self.problems[0]}"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        return f"{self.path}: {len(self.problems)} problems{lines}"
