"""`rezolus config check` as a user calls it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.command import ROOT, rezolus

PROBES = len(list((ROOT / "probes").glob("*.rzl")))
FILES = ("rezolus", "agent", "exporter", "hindsight")


def check(*files: Path) -> subprocess.CompletedProcess[str]:
    return rezolus("config", "check", *files)


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What was said, whether or not this host has the user."""
    return [line for line in done.stdout.splitlines() if not line.startswith("  warning: agent.user: there is no user")]


def test_right_files_are_told_what_they_amount_to() -> None:
    done = check(*(ROOT / "config" / f"{name}.toml" for name in FILES))
    assert (done.returncode, done.stderr) == (0, "")
    assert told(done)[:4] == [
        f"{ROOT}/config/rezolus.toml: ok",
        f"  agent at http://127.0.0.1:4241, every 1s, {PROBES} shipped files of definitions, as user rezolus",
        "  exporter exporter: local, every 1s; http://127.0.0.1:4242/metrics",
        (
            "  hindsight hindsight: local, every 1s; http://127.0.0.1:4243, the last 15m in hindsight.parquet.buffer, "
            "dumps to hindsight.parquet"
        ),
    ]
    assert [line for line in done.stdout.splitlines() if line.endswith(": ok")] == [
        f"{ROOT}/config/{name}.toml: ok" for name in FILES
    ]


def test_mistakes_of_all_files_are_told_and_right_ones_as_well(tmp_path: Path) -> None:
    wrong, right, gone = tmp_path / "wrong.toml", tmp_path / "right.toml", tmp_path / "gone.toml"
    wrong.write_text("agnt = 1\n[sinks.a]\ntype = 'recoder'\n")
    right.write_text("""
        agent.listen = "unix:/run/x.sock"
        defaults.enabled = false
        samplers.cpu_usage.enabled = true
        sources.web.url = "http://web:4241"
        [sinks.a]
        type = "recorder"
        duration = "1h"
        source = ["local", "web"]
        [sinks.b]
        type = "hindsight"
    """)
    done = check(wrong, right, gone)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {wrong}: 2 problems\n"
        "  agnt: unknown key; did you mean `agent`?\n"
        '  sinks.a.type: expected one of "exporter", "recorder", "hindsight", found "recoder"; did you mean `recorder`?\n'
        f"error: {gone}: cannot be read: no such file or directory\n"
    )
    assert told(done) == [
        f"{right}: ok",
        f"  agent at unix:/run/x.sock, every 1s, {PROBES} shipped files of definitions, as user rezolus",
        "  samplers: only cpu_usage",
        "  recorder a: local and web, every 1s; rezolus.parquet, for 1h",
        "  hindsight b: local, every 1s; the last 15m in hindsight.parquet.buffer, dumps to hindsight.parquet",
        "  source web: http://web:4241",
    ]


def test_warnings_are_told_and_are_no_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[general]\n[samplers.drivehealth]\nenabled = true\n[samplers.cpu_usage]\nenabled = false\n")
    done = check(file)
    assert done.returncode == 0
    assert told(done)[2:] == [
        "  samplers: all but cpu_usage",
        "  warning: samplers: not measured here: drivehealth",
        "  warning: general.listen: 0.0.0.0:4241 can be reached from other hosts",
    ]


def test_who_the_daemon_becomes_is_told_as_at_the_start(tmp_path: Path) -> None:
    gone, root = tmp_path / "gone.toml", tmp_path / "root.toml"
    gone.write_text('agent.user = "no-such-user-here"\nsinks.a.type = "exporter"')
    root.write_text('agent.user = "root"\nsinks.a.type = "exporter"')
    done = check(gone, root)
    assert done.returncode == 1
    assert "  warning: agent.user: there is no user 'no-such-user-here', running as 'nobody'; create it" in done.stdout
    assert done.stderr == f"error: {root}: agent.user: must not be root, the agent listens on the network\n"


def test_where_others_push_is_told_and_a_group_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.toml", tmp_path / "wrong.toml"
    text = 'sinks.a.type = "exporter"\n[agent.external]\nsocket = "/run/x.sock"\n'
    right.write_text(text)
    wrong.write_text(text + 'group = "no-such-group"\n')
    done = check(right, wrong)
    assert done.returncode == 1
    assert "  metrics of other programs at unix:/run/x.sock, for 1m" in told(done)
    assert "agent.external.group: there is no group 'no-such-group'; create it with: groupadd" in done.stderr


@pytest.mark.parametrize("content", ["", "two words", None])
def test_a_token_that_cannot_be_used_is_a_mistake(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "rezolus.toml"
    file.write_text('agent.token_file = "token"\nsinks.a.type = "exporter"')
    if content is not None:
        (tmp_path / "token").write_text(content)
    done = check(file)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {file}: agent.token_file: {tmp_path}/token: ")


def test_definitions_that_are_no_sampler_of_ours_are_told_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "rezolus.toml"
    file.write_text('samplers.cpu_usag.enabled = false\nsinks.a.type = "exporter"')
    done = check(file)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {file}: samplers.cpu_usag: no probe defines this sampler; did you mean `cpu_usage`?\n"
    )


def test_whatever_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "rezolus.toml"
    (tmp_path / "mine.rzl").write_text("sampler mine {\n  metric wrong\n}\n")
    file.write_text("""
        [agent]
        listen = "nowhere"
        user = "root"
        token_file = "none"
        probes = ["mine.rzl"]
        [sinks.a]
        type = "exporter"
        listn = "127.0.0.1:0"
    """)
    done = check(file)
    assert done.returncode == 1
    problems, definitions = done.stderr.split(f"{tmp_path}/mine.rzl:2", 1)
    assert [line.split(": ")[0] for line in problems.splitlines()[1:]] == [
        "  agent.listen",
        "  sinks.a.listn",
        "  agent.user",
        "  agent.token_file",
    ]
    assert "error[" in definitions


def test_the_definitions_that_a_file_names_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "mine.rzl").write_text("sampler mine {\n  metric wrong\n}\n")
    file = tmp_path / "agent.toml"
    file.write_text('[agent]\nprobes = ["mine.rzl"]\n')
    done = check(file)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{tmp_path}/mine.rzl:2" in done.stderr
    assert "error[" in done.stderr
