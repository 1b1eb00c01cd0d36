"""Files and folders that root makes for the user that the daemon becomes, and what it must not touch for it."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rezolus.agent.belongings import prepare_crowded, prepare_file, prepare_folder, prepare_socket
from rezolus.agent.privileges import Account, PrivilegeError
from tests import needs

NOBODY = pwd.getpwnam("nobody")
ACCOUNT = Account(NOBODY.pw_name, NOBODY.pw_uid, NOBODY.pw_gid)
OTHER = pwd.getpwnam("daemon")


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory of root's that everybody can get to."""
    needs.root()
    path = Path(tempfile.mkdtemp(prefix="rezolus-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def given(path: Path, uid: int = NOBODY.pw_uid) -> Path:
    """A directory that belongs to somebody."""
    path.mkdir()
    os.chown(path, uid, -1)
    return path


def owner(path: Path) -> int:
    return path.lstat().st_uid


def tree(path: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below a directory: who owns it, its mode and size."""
    found = {str(entry.relative_to(path)): entry.lstat() for entry in path.rglob("*")}
    return {name: (status.st_uid, status.st_mode, status.st_size) for name, status in found.items()}


def test_where_only_root_can_make_it_a_file_is_made_and_given_away(top: Path) -> None:
    prepare_file(top / "out.parquet", ACCOUNT)
    assert owner(top / "out.parquet") == NOBODY.pw_uid
    assert owner(top) == 0
    prepare_file(top / "out.parquet", ACCOUNT)  # as every reload does


def test_missing_folders_are_made_and_given_away_and_the_file_left_to_the_user(top: Path) -> None:
    prepare_file(top / "a" / "b" / "out.parquet", ACCOUNT)
    assert {name: entry[0] for name, entry in tree(top).items()} == {"a": NOBODY.pw_uid, "a/b": NOBODY.pw_uid}
    prepare_folder(top / "a" / "b" / "out.parquet.buffer", ACCOUNT)
    assert len(tree(top)) == 2


@pytest.mark.parametrize("prepare", [prepare_file, prepare_folder, prepare_crowded, prepare_socket])
def test_in_the_users_own_folder_nothing_is_done(top: Path, prepare: Callable[[Path, Account], None]) -> None:
    home = given(top / "home")
    prepare(home / "a" / "out", ACCOUNT)
    assert tree(home) == {}
    shared = given(top / "shared", 0)
    shared.chmod(0o1777)
    prepare(shared / "a" / "out", ACCOUNT)
    assert tree(shared) == {}


@pytest.mark.parametrize("prepare", [prepare_file, prepare_folder, prepare_crowded, prepare_socket])
def test_a_link_of_the_users_leads_root_nowhere(top: Path, prepare: Callable[[Path, Account], None]) -> None:
    victim = given(top / "etc", 0)
    (victim / "buffer").mkdir()
    (victim / "old.parquet").touch()
    before = tree(victim)
    home = given(top / "home")
    (home / "hindsight").symlink_to(victim)
    for name in ("buffer", "old.parquet", "new.parquet", "new/folder"):
        prepare(home / "hindsight" / name, ACCOUNT)
    assert tree(victim) == before


def test_a_link_of_another_user_is_refused_and_one_of_roots_followed(top: Path) -> None:
    data = given(top / "data", 0)
    (top / "link").symlink_to("data")
    (top / "far").symlink_to(top / "link")
    prepare_file(top / "far" / "out.parquet", ACCOUNT)
    assert owner(data / "out.parquet") == NOBODY.pw_uid
    for uid in (OTHER.pw_uid, NOBODY.pw_uid):
        os.chown(top / "link", uid, -1, follow_symlinks=False)
        with pytest.raises(PrivilegeError, match="is a link of user"):
            prepare_folder(top / "far" / "folder", ACCOUNT)
    assert [entry.name for entry in data.iterdir()] == ["out.parquet"]
    (top / "round").symlink_to("round")
    with pytest.raises(PrivilegeError):
        prepare_file(top / "round" / "out.parquet", ACCOUNT)


def test_a_file_that_is_a_link_is_not_followed(top: Path) -> None:
    (top / "victim").touch()
    (top / "out").symlink_to(top / "victim")
    with pytest.raises(PrivilegeError, match="cannot be made"):
        prepare_file(top / "out", ACCOUNT)
    assert owner(top / "victim") == 0


def test_a_file_with_a_second_name_is_left_alone(top: Path) -> None:
    (top / "victim").touch()
    os.link(top / "victim", top / "out")
    with pytest.raises(PrivilegeError, match="several names"):
        prepare_file(top / "out", ACCOUNT)


def test_a_file_that_is_no_recording_is_not_given_away(top: Path) -> None:
    (top / "passwd").write_text("root:x:0:0")
    with pytest.raises(PrivilegeError, match="is no Parquet file"):
        prepare_file(top / "passwd", ACCOUNT)
    assert owner(top / "passwd") == 0
    (top / "old.parquet").write_bytes(b"PAR1...PAR1")
    prepare_file(top / "old.parquet", ACCOUNT)
    assert owner(top / "old.parquet") == NOBODY.pw_uid


def test_a_recording_of_roots_in_a_folder_for_all_is_given_away(top: Path) -> None:
    top.chmod(0o1777)
    (top / "old.parquet").write_bytes(b"PAR1...PAR1")
    prepare_file(top / "old.parquet", ACCOUNT)
    assert owner(top / "old.parquet") == NOBODY.pw_uid


def test_a_pipe_is_no_output(top: Path) -> None:
    os.mkfifo(top / "out")
    with pytest.raises(PrivilegeError, match="is not a regular file"):
        prepare_file(top / "out", ACCOUNT)


def test_a_path_the_user_cannot_reach_is_named_before_anything_is_made(top: Path) -> None:
    closed = top / "closed"
    closed.mkdir(mode=0o700)
    for prepare in (prepare_file, prepare_folder, prepare_crowded, prepare_socket):
        with pytest.raises(PrivilegeError, match=f"cannot enter {closed}"):
            prepare(closed / "new" / "out", ACCOUNT)
    assert tree(closed) == {}


def test_of_a_relative_path_only_its_own_parts_count(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = top / "closed"
    (closed / "work").mkdir(parents=True)
    closed.chmod(0o700)
    monkeypatch.chdir(closed / "work")
    prepare_file(Path("out.parquet"), ACCOUNT)
    assert owner(closed / "work" / "out.parquet") == NOBODY.pw_uid
    with pytest.raises(PrivilegeError, match="cannot enter"):
        prepare_file(closed / "work" / "out.parquet", ACCOUNT)


def test_the_way_to_a_socket_is_given_away_where_nobody_else_uses_it(top: Path) -> None:
    prepare_socket(top / "new" / "a.sock", ACCOUNT)
    assert owner(top / "new") == NOBODY.pw_uid
    given(top / "made", 0)
    prepare_socket(top / "made" / "a.sock", ACCOUNT)  # as a service manager makes it
    assert owner(top / "made") == NOBODY.pw_uid
    (given(top / "used", 0) / "others").touch()
    prepare_socket(top / "used" / "a.sock", ACCOUNT)
    assert owner(top / "used") == 0


def test_a_work_folder_is_given_to_the_user_but_none_with_something_in_it(top: Path) -> None:
    prepare_folder(top / "out.recording", ACCOUNT)
    prepare_folder(top / "out.recording", ACCOUNT)
    assert owner(top / "out.recording") == NOBODY.pw_uid
    (given(top / "used", 0) / "something").touch()
    with pytest.raises(PrivilegeError, match=f"belongs to user 'root'; .*: chown -R nobody: {top}/used$"):
        prepare_folder(top / "used", ACCOUNT)
    assert owner(top / "used") == 0
    given(top / "theirs", OTHER.pw_uid)
    with pytest.raises(PrivilegeError, match="belongs to user 'daemon'"):
        prepare_folder(top / "theirs", ACCOUNT)


def test_what_belongs_to_who_the_daemon_was_before_is_said_with_the_command_that_helps(top: Path) -> None:
    (given(top / "home", OTHER.pw_uid) / "out.parquet").touch()
    given(top / "home" / "out.parquet.recording", OTHER.pw_uid)
    os.chown(top / "home" / "out.parquet", OTHER.pw_uid, -1)
    message = f"belongs to user 'daemon'; .*: chown -R nobody: {top}/home$"
    with pytest.raises(PrivilegeError, match=message):
        prepare_file(top / "home" / "out.parquet", ACCOUNT)
    with pytest.raises(PrivilegeError, match=message):
        prepare_folder(top / "home" / "out.parquet.recording", ACCOUNT)


def test_files_with_the_time_in_their_names_need_a_folder_of_the_users(top: Path) -> None:
    with pytest.raises(PrivilegeError, match=f"{top}: user 'nobody' cannot make files here"):
        prepare_crowded(top, ACCOUNT)
    prepare_crowded(top / "new", ACCOUNT)
    assert owner(top / "new") == NOBODY.pw_uid
    assert stat.S_IMODE((top / "new").stat().st_mode) & 0o700 == 0o700
    assert tree(top / "new") == {}
