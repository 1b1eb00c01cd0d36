from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from rezolus.cli import COMMANDS
from rezolus.cli.errors import run_reporting
from rezolus.errors import UserError

ROOT = Path(__file__).parent.parent.parent


def rezolus(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rezolus", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


def test_help_and_version_load_no_subcommand() -> None:
    done = rezolus("--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    code = (
        "import sys\nfrom rezolus.cli import main\nsys.argv = ['rezolus', '--version']\n"
        "try: main()\nfinally: print(sorted(name for name in sys.modules if name.split('.')[0] in "
        "('dsl', 'lark', 'pyarrow', 'numpy', 'trio', 'quart', 'rich')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_the_table_has_a_file_and_a_help(name: str) -> None:
    command = importlib.import_module(f"rezolus.cli.{name}").command
    assert isinstance(command, click.Command)
    assert command.help
    done = rezolus(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    done = rezolus("statsu")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: no command and no file is called 'statsu'; did you mean `status`?"


def test_a_configuration_file_as_first_argument_means_the_daemon(tmp_path: Path) -> None:
    file = tmp_path / "agent.conf"
    file.write_text("[agnt]\n")
    done = rezolus(str(file))
    assert done.returncode == 1
    assert done.stderr == f"error: {file}: agnt: unknown key; did you mean `agent`?\n"
    done = rezolus("missing.toml")
    assert done.returncode == 1
    assert done.stderr == f"error: {ROOT}/missing.toml: no such file\n"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UserError("file.rzl is too long"), 1, "error: file.rzl is too long\n"),
        (FileNotFoundError(2, "No such file or directory", "x.rzl"), 1, "error: x.rzl: no such file or directory\n"),
        (click.UsageError("no such option"), 2, "error: no such option\n"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(3), 3, ""),
        (
            ExceptionGroup("tasks", [UserError("a"), ExceptionGroup("inner", [UserError("b"), UserError("a")])]),
            1,
            "error: a\nerror: b\n",
        ),
        (BaseExceptionGroup("tasks", [UserError("a"), KeyboardInterrupt()]), 130, "error: a\n"),
    ],
)
def test_an_exception_becomes_a_message_and_a_status(
    error: BaseException, status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_reporting(raising(error)) == status
    assert capsys.readouterr().err == text


def test_a_defect_names_its_place_and_shows_a_traceback_only_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REZOLUS_DEBUG", raising=False)
    assert run_reporting(raising(KeyError("axis"))) == 70
    text = capsys.readouterr().err
    assert "error: defect in rezolus at test_frame.py:" in text
    assert "KeyError: 'axis'" in text
    assert "Traceback" not in text
    monkeypatch.setenv("REZOLUS_DEBUG", "1")
    assert run_reporting(raising(KeyError("axis"))) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_result_is_the_exit_status() -> None:
    assert run_reporting(lambda: None) == 0
    assert run_reporting(lambda: 1) == 1


def test_a_reader_that_goes_away_ends_a_command_silently() -> None:
    code = (
        "import sys\nfrom rezolus.cli.errors import run_reporting\n"
        "def command():\n    while True: print('x' * 1000)\n"
        "sys.exit(run_reporting(command))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.read(1)
    child.stdout.close()
    with child.stderr as errors:
        assert errors.read() == b""
    assert child.wait() == 128 + signal.SIGPIPE


def test_ctrl_c_ends_a_command_with_130() -> None:
    code = (
        "import signal, sys\nfrom rezolus.cli.errors import run_reporting\n"
        "def command():\n    print('ready', flush=True)\n    signal.pause()\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # the tests may run where it is ignored
        "sys.exit(run_reporting(command))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate()
    assert (output, errors, child.returncode) == (b"", b"", 130)
