"""Frames of the binary protocol, as a program writes them that pushes."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence


def labels_of(labels: Mapping[str, str]) -> bytes:
    texts = [text.encode() for pair in labels.items() for text in pair]
    return struct.pack("<H", len(labels)) + b"".join(bytes([len(text)]) + text for text in texts)


def whose(name: str, labels: Mapping[str, str]) -> bytes:
    return struct.pack("<H", len(name.encode())) + name.encode() + labels_of(labels)


def session(labels: Mapping[str, str]) -> bytes:
    return b"\0" + labels_of(labels)


def counter(name: str, value: int, **labels: str) -> bytes:
    return b"\1" + struct.pack("<Q", value) + whose(name, labels)


def gauge(name: str, value: int, **labels: str) -> bytes:
    return b"\2" + struct.pack("<q", value) + whose(name, labels)


def histogram(name: str, power: int, max_power: int, buckets: Sequence[int], **labels: str) -> bytes:
    head = struct.pack("<BBH", power, max_power, len(buckets))
    return b"\3" + head + struct.pack(f"<{len(buckets)}Q", *buckets) + whose(name, labels)


def frame(*messages: bytes, magic: bytes = b"REZL", major: int = 1, count: int | None = None) -> bytes:
    body = b"".join(messages)
    return struct.pack("<4sBBHI", magic, major, 0, len(messages) if count is None else count, len(body)) + body
