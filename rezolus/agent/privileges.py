"""Giving up root: the process that faces the network keeps no user, group or capability of it."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rezolus.errors import UserError

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_NAME = 15
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

_CAPSET = {"x86_64": 126, "aarch64": 91, "riscv64": 91, "s390x": 185}


@dataclass(frozen=True, slots=True)
class Account:
    """Who to become."""

    name: str
    uid: int
    gid: int


class PrivilegeError(UserError):
    """Privileges cannot be given up or a file cannot be handed to the unprivileged user; the text says what to do."""


def find_account(name: str, fallback: str = "nobody") -> tuple[Account, str | None]:
    """The account called `name`, else `fallback` with a warning; PrivilegeError when it is root or neither exists."""
    warning = None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        warning = (
            f"agent.user: there is no user {name!r}, running as {fallback!r}; "
            f"create it with: useradd --system --shell /usr/sbin/nologin {name}"
        )
        try:
            entry = pwd.getpwnam(fallback)
        except KeyError:
            raise PrivilegeError(f"agent.user: neither the user {name!r} nor {fallback!r} exists") from None
    if entry.pw_uid == 0:
        raise PrivilegeError("agent.user: must not be root, the agent listens on the network")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid), warning


def find_group(name: str) -> int:
    """The group called `name`, to which a socket file is given; PrivilegeError when it is root's or does not exist."""
    try:
        found = grp.getgrnam(name).gr_gid
    except KeyError:
        raise PrivilegeError(
            f"agent.external.group: there is no group {name!r}; create it with: groupadd --system {name}"
        ) from None
    if found == 0:
        raise PrivilegeError("agent.external.group: must not be root's, of which the agent keeps nothing")
    return found


def drop_privileges(account: Account, groups: Sequence[int] = ()) -> None:
    """Become `account` for good: no groups but these, no capabilities (bounding set included), no way to get any.

    To be called by root in a process with one thread; raises PrivilegeError when anything is left over.
    """
    try:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        capability = 0
        while _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
            _prctl(_PR_CAPBSET_DROP, capability)
            capability += 1
        _prctl(_PR_SET_KEEPCAPS, 0)
        os.setgroups(groups)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
        clear_capabilities()
        forbid_new_privileges()
    except OSError as error:
        raise PrivilegeError(f"cannot become user {account.name!r}: {error.strerror}") from error
    if not unprivileged():
        raise PrivilegeError(f"user {account.name!r} still has capabilities")


def forbid_new_privileges() -> None:
    """From now on no program that this process starts can gain any."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def unprivileged() -> bool:
    """Whether this process is no root and has no capability it could use, as the kernel says."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    return os.getuid() != 0 and all(int(status.get(name, "0"), 16) == 0 for name in sets)


def clear_capabilities() -> None:
    """Empty the permitted, effective and inheritable sets of this thread."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    if _libc.syscall(ctypes.c_long(_CAPSET[os.uname().machine]), header, data) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def die_with_parent(signal: int) -> None:
    """Get `signal` when the parent process dies."""
    _prctl(_PR_SET_PDEATHSIG, signal)


def name_process(name: str) -> None:
    """What `ps -o comm` shows, at most 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _prctl(_PR_SET_NAME, ctypes.addressof(buffer))


def raise_file_limit() -> None:
    """Allow as many open files as the hard limit does: every map, program, link and source is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _prctl(option: int, argument: int = 0) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


_libc = ctypes.CDLL(None, use_errno=True)
