"""The thread that writes readings belongs to its sink."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from rezolus.reading import Reading
from rezolus.sinks.writing import DiskThread
from tests.synthetic import Walk, catalog

MORE_THAN_TRIO_HAS_THREADS = 50


async def test_any_number_of_sinks_write_at_once_and_leave_threads_to_others(tmp_path: Path) -> None:
    got: list[Reading] = []
    threads = [
        DiskThread(f"sink {number}", tmp_path, got.append, lambda: None, pause_ns=0)
        for number in range(MORE_THAN_TRIO_HAS_THREADS)
    ]
    reading = Walk(catalog(cgroups=1)).step()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            sends = []
            for thread in threads:
                send, receive = trio.open_memory_channel[Reading](1)
                sends.append(send)
                nursery.start_soon(thread.run, receive)
            await trio.testing.wait_all_tasks_blocked()
            assert await trio.to_thread.run_sync(len, "others") == 6
            for send in sends:
                async with send:
                    await send.send(reading)
    assert [thread.written for thread in threads] == [1] * MORE_THAN_TRIO_HAS_THREADS
    assert len(got) == MORE_THAN_TRIO_HAS_THREADS
