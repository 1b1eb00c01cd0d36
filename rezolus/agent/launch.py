"""From `rezolus FILE.toml` to an unprivileged process with a root helper beside it."""

from __future__ import annotations

import codecs
import os
import pwd
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rezolus.agent import supervisor
from rezolus.agent.privileges import (
    drop_privileges,
    find_account,
    find_group,
    forbid_new_privileges,
    raise_file_limit,
)

if TYPE_CHECKING:
    from dsl.schema import TaskMemory
    from rezolus.agent.loader import Prepared
    from rezolus.outputs import Outputs

LATE_ENCODINGS = ("ascii", "idna", "latin-1", "utf-8", "unicode_escape")
"""Codecs that the libraries we use import when they first need them: too late for a user who cannot read them."""


def children(config_path: Path) -> supervisor.Children:
    """What the helper starts for the daemon with this configuration."""
    load = partial(_load, config_path=config_path)
    return supervisor.Children(
        load=load,
        work=partial(_work, config_path=config_path),
        load_carefully=partial(load, careful=True),
        reload=partial(load, reload=True),
        reload_carefully=partial(load, reload=True, careful=True),
    )


def _load(channel: socket.socket, config_path: Path, *, careful: bool = False, reload: bool = False) -> None:
    # Here the loader becomes big; the helper that it was forked from stays small.
    from rezolus.agent.loader import run_loader
    from rezolus.agent.prepare import prepare

    run_loader(channel, partial(_prepare_again if reload else prepare, config_path), careful=careful, reload=reload)


def _prepare_again(config_path: Path, before: TaskMemory | None) -> Prepared:
    """As for the first loader; besides, what sinks write is made the unprivileged user's where it cannot do that itself."""
    from rezolus.agent.belongings import prepare_outputs
    from rezolus.agent.prepare import prepare
    from rezolus.config import AGENT_IS_SETTLED, from_wire
    from rezolus.errors import UserError
    from rezolus.outputs import outputs_of

    prepared = prepare(config_path, before)
    config = from_wire(prepared.config)
    if not config.agent.enabled:
        raise UserError(AGENT_IS_SETTLED)
    if not prepared.refused:
        prepare_outputs(outputs_of(config), find_account(_daemon_user() or config.agent.user)[0])
    return prepared


def _work(channel: socket.socket, config_path: Path) -> None:
    from rezolus.recording.child import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    from rezolus.agent.worker import run_worker
    from rezolus.config import load

    run_worker(channel, "rezolus.recording.finish", _daemon_user() or load(config_path).agent.user)


def _daemon_user() -> str | None:
    """Who the daemon is, which started the helper that we are a child of; None while it is root.

    The configuration may be in any state now, and name somebody else for the next start.
    """
    try:
        daemon = _status_number(os.getppid(), "PPid:")
        uid = _status_number(daemon, "Uid:")
        return pwd.getpwuid(uid).pw_name if uid else None
    except (OSError, KeyError):
        return None  # it is gone, and nobody waits for us


def _status_number(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def start_helper(children: supervisor.Children) -> socket.socket:
    """Fork the helper and have it start the first loader at once, beside our own imports.

    To be called before anything big is imported: the helper keeps what is there now.
    """
    control = supervisor.spawn_helper(children)
    control.send(supervisor.LOAD)
    return control


def give_up_privileges(
    user: str, outputs: Outputs | None = None, *, group: str = "", measuring: bool = True
) -> list[str]:
    """Become `user` for good and return what is worth a warning; what they cannot make themselves is prepared for them.

    `group`: one more to be in, to which the user can then give a file.

    To be called when everything is imported (the user may not be able to read our modules) and before a socket is
    opened. Raises PrivilegeError. Who is not root stays who they are.
    """
    preload_encodings()
    raise_file_limit()
    if os.geteuid() != 0:
        forbid_new_privileges()
        warning = "not started as root: no eBPF programs, only what can be read from files is measured"
        return [warning] if measuring else []
    account, missing = find_account(user)
    if outputs is not None:
        from rezolus.agent.belongings import prepare_outputs

        prepare_outputs(outputs, account)
    drop_privileges(account, (find_group(group),) if group else ())
    return [] if missing is None else [missing]


def preload_encodings() -> None:
    """Import the codecs that would else be imported when first used."""
    for encoding in LATE_ENCODINGS:
        codecs.lookup(encoding)
