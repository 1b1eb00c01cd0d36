"""Telling the service manager how far we are (the `sd_notify` protocol; nothing happens where nobody listens)."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> bool:
    """Send `READY=1`, `STOPPING=1`, `STATUS=...`; false when no service manager asked for it or it does not answer."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(address)
        sender.sendall(state.encode())
        return True
    return False
