"""Accounts, and files prepared for the one that the daemon becomes."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from rezolus.agent.privileges import (
    PrivilegeError,
    find_account,
    first_closed_directory,
    prepare_folder,
    prepare_output,
    prepare_socket,
)
from tests import needs

NOBODY = pwd.getpwnam("nobody")


def test_a_missing_user_is_replaced_with_a_warning_that_says_how_to_make_it() -> None:
    account, warning = find_account("no-such-user-here")
    assert account.name == "nobody"
    assert warning is not None
    assert "useradd --system" in warning


def test_an_existing_user_is_taken_without_a_word() -> None:
    account, warning = find_account("nobody")
    assert (account.uid, warning) == (NOBODY.pw_uid, None)


def test_root_is_no_unprivileged_user() -> None:
    with pytest.raises(PrivilegeError, match="must not be root"):
        find_account("root")


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """A directory that everybody can get to; pytest's own are closed."""
    needs.root()
    for directory in (tmp_path, *tmp_path.parents):
        if directory.owner() == "root" and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o055)
        if directory.name.startswith("pytest-of-"):
            break
    return tmp_path


def test_the_output_and_missing_folders_are_given_to_the_user(open_path: Path) -> None:
    output = open_path / "a" / "b" / "out.parquet"
    prepare_output(output, NOBODY.pw_uid, NOBODY.pw_gid)
    assert output.stat().st_uid == NOBODY.pw_uid
    assert output.parent.stat().st_uid == NOBODY.pw_uid
    assert open_path.stat().st_uid == 0


def test_a_link_is_not_followed(open_path: Path) -> None:
    victim = open_path / "victim"
    victim.write_text("precious")
    (open_path / "out").symlink_to(victim)
    with pytest.raises(PrivilegeError, match="cannot be written"):
        prepare_output(open_path / "out", NOBODY.pw_uid, NOBODY.pw_gid)
    assert victim.stat().st_uid == 0


def test_a_file_with_a_second_name_is_left_alone(open_path: Path) -> None:
    victim = open_path / "victim"
    victim.write_text("precious")
    os.link(victim, open_path / "out")
    with pytest.raises(PrivilegeError, match="several names"):
        prepare_output(open_path / "out", NOBODY.pw_uid, NOBODY.pw_gid)


def test_a_file_that_is_no_recording_is_not_given_away(open_path: Path) -> None:
    (open_path / "passwd").write_text("root:x:0:0")
    with pytest.raises(PrivilegeError, match="is no Parquet file"):
        prepare_output(open_path / "passwd", NOBODY.pw_uid, NOBODY.pw_gid)
    assert (open_path / "passwd").stat().st_uid == 0
    (open_path / "old.parquet").write_bytes(b"PAR1...PAR1")
    prepare_output(open_path / "old.parquet", NOBODY.pw_uid, NOBODY.pw_gid)
    assert (open_path / "old.parquet").stat().st_uid == NOBODY.pw_uid


def test_a_device_is_no_output(open_path: Path) -> None:
    os.mkfifo(open_path / "out")
    with pytest.raises(PrivilegeError):
        prepare_output(open_path / "out", NOBODY.pw_uid, NOBODY.pw_gid)


def test_a_path_the_user_cannot_reach_is_named(open_path: Path) -> None:
    closed = open_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(PrivilegeError, match=f"cannot enter {closed}"):
        prepare_output(closed / "out", NOBODY.pw_uid, NOBODY.pw_gid)


def test_of_a_relative_path_only_its_own_parts_count(open_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = open_path / "closed"
    (closed / "work").mkdir(parents=True)
    closed.chmod(0o700)
    monkeypatch.chdir(closed / "work")
    assert first_closed_directory(Path("."), NOBODY.pw_uid, NOBODY.pw_gid) is None
    assert first_closed_directory(closed / "work", NOBODY.pw_uid, NOBODY.pw_gid) == closed


def test_the_way_to_a_socket_is_given_away_where_nobody_else_uses_it(open_path: Path) -> None:
    ours = (NOBODY.pw_uid, NOBODY.pw_gid)
    prepare_socket(open_path / "new" / "a.sock", *ours)
    assert (open_path / "new").stat().st_uid == NOBODY.pw_uid
    (open_path / "made").mkdir()
    prepare_socket(open_path / "made" / "a.sock", *ours)  # as a service manager makes it
    assert (open_path / "made").stat().st_uid == NOBODY.pw_uid
    (open_path / "used").mkdir()
    (open_path / "used" / "others").touch()
    prepare_socket(open_path / "used" / "a.sock", *ours)
    assert (open_path / "used").stat().st_uid == 0
    (open_path / "link").symlink_to("used")
    prepare_socket(open_path / "link" / "a.sock", *ours)
    assert (open_path / "used").stat().st_uid == 0


def test_a_work_folder_is_given_to_the_user_and_a_link_refused(open_path: Path) -> None:
    prepare_folder(open_path / "out.recording", NOBODY.pw_uid, NOBODY.pw_gid)
    assert (open_path / "out.recording").stat().st_uid == NOBODY.pw_uid
    (open_path / "link").symlink_to("/etc")
    with pytest.raises(PrivilegeError, match="not a directory of ours"):
        prepare_folder(open_path / "link", NOBODY.pw_uid, NOBODY.pw_gid)
