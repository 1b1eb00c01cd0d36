"""`rezolus reload`: have a running daemon take up changed configuration and definitions."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rezolus.errors import UserError

if TYPE_CHECKING:
    import httpx

    from rezolus.status import ReloadResult

DEFAULT = "http://127.0.0.1:4241"
TIMEOUT_S = 120.0
"""For an answer: a slow machine compiles for some seconds."""
CONNECT_S = 5.0
"""For a sign of life before that."""


@click.command()
@click.argument("address", default=DEFAULT)
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE", help="File with the agent's token.")
@click.option("--pid", type=click.IntRange(2), metavar="N", help="Send SIGUSR1 to this process instead.")
def command(address: str, token_file: Path | None, pid: int | None) -> int:
    """Have the daemon whose agent listens at ADDRESS (default http://127.0.0.1:4241) read its files again.

    Says what was changed. When a file has a mistake everything stays as it was, the mistakes are shown and the exit status is 1.
    ADDRESS may be unix:FILE. A service without an agent is told with --pid, and says in its log what came of it.
    """
    if pid is not None:
        _signal(pid)
        print(f"told process {pid} to reload; its log says what came of it")
        return 0
    result = _result(_post(address, token_file), address)
    sys.stdout.flush()
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    for problem in result.problems or (() if result.ok else ("the daemon does not say why",)):
        print(f"error: {problem}", file=sys.stderr)
    if result.changed:
        print(f"reloaded: {', '.join(result.changed)}")
    else:
        print("reloaded: nothing has changed" if result.ok else "nothing was changed")
    return 0 if result.ok else 1


def _signal(pid: int) -> None:
    """UserError when the process is not there or would be killed by the signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), 16)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        if not caught >> (signal.SIGUSR1 - 1) & 1 or "rezolus" not in (Path(word).name for word in words):
            raise UserError(f"process {pid} is no daemon of ours that takes SIGUSR1")
        os.kill(pid, signal.SIGUSR1)
    except (FileNotFoundError, ProcessLookupError):
        raise UserError(f"there is no process {pid}") from None
    except PermissionError:
        raise UserError(f"process {pid} belongs to another user: run it as that user or with sudo") from None


def _post(address: str, token_file: Path | None) -> httpx.Response:
    """The answer to POST /reload. Raises UserError."""
    import httpx

    from rezolus.cli.status import normal_url
    from rezolus.guard import read_token

    socket_file = address.removeprefix("unix:") if address.startswith("unix:") else None
    base = "http://localhost" if socket_file else normal_url(address)
    headers = {} if token_file is None else {"Authorization": f"Bearer {read_token(token_file)}"}
    transport = httpx.HTTPTransport(uds=socket_file)
    timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_S)
    try:
        with httpx.Client(transport=transport, timeout=timeout, trust_env=False) as client:
            client.get(base, timeout=CONNECT_S)  # one that hangs should not be waited for as one that compiles
            return client.post(f"{base}/reload", headers=headers)
    except httpx.TimeoutException:
        raise UserError(f"{address} does not answer in time; the daemon's log and `rezolus status` say more") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = re.sub(r"^\[errno \d+\] ", "", str(error).lower()) or type(error).__name__
        raise UserError(
            f"cannot reach {address}: {reason}; is the agent running, and is this its `agent.listen`?"
        ) from None


def _result(answer: httpx.Response, address: str) -> ReloadResult:
    """The daemon's own answer. UserError with what a guard, or another server, says instead."""
    import msgspec

    from rezolus.status import ReloadResult

    if answer.status_code in {200, 409}:
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(answer.content, type=ReloadResult)
    hint = {
        401: "; give it with --token-file",
        404: "; is it the agent's address?",
        405: "; is it the agent's address?",
        421: "; use its address",
    }.get(answer.status_code, "")
    text = answer.text.strip().splitlines()[0][:200] if answer.text.strip() else answer.reason_phrase
    raise UserError(f"{address} answers {answer.status_code}: {text}{hint}")
