"""What sinks need for themselves, by name: files, folders, addresses."""

from __future__ import annotations

from pathlib import Path

from rezolus.config import Config, ExporterConfig, HindsightConfig, RecorderConfig, SinkConfig, parse
from rezolus.outputs import needs_of, output_of, outputs_of, recording_path, sinks_of, work_folder, work_folders
from rezolus.units import Address, UnixAddress
from tests.synthetic import START_NS


def with_sinks(text: str) -> Config:
    return parse(f"[agent]\n{text}", Path("/etc/rezolus.toml"))


def test_names_with_the_time_of_the_start() -> None:
    named = Path("/var/log/rezolus-%Y%m%dT%H%M%S.parquet")
    assert recording_path(named, START_NS) == Path("/var/log/rezolus-20261122T182653.parquet")
    assert recording_path(Path("/100%/a.parquet"), START_NS) == Path("/100%/a.parquet")
    assert output_of(Path("/a/b.parquet.recording")) == Path("/a/b.parquet")
    assert work_folder(Path("/a/b.parquet")) == Path("/a/b.parquet.recording")


def test_a_separate_recorder_is_one_for_each_source() -> None:
    config = with_sinks(
        '[sources.two]\nurl = "http://n2:4241"\n'
        '[sinks.rec]\ntype = "recorder"\npath = "/r/out.parquet"\nseparate = true\nsource = ["http://n1:4241", "two"]\n'
    )
    sinks = sinks_of(config)
    assert [(name, sink.source) for name, sink in sinks.items()] == [
        ("rec/n1:4241", ("n1:4241",)),
        ("rec/two", ("two",)),
    ]
    outputs = outputs_of(config)
    assert outputs.files == (Path("/r/out_n1:4241.parquet"), Path("/r/out_two.parquet"))
    assert outputs.folders == (Path("/r/out_n1:4241.parquet.recording"), Path("/r/out_two.parquet.recording"))


def test_of_a_name_with_the_time_only_the_folder_is_known_before() -> None:
    outputs = outputs_of(with_sinks('[sinks.rec]\ntype = "recorder"\npath = "/100%/a-%H%M%S.parquet"\n'))
    assert (outputs.files, outputs.folders, outputs.crowded) == ((), (), (Path("/100%"),))


def test_sockets_are_made_by_the_agent_and_by_sinks() -> None:
    text = 'listen = "unix:/run/r/agent.sock"\n[sinks.prom]\ntype = "exporter"\nlisten = "unix:/run/r/prom.sock"\n'
    sockets = (Path("/run/r/agent.sock"), Path("/run/r/prom.sock"))
    assert outputs_of(with_sinks(text)).sockets == sockets
    elsewhere = "enabled = false\n" + text + 'source = "http://n1:4241"\n'
    assert outputs_of(with_sinks(elsewhere)).sockets == sockets[1:]


def test_a_socket_for_what_is_pushed_is_made_where_something_is_measured() -> None:
    text = '[agent.external]\nsocket = "/run/r/push.sock"\n'
    assert outputs_of(with_sinks(text)).sockets == (Path("/run/r/push.sock"),)
    elsewhere = f'enabled = false\n{text}[sinks.prom]\ntype = "exporter"\nsource = "http://n1:4241"\n'
    assert outputs_of(with_sinks(elsewhere)).sockets == ()


def test_what_two_sinks_cannot_share() -> None:
    def shared(one: SinkConfig, other: SinkConfig) -> set[str]:
        return set(needs_of(one) & needs_of(other))

    exporter = ExporterConfig(listen=Address("127.0.0.1", 4242))
    back = HindsightConfig(listen=Address("127.0.0.1", 4242), path=Path("/h/out.parquet"))
    assert shared(exporter, back) == {"port 4242"}
    assert shared(exporter, ExporterConfig(listen=Address("0.0.0.0", 4242))) == {"port 4242"}
    assert shared(back, HindsightConfig(path=Path("/h/out.parquet"))) == {
        "file /h/out.parquet",
        "folder /h/out.parquet.buffer",
    }
    assert shared(RecorderConfig(path=Path("/h/out.parquet")), back) == {"file /h/out.parquet"}
    anywhere = ExporterConfig(listen=Address("127.0.0.1", 0))
    assert shared(anywhere, anywhere) == set()
    own = ExporterConfig(listen=UnixAddress("/run/rezolus/a.sock"))
    assert len(shared(own, own)) == 1


def test_work_folders_of_all_starts_are_found_by_the_pattern(tmp_path: Path) -> None:
    names = (
        "run-2026%a.parquet.recording",
        "run-%a.parquet.recording",
        "run-2026%a.parquet",
        "run-2026.parquet.recording",
    )
    for name in names:
        (tmp_path / name).mkdir()
    assert work_folders(tmp_path / "run-%Y%%a.parquet") == [tmp_path / names[0]]
    assert work_folders(tmp_path / "run-%-d.parquet") == [
        tmp_path / name for name in sorted(names) if "recording" in name
    ]
    assert work_folders(tmp_path / "run-2026.parquet") == [tmp_path / names[3]]
    assert work_folders(tmp_path / "away" / "%Y") == work_folders(tmp_path / "run") == []
