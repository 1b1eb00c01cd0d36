"""Names of cgroups, found in a tree of directories that stands for a hierarchy."""

from __future__ import annotations

from pathlib import Path

import pytest

from rezolus.agent.cgroups import CgroupIdentity, CgroupNames, fallback_name, find_hierarchy, unescape


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Tree:
    """A hierarchy, and the names of its directories as the BPF side would report them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        self.names = CgroupNames(str(root), clock=self.clock)
        self.serial = 0

    def make(self, path: str) -> CgroupIdentity:
        (self.root / path).mkdir(parents=True, exist_ok=True)
        return self.identity(path)

    def identity(self, path: str, inode: int | None = None) -> CgroupIdentity:
        self.serial += 1
        parts = path.split("/")
        grandparent, parent, own = (["", "", *parts])[-3:]
        return CgroupIdentity(
            serial=self.serial,
            inode=inode if inode is not None else (self.root / path).stat().st_ino,
            level=len(parts),
            names=(grandparent[:63], parent[:63], own[:63]),
        )

    def chores(self) -> None:
        self.clock.now += 1
        self.names.chores()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_shallow_cgroup_is_named_at_once(tree: Tree) -> None:
    assert tree.names.name(tree.make("system.slice/ssh.service")) == "/system.slice/ssh.service"


def test_the_root_is_a_slash(tree: Tree) -> None:
    assert tree.names.name(CgroupIdentity(serial=9, inode=1, level=0, names=("", "", ""))) == "/"


def test_a_deep_cgroup_gets_its_whole_path_from_a_walk(tree: Tree) -> None:
    identity = tree.make("kubepods.slice/burstable.slice/pod1.slice/cri\\x2dabc.scope")
    assert tree.names.name(identity) is None
    before = tree.names.generation
    tree.chores()
    assert tree.names.generation != before
    assert tree.names.name(identity) == "/kubepods.slice/burstable.slice/pod1.slice/cri-abc.scope"


def test_a_name_cut_off_by_the_kernel_side_is_found_whole(tree: Tree) -> None:
    long = "cri-containerd-" + 64 * "a" + ".scope"
    identity = tree.make(f"pods/{long}")
    assert tree.names.name(identity) is None
    tree.chores()
    assert tree.names.name(identity) == f"/pods/{long}"


def test_a_directory_with_the_name_but_another_inode_is_not_it(tree: Tree) -> None:
    tree.make("a")
    assert tree.names.name(tree.identity("a", inode=12345)) is None


def test_links_are_not_followed(tree: Tree) -> None:
    identity = tree.make("real/deep/er/still")
    (tree.root / "link").symlink_to(tree.root / "real")
    tree.names.name(identity)
    tree.chores()
    assert tree.names.name(identity) == "/real/deep/er/still"


def test_a_removed_cgroup_has_one_last_reading(tree: Tree) -> None:
    identity = tree.make("a/b")
    assert tree.names.name(identity) == "/a/b"
    (tree.root / "a/b").rmdir()
    tree.chores()
    tree.names.advance()  # the reading after it was noticed
    assert tree.names.name(identity) == "/a/b"
    tree.names.advance()
    assert tree.names.name(identity) is None


def test_a_cgroup_that_died_unnamed_is_shown_with_what_is_known_of_it(tree: Tree) -> None:
    identity = tree.identity("a/b/c/d/e", inode=999)
    assert tree.names.name(identity) is None
    tree.chores()
    assert tree.names.name(identity) == ".../c/d/e"


def test_without_a_hierarchy_all_names_are_made_of_their_last_parts() -> None:
    names = CgroupNames(None)
    assert names.name(CgroupIdentity(serial=1, inode=5, level=2, names=("", "a", "b"))) == "/a/b"
    assert not names.due


def test_chores_are_done_at_a_bounded_rate(tree: Tree) -> None:
    tree.names.name(tree.make("a"))
    tree.chores()
    assert not tree.names.due
    tree.clock.now += 1
    assert tree.names.due


def test_reused_ids_are_forgotten(tree: Tree) -> None:
    first = tree.make("a")
    tree.names.name(first)
    tree.names.retain({first.serial + 1})
    assert not tree.names.due


@pytest.mark.parametrize(
    ("level", "names", "expected"),
    [
        (0, ("", "", ""), "/"),
        (1, ("", "", "n"), "/n"),
        (2, ("", "p", "n"), "/p/n"),
        (3, ("g", "p", "n"), "/g/p/n"),
        (4, ("g", "p", "n"), ".../g/p/n"),
    ],
)
def test_fallback_names_have_the_form_of_rezolus(level: int, names: tuple[str, str, str], expected: str) -> None:
    assert fallback_name(CgroupIdentity(serial=1, inode=1, level=level, names=names)) == expected


def test_systemd_escapes_are_undone() -> None:
    assert unescape("dev\\x2ddisk.mount") == "dev-disk.mount"


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "/sys/fs/cgroup"),
        (
            "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n",
            "/sys/fs/cgroup/cpu,cpuacct",
        ),
        ("cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n", None),
        ("cgroup2 /a\\040b cgroup2 rw 0 0\n", "/a b"),
        ("proc /proc proc rw 0 0\n", None),
    ],
)
def test_the_hierarchy_is_the_one_with_the_cpu_controller(mounts: str, expected: str | None) -> None:
    assert find_hierarchy(mounts) == expected
