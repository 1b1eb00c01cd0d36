"""`rezolus FILE.toml`: the daemon.

The order matters: the root helper is forked while the process is small, its loader compiles while we import, privileges go
when everything is imported and before the first socket is opened.
"""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import socket

    from rezolus.agent.helper import Helper
    from rezolus.config import Config
    from rezolus.daemon import Daemon
    from rezolus.recording.child import Finished


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """Run agent and sinks as FILE (a configuration) says, until SIGINT or SIGTERM."""
    from rezolus.agent.launch import children, start_helper

    file = file.absolute()
    if not file.is_file():  # before anything is started for it
        from rezolus.errors import UserError

        raise UserError(f"{file}: no such file")
    with start_helper(children(file)) as control:
        _run(control, file)


def _run(control: socket.socket, file: Path) -> None:
    import trio

    from rezolus import log
    from rezolus.agent.helper import Helper
    from rezolus.agent.launch import give_up_privileges
    from rezolus.config import load
    from rezolus.daemon import Daemon

    config = load(file)
    log.start(config.log.level)
    helper = Helper(control, loading=True)
    daemon = Daemon(config, finisher=partial(_finish, helper))
    _import_the_rest()
    warnings = give_up_privileges(config.agent.user, files=daemon.outputs, folders=daemon.folders)
    for warning in (*config.warnings, *warnings):
        log.logger.warning("%s", warning)
    trio.run(_serve, helper, config, daemon)


def _import_the_rest() -> None:
    """What is imported where it is used would else be imported by a user who may not be able to read it."""
    for name in ("rezolus.agent.agent", "rezolus.agent.server", "rezolus.bpf.handover", "rezolus.recording.child"):
        importlib.import_module(name)


async def _serve(helper: Helper, config: Config, daemon: Daemon) -> None:
    import trio

    from rezolus.agent.agent import Agent, AgentOptions
    from rezolus.agent.server import make_app
    from rezolus.agent.status import agent_status
    from rezolus.http import serve

    agent = Agent(helper, AgentOptions(stats=config.agent.stats))
    ttl = config.agent.ttl // 10**9
    app = make_app(lambda: agent_status(agent, ttl_seconds=ttl))
    status = partial(serve, app, config.agent.listen, hosts=config.agent.hosts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(helper.run)
        await daemon.run(agent, services={"agent": status})
        nursery.cancel_scope.cancel()


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
