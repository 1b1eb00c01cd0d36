"""A worker: a child that may need modules which the unprivileged user cannot read, and does its work as that user.

The root helper forks it, it imports one fixed module, becomes the unprivileged user, and only then looks at what it
is asked to do: a list of arguments for the module's `main`. What that prints goes back with the exit status.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from rezolus.agent.handover import Outcome
from rezolus.agent.launch import preload_encodings
from rezolus.agent.privileges import drop_privileges, find_account, forbid_new_privileges, name_process
from rezolus.bpf.handover import receive, send


def run_worker(channel: socket.socket, module: str, user: str) -> None:
    """The worker's life: import, give up root, take one list of arguments, answer."""
    name_process("rezolus-worker")
    main: Callable[[list[str]], int] = importlib.import_module(module).main
    preload_encodings()
    if os.geteuid() == 0:
        drop_privileges(find_account(user)[0])
    else:
        forbid_new_privileges()
    arguments, _ = receive(channel, list[str])
    stdout, stderr = StringIO(), StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        status = main(arguments)
    try:
        send(channel, Outcome(status, stdout.getvalue(), stderr.getvalue()))
    except BrokenPipeError:  # the daemon ends and did not wait: what was done is to be known all the same
        for line in (*stderr.getvalue().splitlines(), *stdout.getvalue().splitlines()):
            sys.stderr.write(f"{line} (done by a worker that was not waited for)\n")
