"""`rezolus hindsight FILE`: the last minutes of an agent elsewhere, kept on disk, as a service of its own."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """Run the hindsight sinks of FILE, and nothing else of it, until SIGINT or SIGTERM.

    FILE is a configuration of ours or the hindsight.toml of Rezolus. Readings come from an agent over HTTP: from where FILE says the
    agent listens, unless a sink names other sources.
    """
    from rezolus.cli.agent import run_config

    run_config(file, form="hindsight")
