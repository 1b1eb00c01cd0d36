"""From `rezolus FILE.toml` to an unprivileged process with a root helper beside it."""

from __future__ import annotations

import codecs
import os
import socket
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from rezolus.agent import supervisor
from rezolus.agent.privileges import (
    drop_privileges,
    find_account,
    forbid_new_privileges,
    prepare_folder,
    prepare_output,
    raise_file_limit,
)

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

    run_loader(channel, partial(prepare, config_path), careful=careful, reload=reload)


def _work(channel: socket.socket, config_path: Path) -> None:
    from rezolus.recording.child import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    from rezolus.agent.worker import run_worker
    from rezolus.config import load

    run_worker(channel, "rezolus.recording.finish", load(config_path).agent.user)


def start_helper(children: supervisor.Children) -> socket.socket:
    """Fork the helper and have it start the first loader at once, beside our own imports.

    To be called before anything big is imported: the helper keeps what is there now.
    """
    control = supervisor.spawn_helper(children)
    control.send(supervisor.LOAD)
    return control


def give_up_privileges(user: str, *, files: Iterable[Path] = (), folders: Iterable[Path] = ()) -> list[str]:
    """Become `user` for good and return what is worth a warning; what they are to write is prepared for them.

    To be called when everything is imported (the user may not be able to read our modules) and before a socket is
    opened. Raises PrivilegeError. Who is not root stays who they are.
    """
    preload_encodings()
    raise_file_limit()
    if os.geteuid() != 0:
        forbid_new_privileges()
        return ["not started as root: no eBPF programs, only what can be read from files is measured"]
    account, warning = find_account(user)
    for path in files:
        prepare_output(path, account.uid, account.gid)
    for path in folders:
        prepare_folder(path, account.uid, account.gid)
    drop_privileges(account)
    return [] if warning is None else [warning]


def preload_encodings() -> None:
    """Import the codecs that would else be imported when first used."""
    for encoding in LATE_ENCODINGS:
        codecs.lookup(encoding)
