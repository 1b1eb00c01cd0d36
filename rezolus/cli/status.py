"""`rezolus status`: what a running agent does and what it costs."""

from __future__ import annotations

import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rezolus.errors import UserError
from rezolus.terminal import console

DEFAULT = "http://127.0.0.1:4241"
TIMEOUT_S = 5.0
MAXIMUM_BYTES = 64 << 20
"""Of an answer; one with hundreds of samplers has a megabyte."""
_COLOURS = {"healthy": "green", "unsupported": "yellow", "degraded": "red", "failed": "bold red"}
_BAD = ("degraded", "failed")


@click.command()
@click.argument("url", default=DEFAULT)
@click.option("--json", "as_json", is_flag=True, help="Print what the agent answers, unchanged.")
def command(url: str, *, as_json: bool) -> int:
    """Show what the agent at URL (default http://127.0.0.1:4241) does and what it costs.

    The exit status is 1 when the agent does not answer, definitions could not be used, or a sampler is degraded or failed.
    """
    address = normal_url(url)
    body = fetch(f"{address}/status")
    status = parse(address, body)
    if as_json:
        sys.stdout.write(body.decode() + "\n")
    else:
        show(status, console())
    return 1 if bad_samplers(status) or status.get("error") or status.get("problems") else 0


def normal_url(url: str) -> str:
    """`host:port` and URLs with or without a path, as a base URL. Raises UserError."""
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UserError(f"{url!r} is not an address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url!r} is not an address; expected something like {DEFAULT}")
    default = "" if port else ":4241"
    return f"{parts.scheme}://{parts.netloc}{default}"


def fetch(url: str) -> bytes:
    """The body at `url`. Raises UserError."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the scheme was checked
            return b"".join(_parts(answer))
    except urllib.error.HTTPError as error:
        with error:
            raise UserError(f"{url} answers {error.code} {error.reason}; is it the agent's address?") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        text = str(getattr(reason, "strerror", None) or reason).lower()
        raise UserError(f"cannot read {url}: {text}; is the agent running, and is this its `agent.listen`?") from None


def _parts(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body as it comes; OSError when there is no end of it."""
    deadline, size = time.monotonic() + TIMEOUT_S, 0
    while part := answer.read1(1 << 16):
        size += len(part)
        if size > MAXIMUM_BYTES or time.monotonic() > deadline:
            raise OSError("the answer does not end")
        yield part


def parse(url: str, body: bytes) -> dict[str, Any]:
    """The status in an answer. Raises UserError."""
    try:
        status = json.loads(body)
    except (ValueError, RecursionError):
        status = None
    if not isinstance(status, dict) or not isinstance(status.get("samplers"), list):
        raise UserError(f"{url} does not answer as an agent does; is it the agent's address?")
    return status


def bad_samplers(status: dict[str, Any]) -> list[str]:
    """Names of the samplers that do not work as they should."""
    return [sampler["name"] for sampler in status["samplers"] if sampler.get("health") in _BAD]


def show(status: dict[str, Any], console: Console) -> None:
    """Print a status for people."""
    console.print(Text(_headline(status)))
    if status.get("error"):
        console.print(Text(f"error: {status['error']}", "bold red"))
    console.print(_sampler_table(status["samplers"]))
    for text, names in _grouped_problems(status["samplers"]).items():
        console.print(Text(f"{_names(names)}: {text}", "red"), soft_wrap=True)
    for sampler in status["samplers"]:
        for line in _remarks(sampler):
            console.print(line, soft_wrap=True)
    for problem in status.get("problems", ()):
        console.print(Text(_problem(problem), "red"), soft_wrap=True)
    for source in status.get("sources", ()):
        text = f"source {source['source']}: {source['path']}: {source['message']}"
        console.print(Text(text, "yellow"), soft_wrap=True)


def _headline(status: dict[str, Any]) -> str:
    clock = status.get("clock", {})
    reading = status.get("reading")
    parts = [
        f"rezolus {status.get('version', '?')}, up {_duration(status.get('uptime_seconds', 0))}",
        f"user {status.get('user', '?')}",
    ]
    if clock:
        parts.append(
            f"every {clock['interval_seconds']:g} s: {clock['ticks']} readings, "
            f"{clock['late']} late, {clock['skipped']} skipped"
        )
    if reading:
        series = reading["counters"] + reading["gauges"] + reading["histograms"]
        parts.append(f"{series} series in {reading['duration_ns'] / 1e6:.2f} ms")
    if status.get("map_memory_bytes"):
        parts.append(f"maps {status['map_memory_bytes'] / 2**20:.1f} MiB")
    if status.get("loading"):
        parts.append("loading")
    elif not status.get("bpf", True):
        parts.append("no eBPF")
    return "; ".join(parts)


def _sampler_table(samplers: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("sampler")
    table.add_column("health")
    for name in ("series", "events/s", "ns/event", "CPU", "discards"):
        table.add_column(name, justify="right")
    table.add_column("hooks", overflow="fold")
    for sampler in samplers:
        health = sampler.get("health") or sampler["state"]
        cost = sampler.get("cost")
        table.add_row(
            Text(sampler["name"]),
            Text(health, _COLOURS.get(health, "dim")),
            str(sampler.get("series", "")),
            f"{cost['events_per_second']:,.0f}" if cost else "",
            f"{cost['ns_per_event']:.0f}" if cost else "",
            f"{cost['cpu_share']:.2%}" if cost else "",
            str(sum(sampler.get("discards", {}).values()) or ""),
            Text(_hooks(sampler)),
        )
    return table


def _hooks(sampler: dict[str, Any]) -> str:
    hooks = dict.fromkeys(event["hook"] or f"no {event['event']}" for event in sampler.get("events", ()))
    return ", ".join(hooks)


def _grouped_problems(samplers: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Problem to the samplers that have it; its place is told when only one has."""
    by_message: dict[str, list[tuple[str, str]]] = {}
    for sampler in samplers:
        for problem in sampler.get("problems", ()):
            by_message.setdefault(problem["message"], []).append((sampler["name"], _problem(problem)))
    return {
        (message if len(found) > 1 else found[0][1]): [name for name, _ in found]
        for message, found in by_message.items()
    }


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} samplers"


def _remarks(sampler: dict[str, Any]) -> list[Text]:
    """What is not as one would wish, one line each."""
    name = sampler["name"]
    lines = [
        Text(f"{name}: {program['hook']}: {program['error']}", "red")
        for program in sampler.get("programs", ())
        if program.get("error")
    ]
    for event in sampler.get("events", ()):
        style = "dim" if event["hook"] else "yellow"
        missing = [f"{name}: {alternative}: {why}" for alternative, why in event.get("missing", ())]
        lines += [Text(text, style) for text in missing if text not in map(str, lines)]
    lines += [
        Text(f"{name}: discarded {count} ({reason})", "yellow") for reason, count in sampler.get("discards", {}).items()
    ]
    lines += [
        Text(f"{name}: {metric}: some values are counted under (other)", "yellow")
        for metric in sampler.get("overflows", ())
    ]
    return lines


def _problem(problem: dict[str, Any]) -> str:
    place = problem.get("file", "")
    if place and problem.get("line"):
        place = f"{place}:{problem['line']}"
    return f"{place}: {problem['message']}" if place else str(problem["message"])


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(shown[:2]) or "0 s"
