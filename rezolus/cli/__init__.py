"""The `rezolus` command: a table of subcommands, each in a file of its own that is imported when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from rezolus import __version__
from rezolus.cli.errors import run_reporting

DAEMON = "agent"
"""The subcommand that `rezolus FILE.toml` stands for."""

COMMANDS: Mapping[str, str] = {
    DAEMON: "Run the daemon with a configuration file (`rezolus FILE.toml` for short).",
    "exporter": "Serve an agent's readings to Prometheus, as a service of its own.",
    "hindsight": "Keep an agent's last minutes on disk, as a service of its own.",
    "record": "Record agents and Prometheus endpoints into a file.",
    "config": "Check configuration files and say what they amount to.",
    "reload": "Have a running daemon take up changed files.",
    "check": "Report every error in .rzl files.",
    "compile": "Show what .rzl files become: the plan, the C, the schema.",
    "fmt": "Lay out .rzl files in the one standard form.",
    "test": "Run the tests written in .rzl files.",
    "metrics": "List metrics with type, unit, labels, help and origin.",
    "watch": "Attach .rzl files and show live values.",
    "status": "Show what a running agent does and what it costs.",
    "demo": "Run the agent beside a small workload and print what it measured.",
}
"""Names and one-line helps. `rezolus.cli.NAME` has the click command `command`; only the called one is imported."""


class LazyGroup(click.Group):
    """Knows its commands from `COMMANDS`, so that help and dispatch import none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command called `cmd_name`, imported now."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"rezolus.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, from the table."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A first argument that is a configuration file and no command means the daemon."""
        if args[0] not in COMMANDS:
            if not _is_configuration(args[0]):
                ctx.fail(f"no command and no file is called {args[0]!r}{_nearest_command(args[0])}")
            args = [DAEMON, *args]
        return super().resolve_command(ctx, args)


def _is_configuration(argument: str) -> bool:
    return argument.endswith(".toml") or Path(argument).is_file()


def _nearest_command(word: str) -> str:
    from rezolus.tables import nearest  # not needed by any command line that is right

    return nearest(word, COMMANDS)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    options_metavar="",
    subcommand_metavar="FILE.toml | COMMAND ...",
    no_args_is_help=True,
)
@click.version_option(__version__, prog_name="rezolus")
def rezolus() -> None:
    """Linux performance telemetry whose metrics are defined in .rzl files compiled to eBPF."""


def main() -> None:
    """The console script: runs the command line and ends the process with its exit status."""
    sys.exit(run_reporting(lambda: rezolus.main(prog_name="rezolus", standalone_mode=False)))
