"""Processes and privileges, with real programs: who may do what, and what is left when one of them dies."""

from __future__ import annotations

import os
import signal
import urllib.error
from pathlib import Path

import pytest

from tests.agent.running import children, daemon, eventually, gone, status_of

pytestmark = pytest.mark.kernel

SWITCHES = "switches_total,what=switch,switches"


def test_the_process_that_listens_has_no_privileges(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        running.reading(lambda values: values[SWITCHES] > 0)
        status = status_of(running.pid)
        assert "0" not in status["Uid"].split() + status["Gid"].split()
        assert status["Groups"] == ""
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0, name
        assert status["NoNewPrivs"] == "1"
        assert status_of(running.helper)["Uid"].split()[0] == "0"
        assert running.get("/status")["user"] != "root"


def test_nothing_is_imported_after_privileges_are_given_up(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        running.reading(lambda values: values[SWITCHES] > 0)
        assert [sampler["name"] for sampler in running.get("/samplers")] == ["files", "groups", "switches", "waker"]
        with pytest.raises(urllib.error.HTTPError):
            running.get("/nothing-here")
        assert "imported late" not in running.errors.read_text()


def test_a_dead_helper_leaves_the_sampling_alone(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        before = running.reading(lambda values: values[SWITCHES] > 0)
        os.kill(running.helper, signal.SIGKILL)
        running.reading(lambda values: values[SWITCHES] > before[SWITCHES] + 10)
        eventually(lambda: "the root helper is gone" in running.errors.read_text())
        assert running.get("/status")["privileged_helper"] is False
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: "restart rezolus" in running.errors.read_text())
        running.reading(lambda values: values[SWITCHES] > 0)


def test_everything_goes_with_a_killed_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        running.reading(lambda values: values[SWITCHES] > 0)
        helper = running.helper
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        eventually(lambda: gone(helper))  # and the fixture sees that no program is left


def test_a_killed_loader_leaves_what_files_give_and_can_be_asked_for_again(tmp_path: Path) -> None:
    with daemon(tmp_path, "--stall") as running:
        eventually(lambda: len(children(running.helper)) == 1)
        (loader,) = children(running.helper)
        eventually(lambda: "S (sleeping)" in status_of(loader)["State"])
        eventually(lambda: Path(f"/proc/{loader}/wchan").read_text() != "" and paused(loader))
        os.kill(loader, signal.SIGKILL)
        values = running.reading()
        assert values["memory_total"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert not any(name.startswith("switches") for name in values)
        assert "killed by SIGKILL" in running.get("/status")["error"]
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(children(running.helper)) == 1)


def test_a_loader_killed_before_it_had_begun_is_started_once_more(tmp_path: Path) -> None:
    with daemon(tmp_path, "--die-once", str(tmp_path / "died")) as running:
        running.reading(lambda values: values.get(SWITCHES, 0) > 0)
        assert "killed by SIGKILL before it had begun; once more" in running.errors.read_text()
        assert not running.get("/status").get("error")


def paused(pid: int) -> bool:
    """Whether the process waits for a signal, where `--stall` stops."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] in {"34", "73", "133"}


def test_a_daemon_killed_while_loading_takes_the_loader_with_it(tmp_path: Path) -> None:
    with daemon(tmp_path, "--stall") as running:
        eventually(lambda: len(children(running.helper)) == 1)
        helper = running.helper
        (loader,) = children(helper)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        eventually(lambda: gone(helper) and gone(loader))


@pytest.mark.parametrize("how", ["verify", "compile"])
def test_a_bad_sampler_is_left_out_and_the_others_run(tmp_path: Path, how: str) -> None:
    with daemon(tmp_path, "--broken", f"groups={how}") as running:
        values = running.reading(lambda values: values[SWITCHES] > 0)
        assert not any(name.startswith("cgroup_switches") for name in values)
        samplers = {sampler["name"]: sampler for sampler in running.get("/samplers")}
        assert samplers["groups"]["state"] == "failed"
        assert samplers["groups"]["error"].startswith("handmade.rzl:3")
        assert {samplers[name]["health"] for name in ("switches", "waker", "files")} == {"healthy"}


def test_a_sampler_that_crashes_the_compiler_is_left_out_and_the_others_run(tmp_path: Path) -> None:
    with daemon(tmp_path, "--broken", "groups=crash") as running:
        running.reading(lambda values: values.get(SWITCHES, 0) > 0)
        samplers = {sampler["name"]: sampler for sampler in running.get("/samplers")}
        assert samplers["groups"]["state"] == "failed"
        assert "the C compiler crashes over this sampler" in samplers["groups"]["error"]
        assert {samplers[name]["health"] for name in ("switches", "waker", "files")} == {"healthy"}


def test_sigterm_ends_everything_within_a_second(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        running.reading()
        helper = running.helper
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 0
        eventually(lambda: gone(helper))


def test_costs_come_from_the_kernel(tmp_path: Path) -> None:
    with daemon(tmp_path, "--stats", "hold") as running:
        running.reading(lambda values: values["rezolus_bpf_run_time,switches"] > 0)
        sampler = next(sampler for sampler in running.get("/samplers") if sampler["name"] == "switches")
        assert sampler["cost"]["events_per_second"] > 0
        assert 1 < sampler["cost"]["ns_per_event"] < 1_000_000


def test_sigterm_ends_a_daemon_that_is_still_loading(tmp_path: Path) -> None:
    with daemon(tmp_path, "--stall") as running:
        eventually(lambda: len(children(running.helper)) == 1)
        (loader,) = children(running.helper)
        assert running.get("/status")["loading"] is True
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 0
        eventually(lambda: gone(running.helper) and gone(loader))
