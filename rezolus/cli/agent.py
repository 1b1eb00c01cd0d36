"""`rezolus FILE.toml`: the daemon; and `run_config`, by which every service starts.

The order matters: the root helper is forked while the process is small, its loader compiles while we import, privileges go
when everything is imported and before the first socket is opened.
"""

from __future__ import annotations

import importlib
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    import trio

    from rezolus.agent.agent import Agent
    from rezolus.agent.helper import Helper
    from rezolus.config import Config, Form
    from rezolus.daemon import Service
    from rezolus.recording.child import Finished
    from rezolus.status import DaemonStatus


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """Run agent and sinks as FILE (a configuration) says, until SIGINT or SIGTERM."""
    run_config(file)


def run_config(path: Path, form: Form = "agent") -> None:
    """Run the service that the configuration at `path` describes, read as the subcommand `form` reads it, until it ends.

    Raises ConfigError and whatever UserError keeps it from running.
    """
    from rezolus.errors import UserError

    path = path.absolute()
    if not path.is_file():  # before anything is started for it
        raise UserError(f"{path}: no such file")
    for number in (signal.SIGHUP, signal.SIGUSR1):  # until the daemon listens to them; the root helper never does
        signal.signal(number, signal.SIG_IGN)
    if not _measures(path, form):
        _run(None, path, form)
        return
    from rezolus.agent.launch import children, start_helper

    with start_helper(children(path)) as control:
        _run(control, path, form)


def _measures(path: Path, form: Form) -> bool:
    """Whether an agent runs here: told before the whole configuration is read, for which the helper would be too big then."""
    import tomli

    if form != "agent":
        return False
    try:
        agent = tomli.loads(path.read_text()).get("agent")
    except (OSError, ValueError, RecursionError):
        return True  # whoever reads it next says what is wrong
    return not isinstance(agent, dict) or agent.get("enabled") is not False


def _run(control: socket.socket | None, path: Path, form: Form) -> None:
    import trio

    from rezolus import log, scheduler
    from rezolus.agent.launch import give_up_privileges
    from rezolus.config import load
    from rezolus.heap import share_heap
    from rezolus.outputs import outputs_of

    share_heap()
    config = load(path, form)
    log.start(config.log.level)
    _import_the_rest(config)
    host = _Host(config, form, control)
    warnings = scheduler.apply(config.scheduler)
    group = config.agent.external.group if control is not None else ""
    warnings += give_up_privileges(config.agent.user, outputs_of(config), group=group, measuring=control is not None)
    for warning in (*config.warnings, *warnings):
        log.logger.warning("%s", warning)
    trio.run(host.run)


def _import_the_rest(config: Config) -> None:
    """What is imported where it is used would else be imported by a user who may not be able to read it."""
    names = ["rezolus.recording.child", "rezolus.sinks.exporter", "rezolus.sinks.hindsight"]
    if config.agent.enabled:
        names += ["rezolus.bpf.handover", "rezolus.agent.server", "rezolus.agent.status"]
        names += ["rezolus.daemon.control", "rezolus.daemon.status", "rezolus.agent.external.server"]
    for name in names:
        importlib.import_module(name)


class _Host:
    """The daemon with what it has on this host: the agent and its pages, or neither when nothing is measured here."""

    def __init__(self, config: Config, form: Form, control: socket.socket | None) -> None:
        import msgspec

        from rezolus.agent.agent import Agent, AgentOptions
        from rezolus.agent.helper import Helper
        from rezolus.agent.systeminfo import systeminfo
        from rezolus.config import LOCAL
        from rezolus.daemon import Daemon, reread_file
        from rezolus.recording.child import finish_in_child

        self._helper: Helper | None = None
        self._agent: Agent | None = None
        if control is None:
            self.daemon = Daemon(config, reread=partial(reread_file, config.path, form), finisher=finish_in_child)
            return
        self._systeminfo = systeminfo()
        self._helper = Helper(control, loading=True)
        about = msgspec.json.encode(self._systeminfo).decode()
        self._agent = Agent(self._helper, AgentOptions(stats=config.agent.stats, systeminfo=about))
        self.daemon = Daemon(
            config,
            {LOCAL: self._agent},
            services=self._services,
            reread=self._agent.reload,
            finisher=partial(_finish, self._helper),
        )

    async def run(self) -> None:
        """Until the daemon ends."""
        import trio

        async with trio.open_nursery() as nursery:
            if self._helper is not None:
                nursery.start_soon(self._helper.run)
            await self.daemon.run()
            nursery.cancel_scope.cancel()

    def _services(self, config: Config) -> Mapping[str, Service]:
        """The agent's pages and where others push; they go on when a reload changes nothing of theirs."""
        from rezolus.agent.external.server import serve_pushes
        from rezolus.agent.server import make_app
        from rezolus.agent.snapshots import Snapshots
        from rezolus.agent.status import agent_status
        from rezolus.daemon import Service
        from rezolus.daemon.control import control_pages
        from rezolus.daemon.status import daemon_status
        from rezolus.guard import read_token
        from rezolus.http import serve
        from rezolus.sinks.stream import Selector

        agent = self._agent
        assert agent is not None
        own = config.agent
        snapshots = Snapshots(
            lambda: agent.reading_within(own.ttl),
            version=own.snapshot_format,
            select=Selector(own.metrics).select,
            described=agent.described,
        )

        def status() -> DaemonStatus:
            return daemon_status(self.daemon, agent_status(agent, ttl_seconds=own.ttl // 10**9))

        app = make_app(status, snapshots, systeminfo=self._systeminfo)
        app.register_blueprint(control_pages(self.daemon.reload))

        token = None if own.token_file is None else partial(read_token, own.token_file)

        async def pages(*, task_status: trio.TaskStatus[object]) -> None:
            await serve(app, own.listen, hosts=own.hosts, token=token, task_status=task_status)

        async def pushed(*, task_status: trio.TaskStatus[None]) -> None:
            await serve_pushes(agent.pushed, own.external, task_status=task_status)

        key = (own.listen, own.hosts, own.token_file, own.ttl, own.metrics, own.snapshot_format)
        services = {"agent": Service(key, pages, token or (lambda: None), own.listen)}
        if own.external.socket is not None:
            services["external"] = Service(own.external, pushed)
        return services


async def _finish(helper: Helper, arguments: list[str]) -> Finished:
    """Parquet files are completed by a worker of the root helper's, which can read our packages wherever they are."""
    from rezolus.agent.helper import LoadError
    from rezolus.bpf.handover import HandoverError
    from rezolus.recording.child import Finished, finish_in_child

    if helper.alive:
        try:
            done = await helper.work(arguments)
        except LoadError:
            return await finish_in_child(arguments)
        except HandoverError as error:
            return Finished(1, "", f"the Parquet writer failed: {error}")
        return Finished(done.status, done.stdout, done.stderr)
    return await finish_in_child(arguments)
