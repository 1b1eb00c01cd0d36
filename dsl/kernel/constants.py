"""Numbers that kernel sources name by macros, which BTF does not hold.

Values of the kernel's UAPI, the same on every architecture served.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType

_ERRNO_LIMIT = 134
"""Numbers past this differ between architectures or are not errors of Linux."""

_TASK = {"TASK_RUNNING": 0, "TASK_INTERRUPTIBLE": 1, "TASK_UNINTERRUPTIBLE": 2}

_SOCKETS = {
    "AF_UNSPEC": 0,
    "AF_UNIX": 1,
    "AF_INET": 2,
    "AF_INET6": 10,
    "AF_NETLINK": 16,
    "MSG_PEEK": 2,
    "IPPROTO_TCP": 6,
    "IPPROTO_UDP": 17,
}

# include/linux/blk_types.h: `#define BLK_STS_* ((__force blk_status_t)n)`
_BLOCK = {
    "BLK_STS_OK": 0,
    "BLK_STS_NOTSUPP": 1,
    "BLK_STS_TIMEOUT": 2,
    "BLK_STS_NOSPC": 3,
    "BLK_STS_TRANSPORT": 4,
    "BLK_STS_TARGET": 5,
    "BLK_STS_RESV_CONFLICT": 6,
    "BLK_STS_MEDIUM": 7,
    "BLK_STS_PROTECTION": 8,
    "BLK_STS_RESOURCE": 9,
    "BLK_STS_IOERR": 10,
}

_ERRNO = {name: number for name, number in vars(errno).items() if name[0] == "E" and number < _ERRNO_LIMIT}

CONSTANTS: Mapping[str, int] = MappingProxyType({**_ERRNO, **_TASK, **_SOCKETS, **_BLOCK})
