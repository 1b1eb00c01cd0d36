"""The root side that stays: a tiny helper that starts loaders, and nothing else.

The helper is forked before anything big is imported. It holds one socket, to the daemon, over which it takes
single bytes and nothing more. What root starts for the daemon is told more only in one case: a loader that is to replace what
runs gets from the daemon a description of that and descriptors, over a socket of its own, and checks them
(`rezolus.agent.exchange`). Nothing that came over the network is in either.

| from the daemon | the helper |
|---|---|
| `L` | starts a loader; answers `L` with the socket on which the loader will speak |
| `C` | the same, for a loader that takes precautions, after one crashed |
| `R`, `c` | the same two, for a loader that is told what runs and prepares what replaces it |
| `S` | has the kernel time BPF programs until `s` |
| `W` | starts a worker: modules imported as root, then unprivileged; answers `W` with its socket |

When a child ends it sends `X`, the byte that had started it and the exit status; what it cannot do it answers with `E`, the
byte and why. When the daemon is gone, however it went, the socket
closes: the helper kills its children and ends, and with the last descriptors every program is detached.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

from rezolus.agent.privileges import die_with_parent, name_process
from rezolus.bpf import syscall

LOAD = b"L"
LOAD_CAREFULLY = b"C"
RELOAD = b"R"
RELOAD_CAREFULLY = b"c"
STATS_ON = b"S"
STATS_OFF = b"s"
WORK = b"W"
ENDED = b"X"
FAILED = b"E"

_STATUS = struct.Struct("=i")

Child = Callable[[socket.socket], None]
"""Runs in a forked child with its end of a stream socket; the child ends when it returns."""


@dataclass(frozen=True, slots=True)
class Children:
    """What the helper can start."""

    load: Child
    work: Child
    load_carefully: Child | None = None
    """None: as `load`."""
    reload: Child | None = None
    """None: cannot be asked for."""
    reload_carefully: Child | None = None
    """None: as `reload`."""

    def loader(self, command: bytes) -> Child | None:
        """The loader that a byte asks for."""
        match command:
            case b"L":
                return self.load
            case b"C":
                return self.load_carefully or self.load
            case b"R":
                return self.reload
            case b"c":
                return self.reload_carefully or self.reload
            case _:
                return None


def spawn_helper(children: Children) -> socket.socket:
    """Fork the helper and return the daemon's end of its socket (close-on-exec, blocking).

    To be called once, before threads are started. Signals that end the daemon (terminal, service manager) are
    left to the daemon: the helper goes when it does.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    if os.fork() == 0:
        _run_child(lambda: _helper(theirs, ours, parent, children))
    theirs.close()
    return ours


def _helper(control: socket.socket, other: socket.socket, parent: int, children: Children) -> None:
    other.close()
    name_process("rezolus-helper")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
    if os.getppid() == parent:  # else it died before we asked to be told
        _Helper(control, children).serve()


class _Helper:
    """The helper's state: its children, and the descriptor that keeps statistics on."""

    def __init__(self, control: socket.socket, children: Children) -> None:
        self._control = control
        self._children = children
        self._running: dict[int, tuple[int, bytes]] = {}
        """pidfd to pid and the byte that started it."""
        self._stats = -1
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)

    def serve(self) -> None:
        """Until the daemon's end closes."""
        try:
            while True:
                for fd, _ in self._poll.poll():
                    if fd != self._control.fileno():
                        self._reap(fd)
                    elif not self._command(self._control.recv(1)):
                        return
        except (BrokenPipeError, ConnectionResetError):
            return  # the daemon went while we answered
        finally:
            for pid, _ in self._running.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _command(self, command: bytes) -> bool:
        """Carry out one command; false at the end of the connection."""
        loader = self._children.loader(command)
        if loader is not None:
            self._start(LOAD, loader)
        elif command == WORK:
            self._start(command, self._children.work)
        elif command == STATS_ON:
            self._enable_stats()
        elif command == STATS_OFF:
            self._disable_stats()
        return command != b""

    def _start(self, command: bytes, child: Child) -> None:
        """Fork a child and pass the other end of its socket to the daemon."""
        if command == LOAD and any(started == LOAD for _, started in self._running.values()):
            self._control.send(FAILED + LOAD + b"a loader is already running")
            return
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        helper = os.getpid()
        pid = os.fork()
        if pid == 0:
            theirs.close()
            _run_child(lambda: self._child(child, ours, helper))
        ours.close()
        fd = os.pidfd_open(pid)
        self._running[fd] = (pid, command)
        self._poll.register(fd, select.POLLIN)
        socket.send_fds(self._control, [command], [theirs.fileno()])
        theirs.close()

    def _child(self, child: Child, channel: socket.socket, helper: int) -> None:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != helper:
            return
        self._control.close()
        self._disable_stats()
        for fd in self._running:
            os.close(fd)
        child(channel)

    def _reap(self, fd: int) -> None:
        pid, command = self._running.pop(fd)
        self._poll.unregister(fd)
        os.close(fd)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._control.send(ENDED + command + _STATUS.pack(status))

    def _enable_stats(self) -> None:
        if self._stats < 0:
            try:
                self._stats = syscall.enable_stats()
            except OSError as error:
                self._control.send(
                    FAILED + STATS_ON + f"the kernel keeps no program statistics: {error.strerror}".encode()
                )

    def _disable_stats(self) -> None:
        if self._stats >= 0:
            os.close(self._stats)
            self._stats = -1


def parse_end(message: bytes) -> tuple[bytes, int]:
    """Of an `ENDED` message: the byte that had started the child, and its exit code (negative: the signal)."""
    return message[1:2], _STATUS.unpack(message[2:])[0]


def _run_child(body: Callable[[], None]) -> None:
    """The whole life of a forked child: never returns into the parent's code."""
    code = 1
    try:
        body()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # noqa: BLE001 - nobody above us could report it
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
