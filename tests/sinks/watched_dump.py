"""A sink of which dumps are asked for; says which of the named audit events its event loop caused within the buffer's folder."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import trio

from rezolus.recording.child import Finished
from rezolus.recording.store import DUMP_PREFIX
from rezolus.sinks.hindsight import Hindsight
from tests.sinks.test_hindsight import SMALL, config, running
from tests.synthetic import Walk


async def main(folder: Path, events: frozenset[str]) -> None:
    loop = threading.get_ident()

    def look(event: str, arguments: tuple[object, ...]) -> None:
        if event in events and threading.get_ident() == loop and DUMP_PREFIX in str(arguments[0]):
            print(event, arguments[0])

    sys.addaudithook(look)

    async def killed(arguments: list[str]) -> Finished:
        """Leaves its work behind."""
        work = sink.folder / arguments[5]
        await trio.to_thread.run_sync(work.mkdir)
        return Finished(-9, "", "")

    async with running(Hindsight("hind", config(folder))) as hindsight:
        await hindsight.give(list(Walk(SMALL).run(3)))
        assert (await hindsight.client.get("/dump")).status_code == 200
    sink = Hindsight("hind", config(folder), finisher=killed)
    async with running(sink) as hindsight:
        assert (await hindsight.client.get("/dump")).status_code == 500
    assert not list(sink.folder.glob(f"{DUMP_PREFIX}*"))


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), frozenset(sys.argv[2:]))
