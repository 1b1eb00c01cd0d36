"""What the loader, which is root, is told by the daemon, which is not: a lie must come to nothing. On the real kernel."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from dsl.schema import Bank, Label, Metric, Schema, Slots
from rezolus.agent.exchange import Standing, carry_gauges
from rezolus.agent.handover import Handover
from rezolus.agent.launch import children, start_helper
from rezolus.agent.supervisor import ENDED, LOAD, RELOAD, parse_end
from rezolus.bpf import syscall
from rezolus.bpf.handover import receive, send
from rezolus.bpf.load import Loaded
from tests.agent.running import children as children_of

pytestmark = pytest.mark.kernel

WORDS = 64
PERCPU_ARRAY = 6
ROW = bytes(4)
LAST = """rzl 1
sampler {name} "Of the test" {{
    gauge {name} "A number"
    on sched_switch() {{ {name} = 17 }}
}}
"""


def schema(offset: int, words: int = WORDS) -> Schema:
    """One gauge of 20 words."""
    labels = (Label(name="x", values=tuple(map(str, range(20)))),)
    gauge = Metric(
        name="g", kind="gauge", help="", unit="", sampler="s", labels=labels, storage=Slots(bank="one", offset=offset)
    )
    return Schema(samplers=(), metrics=(gauge,), banks=(Bank(name="one", axis="one", rows=1, words=words),))


@contextmanager
def array(words: int = WORDS, kind: int = syscall.MAP_ARRAY) -> Iterator[int]:
    fd = syscall.map_create(kind, value_size=8 * words, rows=1, name="of_the_test")
    try:
        yield fd
    finally:
        os.close(fd)


def carry(old: int, told: Schema, new: int) -> None:
    standing = Standing(Handover(schema=told), {"map:one": old})
    carry_gauges(Loaded(maps={"one": new}), schema(0), standing, ())


@pytest.mark.parametrize("offset", [WORDS - 19, 10**6, -1, -(10**6)])
def test_a_gauge_outside_of_its_map_is_not_copied(offset: int) -> None:
    with array() as old, array() as new:
        syscall.map_update(old, ROW, b"\x55" * 8 * WORDS)
        with pytest.raises(ValueError, match="lie outside of the map"):
            carry(old, schema(offset), new)
        assert syscall.map_lookup(new, ROW, 8 * WORDS) == bytes(8 * WORDS)


def test_a_gauge_at_the_end_of_its_map_is_copied() -> None:
    with array() as old, array() as new:
        syscall.map_update(old, ROW, b"\x55" * 8 * WORDS)
        carry(old, schema(WORDS - 20), new)
        assert syscall.map_lookup(new, ROW, 8 * WORDS) == b"\x55" * 160 + bytes(8 * WORDS - 160)


def test_a_map_that_would_give_more_than_it_should_is_refused() -> None:
    with array(kind=PERCPU_ARRAY) as old, array() as new, pytest.raises(ValueError, match="is something else"):
        carry(old, schema(5), new)
    with array(words=2 * WORDS) as old, array() as new, pytest.raises(ValueError, match="is something else"):
        carry(old, schema(5), new)


@dataclass(slots=True)
class Daemon:
    """Speaks to a real helper as the daemon does, and as it should not."""

    control: socket.socket

    def channel(self) -> socket.socket:
        """That of the loader that was asked for."""
        command, fds, _, _ = socket.recv_fds(self.control, 256, 1)
        assert command == LOAD
        return socket.socket(fileno=fds[0])

    def ended(self) -> int:
        """Exit status of the loader."""
        message = self.control.recv(256)
        assert message[:1] == ENDED
        return parse_end(message)[1]

    def reload(self, running: Handover, fds: dict[str, int]) -> Handover:
        self.control.send(RELOAD)
        with self.channel() as channel:
            send(channel, running, fds)
            answer, received = receive(channel, Handover)
            close(received)
        assert self.ended() == 0
        return answer


@contextmanager
def helping(config: Path) -> Iterator[Daemon]:
    before = children_of(os.getpid())
    with start_helper(children(config)) as control:
        (helper,) = set(children_of(os.getpid())) - set(before)
        yield Daemon(control)
    os.waitpid(helper, 0)


def close(fds: dict[str, int]) -> None:
    for fd in fds.values():
        with suppress(OSError):
            os.close(fd)


Lie = Callable[[Handover, dict[str, int]], tuple[Handover, dict[str, int]]]


def far_away(running: Handover, fds: dict[str, int]) -> tuple[Handover, dict[str, int]]:
    """The gauge a million words behind the end of its map."""
    (gauge,) = (metric for metric in running.schema.metrics if metric.name == "zz")
    assert isinstance(gauge.storage, Slots)
    moved = msgspec.structs.replace(gauge, storage=msgspec.structs.replace(gauge.storage, offset=10**6))
    others = (metric for metric in running.schema.metrics if metric.name != "zz")
    told = msgspec.structs.replace(running.schema, metrics=(*others, moved))
    return msgspec.structs.replace(running, schema=told), fds


@pytest.mark.parametrize("kind", [syscall.MAP_ARRAY, PERCPU_ARRAY])
@pytest.mark.parametrize("lie", [far_away, None])
def test_a_loader_that_is_lied_to_ends_and_says_so(tmp_path: Path, kind: int, lie: Lie | None) -> None:
    (tmp_path / "config.toml").write_text(f'[agent]\nprobes = ["{tmp_path}/*.rzl"]\n')
    (tmp_path / "zz.rzl").write_text(LAST.format(name="zz"))
    with helping(tmp_path / "config.toml") as daemon:
        with daemon.channel() as channel:
            _, nothing = receive(channel, Handover)
            running, fds = receive(channel, Handover)
        assert not nothing
        assert daemon.ended() == 0
        try:
            (bank,) = (bank for bank in running.schema.banks if f"map:{bank.name}" in fds and bank.axis == "one")
            (tmp_path / "aa.rzl").write_text(LAST.format(name="aa"))  # so that the gauge moves
            told, given = lie(running, fds) if lie is not None else (running, fds)
            with array(bank.words, kind) as other:
                given = given | {f"map:{bank.name}": other} if kind == PERCPU_ARRAY else given
                answer = daemon.reload(told, given)
            if lie is None and kind == syscall.MAP_ARRAY:
                assert not answer.failure
                assert {sampler.name for sampler in answer.schema.samplers} >= {"aa", "zz"}
            else:
                assert "lie outside" in answer.failure or "something else" in answer.failure
                assert not answer.programs
        finally:
            close(fds)
