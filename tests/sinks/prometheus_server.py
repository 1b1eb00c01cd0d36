"""A real Prometheus on a port of its own, for as long as a test needs it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import trio

PATIENCE_S = 30
SCRAPE = "200ms"


class Prometheus:
    """Asks it."""

    def __init__(self, client: httpx.AsyncClient, log: Path) -> None:
        self._client = client
        self._log = log

    async def query(self, query: str) -> list[dict[str, Any]]:
        """The result of an instant query; AssertionError when there were warnings."""
        response = await self._client.get("/api/v1/query", params={"query": query})
        response.raise_for_status()
        answer = response.json()
        assert "warnings" not in answer, answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    async def wait(self, query: str, fits: Callable[[list[dict[str, Any]]], bool] = bool) -> list[dict[str, Any]]:
        """The result as soon as it fits."""
        result: object = None
        with trio.move_on_after(PATIENCE_S):
            while True:
                try:
                    found = await self.query(query)
                    if fits(found):
                        return found
                    result = found
                except httpx.HTTPError as error:
                    result = error  # it is starting
                await trio.sleep(0.05)
        raise AssertionError(f"{query}: {result}\n{self.complaints()}")

    def complaints(self) -> list[str]:
        """What it did not like, as it logged it."""
        lines = self._log.read_text().splitlines()
        return [line for line in lines if "level=warn" in line.lower() or "level=error" in line.lower()]


@asynccontextmanager
async def running(
    program: str, folder: Path, jobs: Iterable[Mapping[str, object]], *options: str
) -> AsyncIterator[Prometheus]:
    """A Prometheus with these scrape configurations."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    config = {"global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE}, "scrape_configs": list(jobs)}
    (folder / "prometheus.yml").write_bytes(msgspec.json.encode(config))  # JSON is YAML
    command = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={listen}",
        "--scrape.discovery-reload-interval=100ms",  # or the first scrape comes after five seconds
        *options,
    ]
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    process = await trio.lowlevel.open_process(command, stdout=log, stderr=subprocess.STDOUT)
    os.close(log)
    try:
        async with httpx.AsyncClient(base_url=f"http://{listen}", trust_env=False) as client:
            yield Prometheus(client, folder / "log")
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def job(name: str, target: str, **more: object) -> dict[str, object]:
    """A scrape configuration."""
    return {"job_name": name, "static_configs": [{"targets": [target]}], **more}
