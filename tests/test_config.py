from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from rezolus.config import (
    LOCAL,
    SINK_TYPES,
    AgentConfig,
    Config,
    ConfigError,
    ExporterConfig,
    ExternalConfig,
    Form,
    HindsightConfig,
    LogConfig,
    RecorderConfig,
    SamplerConfig,
    SchedulerConfig,
    Selection,
    SourceConfig,
    from_wire,
    load,
    to_wire,
)
from rezolus.config.classic_keys import FILES, PrometheusTable, SamplerTable
from rezolus.config.read import interpret
from rezolus.tables import TableReader
from rezolus.units import (
    Address,
    UnixAddress,
    format_duration,
    parse_address,
    parse_duration,
    parse_humantime,
    parse_listen,
    parse_size,
)

SHIPPED = Path(__file__).parent.parent / "config" / "rezolus.toml"
SECOND = 1_000_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rezolus.toml"


def problems(file: Path, text: str) -> tuple[str, ...]:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(file) in str(caught.value)
    return caught.value.problems


def test_the_shipped_file_serves_all_three() -> None:
    shipped = load(SHIPPED)
    assert shipped.agent.listen == Address("127.0.0.1", 4241)
    assert {name: sink.listen for name, sink in shipped.sinks.items() if not isinstance(sink, RecorderConfig)} == {
        "exporter": Address("127.0.0.1", 4242),
        "hindsight": Address("127.0.0.1", 4243),
    }
    assert (len(shipped.sinks), shipped.warnings) == (2, ())


def test_the_shipped_file_says_the_defaults(file: Path) -> None:
    file.write_text(
        SHIPPED.read_text().replace('type = "recorder"\n# Default: true.\nenabled = false', 'type = "recorder"')
    )
    shipped = load(file)
    assert shipped == Config(
        path=file,
        sinks={
            "exporter": ExporterConfig(interval=SECOND),
            "hindsight": HindsightConfig(interval=SECOND, listen=Address("127.0.0.1", 4243)),
            "recorder": RecorderConfig(interval=SECOND),
        },
        probes=shipped.probes,
    )
    assert shipped.probes == tuple(sorted((SHIPPED.parent.parent / "probes").glob("*.rzl")))


def test_the_shipped_file_shows_every_key(file: Path) -> None:
    """Also those in comments, which are right."""
    text = re.sub(r"^# (?=(?:# )?[a-z_]+ = |\[)", "", SHIPPED.read_text(), flags=re.MULTILINE)
    document = tomli.loads(text)
    tables = {"agent": AgentConfig, "log": LogConfig, "scheduler": SchedulerConfig, "defaults": SamplerConfig}
    for name, table in tables.items():
        assert set(document[name]) == set(table.__struct_fields__), name
    assert set(document["sources"]["web1"]) == set(SourceConfig.__struct_fields__)
    for name, sink in SINK_TYPES.items():
        assert set(document["sinks"][name]) == {*sink.__struct_fields__, "type"}, name
    file.write_text(text)
    assert [problem.partition(":")[0] for problem in problems(file, text)] == [
        "agent.btf_path",
        "agent.probes",
        "agent.probes",
    ]


SOCKET = 'the whole name of a socket file, such as "/run/rezolus/external.sock"'


def test_a_table_for_what_is_pushed_has_a_socket_and_values_that_can_be(file: Path) -> None:
    assert load_text(file, "").agent.external.socket is None
    assert problems(file, 'agent.external.sockt = "/run/x"') == (
        "agent.external.sockt: unknown key; did you mean `socket`?",
        f"agent.external.socket: missing; expected {SOCKET}",
    )
    text = 'agent.external = { socket = "x", protocol = "json", max_metrics = 0, mode = "8", ttl = "0s", group = "" }'
    assert problems(file, text) == (
        f'agent.external.socket: expected {SOCKET}, found "x"',
        'agent.external.protocol: expected one of "auto", "binary", "line", found "json"',
        'agent.external.ttl: expected a duration of at least 1ns, such as "100ms", "1s" or "1h30m", found "0s"',
        "agent.external.max_metrics: expected a whole number from 1 to 2147483647, found 0",
        'agent.external.group: expected the name of a group, found ""',
        'agent.external.mode: expected permissions such as 0o660 or "660", found "8"',
    )


def test_what_is_pushed_is_configured_as_written(file: Path) -> None:
    external = load_text(
        file,
        """
        [agent.external]
        socket = "/run/x.sock"
        protocol = "line"
        ttl = "1m30s"
        max_connections = 1
        max_metrics = 2
        max_metrics_per_connection = 3
        group = "g"
        mode = "600"
        """,
    ).agent.external
    assert external == ExternalConfig(
        socket=UnixAddress("/run/x.sock"),
        protocol="line",
        ttl=90 * SECOND,
        max_connections=1,
        max_metrics=2,
        max_metrics_per_connection=3,
        group="g",
        mode=0o600,
    )


def load_text(file: Path, text: str) -> Config:
    file.write_text(text)
    return load(file)


def test_every_value_arrives_typed(file: Path) -> None:
    (file.parent / "own.rzl").touch()
    (file.parent / "kernel.btf").touch()
    file.write_text("""
        [agent]
        interval = "100ms"
        user = "telemetry"
        probes = ["*.rzl", "own.rzl"]
        btf_path = "kernel.btf"
        listen = "[::1]:0"
        hosts = ["node1"]
        ttl = "1ms"
        stats = "hold"
        [log]
        level = "debug"
        [defaults]
        enabled = false
        [samplers.cpu_usage]
        enabled = true
        [sinks.page]
        type = "exporter"
        listen = "localhost:9000"
        interval = "1s500ms"
        metrics = { include = ["cpu_*", "tcp_*"], exclude = ["cpu_cores"] }
        histograms = "both"
        grouping_power = 2
        [sinks.file]
        type = "recorder"
        path = "out.parquet"
        duration = "1h30m"
        fsync = true
        [sinks.off]
        type = "recorder"
        enabled = false
        [sinks.later]
        type = "hindsight"
        enabled = false
        duration = "5m"
    """)
    config = load(file)
    assert config.agent.interval == SECOND // 10
    assert config.agent.btf_path == file.parent / "kernel.btf"
    assert config.agent.listen == Address("::1", 0)
    assert config.probes == (file.parent / "own.rzl",)
    assert config.sampler_enabled("cpu_usage")
    assert not config.sampler_enabled("syscall_counts")
    assert config.sinks == {
        "page": ExporterConfig(
            listen=Address("localhost", 9000),
            interval=3 * SECOND // 2,
            metrics=Selection(include=("cpu_*", "tcp_*"), exclude=("cpu_cores",)),
            histograms="both",
            grouping_power=2,
        ),
        "file": RecorderConfig(path=Path("out.parquet"), interval=SECOND // 10, duration=5400 * SECOND, fsync=True),
    }
    assert config.warnings == ()


def test_all_problems_are_reported_at_once_with_path_and_nearest_key(file: Path) -> None:
    found = problems(
        file,
        """
        [agnt]
        [agent]
        interval = "1 sec"
        lisen = "127.0.0.1:1"
        stats = "always"
        [sinks.exporter]
        type = "exporter"
        listen = ":4242"
        metrics = { includ = ["a"] }
        [sinks.recorder]
        type = "recoder"
        [samplers.cpu_usage]
        enabled = "no"
        """,
    )
    assert found == (
        "agnt: unknown key; did you mean `agent`?",
        "agent.lisen: unknown key; did you mean `listen`?",
        'agent.interval: expected a duration of at least 1ms, such as "100ms", "1s" or "1h30m", found "1 sec"',
        'agent.stats: expected one of "sample", "off", "hold", found "always"',
        (
            'sinks.exporter.listen: expected HOST:PORT or unix:FILE, such as "127.0.0.1:4242", "[::1]:4242" or '
            '"unix:/run/rezolus/agent.sock", found ":4242"'
        ),
        "sinks.exporter.metrics.includ: unknown key; did you mean `include`?",
        'sinks.recorder.type: expected one of "exporter", "recorder", "hindsight", found "recoder"; did you mean `recorder`?',
        'samplers.cpu_usage.enabled: expected true or false, found "no"',
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("zzz = 1", "zzz: unknown key; allowed: agent, defaults, samplers, log, scheduler, sources, sinks"),
        ("agent = 3", "agent: expected a table, found 3"),
        ("sinks = []", "sinks: expected tables [sinks.NAME], found []"),
        ("sinks.a = 1", "sinks.a: expected a table, found 1"),
        ("[sinks.a]", 'sinks.a.type: missing; expected one of "exporter", "recorder", "hindsight"'),
        ("sinks.a.type = 2", 'sinks.a.type: expected one of "exporter", "recorder", "hindsight", found 2'),
        (
            'sinks."a b".type = "exporter"',
            'sinks."a b": expected a name of letters, digits, `_` and `-`',
        ),
        ('agent.btf_path = ""', 'agent.btf_path: expected a file name, found ""'),
        ("agent.hosts = [1]", 'agent.hosts: expected a list of host names, such as ["node1.example.org"], found [1]'),
        (
            'sinks.a = { type = "exporter", grouping_power = true }',
            "sinks.a.grouping_power: expected a whole number from 0 to 7, found true",
        ),
        (
            'sinks.a = { type = "exporter", interval = "1500ms" }',
            "sinks.a.interval: expected a multiple of agent.interval (1s), found 1s500ms",
        ),
        (
            'sinks.a = { type = "exporter", listen = "127.0.0.1:4241" }',
            "sinks.a.listen: the address 127.0.0.1:4241 is taken by agent.listen",
        ),
        (
            'agent.listen = "unix:/run/x"\nagent.external.socket = "/run/x"',
            "agent.external.socket: the address unix:/run/x is taken by agent.listen",
        ),
        (
            'sinks.a.type = "recorder"\nsinks.b.type = "recorder"',
            "sinks.b.path: the file rezolus.parquet is taken by sinks.a.path",
        ),
        (
            'sinks.a = { type = "exporter", listen = "0.0.0.0:4241" }',
            "sinks.a.listen: the address 127.0.0.1:4241 is taken by agent.listen",
        ),
        (
            'sinks.a = { type = "recorder", path = "x" }\nsinks.b = { type = "hindsight", buffer = "./x" }',
            "sinks.b.buffer: the file x is taken by sinks.a.path",
        ),
        (
            'sinks.a = { type = "hindsight", path = "/" }',
            "sinks.a.path: expected the name of a file, found the folder '/'",
        ),
        (
            'sinks.a = { type = "recorder", path = "." }',
            "sinks.a.path: expected the name of a file, found the folder '.'",
        ),
        (
            'sinks.a = { type = "hindsight", duration = "999ms" }',
            "sinks.a.duration: expected at least the interval (1s), found 999ms",
        ),
        (
            'sinks.a = { type = "exporter", source = "web" }\nsources.web1.url = "http://web1:4241"',
            'sinks.a.source: no source is called "web"; did you mean `web1`?',
        ),
        (
            'sinks.a = { type = "exporter", source = ["web1:4241"] }',
            (
                'sinks.a.source: expected an address such as "http://host:4241", found "web1:4241"; '
                'did you mean "http://web1:4241"?'
            ),
        ),
        (
            'sinks.a = { type = "exporter", source = "zzz" }',
            (
                'sinks.a.source: no source is called "zzz"; expected local, an address such as "http://host:4241", '
                "or a list of them"
            ),
        ),
        (
            'sinks.a = { type = "exporter", source = [] }',
            "sinks.a.source: expected the name of a source, an http:// address, or a list of them, found []",
        ),
        ("sources.a = {}", 'sources.a.url: missing; expected an address such as "http://host:4241"'),
        ('sources.local.url = "http://a"', "sources.local: this name is the agent in this process; choose another"),
        (
            'sources.a.url = "http://a:b"',
            'sources.a.url: expected an address such as "http://host:4241", found "http://a:b"',
        ),
        (
            'agent.enabled = false\nsinks.a.type = "exporter"',
            (
                'sinks.a.source: "local" is the agent in this process, which agent.enabled = false switches off: '
                'name another source, such as "http://127.0.0.1:4241"'
            ),
        ),
        ("agent.enabled = false", "sinks: none is enabled, and agent.enabled is false: there is nothing to do"),
        ("scheduler.priority = 0", "scheduler.priority: expected a whole number from 1 to 99, found 0"),
        # A sink that is switched off is still checked.
        (
            'sinks.a = { type = "recorder", enabled = false, pth = "x" }',
            "sinks.a.pth: unknown key; did you mean `path`?",
        ),
    ],
)
def test_a_problem_names_its_path_what_is_expected_and_what_was_found(file: Path, text: str, problem: str) -> None:
    assert problems(file, text) == (problem,)


def test_files_that_are_named_must_exist(file: Path) -> None:
    folder = file.parent
    assert problems(file, 'agent = { probes = ["x/*.rzl"], btf_path = "none" }') == (
        f"agent.btf_path: no such file: {folder}/none",
        f'agent.probes: no file matches "x/*.rzl" (looked from {folder})',
    )


def test_text_that_is_no_toml_is_reported_with_its_place(file: Path) -> None:
    (problem,) = problems(file, "[agent]\ninterval = = 3\n")
    assert problem.startswith("is not valid TOML: ")
    assert "line 2" in problem


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: no such file or directory"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8 text: byte 5 is 0xe9"):
        load(tmp_path / "latin.toml")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 20_000)
    with pytest.raises(ConfigError, match=r"deep\.toml: is nested too deeply"):
        load(tmp_path / "deep.toml")


def test_a_table_that_is_there_twice_is_named_as_it_is_written(file: Path) -> None:
    file.write_text("[samplers.cpu_usage]\n[samplers.cpu_usage]\n")
    with pytest.raises(ConfigError, match=r"is not valid TOML: cannot declare samplers\.cpu_usage twice \(at line 2"):
        load(file)


def test_the_mark_at_the_beginning_of_a_text_is_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf[agent]\ninterval = '3s'\n")
    assert load(tmp_path / "bom.toml").agent.interval == 3_000_000_000


def test_the_report_of_several_problems_has_one_line_each(file: Path) -> None:
    file.write_text("a = 1\nb = 2")
    with pytest.raises(ConfigError) as caught:
        load(file)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{file}: 2 problems"
    assert [line.split(":")[0] for line in lines[1:]] == ["  a", "  b"]


def test_listening_to_other_hosts_is_allowed_and_said(file: Path) -> None:
    file.write_text('sinks.a = { type = "exporter", listen = "0.0.0.0:4242" }')
    assert load(file).warnings == ("sinks.a.listen: 0.0.0.0:4242 can be reached from other hosts",)


def test_files_that_everybody_can_change_are_told(file: Path) -> None:
    probe = file.parent / "own.rzl"
    probe.write_text("")
    file.write_text('agent.probes = ["own.rzl"]\nsinks.a.type = "exporter"')
    for each in (file, probe):
        each.chmod(0o666)
        (warning,) = load(file).warnings
        assert warning.startswith(f"{each}: everybody can change")
        each.chmod(0o644)
    assert load(file).warnings == ()


def test_a_sampler_that_no_probe_defines_is_named_with_the_nearest(file: Path) -> None:
    file.write_text("samplers.cpu_usag.enabled = false\nsamplers.syscalls.enabled = true\nsinks = {}")
    config = load(file)
    assert config.unknown_samplers(["cpu_usage", "syscalls"]) == (
        "samplers.cpu_usag: no probe defines this sampler; did you mean `cpu_usage`?",
    )


def test_excluded_wins_over_included() -> None:
    selection = Selection(include=("cpu_*", "tcp_size"), exclude=("*_cores",))
    wanted = [name for name in ("cpu_usage", "cpu_cores", "tcp_size", "tcp_bytes") if selection.wants(name)]
    assert wanted == ["cpu_usage", "tcp_size"]


def test_hindsight_is_checked_with_its_own_keys(file: Path) -> None:
    assert HindsightConfig().duration == 900 * SECOND
    assert problems(file, 'sinks.a = { type = "hindsight", enabled = false, duration = "1ns" }') == (
        'sinks.a.duration: expected a duration of at least 1ms, such as "100ms", "1s" or "1h30m", found "1ns"',
    )


toml_values = st.recursive(
    st.one_of(st.text(), st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False)),
    lambda inner: st.lists(inner, max_size=3),
)


@given(toml_values)
def test_any_value_anywhere_is_read_or_reported(value: object) -> None:
    keys = ("interval", "user", "listen", "hosts", "ttl", "stats", "btf_path", "probes")
    for key in keys:
        reader = TableReader()
        config = reader.table({key: value}, "agent", AgentConfig)
        if reader.problems:
            assert config == AgentConfig()
            assert reader.problems[0].startswith(f"agent.{key}: expected ")
            assert "\n" not in reader.problems[0]


@given(st.integers(0, 2**63 - 1))
def test_a_duration_survives_being_written_and_read(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@pytest.mark.parametrize("text", ["", "1", "s", "1.5s", "-1s", "1 s", "1s ", "1w", "9999999999999h", "\uff11s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_duration(text)


def test_sizes_are_powers_of_1024() -> None:
    assert [parse_size(text) for text in ("100B", "4KiB", "64MiB", "1GiB")] == [100, 4096, 64 << 20, 1 << 30]
    for text in ("64MB", "64", "MiB", "99999999999TiB"):
        with pytest.raises(ValueError, match=text):
            parse_size(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [("127.0.0.1:4241", True), ("[::1]:80", True), ("localhost:0", True), ("0.0.0.0:1", False), ("node1:65535", False)],
)
def test_an_address_survives_being_read_and_written(text: str, *, loopback: bool) -> None:
    address = parse_address(text)
    assert str(address) == text
    assert address.is_loopback is loopback


@pytest.mark.parametrize(
    "text", ["", "80", ":80", "a:", "a:65536", "a:-1", "::1:80", "1.2.3:80", "[x]:1", "a b:1", "a:1²"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_address(text)


REMOTE = """
    [agent]
    enabled = false
    [sources.web1]
    url = "http://web1:4241/"
    label = "front"
    token_file = "token"
    [sources.spare]
    url = "http://spare:4241"
    [sinks.a]
    type = "exporter"
    interval = "100ms"
    source = ["web1", "http://db:9090/metrics", "http://web1:4241"]
    [sinks.b]
    type = "recorder"
    interval = "250ms"
    source = "http://db:9090/other"
    metadata = { run = "7" }
    [sinks.c]
    type = "hindsight"
    listen = "unix:/run/x.sock"
    max_bytes = "512MiB"
    source = "http://[::1]"
"""


def test_an_address_as_source_becomes_a_source_of_its_own(file: Path) -> None:
    file.write_text(REMOTE)
    config = load(file)
    assert {name: sink.source for name, sink in config.sinks.items()} == {
        "a": ("web1", "db:9090"),
        "b": ("db:9090/other",),
        "c": ("[::1]:80",),
    }
    assert {name: source.url for name, source in config.sources.items()} == {
        "web1": "http://web1:4241/",
        "db:9090": "http://db:9090/metrics",
        "db:9090/other": "http://db:9090/other",
        "[::1]:80": "http://[::1]",
    }
    assert config.sources["web1"].token_file == file.parent / "token"
    assert config.warnings == ("sources.spare: no sink takes it",)
    assert config.probes == ()


def test_a_configuration_survives_the_way_to_another_process(file: Path) -> None:
    for path in (SHIPPED, file):
        file.write_text(REMOTE)
        config = load(path)
        assert from_wire(to_wire(config)) == config


@given(st.binary())
def test_what_is_no_configuration_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        from_wire(body)


def test_a_service_runs_its_sinks_only_and_asks_the_agent_where_it_listens(file: Path) -> None:
    file.write_text("""
        agent.listen = "0.0.0.0:5000"
        agent.interval = "200ms"
        agent.probes = ["none/*.rzl"]
        [sinks.page]
        type = "exporter"
        interval = "1s"
        [sinks.off]
        type = "exporter"
        enabled = false
        [sinks.back]
        type = "hindsight"
    """)
    config = load(file, "exporter")
    assert not config.agent.enabled
    assert config.sinks == {"page": ExporterConfig(interval=SECOND, source=("127.0.0.1:5000",))}
    assert config.sources == {"127.0.0.1:5000": SourceConfig(url="http://127.0.0.1:5000")}
    assert [*load(file, "hindsight").sinks] == ["back"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[sinks]", 'sinks: none with type = "exporter" is enabled, so `rezolus exporter` has nothing to do'),
        (
            'sinks.a.type = "exporter"\nagent.listen = "unix:/run/x.sock"',
            'agent.listen: expected HOST:PORT, where `rezolus exporter` can reach the agent, found "unix:/run/x.sock"',
        ),
    ],
)
def test_a_service_without_work_or_agent_says_so(file: Path, text: str, problem: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, "exporter")
    assert caught.value.problems == (problem,)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("1h 30m", 5400 * SECOND), ("15min", 900 * SECOND), (" 2 days ", 172_800 * SECOND), ("1s500ms", SECOND * 3 // 2)],
)
def test_durations_of_rezolus_are_read(text: str, nanoseconds: int) -> None:
    assert parse_humantime(text) == nanoseconds


@given(st.integers(0, 2**63 - 1))
def test_durations_of_ours_are_durations_of_rezolus(nanoseconds: int) -> None:
    assert parse_humantime(format_duration(nanoseconds)) == nanoseconds


@pytest.mark.parametrize("text", ["", " ", "1", "s", "1 fortnight", "1.5s", "-1s", "1s,", "300 years"])
def test_what_is_no_duration_of_rezolus_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_humantime(text)


def test_the_address_of_a_socket_file_survives_being_read_and_written() -> None:
    address = parse_listen("unix:/run/rezolus/agent.sock")
    assert address == UnixAddress("/run/rezolus/agent.sock")
    assert str(address) == "unix:/run/rezolus/agent.sock"
    assert address.is_loopback
    for text in ("unix:", "unix:x.sock", "unix:/run/", f"unix:/{'x' * 107}"):
        with pytest.raises(ValueError, match=r".*"):
            parse_listen(text)


def table_of(kind: type[msgspec.Struct], values: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    keys = st.sampled_from([*kind.__struct_fields__, "type", "nonsense"])
    return st.dictionaries(keys, values, max_size=4)


likely = st.sampled_from(
    ["1s", "10ms", "1h", "local", "web", "http://web:4241", "127.0.0.1:1", "unix:/run/x", "v2", "x.toml", "exporter"]
)
any_value = st.one_of(likely, toml_values, st.dictionaries(st.text(max_size=4), likely, max_size=2))
sections = {
    "agent": table_of(AgentConfig, any_value),
    "log": table_of(LogConfig, any_value),
    "scheduler": table_of(SchedulerConfig, any_value),
    "samplers": st.dictionaries(st.sampled_from(["cpu_usage", "a b"]), table_of(SamplerConfig, any_value), max_size=2),
    "sources": st.dictionaries(st.sampled_from(["web", "local"]), table_of(SourceConfig, any_value), max_size=2),
    "sinks": st.dictionaries(
        st.sampled_from(["a", "b"]),
        st.sampled_from(sorted(SINK_TYPES)).flatmap(
            lambda name: table_of(SINK_TYPES[name], any_value).map(lambda table: {"type": name, **table})
        ),
        max_size=2,
    ),
    "general": st.one_of(
        *(table_of(type(kind().general), any_value) for kind in FILES.values()),
        any_value,
    ),
    "prometheus": table_of(PrometheusTable, any_value),
    "defaults": table_of(SamplerTable, any_value),
}
documents = st.fixed_dictionaries({}, optional=sections)


@given(documents, st.sampled_from([None, "agent", "exporter", "hindsight"]))
def test_any_document_is_a_configuration_or_has_mistakes_with_paths(
    document: dict[str, object], form: Form | None
) -> None:
    mistakes: tuple[str, ...] = ()
    try:
        config = interpret(document, SHIPPED.parent / "generated.toml", form)
    except ConfigError as error:
        mistakes = error.problems
        assert mistakes, "an error without a problem"
    if mistakes:
        assert all(re.match(r'["\w]', mistake) and ": " in mistake for mistake in mistakes)
        return
    assert from_wire(to_wire(config)) == config
    assert config.sinks or config.agent.enabled
    taken = {name for sink in config.sinks.values() for name in sink.source}
    assert taken - {LOCAL} == set(config.sources)
    assert config.agent.enabled or LOCAL not in taken
