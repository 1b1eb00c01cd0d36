"""Names of cgroups: the path of the directory that a kernel cgroup id belongs to.

The BPF side knows the directory's inode number and the last three parts of its path. The full path is found in the
mounted hierarchy, first where those parts say, else by walking it. Walks and checks whether directories still
exist touch the file system and are therefore `chores`, done between readings and not in one.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_NAME_BYTES = 63
"""Longest name the BPF side keeps; one of this length may be cut off."""

_ROOT_INODE = 1
"""Inode of the root of a hierarchy; another one is seen inside a cgroup namespace."""


@dataclass(frozen=True, slots=True)
class CgroupIdentity:
    """What the BPF side knows about a cgroup."""

    serial: int
    """`css.serial_nr`: unique for the time the machine is up."""
    inode: int
    level: int
    """Depth below the root of the hierarchy, which is level 0."""
    names: tuple[str, str, str]
    """Grandparent's, parent's and own name; empty where there is none."""


@dataclass(slots=True)
class _Entry:
    identity: CgroupIdentity
    path: str | None = None
    """Relative to the root of the hierarchy; None when it is not known."""
    fallback: bool = False
    """A walk did not find the directory: the name is made of what the BPF side knows."""
    absent: int = 0
    """How often `advance` found it marked as removed."""
    removed: bool = False


class CgroupNames:
    """Resolves cgroup identities to names and notices when their directories are gone.

    `root` is the mount point of the hierarchy with the cpu controller; None when there is none, then all names are made of
    the parts the kernel gave. Blocking file system work is done in `chores` only, which may run in another thread.
    """

    def __init__(
        self,
        root: str | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        walk_seconds: float = 1.0,
        walk_limit: int = 20_000,
    ) -> None:
        self._root = root
        self._clock = clock
        self._walk_seconds = walk_seconds
        self._walk_limit = walk_limit
        self._entries: dict[int, _Entry] = {}
        self._lock = threading.Lock()
        self._next_chores = 0.0
        self._namespaced = root is None or _inode(root) != _ROOT_INODE
        self.generation = 0
        """Changes whenever a name became known or a cgroup went away."""

    def name(self, identity: CgroupIdentity) -> str | None:
        """The label `name`, or None while it is looked for and after the directory is gone."""
        with self._lock:
            entry = self._entries.get(identity.serial)
            if entry is None:
                entry = _Entry(identity, path=self._guess(identity))
                entry.fallback = entry.path is None and self._root is None
                self._entries[identity.serial] = entry
            if entry.removed:
                return None
            if entry.path is not None:
                return unescape(entry.path)
            return fallback_name(identity) if entry.fallback else None

    def identity(self, serial: int) -> CgroupIdentity | None:
        """What was said of the cgroup of this serial number."""
        with self._lock:
            entry = self._entries.get(serial)
        return None if entry is None else entry.identity

    def advance(self) -> None:
        """Once per reading: a cgroup found removed has had its last reading when this is called the second time."""
        with self._lock:
            for entry in self._entries.values():
                if entry.absent and not entry.removed:
                    entry.absent += 1
                    if entry.absent > 2:
                        entry.removed = True
                        self.generation += 1

    def retain(self, serials: set[int]) -> None:
        """Forget all cgroups but these: their ids were given to others."""
        with self._lock:
            for serial in self._entries.keys() - serials:
                del self._entries[serial]

    @property
    def due(self) -> bool:
        """Whether `chores` has something to do now."""
        return self._root is not None and bool(self._entries) and self._clock() >= self._next_chores

    def chores(self) -> None:
        """Look for unnamed directories and check that the named ones exist; blocking, at a bounded rate."""
        if not self.due or self._root is None:
            return
        self._next_chores = self._clock() + self._walk_seconds
        with self._lock:
            entries = list(self._entries.values())
        unnamed = [e for e in entries if e.path is None and not e.fallback]
        found = self._walk({e.identity.inode for e in unnamed}) if unnamed else {}
        gone = [e for e in entries if e.path is not None and not self._exists(e)]
        with self._lock:
            for entry in unnamed:
                entry.path = found.get(entry.identity.inode)
                entry.fallback = entry.path is None
                self.generation += 1
                # Not below the real root: it died before it could be named.
                if entry.fallback and not self._namespaced:
                    entry.absent = 1
            for entry in gone:
                entry.absent = entry.absent or 1

    def _guess(self, identity: CgroupIdentity) -> str | None:
        """The path when the three names are all of it and the directory there has the right inode."""
        if identity.level == 0:
            return "/"
        parts = [part for part in identity.names if part][-identity.level :]
        whole = identity.level <= len(identity.names) and len(parts) == identity.level
        if self._root is None or not whole or any(len(p.encode()) >= _NAME_BYTES for p in parts):
            return None
        path = "/" + "/".join(parts)
        return path if _inode(self._root + path) == identity.inode else None

    def _exists(self, entry: _Entry) -> bool:
        return entry.path == "/" or _inode(f"{self._root}{entry.path}") == entry.identity.inode

    def _walk(self, wanted: set[int]) -> dict[int, str]:
        """Paths of the directories with these inodes; stops when all are found or at the limit."""
        found: dict[int, str] = {}
        pending = [""]
        visited = 0
        while pending and visited < self._walk_limit and len(found) < len(wanted):
            path = pending.pop()
            visited += 1
            try:
                with os.scandir(f"{self._root}{path}/") as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(f"{path}/{entry.name}")
                            if entry.inode() in wanted:
                                found[entry.inode()] = f"{path}/{entry.name}"
            except OSError:  # removed while we walk
                continue
        return found


def _inode(path: str) -> int | None:
    try:
        return os.stat(path, follow_symlinks=False).st_ino
    except OSError:
        return None


def unescape(name: str) -> str:
    r"""Undo what systemd does to a `-` inside a unit name, which it writes as `\x2d`."""
    return name.replace("\\x2d", "-")


def fallback_name(identity: CgroupIdentity) -> str:
    """The name in Rezolus' form, from the last three parts of the path: `/gp/p/n`, `.../gp/p/n`, `/p/n`, `/n`."""
    if identity.level == 0:
        return "/"
    parts = [part for part in identity.names if part][-identity.level :]
    prefix = "..." if identity.level > 3 else ""
    return unescape(f"{prefix}/{'/'.join(parts)}")


def find_hierarchy(mounts: str) -> str | None:
    """Mount point of the hierarchy with the cpu controller, from the text of `/proc/self/mounts`.

    A v1 hierarchy with `cpu` wins: where it is mounted, the unified one does not have the controller.
    """
    unified = None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        where = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1])
        if fields[2] == "cgroup" and "cpu" in fields[3].split(","):
            return where
        if fields[2] == "cgroup2":
            unified = unified or where
    return unified
