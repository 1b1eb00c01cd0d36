"""What the status pages say about samplers, and how `rezolus status` shows it."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from click.testing import CliRunner, Result

from dsl.hooks import Hook
from dsl.schema import EventUse, Sampler, Schema
from rezolus.agent.agent import Agent, AgentOptions
from rezolus.agent.cgroups import CgroupNames
from rezolus.agent.handover import Handover, Problem, ProgramReport, SamplerBrief, problem_lines
from rezolus.agent.report import AgentStatus, SamplerStatus
from rezolus.agent.running import Running
from rezolus.agent.status import agent_status, sampler_statuses
from rezolus.cli.errors import run_reporting
from rezolus.cli.status import command

HOOK = Hook(kind="tp_btf", name="sched_switch")
FOUND = EventUse(event="sched_switch", hook=HOOK, line=3)
MISSING = EventUse(event="call f", missing=(("kprobe:f", "this kernel has no kprobes"),), line=4)


def statuses(*samplers: Sampler, **handed: object) -> dict[str, SamplerStatus]:
    handover = Handover(schema=Schema(samplers=samplers, metrics=()), **handed)  # type: ignore[arg-type]
    running = Running.start(handover, {}, CgroupNames(None), wanted=lambda _: True, own=[])
    try:
        return {status.name: status for status in sampler_statuses(running, None)}
    finally:
        running.close()


def sampler(name: str, *events: EventUse) -> Sampler:
    return Sampler(name=name, help="", file="a.rzl", line=1, events=events)


def program(function: str, *samplers: str, error: str = "") -> ProgramReport:
    problem = Problem(stage="attach", message=error) if error else None
    return ProgramReport(function=function, hook=HOOK, samplers=samplers, error=problem)


def test_a_sampler_whose_programs_run_is_healthy() -> None:
    found = statuses(sampler("s", FOUND), programs=(program("p", "s", "t"),))["s"]
    assert (found.state, found.health) == ("active", "healthy")
    assert found.programs[0].shared_with == ("t",)
    assert found.events[0].hook == "tp_btf:sched_switch"


def test_a_hook_this_kernel_lacks_makes_it_unsupported_and_says_why() -> None:
    found = statuses(sampler("s", FOUND, MISSING), programs=(program("p", "s"),))["s"]
    assert found.health == "unsupported"
    assert found.events[1].hook is None
    assert found.events[1].missing == (("kprobe:f", "this kernel has no kprobes"),)


def test_one_broken_program_degrades_and_all_broken_fail() -> None:
    programs = (program("p", "s", error="busy"), program("q", "s"), program("r", "t", error="busy"))
    found = statuses(sampler("s", FOUND), sampler("t", FOUND), programs=programs)
    assert (found["s"].health, found["s"].error) == ("degraded", "busy")
    assert (found["t"].state, found["t"].health) == ("failed", "failed")


def test_samplers_that_do_not_run_are_listed_with_their_reason() -> None:
    found = statuses(
        absent=(
            SamplerBrief(name="off", state="disabled"),
            SamplerBrief(name="bad", state="failed", file="b.rzl", line=7),
        ),
        problems=(Problem(stage="check", sampler="bad", message="error[x]: y", file="b.rzl", line=9),),
    )
    assert (found["off"].state, found["off"].health) == ("disabled", None)
    assert (found["bad"].state, found["bad"].error) == ("failed", "b.rzl:9: error[x]: y")


def test_the_layout_is_that_of_rezolus() -> None:
    document = json.loads(msgspec.json.encode(agent_status(Agent(None, AgentOptions()), ttl_seconds=0)))
    assert {"version", "uptime_seconds", "ttl_seconds", "samplers"} <= document.keys()
    shown = json.loads(msgspec.json.encode(statuses(sampler("s", FOUND), programs=(program("p", "s"),))["s"]))
    assert {"name", "state", "health", "programs"} <= shown.keys()
    assert {"name", "attached", "verdict"} <= shown["programs"][0].keys()


def test_a_problem_of_several_samplers_is_told_once() -> None:
    problems = [Problem(stage="attach", sampler=name, message="needs root", file="a.rzl", line=1) for name in "ab"]
    problems.append(Problem(stage="check", sampler="c", message="no", file="a.rzl", line=5))
    assert problem_lines(problems) == [
        "2 samplers do not run (a, b): needs root",
        "sampler c does not run: a.rzl:5: no",
    ]


@contextmanager
def served(body: bytes, code: int = 200) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), standalone_mode=False)


def document(**more: object) -> bytes:
    samplers = (
        SamplerStatus(name="good", state="active", health="healthy", events=()),
        SamplerStatus(name="bad", state="failed", health="failed", problems=(Problem(stage="verify", message="no"),)),
    )
    status = json.loads(msgspec.json.encode(agent_status(Agent(None, AgentOptions()))))
    status["samplers"] = json.loads(msgspec.json.encode(samplers))
    return json.dumps({**status, **more}).encode()


def test_a_failed_sampler_is_shown_and_makes_the_exit_status_1() -> None:
    with served(document()) as address:
        result = run(address)
    assert result.return_value == 1
    assert "bad: no" in result.output
    assert "healthy" in result.output


def test_all_well_is_0() -> None:
    with served(document(samplers=[])) as address:
        assert run(address).return_value == 0


def test_json_is_what_the_agent_said() -> None:
    with served(document()) as address:
        assert json.loads(run(address, "--json").output) == json.loads(document())
        assert isinstance(msgspec.json.decode(document(), type=AgentStatus), AgentStatus)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("127.0.0.1:1", "cannot read http://127.0.0.1:1/status: connection refused"),
        ("ftp://x", "is not an address"),
        ("http://127.0.0.1:99999", "is not an address"),
    ],
)
def test_what_cannot_be_asked_is_said(url: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_reporting(lambda: command.main([url], standalone_mode=False)) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(("body", "code"), [(b"hello", 200), (b"{}", 200), (b"", 404), (b"[]", 200)])
def test_what_is_no_agent_is_told_apart(body: bytes, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with served(body, code) as address:
        assert run_reporting(lambda: command.main([address], standalone_mode=False)) == 1
    assert "is it the agent's address?" in capsys.readouterr().err
