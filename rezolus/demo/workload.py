"""A small workload of everything the agent measures: processes, disk, loopback TCP, system calls.

`python -m rezolus.demo.workload SECONDS FOLDER` does it for so long and prints as JSON what it counted itself, which
is what the recording is compared with. Each part runs in a thread of its own at its own gentle pace; the calls that
matter release the interpreter's lock.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

BLOCK = 64 << 10
"""Bytes per write and per TCP message."""


class Tally(msgspec.Struct):
    """What the workload did, counted by itself."""

    seconds: float = 0.0
    processes: int = 0
    disk_bytes: int = 0
    disk_syncs: int = 0
    tcp_bytes: int = 0
    """Sent; the same number is received."""
    tcp_connections: int = 0
    system_calls: int = 0
    """Calls of `getppid`, which nobody else makes often."""


def spawn_processes(stop: threading.Event, tally: Tally) -> None:
    """Starts a program that ends at once, again and again."""
    program = "/bin/true"
    while not stop.wait(0.02):
        pid = os.posix_spawn(program, [program], os.environ)
        os.waitpid(pid, 0)
        tally.processes += 1


def write_files(stop: threading.Event, tally: Tally, folder: Path) -> None:
    """Writes blocks of noise, each forced to the disk, and reads them back past the page cache where it can."""
    noise = random.Random(1).randbytes(BLOCK)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        while not stop.wait(0.005):
            block = tally.disk_syncs % 64
            os.pwrite(file.fileno(), noise, block * BLOCK)
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), block * BLOCK, BLOCK, os.POSIX_FADV_DONTNEED)
            os.pread(file.fileno(), BLOCK, block * BLOCK)
            tally.disk_bytes += BLOCK
            tally.disk_syncs += 1


def talk_to_itself(stop: threading.Event, tally: Tally) -> None:
    """Opens loopback connections one after the other and sends blocks through each until the other side has them all."""
    message = bytes(BLOCK)
    with socket.create_server(("127.0.0.1", 0)) as server:
        while not stop.wait(0.01):
            with socket.create_connection(server.getsockname()) as client, server.accept()[0] as peer:
                tally.tcp_connections += 1
                reader = threading.Thread(target=_drain, args=(peer,))
                reader.start()
                for _ in range(8):
                    client.sendall(message)
                    tally.tcp_bytes += len(message)
                client.shutdown(socket.SHUT_WR)
                reader.join()


def _drain(connection: socket.socket) -> None:
    while connection.recv(BLOCK):
        pass


def call_the_kernel(stop: threading.Event, tally: Tally) -> None:
    """Asks for the parent's process id in bursts: a system call and nothing else."""
    while not stop.wait(0.01):
        for _ in range(200):
            os.getppid()
        tally.system_calls += 200


def run(seconds: float, folder: Path) -> Tally:
    """Does everything at once for `seconds`, with files in `folder`; raises the first error of any part."""
    stop = threading.Event()
    tally = Tally(seconds=seconds)
    errors: list[Exception] = []
    parts: tuple[Callable[[], None], ...] = (
        lambda: spawn_processes(stop, tally),
        lambda: write_files(stop, tally, folder),
        lambda: talk_to_itself(stop, tally),
        lambda: call_the_kernel(stop, tally),
    )

    def guarded(part: Callable[[], None]) -> None:
        try:
            part()
        except Exception as error:  # noqa: BLE001 - handed to the caller below
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=guarded, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return tally


def main() -> None:
    """Runs the workload that the command line asks for."""
    tally = run(float(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write(msgspec.json.encode(tally).decode() + "\n")


if __name__ == "__main__":
    main()
