"""The loader process may go; what it attached stays with those who hold the descriptors."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping

from dsl.hooks import Hook
from rezolus.bpf.handover import receive, send
from rezolus.bpf.load import Loaded, Outcome, load
from rezolus.bpf.maps import map_array
from tests.kernel.units import COUNT, btf_ids, unit

BODY = f"if (bpf_get_current_pid_tgid() >> 32 != {os.getpid()}) return 0;\n{COUNT}"
SWITCHES = Hook(kind="tp_btf", name="sys_enter")


def loader(sock: socket.socket, *, stay: bool) -> None:
    loaded = load(unit((SWITCHES, BODY)), btf_ids())
    fds = loaded.fds() if not stay else {"map:counts": loaded.maps["counts"]}
    send(sock, loaded.outcomes, fds)
    if stay:
        signal.pause()


def received(fds: Mapping[str, int]) -> Loaded:
    """What a loader loaded, at the other end."""
    kinds: dict[str, dict[str, int]] = {"map": {}, "prog": {}, "link": {}}
    for key, fd in fds.items():
        kind, _, name = key.partition(":")
        kinds[kind][name] = fd
    return Loaded(maps=kinds["map"], programs=kinds["prog"], links={name: (fd,) for name, fd in kinds["link"].items()})


def in_child(action: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return child


def counting(loaded: Loaded) -> bool:
    """Whether system calls of this process are being counted."""
    view = map_array(loaded.maps["counts"], 16, 1)
    before = int(view[0, 0])
    os.getppid()
    return int(view[0, 0]) > before


def test_programs_go_on_when_the_loader_has_ended() -> None:
    here, there = socket.socketpair()
    with here, there:
        child = in_child(lambda: loader(there, stay=False))
        outcomes, fds = receive(here, tuple[Outcome, ...])
        os.waitpid(child, 0)
    assert [outcome.failure for outcome in outcomes] == [None]
    with received(fds) as loaded:
        assert counting(loaded)
        view = map_array(loaded.maps["counts"], 16, 1)
        loaded.detach()
        assert not counting(loaded)
        assert view[0, 0] > 0


def test_programs_end_with_the_last_process_that_holds_them_however_it_ends() -> None:
    here, there = socket.socketpair()
    with here, there:
        child = in_child(lambda: loader(there, stay=True))
        _, fds = receive(here, tuple[Outcome, ...])
        with received(fds) as loaded:
            assert counting(loaded)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            deadline = time.monotonic() + 10
            while counting(loaded) and time.monotonic() < deadline:
                pass
            assert not counting(loaded)
