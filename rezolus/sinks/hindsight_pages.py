"""What a hindsight sink serves: `/status`, `/dump`, `/dump/file`, as Rezolus does up to 5.17."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

import msgspec
from quart import Response, request
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio

from rezolus import __version__
from rezolus.pages import BINARY, refuse_in_words, text
from rezolus.recording.store import DumpResult
from rezolus.sinks.dumps import BusyError, DumpFailedError, Dumps
from rezolus.sinks.timerange import RangeError, TimeRange, parse_range

if TYPE_CHECKING:
    from rezolus.sinks.hindsight import Hindsight

CHUNK = 256 << 10
"""Bytes read at a time: a thread takes them, which costs a twentieth of a millisecond."""
SEND_S = 600
"""How long a client may take for a dump. One that takes nothing at all is dropped earlier, see `rezolus.http`."""
RETRY_AFTER_S = 5
NOTHING = "no reading matches this range\n"
IN_BODY = "a dump takes no body: the range goes into the query string, as in /dump/file?last=5m"
"""`curl -d last=5m` would otherwise get the whole buffer."""
BANNER = f"""\
Rezolus {__version__} Hindsight

/status     this buffer, JSON
/dump       what is in it as a Parquet file; ?last=5m or ?start=...&end=... (Unix seconds or RFC 3339)
/dump/file  POST: the same, to the configured file on this host
"""


class Sending(ResponseBody, AsyncIterator[bytes]):
    """An open file as the body of an answer; it is closed and `dumps` gets its place back however the answer ends.

    Threads read and close it: with the close, an unlinked file of some hundred megabytes is freed.
    """

    def __init__(self, file: IO[bytes], dumps: Dumps) -> None:
        self._file = file
        self._dumps = dumps
        self._unsent = weakref.finalize(self, _give_up, file, dumps)
        self._unsent.atexit = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._unsent.detach()
        try:
            await self._dumps.on_disk(self._file.close)
        finally:
            self._dumps.leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._dumps.on_disk(partial(self._file.read, CHUNK))
        if not chunk:
            raise StopAsyncIteration
        return chunk


def _give_up(file: IO[bytes], dumps: Dumps) -> None:
    """For an answer that nobody began to send; where nothing can be awaited."""
    dumps.leave()
    threading.Thread(target=file.close, daemon=True).start()


def make_app(hindsight: Hindsight) -> QuartTrio:
    """The pages of a sink."""
    app = QuartTrio("rezolus", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.get("/")
    async def banner() -> Response:
        return text(BANNER)

    @app.get("/status")
    async def status() -> dict[str, object]:
        return status_of(hindsight)

    @app.get("/dump")
    async def dump() -> Response:
        try:
            span = parse_range(request.args, time.time_ns())
            if request.method == "HEAD":
                return _attachment(b"")
            return await _dumped(hindsight.dumps, span)
        except (RangeError, BusyError, DumpFailedError) as error:
            return text(f"{error}\n", *_status_for(error))

    @app.post("/dump/file")
    async def dump_file() -> tuple[dict[str, object], int, dict[str, str]]:
        try:
            result = await hindsight.dump_to_file(await _range_of_file())
        except (RangeError, BusyError, DumpFailedError) as error:
            status, headers = _status_for(error)
            return {**_written("", DumpResult(0)), "error": str(error)}, status, headers
        return _written(str(hindsight.output.absolute()) if result.rows else "", result), 200, {}

    refuse_in_words(app)
    return app


def status_of(hindsight: Hindsight) -> dict[str, object]:
    """What `/status` answers: Rezolus' keys, then ours."""
    config, statistics = hindsight.config, hindsight.statistics()
    ring = statistics.ring
    return {
        "buffer_duration_secs": config.duration // 10**9,
        "sampling_interval_ms": max(1, round(config.interval / 1e6)),
        "snapshot_count": ring.rows,
        "snapshots_written": statistics.written,
        "oldest_timestamp": _seconds(ring.first_ns),
        "newest_timestamp": _seconds(ring.last_ns),
        "buffer_utilization": min(1.0, max(ring.covered_ns / config.duration, ring.bytes / config.max_bytes)),
        "name": hindsight.name,
        "version": __version__,
        "covered_secs": ring.covered_ns // 10**9,
        "bytes": ring.bytes,
        "max_bytes": config.max_bytes,
        "segments": ring.segments,
        "dropped_on_full_disk": ring.dropped,
        "lost": statistics.lost,
        "dumps": statistics.dumps,
        "failed_dumps": statistics.failed_dumps,
        "error": statistics.error or None,
        "remotes": msgspec.to_builtins(hindsight.remotes()),
    }


async def _range_of_file() -> TimeRange:
    """The range that a POST asks for. Raises RangeError."""
    if await request.get_data():
        raise RangeError(IN_BODY)
    return parse_range(request.args, time.time_ns())


async def _dumped(dumps: Dumps, span: TimeRange) -> Response:
    """A dump as an answer. Its file has no name any more when the first byte is sent, so nothing can be left of it."""
    dumps.enter()
    path = dumps.temporary()
    try:
        result = await dumps.make(span, path)
        if not result.rows:
            dumps.leave()
            return text(NOTHING)
        file = await dumps.on_disk(partial(_open_and_unlink, path))
    except BaseException:
        await dumps.on_disk(partial(path.unlink, missing_ok=True))
        dumps.leave()
        raise
    response = _attachment(Sending(file, dumps))
    response.content_length = result.bytes
    response.timeout = SEND_S
    return response


def _open_and_unlink(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise DumpFailedError(f"cannot read the dump: {(error.strerror or str(error)).lower()}") from error
    finally:
        path.unlink(missing_ok=True)


def _attachment(body: ResponseBody | bytes) -> Response:
    response = Response(body, content_type=BINARY)
    response.headers["Content-Disposition"] = 'attachment; filename="dump.parquet"'
    return response


def _written(path: str, result: DumpResult) -> dict[str, object]:
    span = {"start": _seconds(result.first_ns), "end": _seconds(result.last_ns)}
    return {"path": path, "snapshots": result.rows, "time_range": span if result.rows else None}


def _status_for(error: Exception) -> tuple[int, dict[str, str]]:
    if isinstance(error, RangeError):
        return 400, {}
    if isinstance(error, BusyError):
        return 503, {"Retry-After": str(RETRY_AFTER_S)}
    return 500, {}


def _seconds(time_ns: int | None) -> int | None:
    return None if time_ns is None else time_ns // 10**9
