"""Makes a recording: the daemon with one recorder, watched until it is done."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import trio

from rezolus.config import Config, RecorderConfig, SourceConfig
from rezolus.daemon import Daemon, Service, Signals, Timing
from rezolus.errors import UserError
from rezolus.outputs import work_folder
from rezolus.record.command import CommandError, look_up, run_command
from rezolus.record.progress import Progress, Tally, tally
from rezolus.record.request import SINK, Request, configuration
from rezolus.recording.child import Finisher, finish_in_child
from rezolus.remote.source import RemoteSource
from rezolus.sinks.recorder import Recorder, RecorderStatistics
from rezolus.units import format_duration

REACH_S = 12.0
"""How long endpoints may take to show whether they are there."""
LOOK_S = 0.02
"""Between two looks for a reading that is waited for."""
PROMPT_S = 2.5
"""With a longer interval a reading is asked for where one is needed soon, and what is waited for is said."""
LAST_READING_S = 5.0
"""How long a reading after the command's end is waited for at most."""
GAVE_UP = 2
_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class UnreachableError(UserError):
    """Nothing answers at any of the addresses; the text says why not."""


class Recording:
    """One run of `rezolus record`."""

    def __init__(self, request: Request, *, finisher: Finisher = finish_in_child, timing: Timing | None = None) -> None:
        """`finisher` completes the file. Raises UserError for a request that cannot be carried out."""
        if request.command:
            look_up(request.command[0])
        self._request = request
        self._config = configuration(request)
        recorder = self._config.sinks[SINK]
        assert isinstance(recorder, RecorderConfig)
        self._recorder = recorder
        self._sources: dict[str, RemoteSource] = {}
        self._daemon = Daemon(
            self._config, services=self._services, connect=self._connect, finisher=finisher, timing=timing
        )
        self._began = 0.0
        self._status = 0
        self._failure: UserError | None = None
        self.progress = Progress(self.look, alone=not request.command)

    @property
    def _seldom(self) -> bool:
        return self._recorder.interval > PROMPT_S * 1e9

    async def run(self) -> int:
        """Record; returns the exit status. Raises UserError when nothing was recorded or it could not be written."""
        self._began = trio.current_time()
        if self._seldom:
            then = "the command begins with the first sample, which" if self._request.command else "the first sample"
            self.progress.write(f"{then} comes in {format_duration(self._recorder.interval)} at the latest\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.progress.run)
            nursery.start_soon(self._give_up_when_nobody_answers)
            if self._recorder.duration is not None:
                nursery.start_soon(self._end_after, self._recorder.duration / 1e9)
            await self._daemon.run(signals=Signals(stop=_STOP, capture=(), reload=()))
            nursery.cancel_scope.cancel()
        return self._outcome()

    def look(self) -> Tally:
        """How far it is."""
        down = tuple(name for name, source in self._sources.items() if source.status().state == "down")
        seconds = trio.current_time() - self._began
        return tally(self._recorders(), self._recorder.interval, seconds=seconds, down=down)

    def _outcome(self) -> int:
        if self._daemon.leaving.is_set():
            for folder in (work_folder(Path(one.output)) for one in self._recorders()):
                if folder.exists():
                    self.progress.write(f"left unfinished; to finish it: rezolus record --recover {folder}\n")
            return GAVE_UP
        if self._failure is not None:
            raise self._failure
        failures = self._daemon.statistics().failures
        if failures:
            raise UserError("; ".join(failures.values()))
        total = self.look()
        if not total.samples:
            raise UserError(f"nothing was recorded, so {self._recorder.path} was not written")
        self.progress.write(f"{total}\n")
        return self._status

    def _recorders(self) -> list[RecorderStatistics]:
        found = self._daemon.statistics().sinks.values()
        return [statistics for statistics in found if isinstance(statistics, RecorderStatistics)]

    def _connect(self, name: str, config: SourceConfig) -> RemoteSource:
        source = self._sources[name] = RemoteSource(name, config)
        return source

    def _services(self, config: Config) -> dict[str, Service]:
        """The command runs as a service of the daemon: whatever ends the daemon ends it."""
        del config
        return {"command": Service(None, self._run_command)} if self._request.command else {}

    async def _give_up_when_nobody_answers(self) -> None:
        with trio.move_on_after(REACH_S):
            for source in self._sources.values():
                await source.settled()
        states = [source.status() for source in self._sources.values()]
        if all(state.state != "up" for state in states) and not self.look().samples:
            reasons = "".join(f"\n  {state.url}: {state.error or 'does not answer'}" for state in states)
            self._fail(UnreachableError(f"nothing to record from:{reasons}"))

    async def _end_after(self, seconds: float) -> None:
        """The recorder counts for itself, from the first reading on; this is for files whose endpoint brings none."""
        await self._until(lambda: any(one.rows for one in self._recorders()))
        await trio.sleep(seconds + 2 * self._recorder.interval / 1e9)
        self._daemon.stop()

    async def _run_command(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Begins with the first reading and waits for one behind the command's end: its work lies between two."""
        task_status.started()
        await self._ask()
        await self._until(lambda: any(one.rows for one in self._recorders()))
        duration = self._request.duration
        try:
            limit_s = None if duration is None else duration / 1e9
            ended = await run_command(self._request.command, limit_s, self._daemon.leaving)
        except OSError as error:
            for outlet in self._daemon.ensemble.outlets.values():
                if isinstance(outlet.sink, Recorder):
                    outlet.sink.discard()  # an older recording of that name is worth more
            reason = (error.strerror or str(error)).lower()
            self._fail(CommandError(f"cannot run {self._request.command[0]}: {reason}"))
            return
        end_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        await self._ask()
        with trio.move_on_after(min(2 * self._recorder.interval / 1e9, LAST_READING_S)):
            await self._until(lambda: any(one.last_ns >= end_ns for one in self._recorders()))
        self._status = ended.status  # cut off meanwhile: what ended the command, Ctrl-C for one, has reached us as well
        self._daemon.stop()

    async def _ask(self) -> None:
        """Have every endpoint read out of turn, if its turn may be long in coming."""
        if self._seldom:
            with trio.move_on_after(REACH_S):
                for source in self._sources.values():
                    await source.settled()
            for outlet in self._daemon.ensemble.outlets.values():
                outlet.expect_extra()
            for source in self._sources.values():
                source.ask()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - a recorder counts in a thread of its own
            await trio.sleep(LOOK_S)

    def _fail(self, error: UserError) -> None:
        self._failure = error
        self._daemon.stop()
