from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
import trio

from rezolus.config import LOCAL, Config, load
from rezolus.daemon import Daemon, Service, Timing
from rezolus.daemon.feeds import demands_of
from rezolus.errors import UserError
from rezolus.reading import Reading
from rezolus.recording.finish import recover
from rezolus.sinks.stream import Demand
from tests.disks import tmpfs, use_up
from tests.recording.replayed import readings_in
from tests.synthetic import SyntheticSource, Walk, catalog

ROOT = Path(__file__).parent.parent.parent


def configuration(
    folder: Path, *, exporter: int | None = None, recorder: str = "", interval: str = "20ms", agent: str = ""
) -> Config:
    text = f'[agent]\ninterval = "{interval}"\n{agent}\n'
    if exporter is not None:
        text += f'[sinks.prom]\ntype = "exporter"\nlisten = "127.0.0.1:{exporter}"\n'
    if recorder:
        text += f'[sinks.rec]\ntype = "recorder"\npath = "{folder}/out.parquet"\n{recorder}\n'
    path = folder / "rezolus.toml"
    path.write_text(text)
    return load(path)


def source() -> SyntheticSource:
    return SyntheticSource(Walk(catalog(cgroups=1)))


def daemon_of(config: Config, **more: object) -> Daemon:
    return Daemon(config, {LOCAL: source()}, **more)  # type: ignore[arg-type]


async def start(nursery: trio.Nursery, daemon: Daemon) -> None:
    await nursery.start(lambda task_status: daemon.run(task_status=task_status))


def rows(path: Path) -> int:
    count: int = pq.read_metadata(path).num_rows
    return count


async def until(condition: Callable[[], object]) -> None:
    """Poll for what the daemon counts; the caller has the deadline."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.01)


def delivered(daemon: Daemon) -> dict[str, int]:
    return {stream.name: stream.delivered for stream in daemon.statistics().streams}


async def test_sinks_are_fed_and_a_signal_ends_all(tmp_path: Path) -> None:
    daemon = daemon_of(configuration(tmp_path, exporter=0, recorder="# all"))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await start(nursery, daemon)
            await until(lambda: min(delivered(daemon).values()) >= 5)
            listen = daemon.statistics().sinks["prom"].listen  # type: ignore[attr-defined]
            async with httpx.AsyncClient(trust_env=False) as client:
                assert "cpu_usage" in (await client.get(f"http://{listen}/metrics")).text
            signal.raise_signal(signal.SIGTERM)
    assert rows(tmp_path / "out.parquet") == delivered(daemon)["rec"]
    assert pq.read_metadata(tmp_path / "out.parquet").metadata[b"systeminfo"] == b"{}"
    host, _, port = listen.rpartition(":")
    with pytest.raises(OSError, match="failed"):
        await trio.open_tcp_stream(host, int(port))


async def test_an_address_in_use_concerns_one_sink_only_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    daemon = daemon_of(configuration(tmp_path, exporter=port, recorder="# all"), timing=Timing(retry_s=0.05))
    with taken, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await start(nursery, daemon)
            await until(lambda: delivered(daemon)["rec"] >= 20)
            assert caplog.text.count(f"prom: cannot listen on 127.0.0.1:{port}: address already in use") == 1
            taken.close()
            await until(lambda: daemon.statistics().sinks["prom"].listen)  # type: ignore[attr-defined]
            signal.raise_signal(signal.SIGINT)
    assert rows(tmp_path / "out.parquet") == delivered(daemon)["rec"]


async def test_a_sink_that_waits_for_its_address_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, trio.fail_after(20):
        daemon = daemon_of(configuration(tmp_path, exporter=taken.getsockname()[1], recorder="# all"))
        async with trio.open_nursery() as nursery:
            await start(nursery, daemon)
            signal.raise_signal(signal.SIGTERM)


async def test_when_the_only_sink_cannot_run_the_daemon_says_so(tmp_path: Path) -> None:
    (tmp_path / "out.parquet.recording").write_text("in the way")
    daemon = daemon_of(configuration(tmp_path, recorder="# all"))
    with trio.fail_after(60), pytest.raises(UserError, match="cannot record to"):
        await daemon.run()
    assert "cannot record to" in daemon.statistics().failures["rec"]


async def test_the_daemon_ends_when_every_sink_is_done(tmp_path: Path) -> None:
    daemon = daemon_of(configuration(tmp_path, recorder='duration = "200ms"'))
    with trio.fail_after(60):
        await daemon.run()
    assert rows(tmp_path / "out.parquet") == 10


async def test_what_a_sink_could_not_write_is_lost(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "1m") as mount, trio.fail_after(60):
        daemon = daemon_of(configuration(mount, exporter=0, recorder="# all"))
        use_up(mount / "ballast")
        async with trio.open_nursery() as nursery:
            await start(nursery, daemon)
            await until(lambda: daemon.statistics().sinks["rec"].lost)  # type: ignore[attr-defined]
            listen = daemon.statistics().sinks["prom"].listen  # type: ignore[attr-defined]
            async with httpx.AsyncClient(trust_env=False) as client:
                text = (await client.get(f"http://{listen}/metrics")).text
            (line,) = (
                line for line in text.splitlines() if line.startswith('rezolus_sink_lost_readings_total{sink="rec"}')
            )
            assert int(line.split()[1]) >= 1
            (mount / "ballast").unlink()
            daemon.stop()


class Failing(SyntheticSource):
    """Publishes some readings and fails."""

    async def run(
        self,
        demand: Demand,
        publish: Callable[[Reading], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        task_status.started()
        for reading in self.walk.run(3):
            publish(reading)
            await trio.testing.wait_all_tasks_blocked()
        raise UserError(f"no more at {demand.interval_ns}")


async def test_when_the_source_fails_the_sinks_finish_first(tmp_path: Path) -> None:
    daemon = Daemon(configuration(tmp_path, recorder="# all"), {LOCAL: Failing(Walk(catalog(cgroups=1)))})
    with (
        trio.fail_after(60),
        pytest.RaisesGroup(pytest.RaisesExc(UserError, match="no more at 20000000"), flatten_subgroups=True),
    ):
        await daemon.run()
    assert rows(tmp_path / "out.parquet") == 3


class Stuck:
    """A sink that does not finish."""

    name = "rec"

    async def run(
        self,
        readings: trio.MemoryReceiveChannel[Reading],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        task_status.started()
        async for _ in readings:
            pass
        await trio.sleep_forever()

    def statistics(self) -> object:
        return ()


async def test_a_second_signal_leaves_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    daemon = daemon_of(configuration(tmp_path, recorder="# all"), timing=Timing(patience_s=0.01, together_s=0))
    daemon.ensemble.outlets["rec"].sink = Stuck()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await start(nursery, daemon)
            signal.raise_signal(signal.SIGTERM)
            await until(lambda: "still finishing: rec" in caplog.text)
            signal.raise_signal(signal.SIGTERM)
    assert "leaving at once" in caplog.text


async def test_signals_that_come_together_are_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """timeout(1) sends it to the process and then to its group."""
    caplog.set_level("INFO")
    daemon = daemon_of(configuration(tmp_path, recorder="# all"), timing=Timing(together_s=3600))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await start(nursery, daemon)
            await until(lambda: delivered(daemon)["rec"] >= 5)
            signal.raise_signal(signal.SIGTERM)
            await until(lambda: "SIGTERM: stopping" in caplog.text)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
    assert not daemon.leaving.is_set()
    assert rows(tmp_path / "out.parquet") == delivered(daemon)["rec"]


async def test_the_first_signal_after_the_end_has_begun_is_no_second_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    daemon = daemon_of(configuration(tmp_path, recorder="# all"), timing=Timing(patience_s=0.01, together_s=0))
    daemon.ensemble.outlets["rec"].sink = Stuck()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await start(nursery, daemon)
            daemon.stop()
            await until(lambda: "still finishing: rec" in caplog.text)
            signal.raise_signal(signal.SIGTERM)
            await until(lambda: "SIGTERM: stopping" in caplog.text)
            assert not daemon.leaving.is_set()
            signal.raise_signal(signal.SIGTERM)
    assert daemon.leaving.is_set()


async def test_services_run_beside_the_source(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ended = []

    async def good(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            ended.append("good")

    async def bad(*, task_status: trio.TaskStatus[None]) -> None:
        del task_status
        raise UserError("no way")

    config = configuration(tmp_path, recorder='duration = "60ms"')
    daemon = daemon_of(config, services=lambda _: {"good": Service(1, good), "bad": Service(1, bad)})
    with trio.fail_after(60):
        await daemon.run()
    assert ended == ["good"]
    assert "bad: no way" in caplog.text


def test_demand_comes_from_the_enabled_sinks_and_the_wire(tmp_path: Path) -> None:
    nothing = "metrics = {include = []}"
    demand = demands_of(configuration(tmp_path, exporter=1, recorder='interval = "60ms"', agent=nothing))[LOCAL]
    assert demand.interval_ns == 20_000_000
    assert demand.wants("anything")
    sink = 'interval = "60ms"\nmetrics = {include = ["x*"]}'
    demand = demands_of(configuration(tmp_path, recorder=sink, agent=nothing))[LOCAL]
    assert demand.interval_ns == 60_000_000
    assert [name for name in ("xy", "yx") if demand.wants(name)] == ["xy"]
    demand = demands_of(configuration(tmp_path, recorder=sink))[LOCAL]
    assert (demand.interval_ns, demand.wants("yx")) == (60_000_000, True)  # the wire serves everything
    demand = demands_of(configuration(tmp_path))[LOCAL]
    assert (demand.interval_ns, demand.wants("x")) == (20_000_000, True)


@dataclass
class Process:
    """The daemon as a process that tells a service manager (us) how it is."""

    running: subprocess.Popen[str]
    manager: socket.socket

    def told(self) -> dict[str, str]:
        """The next message to the service manager."""
        return dict(line.split("=", 1) for line in self.manager.recv(1000).decode().splitlines())

    def told_about(self, name: str) -> dict[str, str]:
        """The next message in which something is said."""
        while name not in (message := self.told()):
            pass
        return message

    def messages_until_silence(self, seconds: float) -> list[dict[str, str]]:
        """All messages until there is none for so long."""
        messages = []
        self.manager.settimeout(seconds)
        try:
            while True:
                messages.append(self.told())
        except TimeoutError:
            return messages
        finally:
            self.manager.settimeout(60)

    def signal(self, number: int) -> None:
        self.running.send_signal(number)

    def end(self) -> str:
        """End it as Ctrl-C does: children get the signal too. What it said."""
        os.killpg(self.running.pid, signal.SIGINT)
        self.told_about("STOPPING")
        _, stderr = self.running.communicate(timeout=60)
        assert self.running.returncode == 0
        assert "Traceback" not in stderr
        return stderr


@contextmanager
def process(folder: Path, *arguments: str, **environment: str) -> Iterator[Process]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.settimeout(60)
        running = subprocess.Popen(
            [sys.executable, "-m", "tests.synthetic", str(folder / "rezolus.toml"), *arguments],
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify"), **environment},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            started = Process(running, manager)
            assert "sink" in started.told_about("READY")["STATUS"]
            yield started
        finally:
            running.kill()
            running.communicate()
            (folder / "notify").unlink()


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    configuration(tmp_path, exporter=0, recorder="# all")
    with process(tmp_path) as daemon:
        daemon.end()
    assert rows(tmp_path / "out.parquet") >= 1


def test_sigusr1_reloads_and_the_service_manager_knows(tmp_path: Path) -> None:
    configuration(tmp_path, exporter=0)
    with process(tmp_path) as daemon:
        configuration(tmp_path, exporter=0, recorder="# all")
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        daemon.signal(signal.SIGUSR1)
        begun = daemon.told()
        assert begun["RELOADING"] == "1"
        assert before <= int(begun["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert daemon.told()["READY"] == "1"
        (tmp_path / "rezolus.toml").write_text("[agent")
        daemon.signal(signal.SIGUSR1)
        assert "RELOADING" in daemon.told()
        assert "READY" in daemon.told()
        (work,) = (tmp_path / "out.parquet.recording").iterdir()
        deadline = time.monotonic() + 60
        while not any(readings_in(work)) and time.monotonic() < deadline:
            daemon.signal(signal.SIGUSR1)
            daemon.told_about("READY")
        said = daemon.end()
    assert "SIGUSR1: reloading" in said
    assert "changed: rec" in said
    assert "is not valid TOML" in said
    assert "everything is as before" in said
    assert rows(tmp_path / "out.parquet") >= 1


def test_sighup_never_ends_the_daemon(tmp_path: Path) -> None:
    configuration(tmp_path, exporter=0)
    with process(tmp_path) as daemon:
        for _ in range(3):
            daemon.signal(signal.SIGHUP)
        daemon.signal(signal.SIGUSR1)  # comes after them
        daemon.told_about("READY")
        assert "SIGHUP: no sink keeps a buffer" in daemon.end()


def test_sighup_writes_out_what_hindsight_keeps(tmp_path: Path) -> None:
    kept = f'[sinks.back]\ntype = "hindsight"\nduration = "10s"\npath = "{tmp_path}/back.parquet"\n'
    (tmp_path / "rezolus.toml").write_text(f'[agent]\ninterval = "20ms"\n{kept}')
    with process(tmp_path) as daemon:
        deadline = time.monotonic() + 60
        while not (tmp_path / "back.parquet").exists() and time.monotonic() < deadline:
            daemon.signal(signal.SIGHUP)
            daemon.signal(signal.SIGUSR1)
            daemon.told_about("READY")
        daemon.end()
    assert rows(tmp_path / "back.parquet") >= 1


def test_the_watchdog_is_fed_while_readings_are_made_and_no_longer(tmp_path: Path) -> None:
    configuration(tmp_path, exporter=0)
    with process(tmp_path, "100", WATCHDOG_USEC="200000") as daemon:
        assert daemon.told()["WATCHDOG"] == "1"
        assert daemon.told()["WATCHDOG"] == "1"
        assert len(daemon.messages_until_silence(1.0)) < 50  # it gives 100 readings in 2 s
        daemon.end()


def test_a_watchdog_meant_for_another_process_is_not_fed(tmp_path: Path) -> None:
    configuration(tmp_path, exporter=0)
    with process(tmp_path, WATCHDOG_USEC="20000", WATCHDOG_PID="1") as daemon:
        assert daemon.messages_until_silence(0.3) == []
        daemon.end()


def test_kill_9_loses_nothing_that_was_read(tmp_path: Path) -> None:
    configuration(tmp_path, recorder="# all")
    work = tmp_path / "out.parquet.recording"
    with process(tmp_path) as daemon:
        (folder,) = work.iterdir()
        while len(list(readings_in(folder))) < 10:
            pass
        daemon.running.kill()
        daemon.running.wait()
    times = [reading.time_ns for reading in readings_in(folder)]
    (recovered,) = recover([folder], tmp_path / "out.parquet")
    found = pq.read_table(recovered.file, columns=["timestamp"])["timestamp"].to_pylist()
    assert found == times
    assert len(found) >= 10
    assert list(work.iterdir()) == []
