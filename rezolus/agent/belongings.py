"""What root makes for the unprivileged user: files and folders where that user may not make them itself.

It is done at the start and at every reload, when that user has long been running, may own a part of the way and be somebody
else's tool by then. So the way is walked directory by directory, each opened without following links and looked at
when it is open. Where the user can exchange what lies in a directory, root has nothing more to do and does nothing: the daemon
makes it itself. Before anything is made it is known that the user can get there.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rezolus.agent.privileges import Account, PrivilegeError
from rezolus.outputs import Outputs
from rezolus.recording.output import replaceable

_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS: Final = 40
"""So many links on a way are one that leads to itself, for the kernel as well."""


def prepare_outputs(outputs: Outputs, account: Account) -> None:
    """Make what sinks write, or the way to it, the account's; by root. Raises PrivilegeError."""
    for path in outputs.files:
        prepare_file(path, account)
    for path in outputs.folders:
        prepare_folder(path, account)
    for path in outputs.crowded:
        prepare_crowded(path, account)
    for path in outputs.sockets:
        prepare_socket(path, account)


def prepare_file(path: Path, account: Account) -> None:
    """Make the file `path` one that the account can write. PrivilegeError says what is in the way.

    Where the account cannot do so itself: missing folders are made and given to it; in a folder that exists and stays as it is,
    an empty file. Files of third users and what is no recording are not touched.
    """
    with _reached(path.parent, path, account) as place:
        if place.free or _made_missing(place, account):
            return
        try:
            creating = 0 if place.able else os.O_CREAT
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | creating
            fd = os.open(path.name, flags, 0o644, dir_fd=place.fd)
        except FileNotFoundError:
            return
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise PrivilegeError(f"{path}: is not a regular file")
        if found.st_uid not in (0, account.uid):
            raise PrivilegeError(f"{path}: {_foreign(path, found.st_uid, account)}")
        if found.st_nlink != 1:
            raise PrivilegeError(f"{path}: has several names; choose another path")
        if not replaceable(fd):
            raise PrivilegeError(f"{path}: exists and is no Parquet file; remove it or choose another path")
        os.fchown(fd, account.uid, account.gid)
    finally:
        os.close(fd)


def prepare_folder(path: Path, account: Account) -> None:
    """Make the folder `path` one that the account can work in. PrivilegeError says what is in the way."""
    with _reached(path, path, account) as place:
        if not (place.able or _made_missing(place, account) or _given_empty(place, account)):
            raise PrivilegeError(f"{path}: {_foreign(path, os.fstat(place.fd).st_uid, account)}")


def prepare_crowded(path: Path, account: Account) -> None:
    """Make the folder `path` if it is missing, for files with names not known yet. PrivilegeError when it is there and closed."""
    with _reached(path, path, account) as place:
        if not (place.able or _made_missing(place, account)):
            raise PrivilegeError(
                f"{path.absolute()}: user {account.name!r} cannot make files here, and each recording of a path with % in its name "
                "is a new one; choose a folder of that user's, such as /var/lib/rezolus"
            )


def prepare_socket(path: Path, account: Account) -> None:
    """Let the account make a socket at `path`. PrivilegeError says what is in the way.

    A folder that is missing is made and given away, and so is one of root's with nothing in it, as a service manager makes for
    a service. Any other is left as it is.
    """
    with _reached(path.parent, path, account) as place:
        if not (place.able or _made_missing(place, account)):
            _given_empty(place, account)


@dataclass(slots=True)
class _Place:
    """How far a way was walked."""

    fd: int
    """O_PATH of the directory."""
    shown: Path
    missing: Sequence[str] = ()
    """What does not exist behind it."""
    able: bool = False
    """The account can make new names in it."""
    free: bool = False
    """And exchange those of others."""

    def look(self, account: Account) -> None:
        """See what the account can do here."""
        found = os.fstat(self.fd)
        own = found.st_uid == account.uid
        self.able = own or _allows(found, account, 2)
        self.free = own or (self.able and not found.st_mode & stat.S_ISVTX)


@contextmanager
def _reached(way: Path, path: Path, account: Account) -> Iterator[_Place]:
    """The end of `way`, or the last directory of it before what is missing, or before what the account can exchange.

    Raises PrivilegeError, also for whatever OSError comes of using it.
    """
    try:
        start = way.anchor or "."
        place = _Place(os.open(start, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), Path(start).absolute())
        try:
            _walk(place, way.parts[1:] if way.anchor else way.parts, path, account)
            yield place
        finally:
            os.close(place.fd)
    except OSError as error:
        raise PrivilegeError(f"{path}: cannot be made: {(error.strerror or '').lower()}") from error


def _walk(place: _Place, parts: Sequence[str], path: Path, account: Account) -> None:
    rest = list(reversed(parts))
    links = 0
    place.look(account)
    while rest and not place.free:
        try:
            fd = os.open(rest[-1], _LOOK, dir_fd=place.fd)
        except FileNotFoundError:
            place.missing = tuple(reversed(rest))
            return
        name = rest.pop()
        found = os.fstat(fd)
        if not stat.S_ISLNK(found.st_mode):
            _go(place, fd, place.shown.parent if name == ".." else place.shown / name)
            if not stat.S_ISDIR(found.st_mode):
                raise PrivilegeError(f"{path}: {place.shown} is no directory")
            if not _allows(found, account, 1):
                raise PrivilegeError(
                    f"{path}: user {account.name!r} cannot enter {place.shown}; "
                    "choose a path it can reach, such as /var/lib/rezolus"
                )
            place.look(account)
            continue
        with _closing(fd):
            target = Path(os.readlink("", dir_fd=fd))
        links += 1
        if found.st_uid != 0 or links > _LINKS:
            owner = _name_of(found.st_uid)
            raise PrivilegeError(
                f"{path}: {place.shown / name} is a link of user {owner!r}, which root does not follow; write out where it leads"
            )
        if target.anchor:
            _go(place, os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), Path("/"))
            place.look(account)
        rest.extend(reversed(target.parts[1:] if target.anchor else target.parts))


def _go(place: _Place, fd: int, shown: Path) -> None:
    os.close(place.fd)
    place.fd, place.shown = fd, shown


def _made_missing(place: _Place, account: Account) -> bool:
    """Whether directories were missing: they are there now, or the account can make them itself. Raises OSError.

    They become the account's when all are there, the innermost first: nobody else gets into the work.
    """
    if place.missing and not place.able:
        with ExitStack() as stack:
            made = []
            parent = place.fd
            for name in place.missing:
                os.mkdir(name, 0o755, dir_fd=parent)
                parent = stack.enter_context(_closing(os.open(name, _FOLDER, dir_fd=parent)))
                made.append(parent)
            for fd in reversed(made):
                os.fchown(fd, account.uid, account.gid)
    return bool(place.missing)


def _given_empty(place: _Place, account: Account) -> bool:
    """Give away a directory of root's with nothing in it; false when it is another one. Raises OSError."""
    with _closing(os.open(".", _FOLDER, dir_fd=place.fd)) as fd:
        if os.fstat(fd).st_uid != 0 or os.listdir(fd):
            return False
        os.fchown(fd, account.uid, account.gid)
        return True


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _allows(found: os.stat_result, account: Account, bit: int) -> bool:
    """Whether the mode gives this user without other groups the right: 4 read, 2 write, 1 enter."""
    shift = 6 if found.st_uid == account.uid else 3 if found.st_gid == account.gid else 0
    return bool(found.st_mode >> shift & bit)


def _foreign(path: Path, uid: int, account: Account) -> str:
    """What is wrong with a path that belongs to somebody else, perhaps to who the daemon was before."""
    whole = path
    while uid != 0 and whole.parent != whole and whole.parent.lstat().st_uid == uid:
        whole = whole.parent
    return (
        f"belongs to user {_name_of(uid)!r}; choose another path, or give it to the daemon's user: "
        f"chown -R {account.name}: {whole.absolute()}"
    )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
