"""FNV-1a over 128 bits: how the schemas of a V3 snapshot are told apart."""

from __future__ import annotations

_BASIS = 0x6C62272E07BB014262B821756295C58D
_PRIME = 0x0000000001000000000000000000013B
_MASK = (1 << 128) - 1


def fnv1a_128(data: bytes) -> tuple[int, int]:
    """The hash as its upper and lower 64 bits."""
    value = _BASIS
    for byte in data:
        value = (value ^ byte) * _PRIME & _MASK
    return value >> 64, value & 0xFFFFFFFFFFFFFFFF
