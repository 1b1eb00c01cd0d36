"""The daemon's end of the root helper's socket."""

from __future__ import annotations

import logging
import signal
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

import trio

from rezolus.agent import supervisor
from rezolus.agent.handover import Handover, Outcome
from rezolus.bpf.handover import HandoverError, receive, send
from rezolus.errors import UserError

log = logging.getLogger(__name__)

CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGBUS, signal.SIGFPE, signal.SIGTRAP})

PATIENCE_S = 5.0
"""How long the end of a loader that has nothing more to do may take."""

_FD_BYTES = struct.calcsize("i")


class LoadError(UserError):
    """No programs could be loaded; `partial` is what the loader had told before it failed."""

    def __init__(self, message: str, partial: Handover | None = None, *, signal: int = 0) -> None:
        super().__init__(message)
        self.partial = partial
        self.killed = signal != 0
        """Whether a signal ended the loader."""
        self.crashed = signal in CRASHES
        """Whether it was a crash, as of a compiler that does not like what it is given."""


@dataclass(slots=True)
class Offer:
    """What a loader has prepared to replace what runs. Nothing of it counts yet; the descriptors are the caller's."""

    handover: Handover
    fds: dict[str, int]
    _channel: socket.socket

    async def settle(self) -> bool:
        """To be called once the switch is turned: after it no event runs what was replaced, and it can be freed.

        False when the loader is gone and cannot say so, or does not for a long time.
        """
        with trio.move_on_after(PATIENCE_S) as patience:
            try:
                send(self._channel, message=True)
                await trio.to_thread.run_sync(receive, self._channel, bool, abandon_on_cancel=True)
            except (OSError, HandoverError):
                return False
        if patience.cancelled_caught:
            self._channel.shutdown(socket.SHUT_RDWR)  # a thread waits for it
        return not patience.cancelled_caught


class Helper:
    """Asks the root helper for loaders, workers and kernel statistics. `run` must be running for that.

    `loading` says that a loader was asked for already, before this object was made.
    """

    def __init__(self, control: socket.socket, *, loading: bool = False) -> None:
        control.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(control)
        self._loading = loading
        self._ended: dict[bytes, trio.Event] = {}
        self._status: dict[bytes, int] = {}
        self._send: dict[bytes, trio.MemorySendChannel[socket.socket | str]] = {}
        self._receive: dict[bytes, trio.MemoryReceiveChannel[socket.socket | str]] = {}
        for command in (supervisor.LOAD, supervisor.WORK):
            self._send[command], self._receive[command] = trio.open_memory_channel(4)
            self._ended[command] = trio.Event()
        if not loading:
            self._ended[supervisor.LOAD].set()
        self.alive = True
        """Whether the helper is there; without it nothing can be loaded again."""

    async def run(self) -> None:
        """Take the helper's messages until it is gone, which is logged and not an error; then nothing can be asked."""
        try:
            while True:
                message, fd = await self._message()
                if not message:
                    break
                self._dispatch(message, fd)
        except ConnectionResetError:
            pass
        finally:
            self.alive = False
            for command in self._send:
                self._send[command].close()
                self._ended[command].set()
        log.warning("the root helper is gone: what runs goes on, but nothing can be loaded again until a restart")

    async def load(self, *, carefully: bool = False) -> tuple[Handover, dict[str, int]]:
        """Have everything compiled, loaded and attached; the descriptors are the caller's. Raises LoadError.

        `carefully`: find and leave out samplers over which the compiler crashes, which takes a while.
        """
        partial_handover: Handover | None = None
        async with self._loader(supervisor.LOAD_CAREFULLY if carefully else supervisor.LOAD) as channel:
            try:
                first, _ = await _in_thread(channel)
                if first.failure:
                    raise LoadError(first.failure)
                partial_handover = first
                whole, fds = await _in_thread(channel)
            except HandoverError as error:
                raise await self._why(str(error), partial_handover) from error
        if whole.failure:
            raise LoadError(whole.failure, partial_handover)
        return whole, fds

    @asynccontextmanager
    async def reload(
        self, running: Handover, fds: Mapping[str, int], *, carefully: bool = False
    ) -> AsyncIterator[Offer]:
        """Have everything compiled and prepared to replace what runs; the loader waits until the block ends.

        Raises LoadError, also in place of an offer that was refused: then `refusals` of its handover say why.
        """
        async with self._loader(supervisor.RELOAD_CAREFULLY if carefully else supervisor.RELOAD) as channel:
            try:
                await trio.to_thread.run_sync(partial(send, channel, running, fds), abandon_on_cancel=True)
                handover, received = await _in_thread(channel)
            except (OSError, HandoverError) as error:
                raise await self._why(str(error)) from error
            if handover.failure or handover.refusals:
                raise LoadError(handover.failure or "the definitions have errors", handover)
            yield Offer(handover, received, channel)

    async def work(self, arguments: list[str]) -> Outcome:
        """Have a worker do what `arguments` say. Raises LoadError, or HandoverError when it dies over it.

        Cancelled, it does not wait for the worker, which goes on for as long as there is a helper.
        """
        await self._ask(supervisor.WORK)
        channel = await self._channel(supervisor.WORK)
        with channel, _woken_on_cancel(channel):
            try:
                send(channel, arguments)
                outcome, _ = await trio.to_thread.run_sync(receive, channel, Outcome, abandon_on_cancel=True)
            except OSError as error:
                raise HandoverError("it was killed") from error
            return outcome

    async def start_statistics(self) -> None:
        """Have the kernel time BPF programs. Raises LoadError when the helper is gone."""
        await self._ask(supervisor.STATS_ON)

    async def stop_statistics(self) -> None:
        """No more of that."""
        await self._ask(supervisor.STATS_OFF)

    def close(self) -> None:
        """End the helper."""
        self._socket.close()
        for channel in self._receive.values():
            while channel.statistics().current_buffer_used:
                answer = channel.receive_nowait()
                if not isinstance(answer, str):
                    answer.close()

    @asynccontextmanager
    async def _loader(self, command: bytes) -> AsyncIterator[socket.socket]:
        """A loader started with this byte, as the socket on which it speaks."""
        if not self._loading:  # else it may have ended already
            with trio.move_on_after(PATIENCE_S):  # the one before may still be on its way out
                await self._ended[supervisor.LOAD].wait()
            self._ended[supervisor.LOAD] = trio.Event()
            self._status.pop(supervisor.LOAD, None)
            await self._ask(command)
        self._loading = False
        channel = await self._channel(supervisor.LOAD)
        with channel, _woken_on_cancel(channel):
            yield channel

    async def _ask(self, command: bytes) -> None:
        try:
            await self._socket.send(command)
        except (BrokenPipeError, ConnectionResetError):
            raise LoadError("the root helper is gone; restart rezolus") from None

    async def _channel(self, command: bytes) -> socket.socket:
        try:
            answer = await self._receive[command].receive()
        except trio.EndOfChannel:
            raise LoadError("the root helper is gone; restart rezolus") from None
        if isinstance(answer, str):
            raise LoadError(answer)
        return answer

    async def _why(self, otherwise: str, told: Handover | None = None) -> LoadError:
        """How the loader ended."""
        with trio.move_on_after(PATIENCE_S):
            await self._ended[supervisor.LOAD].wait()
        status = self._status.get(supervisor.LOAD)
        if status is None or status == 0:
            return LoadError(f"the loader failed: {otherwise}", told)
        if status < 0:
            reason = f"the loader was killed by {signal.Signals(-status).name}"
            return LoadError(reason, told, signal=-status)
        return LoadError(f"the loader ended with exit status {status}", told)

    async def _message(self) -> tuple[bytes, int | None]:
        data, ancillary, _, _ = await self._socket.recvmsg(256, socket.CMSG_SPACE(_FD_BYTES), socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                return data, struct.unpack("i", content[:_FD_BYTES])[0]
        return data, None

    def _dispatch(self, message: bytes, fd: int | None) -> None:
        kind = message[:1]
        if fd is not None and kind in self._send:
            self._send[kind].send_nowait(socket.socket(fileno=fd))
        elif kind == supervisor.ENDED:
            command, status = supervisor.parse_end(message)
            self._status[command] = status
            self._ended[command].set()
        elif kind == supervisor.FAILED:
            text = message[2:].decode(errors="replace")
            if message[1:2] in self._send:
                self._send[message[1:2]].send_nowait(text)
            else:
                log.warning("%s", text)


async def _in_thread(channel: socket.socket) -> tuple[Handover, dict[str, int]]:
    return await trio.to_thread.run_sync(receive, channel, Handover, abandon_on_cancel=True)


@contextmanager
def _woken_on_cancel(channel: socket.socket) -> Iterator[None]:
    """A thread that still waits for the loader when we are cancelled sees the end of the stream."""
    try:
        yield
    except trio.Cancelled:
        channel.shutdown(socket.SHUT_RDWR)
        raise
