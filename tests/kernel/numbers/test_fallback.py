"""The numbers are right where there are no BTF-typed tracepoints and no task storage: raw tracepoints, memory read by
helpers, state of tasks in a hash by pid, as before 5.11.

The same tests as of the other way; only the fixture `probes` is another.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import needs
from tests.kernel.live import ROOT, Live, live
from tests.kernel.numbers.test_blockio import (  # noqa: F401 - collected from here, with the fixture of this file
    ours,
    test_writes_are_those_of_diskstats,
)
from tests.kernel.numbers.test_cgroup import (  # noqa: F401 - as above
    test_a_process_that_moves_is_counted_where_it_is,
    test_an_id_that_is_used_again_is_a_new_series_from_zero,
)
from tests.kernel.numbers.test_cpu import (  # noqa: F401 - as above
    test_changes_of_protection_flush_the_tlb,
    test_cpu_time_of_a_cgroup_is_that_of_its_process,
    test_migrations_are_the_moves_that_were_asked_for,
    test_short_lived_processes_lose_no_cpu_time,
    test_softirqs_are_those_of_proc_softirqs,
)
from tests.kernel.numbers.test_network import (  # noqa: F401 - as above
    test_datagrams_that_find_no_room_are_drops,
    test_packets_and_bytes_are_those_of_the_devices,
)
from tests.kernel.numbers.test_scheduler import (  # noqa: F401 - as above
    test_context_switches_of_a_cgroup_are_those_of_its_process,
    test_the_run_queue_is_waited_in_by_two_hogs_on_one_cpu,
    test_time_off_the_cpu_is_the_time_asleep,
)
from tests.kernel.numbers.test_syscall import (  # noqa: F401 - as above
    test_a_call_that_waits_takes_as_long_as_it_waits,
    test_calls_of_a_cgroup_are_those_of_its_process,
)
from tests.kernel.numbers.test_tcp import (  # noqa: F401 - as above
    test_a_late_reader_is_seen_as_packet_latency,
    test_bytes_are_those_that_were_sent,
    test_connections_are_timed_whether_taken_or_refused,
    test_round_trip_times_are_those_of_the_connection,
)


@pytest.fixture(scope="module")
def probes() -> Iterator[Live]:
    needs.bpf()
    lacking = ("tp_btf", "fentry", "task_storage", "current_task_btf")
    with live(sorted((ROOT / "probes").glob("*.rzl")), lacking=lacking) as running:
        hooks = {program.hook.kind for program in running.running.handover.programs}
        assert hooks == {"raw_tp"}
        yield running
