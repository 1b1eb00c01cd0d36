"""Accounts."""

from __future__ import annotations

import pwd

import pytest

from rezolus.agent.privileges import PrivilegeError, find_account

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
