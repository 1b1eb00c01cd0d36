"""Running what may have to wait for its surroundings, such as an address that is in use."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

import trio

from rezolus.errors import UserError
from rezolus.outputs import address_needs
from rezolus.sockets import Bound, ListenError, check_free

log = logging.getLogger(__name__)

ServiceRun = Callable[..., Awaitable[None]]
"""Something that runs beside the sources, such as the agent's pages: called with `task_status`, runs until cancelled."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service as configured; it is run anew when a reload gives one of its name with another key."""

    key: object
    run: ServiceRun
    check: Callable[[], object] = lambda: None
    """Looks at files and raises UserError with what keeps it from running."""
    listen: Bound | None = None


@dataclass(slots=True)
class Trouble:
    """Why something does not run now; empty while it does."""

    text: str = ""


class _Readiness:
    """Passes on the first `started`; later attempts report it again."""

    def __init__(self, task_status: trio.TaskStatus[None], trouble: Trouble) -> None:
        self._task_status: trio.TaskStatus[None] | None = task_status
        self._trouble = trouble

    def started(self, value: None = None) -> None:
        """As of `trio.TaskStatus`: it runs."""
        del value
        self._trouble.text = ""
        self.go_on()

    def go_on(self) -> None:
        """Those that wait for it need not any longer."""
        if self._task_status is not None:
            self._task_status.started()
            self._task_status = None


async def persistently(
    name: str,
    attempt: ServiceRun,
    *,
    retry_s: float,
    stopping: trio.Event,
    trouble: Trouble,
    task_status: trio.TaskStatus[None],
) -> UserError | None:
    """Run something until it is done; while its address is in use, try again every `retry_s`, but not once `stopping`.

    Returns what ended it otherwise, reported and in `trouble`. What is not the user's to mend is raised.
    """
    ready = _Readiness(task_status, trouble)
    reported = ""
    while True:
        failures: list[UserError] = []
        try:
            await attempt(task_status=ready)
        except* UserError as group:
            failures = _leaves(group)
        if not failures:
            ready.go_on()
            return None
        failure = failures[0]
        retry = isinstance(failure, ListenError)
        trouble.text = str(failure)
        if trouble.text != reported:
            reported = trouble.text
            log.error("%s: %s%s", name, failure, "; trying again" if retry else "")
        ready.go_on()
        if not retry:
            return failure
        with trio.move_on_after(retry_s):
            await stopping.wait()
            return None


def _leaves(group: BaseExceptionGroup[UserError]) -> list[UserError]:
    leaves: list[UserError] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


class Services:
    """What runs beside the sources, by name."""

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._running: dict[str, tuple[Service, trio.CancelScope, trio.Event]] = {}
        self._refused: frozenset[str] = frozenset()
        self.troubles: dict[str, Trouble] = {}
        """Why services do not run, with an empty text for those that do."""

    def needs(self) -> frozenset[str]:
        """What those that run keep from others (`rezolus.outputs.needs_of`)."""
        return frozenset(need for service, _, _ in self._running.values() for need in address_needs(service.listen))

    def differing(self, services: Mapping[str, Service]) -> list[str]:
        """Names of those that `change` would begin, end or begin anew."""
        running = {name: service.key for name, (service, _, done) in self._running.items() if not done.is_set()}
        wanted = {name: service.key for name, service in services.items()}
        return [name for name in {**running, **wanted} if running.get(name) != wanted.get(name)]

    def refusals(self, services: Mapping[str, Service], soon_free: Iterable[str] = ()) -> dict[str, UserError]:
        """Of those that run, which would be replaced by one that could not, and why; `change` then leaves them.

        `soon_free`: what sinks that end still have.
        """
        found = {}
        for name, (service, _, done) in self._running.items():
            if name in services and services[name].key != service.key and not done.is_set():
                try:
                    services[name].check()
                    listen = services[name].listen
                    needs = {*address_needs(listen)}
                    if listen is not None and not needs & {*address_needs(service.listen), *soon_free}:
                        check_free(listen)
                except UserError as error:
                    found[name] = error
        self._refused = frozenset(found)
        return found

    async def change(self, services: Mapping[str, Service], nursery: trio.Nursery) -> list[str]:
        """Run exactly these: those of the same key that run go on, others are ended and begun. Returns the names of these.

        One that runs also goes on when what is to replace it could not run.
        """
        refused, self._refused = self._refused, frozenset()
        going_on = {
            name
            for name, (service, _, done) in self._running.items()
            if name in refused or (name in services and services[name].key == service.key and not done.is_set())
        }
        changed = [name for name in {**self._running, **services} if name not in going_on]
        for name in changed:
            self.troubles.pop(name, None)
            if name in self._running:
                _, scope, done = self._running.pop(name)
                scope.cancel()
                await done.wait()
            if name in services:
                await nursery.start(self._run, name, services[name])
        return changed

    def stop(self) -> None:
        """End them all; those that still answer do so for a moment."""
        for _, scope, _ in self._running.values():
            scope.cancel()

    async def _run(self, name: str, service: Service, *, task_status: trio.TaskStatus[None]) -> None:
        done = trio.Event()
        trouble = self.troubles[name] = Trouble()
        with trio.CancelScope() as scope:
            self._running[name] = service, scope, done
            try:
                await persistently(
                    name,
                    service.run,
                    retry_s=self._retry_s,
                    stopping=trio.Event(),  # cancelled instead
                    trouble=trouble,
                    task_status=task_status,
                )
            finally:
                done.set()
