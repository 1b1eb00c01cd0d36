"""The units of systemd and their installation: valid, as closed as they were made, and with all that the agent needs."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rezolus.config import load
from rezolus.demo.daemon import read_status
from rezolus.units import Address
from tests import needs

ROOT = Path(__file__).parent.parent
EXPOSURE = {"rezolus": 3.3, "rezolus-exporter": 1.2, "rezolus-hindsight": 1.2}
"""What `systemd-analyze security` says of each unit, from 0 to 10, at most."""


def try_install(action: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """config/install.sh working on `folder`."""
    command = [str(ROOT / "config" / "install.sh"), action]
    environment = {**os.environ, "DESTDIR": str(folder), **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def install(action: str, folder: Path, **environment: str) -> str:
    """What it says when all goes well."""
    done = try_install(action, folder, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = needs.program("systemd-analyze", "systemd")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, installed for a program that is there."""
    program = tmp_path / "opt" / "bin" / "rezolus"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    install("files", tmp_path / "root", PREFIX=str(tmp_path / "opt"))
    return tmp_path / "root" / "usr" / "lib" / "systemd" / "system"


@pytest.mark.parametrize("name", EXPOSURE)
def test_a_unit_is_valid(units: Path, name: str) -> None:
    done = analyze("verify", "--man=no", units / f"{name}.service")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", EXPOSURE)
def test_a_unit_stays_closed(units: Path, name: str) -> None:
    done = analyze("security", "--offline=true", units / f"{name}.service")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= EXPOSURE[name]


def test_installing_puts_everything_in_its_place_and_uninstalling_takes_it_away(tmp_path: Path) -> None:
    install("files", tmp_path)
    installed = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    configuration = {f"etc/rezolus/{name}.toml" for name in ("rezolus", "agent", "exporter", "hindsight")}
    assert installed == configuration | {
        "usr/lib/systemd/system/rezolus.service",
        "usr/lib/systemd/system/rezolus-exporter.service",
        "usr/lib/systemd/system/rezolus-hindsight.service",
        "usr/lib/sysusers.d/rezolus.conf",
        "usr/lib/tmpfiles.d/rezolus.conf",
    }
    assert load(tmp_path / "etc/rezolus/rezolus.toml").warnings == ()
    install("uninstall", tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == configuration


@pytest.mark.slow
def test_what_is_installed_stays_when_it_cannot_be_replaced(tmp_path: Path) -> None:
    program = tmp_path / "opt/rezolus/bin/rezolus"
    program.parent.mkdir(parents=True)
    program.write_text("the one before")
    (tmp_path / "opt/rezolus/pyvenv.cfg").touch()
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:1/", "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}
    done = try_install("install", tmp_path, **nowhere)
    assert done.returncode == 1
    assert done.stderr.endswith("install: nothing was changed: pip could not install it\n")
    assert program.read_text() == "the one before"
    assert [path.name for path in (tmp_path / "opt").iterdir()] == ["rezolus"]


def test_a_configuration_that_was_changed_is_kept(tmp_path: Path) -> None:
    install("files", tmp_path)
    file = tmp_path / "etc/rezolus/rezolus.toml"
    file.write_text("# mine\n")
    assert f"kept {file}" in install("files", tmp_path)
    assert file.read_text() == "# mine\n"
    assert file.with_name("rezolus.toml.new").read_text() == (ROOT / "config/rezolus.toml").read_text()


def test_a_folder_of_somebody_else_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "srv" / "data").mkdir(parents=True)
    install("uninstall", tmp_path, PREFIX="/srv/data")
    assert (tmp_path / "srv" / "data").exists()


def test_the_user_and_the_folders_are_made_by_systemd(tmp_path: Path) -> None:
    needs.root()
    sysusers, tmpfiles = needs.program("systemd-sysusers", "systemd"), needs.program("systemd-tmpfiles", "systemd")
    install("files", tmp_path)
    subprocess.run([sysusers, f"--root={tmp_path}", "rezolus.conf"], check=True, capture_output=True)
    user = next(line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("rezolus:"))
    subprocess.run([tmpfiles, f"--root={tmp_path}", "--create", "rezolus.conf"], check=True, capture_output=True)
    for folder in ("var/lib/rezolus", "run/rezolus"):
        assert (tmp_path / folder).stat().st_uid == int(user.split(":")[2])


def capabilities() -> str:
    """What the unit leaves to the agent, as setpriv takes it."""
    text = (ROOT / "config/systemd/rezolus.service").read_text()
    found = re.search(r"^CapabilityBoundingSet=(.+)$", text, re.MULTILINE)
    assert found
    return ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in found[1].split())])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.05)


@contextmanager
def agent_with(bounding_set: str, folder: Path, address: Address) -> Iterator[None]:
    """The agent as root with these capabilities only, in the folder of an unprivileged user; it must end well."""
    file = folder / "rezolus.toml"
    file.write_text(f'agent = {{ listen = "{address}", interval = "100ms" }}\nsinks.file.type = "recorder"\n')
    setpriv = needs.program("setpriv", "util-linux")
    command = [setpriv, "--bounding-set", bounding_set, sys.executable, "-m", "rezolus", str(file)]
    with (folder / "log").open("wb") as log:
        agent = subprocess.Popen(
            command, cwd=folder / "state", stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    try:
        yield
        agent.terminate()
        assert agent.wait(60) == 0, (folder / "log").read_text()
    finally:
        agent.kill()
        agent.wait()


@pytest.mark.kernel
def test_the_capabilities_of_the_unit_are_enough(tmp_path: Path) -> None:
    needs.bpf()
    state = tmp_path / "state"
    state.mkdir()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder.is_relative_to("/tmp/pytest-of-root"):
            folder.chmod(0o755)  # pytest makes them for root only
    shutil.chown(state, pwd.getpwnam("nobody").pw_uid)  # as systemd-tmpfiles gives it to the user of the daemon
    address = Address("127.0.0.1", free_port())
    for _ in range(2):  # the second time its own files are there
        with agent_with(capabilities(), tmp_path, address):

            def loaded() -> bool:
                status = read_status(address)
                return status is not None and not status.loading and status.reading is not None

            until(loaded, (tmp_path / "log").read_text())
            status = read_status(address)
            assert status is not None
            assert {sampler.name: sampler.health for sampler in status.samplers if sampler.health == "failed"} == {}
            assert sum(sampler.health == "healthy" for sampler in status.samplers) > 10
        assert "error" not in (tmp_path / "log").read_text()
        assert (state / "rezolus.parquet").stat().st_size > 1000
