"""`rezolus reload` against daemons that answer in every way."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.command import rezolus


@contextmanager
def answering(answer: bytes, listener: socket.socket) -> Iterator[list[bytes]]:
    """A server that gives a sign of life and then one answer; gives what the latter was to."""
    requests: list[bytes] = []

    def serve() -> None:
        with suppress(OSError):
            while not requests:
                connection, _ = listener.accept()
                with connection:
                    request = connection.recv(65536)
                    if request.startswith(b"GET / "):
                        connection.sendall(response("200 OK", "a daemon"))
                        continue
                    requests.append(request)
                    connection.sendall(answer)

    with listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield requests
    thread.join(20)
    assert not thread.is_alive()


def response(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body.encode())}\r\nconnection: close\r\n\r\n{body}".encode()


def reload_at(answer: bytes, *options: object) -> tuple[subprocess.CompletedProcess[str], bytes, str]:
    """The finished command, what it sent, and the address."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    with answering(answer, listener) as requests:
        done = rezolus("reload", address, *options)
    return done, requests[0], address


@pytest.mark.parametrize(
    ("status", "body", "out", "err"),
    [
        ("200 OK", '{"ok": true, "problems": [], "changed": []}', "reloaded: nothing has changed\n", ""),
        (
            "200 OK",
            '{"ok": true, "problems": [], "changed": ["cpu_usage", "exporter"]}',
            "reloaded: cpu_usage, exporter\n",
            "",
        ),
        (
            "409 CONFLICT",
            '{"ok": false, "problems": ["a.toml: b: c", "d.rzl:1: e"], "changed": []}',
            "nothing was changed\n",
            "error: a.toml: b: c\nerror: d.rzl:1: e\n",
        ),
        (
            "409 CONFLICT",
            '{"ok": false, "problems": ["a: cannot listen"], "changed": ["a"], "notes": ["agent.user: at the next start"]}',
            "reloaded: a\n",
            "note: agent.user: at the next start\nerror: a: cannot listen\n",
        ),
    ],
)
def test_what_came_of_it_is_told(status: str, body: str, out: str, err: str) -> None:
    done, request, _ = reload_at(response(status, body))
    assert (done.stdout, done.stderr, done.returncode) == (out, err, 1 if err else 0)
    assert request.startswith(b"POST /reload HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (response("401 x", "this needs a token\n"), "answers 401: this needs a token; give it with --token-file"),
        (response("404 Not Found", ""), "answers 404: Not Found; is it the agent's address?"),
        (response("200 OK", "[]"), "answers 200: []"),
        (response("200 OK", "Rezolus 5"), "answers 200: Rezolus 5"),
        (b"", "server disconnected without sending a response"),
        (b"\xff\x00", "is the agent running, and is this its `agent.listen`?"),
    ],
)
def test_other_answers_are_errors(answer: bytes, text: str) -> None:
    done, _, address = reload_at(answer)
    assert (done.returncode, done.stdout) == (1, "")
    assert text in done.stderr
    assert address in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_token_is_sent(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    _, request, _ = reload_at(response("200 OK", '{"ok": true}'), "--token-file", token)
    assert b"authorization: bearer secret\r\n" in request.lower()


def test_a_unix_socket_is_an_address(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    with answering(response("200 OK", '{"ok": true}'), listener):
        done = rezolus("reload", f"unix:{path}")
    assert done.stdout == "reloaded: nothing has changed\n"
    done = rezolus("reload", f"unix:{tmp_path}/none.sock")
    assert done.returncode == 1
    assert "no such file or directory; is the agent running" in done.stderr


def test_a_daemon_that_hangs_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        done = rezolus("reload", address)
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(65536).startswith(b"GET / ")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {address} does not answer in time")


DAEMON = "import signal, sys\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))\nprint('ready', flush=True)\nsignal.pause()"


def test_a_process_is_signalled_when_it_is_a_daemon_of_ours() -> None:
    # The word by which a daemon is known stands among the arguments.
    with subprocess.Popen([sys.executable, "-c", DAEMON, "rezolus"], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        done = rezolus("reload", "--pid", daemon.pid)
        assert done.stdout == f"told process {daemon.pid} to reload; its log says what came of it\n"
        assert daemon.wait(20) == 7


def test_a_process_that_would_die_of_the_signal_is_left_alone() -> None:
    done = rezolus("reload", "--pid", os.getpid())
    assert done.stderr == f"error: process {os.getpid()} is no daemon of ours that takes SIGUSR1\n"
    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        gone.wait(20)
    assert rezolus("reload", "--pid", gone.pid).stderr == f"error: there is no process {gone.pid}\n"
