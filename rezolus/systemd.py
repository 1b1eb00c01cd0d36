"""Telling the service manager how far we are (the `sd_notify` protocol; nothing happens where nobody listens)."""

from __future__ import annotations

import contextlib
import os
import socket
import time


def notify(*states: str) -> bool:
    """Send `READY=1`, `STOPPING=1`, `STATUS=...`, ... as one message; false when nobody asked for it or it cannot be told."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)  # a manager that does not read must not hold us up
        sender.connect(address)
        sender.sendall("\n".join(states).encode())
        return True
    return False


def notify_reloading() -> bool:
    """Say that a reload begins; it ends with `READY=1`. The time tells the manager's own requests from older ones."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_s() -> float | None:
    """After how many seconds without `WATCHDOG=1` the manager kills this process; None when it does not watch it."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None
