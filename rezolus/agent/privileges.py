"""Giving up root: the process that faces the network keeps no user, group or capability of it."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import stat
from dataclasses import dataclass
from pathlib import Path

from rezolus.errors import UserError
from rezolus.recording.output import replaceable

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


def drop_privileges(account: Account) -> None:
    """Become `account` for good: no other groups, no capabilities (bounding set included), no way to get any.

    To be called by root in a process with one thread; raises PrivilegeError when anything is left over.
    """
    try:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        capability = 0
        while _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
            _prctl(_PR_CAPBSET_DROP, capability)
            capability += 1
        _prctl(_PR_SET_KEEPCAPS, 0)
        os.setgroups([])
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


def prepare_output(path: Path, uid: int, gid: int) -> None:
    """Make the file `path` one that `uid` can write; called by root before it gives up its privileges.

    Missing directories are made and given to `uid`; an existing directory is left as it is, the file in it
    made and given away. Links are not followed, files of third users and what is no recording not touched. PrivilegeError says what is
    in the way.
    """
    directory = path.parent
    try:
        prepare_directory(directory, uid, gid)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise PrivilegeError(f"{path}: cannot be written: {(error.strerror or '').lower()}") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise PrivilegeError(f"{path}: is not a regular file")
        if found.st_uid not in (0, os.geteuid(), uid) or found.st_nlink != 1:
            raise PrivilegeError(f"{path}: belongs to another user or has several names; choose another path")
        if not replaceable(fd):
            raise PrivilegeError(f"{path}: exists and is no Parquet file; remove it or choose another path")
        os.fchown(fd, uid, gid)
    finally:
        os.close(fd)
    blocking = first_closed_directory(directory, uid, gid)
    if blocking is not None:
        user = _user_name(uid)
        raise PrivilegeError(
            f"{path}: user {user!r} cannot enter {blocking.absolute()}; choose a path it can reach, such as /var/lib/rezolus"
        )


def prepare_folder(path: Path, uid: int, gid: int) -> None:
    """Make the directory `path` one that `uid` can work in. PrivilegeError says what is in the way."""
    try:
        prepare_directory(path, uid, gid)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid(), uid):
            raise PrivilegeError(f"{path}: is not a directory of ours; remove it or choose another path")
        os.chown(path, uid, gid, follow_symlinks=False)
    except OSError as error:
        raise PrivilegeError(f"{path}: cannot be made: {(error.strerror or '').lower()}") from error


def prepare_socket(path: Path, uid: int, gid: int) -> None:
    """Let `uid` make a socket at `path`. PrivilegeError says what is in the way.

    A directory that is missing is made and given away, and so is one of root's with nothing in it, as a service manager makes for
    a service. Any other is left as it is.
    """
    directory = path.parent
    try:
        prepare_directory(directory, uid, gid)
        found = directory.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not any(directory.iterdir()):
            os.chown(directory, uid, gid, follow_symlinks=False)
    except OSError as error:
        raise PrivilegeError(f"{directory}: cannot be made: {(error.strerror or '').lower()}") from error


def prepare_directory(path: Path, uid: int, gid: int) -> None:
    """Make the missing directories of `path` and give those made to `uid`; raises OSError."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode=0o755)
        os.chown(directory, uid, gid, follow_symlinks=False)


def first_closed_directory(path: Path, uid: int, gid: int) -> Path | None:
    """The first directory on the way to `path`, itself included, that this user without other groups cannot enter.

    Of a relative path only its own parts count: who is in the working directory need not be able to get there.
    """
    for directory in (*reversed(path.parents), path):
        found = directory.stat()
        shift = 6 if found.st_uid == uid else 3 if found.st_gid == gid else 0
        if not found.st_mode >> shift & 1:
            return directory
    return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _prctl(option: int, argument: int = 0) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


_libc = ctypes.CDLL(None, use_errno=True)
