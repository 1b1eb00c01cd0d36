"""Rezolus' own configuration files, with every key that its versions 5.x know."""

from __future__ import annotations

from pathlib import Path

import pytest

from rezolus.config import (
    AgentConfig,
    Config,
    ConfigError,
    ExporterConfig,
    ExternalConfig,
    Form,
    HindsightConfig,
    LogConfig,
    SamplerConfig,
    SchedulerConfig,
    SourceConfig,
    load,
    parse,
)
from rezolus.units import Address, UnixAddress

SECOND = 1_000_000_000

AGENT = """
[general]
listen = "127.0.0.1:5241"
ttl = "5ms"
btf_path = "kernel.btf"
snapshot_format = "v3"
[scheduler]
policy = "fifo"
priority = 20
niceness = -20
[log]
level = "warn"
[external_metrics]
enabled = true
socket_path = "/var/run/rezolus/external.sock"
protocol = "line"
metric_ttl = "60s"
max_connections = 10
max_metrics = 100
max_metrics_per_connection = 10
socket_group = "metrics"
socket_mode = "660"
[defaults]
enabled = true
interval = "1s"
gpu_perf_level = "stable_std"
[samplers.cpu_usage]
interval = "100ms"
[samplers.tcp_traffic]
enabled = false
[samplers.gpu_nvidia]
[samplers.drivehealth]
enabled = true
[samplers.gpu_amd_pmu]
enabled = false
"""

EXPORTER = """
[general]
listen = "0.0.0.0:5242"
source = "10.0.0.1:4241"
interval = "15s"
[prometheus]
histograms = true
histogram_grouping_power = 2
summaries = false
[log]
level = "trace"
"""

HINDSIGHT = """
[general]
interval = "100ms"
duration = "1h 30m"
source = "http://node1:4241"
output = "/var/tmp/rezolus.rez"
listen = "[::1]:4243"
segment_rows = 4096
[log]
level = "error"
"""


def read(text: str, folder: Path, form: Form | None = "agent") -> Config:
    return parse(text, folder / "classic.toml", form)


def problems(text: str, form: Form | None = "agent") -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(text, Path("/tmp"), form)
    return caught.value.problems


def test_an_agent_of_theirs_is_an_agent_without_sinks(tmp_path: Path) -> None:
    (tmp_path / "kernel.btf").touch()
    config = read(AGENT, tmp_path)
    assert config.agent == AgentConfig(
        listen=Address("127.0.0.1", 5241),
        ttl=5_000_000,
        btf_path=tmp_path / "kernel.btf",
        snapshot_format="v3",
        external=ExternalConfig(
            socket=UnixAddress("/var/run/rezolus/external.sock"),
            protocol="line",
            max_connections=10,
            max_metrics=100,
            max_metrics_per_connection=10,
            group="metrics",
            mode=0o660,
        ),
    )
    assert config.scheduler == SchedulerConfig(policy="fifo", priority=20, niceness=-20)
    assert config.log == LogConfig(level="warning")
    assert config.samplers == {"cpu_usage": SamplerConfig(), "tcp_traffic": SamplerConfig(enabled=False)}
    assert (config.sinks, config.sources) == ({}, {})
    assert len(config.probes) > 5


def test_metrics_are_pushed_only_where_that_is_enabled(tmp_path: Path) -> None:
    table = "[general]\n[external_metrics]\nmax_metrics = 5\n"
    assert read(table, tmp_path).agent.external == ExternalConfig()
    enabled = read(table + "enabled = true\n", tmp_path).agent.external
    assert enabled == ExternalConfig(socket=UnixAddress("/var/run/rezolus/external.sock"), max_metrics=5)


def test_their_socket_is_called_as_they_call_it() -> None:
    text = "[general]\nlisten = 'unix:/run/x'\n[external_metrics]\nenabled = true\nsocket_path = '/run/x'\n"
    assert problems(text) == ("external_metrics.socket_path: the address unix:/run/x is taken by agent.listen",)


def test_what_is_not_done_here_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "kernel.btf").touch()
    assert read(AGENT, tmp_path).warnings == (
        "defaults.interval (and 1 more): without effect: there is one clock for all, and who asks gets a reading of now",
        "defaults.gpu_perf_level: without effect: GPUs are left as they are",
        "samplers: not measured here: drivehealth, gpu_nvidia",
    )


def test_a_sampler_of_theirs_is_told_from_a_misspelt_one_of_ours(tmp_path: Path) -> None:
    theirs = ("cpu_power", "cpu_perf", "cpu_frequency", "cpu_bandwidth", "cpu_l3", "memory_numa", "network_ethtool")
    tables = "".join(f"[samplers.{name}]\n" for name in theirs)
    config = read(f"[general]\n{tables}[samplers.scheduler_runqeue]\nenabled = false\n[samplers.cpu_usge]\n", tmp_path)
    assert config.warnings[:3] == (
        "samplers.scheduler_runqeue: without effect: no sampler has this name; did you mean `scheduler_runqueue`?",
        "samplers.cpu_usge: without effect: no sampler has this name; did you mean `cpu_usage`?",
        f"samplers: not measured here: {', '.join(sorted(theirs))}",
    )


def test_an_exporter_of_theirs_is_an_exporter_fed_by_the_agent(tmp_path: Path) -> None:
    config = read(EXPORTER, tmp_path, "exporter")
    assert not config.agent.enabled
    assert config.sinks == {
        "exporter": ExporterConfig(
            listen=Address("0.0.0.0", 5242),
            hosts=("*",),
            interval=15 * SECOND,
            source=("10.0.0.1:4241",),
            histograms="buckets",
            grouping_power=2,
            openmetrics=False,
        )
    }
    assert config.sources == {"10.0.0.1:4241": SourceConfig(url="http://10.0.0.1:4241")}
    assert config.log == LogConfig(level="debug")
    assert config.probes == ()
    assert config.warnings == ("general.listen: 0.0.0.0:5242 can be reached from other hosts",)


def test_a_hindsight_of_theirs_is_one_of_ours_fed_by_the_agent(tmp_path: Path) -> None:
    config = read(HINDSIGHT, tmp_path, "hindsight")
    assert not config.agent.enabled
    assert config.sinks == {
        "hindsight": HindsightConfig(
            listen=Address("::1", 4243),
            path=Path("/var/tmp/rezolus.parquet"),
            interval=SECOND // 10,
            source=("node1:4241",),
            duration=5400 * SECOND,
        )
    }
    assert config.warnings == (
        "general.segment_rows: without effect: the buffer divides itself",
        "general.output: .rez is not written; dumps go to /var/tmp/rezolus.parquet",
    )


def test_their_defaults_are_theirs(tmp_path: Path) -> None:
    agent = read("[general]", tmp_path)
    assert agent.agent == AgentConfig(listen=Address("0.0.0.0", 4241), hosts=("*",))
    assert agent.scheduler == SchedulerConfig(policy="round_robin", priority=15)
    local = {"127.0.0.1:4241": SourceConfig(url="http://127.0.0.1:4241")}
    exporter = read("", tmp_path, "exporter")
    assert exporter.sources == local
    assert exporter.sinks == {
        "exporter": ExporterConfig(
            listen=Address("0.0.0.0", 4242),
            hosts=("*",),
            interval=SECOND,
            source=("127.0.0.1:4241",),
            openmetrics=False,
        )
    }
    hindsight = read("[log]\nlevel = 'info'", tmp_path, "hindsight")
    assert hindsight.sources == local
    assert hindsight.sinks == {
        "hindsight": HindsightConfig(
            path=Path("/tmp/rezolus.parquet"), interval=SECOND, duration=900 * SECOND, source=("127.0.0.1:4241",)
        )
    }


def test_what_is_off_by_default_is_off_where_nothing_else_is_written(tmp_path: Path) -> None:
    config = read(
        "[general]\n[defaults]\nenabled = false\n[samplers.cpu_usage]\n[samplers.tcp_traffic]\nenabled = true", tmp_path
    )
    assert [name for name in ("cpu_usage", "tcp_traffic", "syscall_counts") if config.sampler_enabled(name)] == [
        "tcp_traffic"
    ]


@pytest.mark.parametrize(
    ("summaries", "histograms", "both"),
    [("true", "true", "both"), ("true", "false", "summary"), ("false", "true", "buckets"), ("false", "false", "none")],
)
def test_two_switches_become_one_form_of_histograms(tmp_path: Path, summaries: str, histograms: str, both: str) -> None:
    config = read(f"[prometheus]\nsummaries = {summaries}\nhistograms = {histograms}", tmp_path, "exporter")
    sink = config.sinks["exporter"]
    assert isinstance(sink, ExporterConfig)
    assert sink.histograms == both


def test_an_address_that_stands_for_all_is_asked_on_loopback(tmp_path: Path) -> None:
    for written, url in (("0.0.0.0:4241", "http://127.0.0.1:4241"), ("[::]:1", "http://[::1]:1")):
        config = read(f'[general]\nsource = "{written}"', tmp_path, "exporter")
        assert [source.url for source in config.sources.values()] == [url]


def test_all_mistakes_are_reported_at_once_with_path_and_nearest_key() -> None:
    assert problems("""
        [general]
        lisen = "0.0.0.0:4241"
        ttl = "10"
        snapshot_format = "v4"
        [scheduler]
        policy = "batch"
        priority = 100
        [log]
        level = "warning"
        [samplers.cpu_usage]
        enabeld = true
        [samplers.tcp_traffic]
        enabled = 1
        [default]
    """) == (
        "default: unknown key; did you mean `defaults`?",
        "general.lisen: unknown key; did you mean `listen`?",
        'general.ttl: expected a duration of at least 1ns, such as "100ms", "15min" or "1h 30m", found "10"',
        'general.snapshot_format: expected one of "v2", "v3", found "v4"',
        'scheduler.policy: expected one of "normal", "round_robin", "fifo", found "batch"',
        "scheduler.priority: expected a whole number from 1 to 99, found 100",
        'log.level: expected one of "error", "warn", "info", "debug", "trace", found "warning"',
        "samplers.cpu_usage.enabeld: unknown key; did you mean `enabled`?",
        "samplers.tcp_traffic.enabled: expected true or false, found 1",
    )


@pytest.mark.parametrize(
    ("form", "text", "problem"),
    [
        (
            "exporter",
            "[prometheus]\nhistogram_grouping_power = 4",
            "prometheus.histogram_grouping_power: expected a whole number from 0 to 3, found 4",
        ),
        (
            "exporter",
            '[general]\nsource = "https://a:1"',
            'general.source: expected HOST:PORT or an address such as "http://host:4241", found "https://a:1"',
        ),
        (
            "hindsight",
            '[general]\nduration = "1s"\ninterval = "2s"',
            "general.duration: expected at least the interval (2s), found 1s",
        ),
        (
            "agent",
            "[general]\n[external_metrics]\nsocket_mode = '9'",
            'external_metrics.socket_mode: expected permissions such as 0o660 or "660", found "9"',
        ),
        ("agent", '[general]\nbtf_path = "/none"', "general.btf_path: no such file: /none"),
    ],
)
def test_ranges_are_theirs(form: Form, text: str, problem: str) -> None:
    assert problems(text, form) == (problem,)


@pytest.mark.parametrize(
    ("form", "text", "problem"),
    [
        (
            "agent",
            EXPORTER,
            "prometheus: this is a key of Rezolus' exporter.toml, not of its agent.toml: run `rezolus exporter FILE`",
        ),
        (
            "agent",
            HINDSIGHT,
            "general.interval: this is a key of Rezolus' hindsight.toml, not of its agent.toml: run `rezolus hindsight FILE`",
        ),
        (
            "exporter",
            AGENT,
            "scheduler: this is a key of Rezolus' agent.toml, not of its exporter.toml: run `rezolus FILE`",
        ),
    ],
)
def test_a_file_of_another_command_is_told_by_its_keys(form: Form, text: str, problem: str) -> None:
    assert problems(text, form) == (problem,)


@pytest.mark.parametrize(("text", "sinks"), [(AGENT, []), (EXPORTER, ["exporter"]), (HINDSIGHT, ["hindsight"])])
def test_without_a_command_the_keys_say_whose_file_it_is(tmp_path: Path, text: str, sinks: list[str]) -> None:
    (tmp_path / "kernel.btf").touch()
    assert [*read(text, tmp_path, None).sinks] == sinks


def test_without_telling_keys_the_name_says_whose_file_it_is(tmp_path: Path) -> None:
    for form in ("exporter", "hindsight"):
        file = tmp_path / f"{form}.toml"
        file.write_text('[general]\nsource = "127.0.0.1:4241"\ninterval = "1s"')
        assert [*load(file, None).sinks] == [form]


def test_the_shipped_files_of_the_three_services_are_accepted_without_a_warning() -> None:
    folder = Path(__file__).parent.parent / "config"
    forms: tuple[Form, ...] = ("agent", "exporter", "hindsight")
    for form in forms:
        config = load(folder / f"{form}.toml", form)
        assert config.warnings == ()
        assert config.agent.enabled == (form == "agent")
        assert load(folder / f"{form}.toml", None) == config
