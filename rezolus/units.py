"""Durations, sizes and addresses as people write them, to and from numbers; measured values as people read them."""

from __future__ import annotations

import ipaddress
import os
import re

import msgspec

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DURATION = re.compile(r"(?:\d+(?:ns|us|ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+)(ns|us|ms|s|m|h|d)", re.ASCII)
_SIZE = re.compile(r"(\d+)(B|KiB|MiB|GiB|TiB)", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_I64_MAX = 2**63 - 1


def parse_duration(text: str) -> int:
    """Nanoseconds of `1s`, `100ms`, `15m`, `1h30m`; ValueError for anything else or more than 292 years."""
    if not _DURATION.fullmatch(text):
        raise ValueError(text)
    total = sum(int(number) * _NANOSECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    if total > _I64_MAX:
        raise ValueError(text)
    return total


_HUMAN_UNITS = {
    "ns": ("nanos", "nsec", "ns"),
    "us": ("micros", "usec", "us", "µs"),
    "ms": ("millis", "msec", "ms"),
    "s": ("seconds", "second", "secs", "sec", "s"),
    "m": ("minutes", "minute", "mins", "min", "m"),
    "h": ("hours", "hour", "hrs", "hr", "h"),
    "d": ("days", "day", "d"),
}
_HUMAN_NANOSECONDS = {name: _NANOSECONDS[unit] for unit, names in _HUMAN_UNITS.items() for name in names} | {
    **dict.fromkeys(("weeks", "week", "wks", "wk", "w"), 7 * _NANOSECONDS["d"]),
    **dict.fromkeys(("months", "month", "M"), 2_630_016 * _NANOSECONDS["s"]),
    **dict.fromkeys(("years", "year", "yrs", "yr", "y"), 31_557_600 * _NANOSECONDS["s"]),
}
_HUMAN = re.compile(r"\s*([0-9]+)\s*([A-Za-zµ]+)")


def parse_humantime(text: str) -> int:
    """Nanoseconds of a duration as Rezolus takes it: `1h 30m`, `15min`, `2 days`, and all that `parse_duration` takes.

    A month has 30.44 days and a year 365.25. ValueError for anything else or more than 292 years.
    """
    total = at = 0
    while at < len(text.rstrip()):
        part = _HUMAN.match(text, at)
        if part is None or part[2] not in _HUMAN_NANOSECONDS:
            raise ValueError(text)
        total += int(part[1]) * _HUMAN_NANOSECONDS[part[2]]
        at = part.end()
    if at == 0 or total > _I64_MAX:
        raise ValueError(text)
    return total


def format_duration(nanoseconds: int) -> str:
    """The shortest text that `parse_duration` reads back as the same number: `1h30m`, `100ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    parts = []
    for unit, scale in reversed(_NANOSECONDS.items()):
        count, nanoseconds = divmod(nanoseconds, scale)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_size(text: str) -> int:
    """Bytes of `64MiB`, `4KiB`, `100B`; ValueError for anything else."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    total = int(match[1]) * _BYTES[match[2]]
    if total > _I64_MAX:
        raise ValueError(text)
    return total


_TIMES = ((10**9, "s"), (10**6, "ms"), (10**3, "us"), (1, "ns"))
_SIZES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
_COUNTS = ((10**12, "T"), (10**9, "G"), (10**6, "M"))


def format_amount(value: float, unit: str, *, space: str = " ") -> str:
    """A measured value in three digits: `1.24 ms` for `nanoseconds`, `64 KiB` for `bytes`, `22,862` or `1.5 M` for others.

    `space` stands between the number and its scale.
    """
    if unit == "nanoseconds":
        return _scaled(value, _TIMES, space)
    if unit == "bytes":
        return _scaled(value, _SIZES, space)
    if abs(value) < _COUNTS[-1][0]:
        return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return _scaled(value, _COUNTS, space)


def _scaled(value: float, scales: tuple[tuple[int, str], ...], space: str) -> str:
    """With the largest scale that leaves at least 1 before the point after rounding."""
    factor, name = next((scale for scale in scales if round(abs(value), 9) >= 0.9995 * scale[0]), scales[-1])
    number = value / factor
    text = f"{number:,.0f}" if abs(number) >= 99.95 or number == int(number) else f"{number:.3g}"
    return f"{text}{space}{name}"


class Address(msgspec.Struct, frozen=True, tag="tcp"):
    """Where a server listens."""

    host: str
    """An IPv4 or IPv6 address without brackets, or a host name."""
    port: int
    """0 for any free port."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def address_url(address: Address) -> str:
    """Where to reach a server that listens there: an address that stands for any of the host's becomes loopback's."""
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not listened on
    return f"http://{msgspec.structs.replace(address, host=anywhere.get(address.host, address.host))}"


class UnixAddress(msgspec.Struct, frozen=True, tag="unix"):
    """A socket file where a server listens."""

    path: str
    """Absolute."""

    def __str__(self) -> str:
        return f"unix:{self.path}"

    @property
    def is_loopback(self) -> bool:
        """Only this host can reach it."""
        return True


MAX_SOCKET_PATH = 107
"""Longest name of a socket file, bytes (`sun_path` without its end)."""


def parse_listen(text: str) -> Address | UnixAddress:
    """As `parse_address`, or `unix:/run/rezolus/agent.sock`; ValueError for anything else."""
    kind, _, path = text.partition(":")
    return parse_unix(path) if kind == "unix" else parse_address(text)


def parse_unix(path: str) -> UnixAddress:
    """The name of a socket file, absolute and not longer than the kernel takes; ValueError for anything else."""
    if not path.startswith("/") or path.endswith("/") or len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ValueError(path)
    return UnixAddress(path)


def parse_address(text: str) -> Address:
    """`127.0.0.1:4241`, `[::1]:4241` or `localhost:4241`; ValueError for anything else.

    The host must be there: listening on all interfaces takes a written `0.0.0.0` or `[::]`.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdecimal() or int(port) > 0xFFFF:
        raise ValueError(text)
    if host.startswith("[") and host.endswith("]"):
        return Address(str(ipaddress.IPv6Address(host[1:-1])), int(port))
    if re.fullmatch(r"[0-9.]+", host):
        return Address(str(ipaddress.IPv4Address(host)), int(port))
    if not _HOST_NAME.fullmatch(host):
        raise ValueError(text)
    return Address(host.lower(), int(port))
