"""What may stand in Rezolus' agent.toml, exporter.toml and hindsight.toml, with its defaults. Durations are nanoseconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from rezolus.config.structures import COUNT, Form, Listen, Protocol
from rezolus.tables import (
    ADDRESS,
    FILE,
    SOCKET,
    SWITCH,
    Rule,
    host_and_port,
    human_duration,
    integer,
    mode,
    one_of,
    text,
)
from rezolus.units import Address, UnixAddress, parse_duration

ANYWHERE = "0.0.0.0"  # noqa: S104 - their default, of which a warning tells
TIME = human_duration("1ns")
INTERVAL = human_duration("1ms")
SOURCE = Rule('HOST:PORT or an address such as "http://host:4241"', host_and_port)
ROWS = integer(0, 2**63 - 1)
LEVEL = one_of("error", "warn", "info", "debug", "trace")
GPU_LEVELS = ("auto", "low", "high", "manual", "stable_std", "stable_peak", "stable_min_mclk", "stable_min_sclk")


class LogTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[log]` of all three."""

    level: Annotated[str, LEVEL] = "info"


class AgentGeneral(msgspec.Struct, frozen=True, kw_only=True):
    """`[general]` of agent.toml."""

    listen: Annotated[Listen, ADDRESS] = Address(ANYWHERE, 4241)
    ttl: Annotated[int, TIME] = parse_duration("10ms")
    btf_path: Annotated[Path | None, FILE] = None
    snapshot_format: Annotated[Literal["v2", "v3"], one_of("v2", "v3")] = "v2"
    """Files that do not say it are of versions that had only this one, or of readers that take both."""


class SchedulerTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[scheduler]`."""

    policy: Annotated[Literal["normal", "round_robin", "fifo"], one_of("normal", "round_robin", "fifo")] = "round_robin"
    priority: Annotated[int, integer(1, 99)] = 15
    niceness: Annotated[int, integer(-20, 19)] = 0


class ExternalMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """`[external_metrics]`."""

    enabled: Annotated[bool, SWITCH] = False
    socket_path: Annotated[UnixAddress, SOCKET] = UnixAddress("/var/run/rezolus/external.sock")
    protocol: Annotated[Protocol, one_of("auto", "binary", "line")] = "auto"
    metric_ttl: Annotated[int, TIME] = parse_duration("60s")
    max_connections: Annotated[int, COUNT] = 1000
    max_metrics: Annotated[int, COUNT] = 100_000
    max_metrics_per_connection: Annotated[int, COUNT] = 10_000
    socket_group: Annotated[str, text("the name of a group")] = ""
    socket_mode: Annotated[int, mode()] = 0o660


class SamplerTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[defaults]` and `[samplers.NAME]`."""

    enabled: Annotated[bool | None, SWITCH] = None
    interval: Annotated[int, TIME] = 0
    gpu_perf_level: Annotated[str, one_of(*GPU_LEVELS)] = "auto"


class AgentFile(msgspec.Struct, frozen=True, kw_only=True):
    """agent.toml, but for its `[samplers]`."""

    general: AgentGeneral = AgentGeneral()
    scheduler: SchedulerTable = SchedulerTable()
    log: LogTable = LogTable()
    external_metrics: ExternalMetrics = ExternalMetrics()
    defaults: SamplerTable = SamplerTable()


class ExporterGeneral(msgspec.Struct, frozen=True, kw_only=True):
    """`[general]` of exporter.toml."""

    listen: Annotated[Listen, ADDRESS] = Address(ANYWHERE, 4242)
    source: Annotated[str, SOURCE] = "http://127.0.0.1:4241"
    interval: Annotated[int, INTERVAL] = parse_duration("1s")


class PrometheusTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[prometheus]` of exporter.toml."""

    histograms: Annotated[bool, SWITCH] = False
    histogram_grouping_power: Annotated[int, integer(0, 3)] = 3
    summaries: Annotated[bool, SWITCH] = True


class ExporterFile(msgspec.Struct, frozen=True, kw_only=True):
    """exporter.toml."""

    general: ExporterGeneral = ExporterGeneral()
    prometheus: PrometheusTable = PrometheusTable()
    log: LogTable = LogTable()


class HindsightGeneral(msgspec.Struct, frozen=True, kw_only=True):
    """`[general]` of hindsight.toml."""

    interval: Annotated[int, INTERVAL] = parse_duration("1s")
    duration: Annotated[int, INTERVAL] = parse_duration("15m")
    source: Annotated[str, SOURCE] = "http://127.0.0.1:4241"
    output: Annotated[Path, FILE] = Path("/tmp/rezolus.parquet")  # noqa: S108 - their default
    listen: Annotated[Listen | None, ADDRESS] = None
    segment_rows: Annotated[int, ROWS] = 900


class HindsightFile(msgspec.Struct, frozen=True, kw_only=True):
    """hindsight.toml."""

    general: HindsightGeneral = HindsightGeneral()
    log: LogTable = LogTable()


File = AgentFile | ExporterFile | HindsightFile

FILES: Mapping[Form, type[File]] = {"agent": AgentFile, "exporter": ExporterFile, "hindsight": HindsightFile}
