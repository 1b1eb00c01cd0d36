"""How the kernel is to schedule the daemon: applied at the start, before privileges go."""

from __future__ import annotations

import os

from rezolus.config import SchedulerConfig

_POLICIES = {"normal": os.SCHED_OTHER, "round_robin": os.SCHED_RR, "fifo": os.SCHED_FIFO}


def apply(config: SchedulerConfig) -> list[str]:
    """Schedule this thread as `config` says, and nothing that it starts; what the kernel refuses comes back as warnings.

    Only who starts with root's privileges may ask for more than everybody has.
    """
    real_time = config.policy != "normal"
    if not real_time and config.niceness == 0:
        return []  # as we were started
    priority = config.priority if real_time else 0
    try:
        # Children and threads do the slow work; they are not to take the CPU from anybody.
        os.sched_setscheduler(0, _POLICIES[config.policy] | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
        if not real_time:
            os.setpriority(os.PRIO_PROCESS, 0, config.niceness)
    except OSError as error:
        what = f"{config.policy}, priority {priority}" if real_time else f"niceness {config.niceness}"
        return [f"scheduler: {what}: {(error.strerror or str(error)).lower()}; running as any other process"]
    return []
