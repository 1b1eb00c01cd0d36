from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rezolus.record.command import GRACE_S
from rezolus.recording.read import Recording
from rezolus.wire.decode import decode_stream
from tests.cli.command import ROOT, rezolus
from tests.record.agents import agent

PATIENCE_S = 60.0


def record(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return rezolus("record", *arguments, cwd=folder)


@contextmanager
def running(folder: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The command while it runs, in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rezolus", "record", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Poll for what another process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        assert process is None or process.poll() is None, process.communicate()[1]
        select.select([], [], [], 0.02)


def has_rows(folder: Path, count: int, name: str = "*") -> bool:
    """Whether some segment below has so many readings."""
    from rezolus.recording.segment import Segment

    return any(Segment(path).rows >= count for path in folder.glob(f"{name}.parquet.recording/*/*.segment"))


def metadata(path: Path) -> dict[str, str]:
    with Recording(path) as recording:
        return recording.metadata


def rows(path: Path) -> int:
    count: int = pq.read_metadata(path).num_rows
    return count


def test_a_duration_is_recorded_and_said(tmp_path: Path) -> None:
    with agent() as url:
        done = record(
            tmp_path, "--url", url, "-i", "50ms", "-d", "400ms", "-o", "out.parquet", "-m", "run=7", "--node", "n1"
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    found = re.search(r"^0:00:0\d  (\d+) samples?  (\d+) lost  [\d.]+ KiB$", done.stderr, re.MULTILINE)
    assert found is not None
    assert rows(tmp_path / "out.parquet") == int(found[1])
    assert int(found[1]) + int(found[2]) <= 8  # eight ticks; a busy machine may miss some
    said = metadata(tmp_path / "out.parquet")
    wanted = {"source": "rezolus", "version": "5.17.0", "sampling_interval_ms": "50", "run": "7", "node": "n1"}
    assert {key: said[key] for key in wanted} == wanted
    assert said["systeminfo"] == '{"hostname": "far", "cpus": 2}'
    with Recording(tmp_path / "out.parquet") as recording:
        assert [column.name for column in recording.columns] == ["cpu_usage/user", "memory_free", "latency:buckets"]
        assert recording.columns[0].series.labels == {"endpoint": f"{url}/", "source": "rezolus", "state": "user"}
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_the_older_form_is_taken_with_a_note(tmp_path: Path) -> None:
    with agent() as url:
        done = record(tmp_path, "-i", "20ms", "-d", "100ms", url, "old.parquet")
    assert done.returncode == 0, done.stderr
    assert f"note: the same as --url {url} --output old.parquet" in done.stderr
    assert 1 <= rows(tmp_path / "old.parquet") <= 6  # when the first one is late, five more follow in time


def test_several_endpoints_become_one_file(tmp_path: Path) -> None:
    with agent() as one, agent() as two, agent(only="/metrics") as page:
        specs = (f"{one},source=web", f"{two},role=db", f"{page},source=app,protocol=prometheus")
        flags = [word for spec in specs for word in ("--endpoint", spec)]
        done = record(tmp_path, *flags, "-i", "100ms", "-d", "600ms", "-o", "all.parquet")
    assert done.returncode == 0, done.stderr
    with Recording(tmp_path / "all.parquet") as recording:
        names = {column.name for column in recording.columns}
        place = two.removeprefix("http://").replace(":", "-")
        assert {"web::cpu_usage/user", f"{place}::memory_free", "app::hits"} <= names
        assert recording.metadata["source"] == '["app","rezolus","web"]'
        labels = {column.name: column.series.labels for column in recording.columns}
    assert labels["app::hits"] == {"endpoint": f"{page}/metrics", "instance": "app", "source": "app"}
    assert labels["web::memory_free"]["node"] == "web"


def test_separate_files_are_called_after_their_endpoints(tmp_path: Path) -> None:
    with agent() as one, agent() as two:
        flags = ("--endpoint", f"{one},source=a", "--endpoint", f"{two},source=b", "-i", "50ms", "-d", "200ms")
        assert record(tmp_path, *flags, "--separate", "-o", "out.parquet").returncode == 0
        assert record(tmp_path, *flags, "-f", "raw").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out_a.parquet",
        "out_b.parquet",
        "rezolus_a.raw",
        "rezolus_b.raw",
    ]
    assert 1 <= rows(tmp_path / "out_b.parquet") <= 4
    snapshots = list(decode_stream((tmp_path / "rezolus_a.raw").read_bytes()))
    assert 1 <= len(snapshots) <= 4
    assert snapshots[0].reading.catalog.counters[0].labels["source"] == "a"


def test_an_endpoint_that_is_not_there_does_not_keep_the_others_from_being_recorded(tmp_path: Path) -> None:
    with agent() as url:
        flags = ("--endpoint", url, "--endpoint", "http://127.0.0.1:1,source=gone")
        done = record(tmp_path, *flags, "-i", "50ms", "-d", "300ms")
    assert done.returncode == 0, done.stderr
    assert "no answer from gone" in done.stderr
    assert 1 <= rows(tmp_path / "rezolus.parquet") <= 6


def test_without_any_endpoint_it_ends_at_once(tmp_path: Path) -> None:
    done = record(tmp_path, "--endpoint", "http://127.0.0.1:1", "--endpoint", "127.0.0.1:2")
    assert done.returncode == 1
    assert "error: nothing to record from:\n  http://127.0.0.1:1: " in done.stderr
    assert "\n  http://127.0.0.1:2: " in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_says_what_to_record_and_flags_override_it(tmp_path: Path) -> None:
    with agent() as url:
        (tmp_path / "rec.toml").write_text(
            f'[recording]\noutput = "file.parquet"\ninterval = "50ms"\n[[endpoints]]\nurl = "{url}"\nsource = "x"\n'
        )
        done = record(tmp_path, "--config", "rec.toml", "-d", "200ms", "-o", "flag.parquet")
    assert done.returncode == 0, done.stderr
    assert 1 <= rows(tmp_path / "flag.parquet") <= 4
    assert metadata(tmp_path / "flag.parquet")["source"] == "x"


def test_a_command_is_recorded_from_before_its_begin_to_behind_its_end(tmp_path: Path) -> None:
    with agent() as url:
        done = record(
            tmp_path, "--url", url, "-i", "50ms", "--", "sh", "-c", "date +%s%N; sleep 0.3; date +%s%N; exit 7"
        )
    assert done.returncode == 7, done.stderr
    begin, end = map(int, done.stdout.split())
    with Recording(tmp_path / "rezolus.parquet") as recording:
        (group,) = recording.row_groups()
    assert group.first_ns < begin
    assert end < group.last_ns


@pytest.mark.parametrize("endpoints", [1, 2])
def test_a_command_shorter_than_the_interval_lies_between_two_readings(endpoints: int, tmp_path: Path) -> None:
    with agent() as one, agent() as two:
        flags = ("--endpoint", f"{one},source=a", "--endpoint", f"{two},source=b")[: 2 * endpoints]
        done = record(tmp_path, *flags, "-i", "1h", "--", "sh", "-c", "date +%s%N; sleep 0.1; date +%s%N")
    assert done.returncode == 0, done.stderr
    assert "the command begins with the first sample, which comes in 1h at the latest" in done.stderr
    begin, end = map(int, done.stdout.split())
    with Recording(tmp_path / "rezolus.parquet") as recording:
        (group,) = recording.row_groups()
    assert group.rows == 2
    assert group.first_ns < begin
    assert end < group.last_ns


@pytest.mark.parametrize(
    ("arguments", "command", "status"),
    [
        ((), ("sh", "-c", "kill -TERM $$"), 128 + signal.SIGTERM),
        ((), ("true",), 0),
        (("-d", "200ms"), ("sleep", "100"), 124),
        (("-d", "200ms"), ("sh", "-c", "trap '' TERM; while :; do sleep 1; done"), 124),
    ],
)
def test_the_status_is_the_commands(
    arguments: tuple[str, ...], command: tuple[str, ...], status: int, tmp_path: Path
) -> None:
    with agent() as url:
        done = record(tmp_path, "--url", url, "-i", "20ms", *arguments, "--", *command)
    assert done.returncode == status, done.stderr
    assert rows(tmp_path / "rezolus.parquet") >= 1


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("/no/such/command", "no such file or directory"),
        ("./noexec", "it is no executable file"),
        ("mkae", "there is no such command in PATH"),
        ("./broken", "exec format error"),
    ],
)
def test_a_command_that_cannot_run_costs_no_recording(command: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "noexec").write_text("#!/bin/sh\n")
    (tmp_path / "broken").write_text("no script")
    (tmp_path / "broken").chmod(0o755)
    with agent() as url:
        assert record(tmp_path, "--url", url, "-i", "20ms", "-d", "100ms", "-o", "good.parquet").returncode == 0
        before = (tmp_path / "good.parquet").read_bytes()
        done = record(tmp_path, "--url", url, "-i", "20ms", "-o", "good.parquet", "--", command)
    assert done.returncode == 1
    assert f"error: cannot run {command}: {reason}" in done.stderr
    assert (tmp_path / "good.parquet").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "good.parquet", "noexec"]


def test_a_command_does_not_outlive_a_recorder_that_is_killed(tmp_path: Path) -> None:
    ready, said = tmp_path / "ready", tmp_path / "said"
    script = f"trap 'echo over > {said}; exit' TERM; echo > {ready}; while :; do sleep 0.05; done"
    with agent() as url, running(tmp_path, "--url", url, "-i", "20ms", "--", "sh", "-c", script) as process:
        until(ready.exists, process)
        process.kill()
        process.wait()
        until(said.exists)


def test_timeout_signals_twice_and_the_recording_is_finished(tmp_path: Path) -> None:
    with agent() as url, running(tmp_path, "--url", url, "-i", "20ms") as process:
        until(lambda: has_rows(tmp_path, 5), process)
        process.send_signal(signal.SIGTERM)
        os.killpg(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
        process.communicate()
    assert rows(tmp_path / "rezolus.parquet") >= 5


def test_a_second_signal_leaves_at_once_though_the_command_ignores_the_first(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"trap '' TERM; echo $$ > {ready}; while :; do sleep 0.05; done"
    with agent() as url, running(tmp_path, "--url", url, "-i", "20ms", "--", "sh", "-c", script) as process:
        until(ready.exists, process)
        until(lambda: has_rows(tmp_path, 5), process)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        until(lambda: "stopping" in process.stderr.readline(), process)  # type: ignore[union-attr]
        select.select([], [], [], 0.2)  # signals that come together are one
        second = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 2
        assert time.monotonic() - second < GRACE_S / 2
        _, stderr = process.communicate()
    assert "leaving at once" in stderr
    assert "still finishing" not in stderr
    pid = int(ready.read_text())
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_name_that_is_being_recorded_to_is_refused(tmp_path: Path) -> None:
    with agent() as url, running(tmp_path, "--url", url, "-i", "20ms") as process:
        until(lambda: has_rows(tmp_path, 5), process)
        done = record(tmp_path, "--url", url, "-i", "20ms", "-d", "60ms")
        assert done.returncode == 1
        assert "rezolus.parquet is still being recorded to, in rezolus.parquet.recording/" in done.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
        process.communicate()
    assert rows(tmp_path / "rezolus.parquet") >= 5
    assert [path.name for path in tmp_path.iterdir()] == ["rezolus.parquet"]


@pytest.mark.parametrize("command", [(), ("--", "sleep", "100")])
def test_a_signal_finishes_the_recording(command: tuple[str, ...], tmp_path: Path) -> None:
    with agent() as url, running(tmp_path, "--url", url, "-i", "20ms", *command) as process:
        until(lambda: has_rows(tmp_path, 5), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
        _, stderr = process.communicate()
    assert "Traceback" not in stderr
    assert rows(tmp_path / "rezolus.parquet") >= 5


def test_a_killed_recording_is_recovered_by_any_of_its_names(tmp_path: Path) -> None:
    with agent() as url:
        for name in ("a", "b", "c"):
            with running(tmp_path, "--url", url, "-i", "20ms", "-o", f"{name}.parquet") as process:
                until(partial(has_rows, tmp_path, 5, name), process)
                busy = record(tmp_path, "--recover", f"{name}.parquet")
                assert (busy.returncode, "is still being recorded to" in busy.stderr) == (1, True)
                process.kill()
                process.wait()
    (folder,) = (tmp_path / "b.parquet.recording").iterdir()
    by_name = record(tmp_path, "--recover", "a.parquet")
    by_folder = record(tmp_path, "--recover", folder, "-o", "mine.parquet")
    (segment,) = next((tmp_path / "c.parquet.recording").iterdir()).glob("*.segment")
    by_segment = record(tmp_path, "--recover", segment, "-o", "copy.parquet")
    by_work = record(tmp_path, "--recover", "c.parquet.recording")
    for done, pattern in (
        (by_name, r"a\.recovered-\d+\.parquet: \d+ readings\n"),
        (by_folder, r"mine\.parquet: \d+ readings\n"),
        (by_segment, r"copy\.parquet: \d+ readings\n"),
        (by_work, r"c\.recovered-\d+\.parquet: \d+ readings\n"),
    ):
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(pattern, done.stdout), done.stdout
        file, count = re.findall(r"^(\S+): (\d+)", done.stdout)[0]
        assert rows(tmp_path / file) == int(count) >= 4
    assert rows(tmp_path / "copy.parquet") == rows(next(tmp_path.glob("c.recovered-*")))
    assert not (tmp_path / "c.parquet.recording").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("x",), 2, "expected URL and OUTPUT or options, found 'x'; a command goes behind --"),
        (("http://a", "b", "--url", "http://c"), 2, "URL OUTPUT is the older form"),
        (("--url", "http://a", "--endpoint", "http://b"), 2, "--url, --endpoint and --config each say what to record"),
        (
            ("--endpoint", "ftp://a"),
            2,
            'url: expected an address such as "http://host:4241" or "host:4241", found "ftp://a"',
        ),
        (("--endpoint", "http://a,rol=b,role=c,,x=y"), 2, "unknown key; did you mean `role`?"),
        (("--endpoint", "http://a,protocol=rez"), 2, 'protocol: expected one of "msgpack", "prometheus", found "rez"'),
        (("-m", "novalue"), 2, "--metadata novalue: expected KEY=VALUE"),
        (("-i", "1"), 2, "expected a duration of at least 1ms"),
        (("-m", "sampling_interval_ms=abc"), 2, "readers take this for a whole number of milliseconds, 1 or more"),
        (("-m", "sampling_interval_ms=0"), 2, "readers take this for a whole number of milliseconds, 1 or more"),
        (("-o", "x.parquet", "--"), 2, "there is no command behind --"),
        (("--recover", "x", "-d", "1s"), 2, "--recover makes no recording"),
        (("--recover", "x", "--url", "http://a"), 2, "--recover makes no recording"),
        (("--recover", "x", "--endpoint", "http://a"), 2, "--recover makes no recording"),
        (("--recover", "x", "y"), 2, "--recover makes no recording"),
        (("--recover", "x", "--", "true"), 2, "--recover makes no recording"),
        (("-l", "a=b"), 2, "--label belongs to .rez archives"),
        (("-o", "x.rez"), 1, "x.rez: .rez archives are not written; choose a name that ends in .parquet"),
        (("-o", "."), 1, "error: . is a folder; choose the name of a file in it"),
        (("-o", ""), 1, "error: . is a folder"),
        (("-o", "/"), 1, "error: / is a folder"),
        (("-o", "/usr/"), 1, "error: /usr is a folder"),
        (("--config", "missing.toml"), 1, "missing.toml: no such file or directory"),
        (("--recover", "nothing"), 1, "nothing: no such file or folder, and there is no folder nothing.recording"),
        (("--recover", "."), 1, "holds no recording and no segments; nothing to recover"),
    ],
)
def test_mistakes_are_said_in_words(arguments: tuple[str, ...], status: int, message: str, tmp_path: Path) -> None:
    done = record(tmp_path, *arguments)
    assert done.returncode == status, done.stderr
    assert message in done.stderr.replace("\n", " ") or message in done.stderr
    assert "Traceback" not in done.stderr


def test_what_ends_it_is_said_once(tmp_path: Path) -> None:
    with agent() as url:
        done = record(tmp_path, "--url", url, "-o", "/proc/nowhere.parquet")
    assert done.returncode == 1
    assert done.stderr.count("cannot record to /proc/nowhere.parquet: ") == 1


def test_a_wrong_file_is_told_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "rec.toml").write_text(
        '[recording]\ninterval = 5\noutptu = "x"\n[[endpoints]]\nsource = "a"\n[[endpoints]]\nurl = "x"\n'
    )
    done = record(tmp_path, "--config", "rec.toml")
    assert done.returncode == 1
    for problem in (
        "recording.outptu: unknown key; did you mean `output`?",
        "recording.interval: expected a duration",
        "endpoints[1].url: missing",
        "endpoints[2].url: expected an address",
    ):
        assert problem in done.stderr
