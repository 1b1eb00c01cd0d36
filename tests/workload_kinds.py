"""What a `tests.workloads.Worker` can do. Each function returns what it knows about its own work, for JSON."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import socket
import struct
import time
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_SLEEP = time.sleep  # noqa: TID251 - the sleep is what is measured


def nothing() -> None:
    """Answer."""


def system_calls(count: int) -> None:
    """Call getppid."""
    for _ in range(count):
        os.getppid()


def sleeps(count: int, seconds: float) -> dict[str, int]:
    """Sleep by clock_nanosleep."""
    begin = time.perf_counter_ns()
    for _ in range(count):
        _SLEEP(seconds)
    return {"ns": time.perf_counter_ns() - begin}


def delayed_reads(count: int, seconds: float) -> dict[str, int]:
    """Read from a pipe that another process writes to after a time."""
    reader, writer = os.pipe()
    begin = time.perf_counter_ns()
    for _ in range(count):
        child = os.fork()
        if child == 0:
            _SLEEP(seconds)
            os.write(writer, b"x")
            os._exit(0)
        os.read(reader, 1)
        os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    return {"ns": time.perf_counter_ns() - begin}


def hog(seconds: float) -> dict[str, int]:
    """Use the CPU for so much CPU time, in user space."""
    end = time.process_time_ns() + round(seconds * 1e9)
    begin = time.perf_counter_ns()
    while time.process_time_ns() < end:
        sum(range(20_000))  # asking for the time is a system call
    return {"ns": time.perf_counter_ns() - begin}


def kernel_hog(seconds: float) -> None:
    """Use the CPU for so much CPU time, nearly all of it in the kernel."""
    end = time.process_time_ns() + round(seconds * 1e9)
    with open("/dev/zero", "rb", buffering=0) as zeros, mmap.mmap(-1, 1 << 22) as target:
        while time.process_time_ns() < end:
            zeros.readinto(target)


def pass_a_byte(rounds: int) -> None:
    """Two processes, the caller and a child, hand a byte to and fro."""
    there, back = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        for _ in range(rounds):
            os.read(there[0], 1)
            os.write(back[1], b"x")
        os._exit(0)
    for _ in range(rounds):
        os.write(there[1], b"x")
        os.read(back[0], 1)
    os.waitpid(child, 0)
    for fd in (*there, *back):
        os.close(fd)


def short_lived(count: int, milliseconds: float) -> dict[str, float]:
    """Processes that use a little CPU time and end, one after the other; what the kernel says they used."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(count):
        child = os.fork()
        if child == 0:
            end = time.process_time_ns() + round(milliseconds * 1e6)
            while time.process_time_ns() < end:
                pass
            os._exit(0)
        os.waitpid(child, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def migrate(count: int) -> None:
    """Move to another CPU so many times."""
    allowed = sorted(os.sched_getaffinity(0))
    for turn in range(count):
        os.sched_setaffinity(0, {allowed[turn % 2]})
    os.sched_setaffinity(0, allowed)


def change_protection(count: int) -> None:
    """Take write permission from a page that was written and give it back: the TLB must forget the page each time."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        for _ in range(count):
            _protect(address, mmap.PROT_READ | mmap.PROT_WRITE)
            ctypes.memset(address, 1, 1)
            _protect(address, mmap.PROT_READ)
        _protect(address, mmap.PROT_READ | mmap.PROT_WRITE)


def _protect(address: int, protection: int) -> None:
    if _LIBC.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, protection):
        raise OSError(ctypes.get_errno(), "mprotect")


def run_programs(count: int, program: str) -> None:
    """Fork and execute a program so many times."""
    for _ in range(count):
        child = os.fork()
        if child == 0:
            os.execv(program, [program])
        os.waitpid(child, 0)


def fork_only(count: int) -> None:
    """Processes that end without executing anything."""
    for _ in range(count):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)


def write_device(path: str, count: int, size: int) -> dict[str, int]:
    """Write past the page cache, then flush the device."""
    flags = os.O_WRONLY | os.O_DIRECT
    with mmap.mmap(-1, size) as data:  # direct I/O wants memory at a page's boundary
        data.write(b"r" * size)
        fd = os.open(path, flags)
        begin = time.perf_counter_ns()
        for number in range(count):
            os.pwrite(fd, data, number * size)
        spent = time.perf_counter_ns() - begin
        os.fsync(fd)
        os.close(fd)
    return {"ns": spent}


def read_device(path: str, count: int, size: int) -> dict[str, int]:
    """Read past the page cache."""
    with mmap.mmap(-1, size) as data:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        begin = time.perf_counter_ns()
        for number in range(count):
            os.preadv(fd, [data], number * size)
        spent = time.perf_counter_ns() - begin
        os.close(fd)
    return {"ns": spent}


def discard_device(path: str, count: int, size: int) -> None:
    """Have the device forget ranges."""
    blkdiscard = 0x1277
    fd = os.open(path, os.O_WRONLY)
    for number in range(count):
        fcntl.ioctl(fd, blkdiscard, struct.pack("=QQ", number * size, size))
    os.close(fd)


def bring_up(interface: str) -> None:
    """Set IFF_UP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = bytearray(struct.pack("16sH14x", interface.encode(), 0))
        fcntl.ioctl(control, 0x8913, request)  # SIOCGIFFLAGS
        flags = struct.unpack_from("H", request, 16)[0] | 1
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", interface.encode(), flags))  # SIOCSIFFLAGS


def _pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, accepted


def tcp_transfer(count: int, size: int) -> None:
    """Send `count` times `size` bytes over one connection; each is taken whole by one receiving call."""
    sender, receiver = _pair()
    data = b"r" * size
    for _ in range(count):
        assert sender.send(data) == size
        # MSG_WAITALL gathers what arrives in several segments into one call.
        assert len(receiver.recv(size, socket.MSG_WAITALL)) == size
    sender.close()
    receiver.close()


def tcp_peek(count: int, size: int) -> None:
    """Look at received data without taking it, then take it."""
    sender, receiver = _pair()
    for _ in range(count):
        sender.send(b"r" * size)
        assert len(receiver.recv(size, socket.MSG_PEEK | socket.MSG_WAITALL)) == size
        assert len(receiver.recv(size, socket.MSG_WAITALL)) == size
    sender.close()
    receiver.close()


def tcp_late_reader(count: int, seconds: float) -> dict[str, int]:
    """Data that lies there for a while before it is read; the longest from sending to having read."""
    sender, receiver = _pair()
    longest = 0
    for _ in range(count):
        begin = time.perf_counter_ns()
        sender.send(b"first")
        _SLEEP(seconds / 2)
        sender.send(b"second")
        _SLEEP(seconds / 2)
        receiver.recv(64)
        longest = max(longest, time.perf_counter_ns() - begin)
    sender.close()
    receiver.close()
    return {"longest_ns": longest}


def tcp_connects(count: int) -> dict[str, int]:
    """Connections that are taken, and as many that are refused; how long the longest took."""
    longest = 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(count):
            begin = time.perf_counter_ns()
            client = socket.create_connection(server.getsockname())
            longest = max(longest, time.perf_counter_ns() - begin)
            server.accept()[0].close()
            client.close()
        nobody = server.getsockname()
    for _ in range(count):
        begin = time.perf_counter_ns()
        with socket.socket() as refused:
            assert refused.connect_ex(nobody) != 0
        longest = max(longest, time.perf_counter_ns() - begin)
    return {"longest_ns": longest}


_KEPT: dict[str, socket.socket] = {}
"""Sockets that stay from one call to the next."""


def tcp_listen(address: str) -> dict[str, int]:
    """A listener that stays; its port."""
    server = _KEPT["server"] = socket.create_server((address, 0))
    return {"port": server.getsockname()[1]}


def tcp_accept() -> None:
    """Take a connection, which stays."""
    _KEPT["peer"], _ = _KEPT["server"].accept()


def tcp_connect(address: str, port: int) -> dict[str, int]:
    """A connection that stays; how long it took to establish."""
    begin = time.perf_counter_ns()
    client = _KEPT["client"] = socket.create_connection((address, port))
    spent = time.perf_counter_ns() - begin
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return {"ns": spent}


def tcp_send(size: int) -> dict[str, Any]:
    """Send over the connection that stays."""
    return {"sent": _KEPT["client"].send(b"r" * size)}


def tcp_echo(count: int, size: int) -> dict[str, list[int]]:
    """Pass data to and fro on one connection; the smoothed round-trip time and its deviation after each, in us."""
    sender, receiver = _pair()
    rtt, deviation = [], []
    for _ in range(count):
        for one, other in ((sender, receiver), (receiver, sender)):
            one.send(b"r" * size)
            other.recv(size, socket.MSG_WAITALL)
            now = _info(one, 68, 72)
            rtt.append(now[0])
            deviation.append(now[1])
    sender.close()
    receiver.close()
    return {"rtt_us": rtt, "deviation_us": deviation}


def tcp_retransmits() -> dict[str, int]:
    """Of the connection that stays: segments sent again, and bytes not yet acknowledged."""
    total, unacknowledged = _info(_KEPT["client"], 100, 24)
    return {"segments": total, "unacknowledged": unacknowledged}


def _info(connection: socket.socket, *offsets: int) -> list[int]:
    """Members of `struct tcp_info` (include/uapi/linux/tcp.h), 32 bits each."""
    data = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return [int(struct.unpack_from("=I", data, offset)[0]) for offset in offsets]


def udp_flood(count: int, size: int, address: str = "", port: int = 0) -> None:
    """Send datagrams; without an address to a socket here with a small buffer that nobody reads."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        receiver.bind(("127.0.0.1", 0))
        target = (address, port) if address else receiver.getsockname()
        for _ in range(count):
            sender.sendto(b"r" * size, target)


def fill_memory(mebibytes: int) -> None:
    """Use memory until it is enough, or until the kernel objects."""
    held = []
    for _ in range(mebibytes):
        page = mmap.mmap(-1, 1 << 20)
        page.write(b"r" * (1 << 20))
        held.append(page)


def failing_reads(path: str, count: int, size: int) -> dict[str, int]:
    """Read past the page cache and count the I/O errors."""
    failed = 0
    with mmap.mmap(-1, size) as data:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        for number in range(count):
            try:
                os.preadv(fd, [data], number * size)
            except OSError:
                failed += 1
        os.close(fd)
    return {"failed": failed}
