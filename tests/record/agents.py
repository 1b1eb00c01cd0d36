"""Endpoints to record from: an agent whose values move with every request, and a page of Prometheus text."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rezolus.reading import Catalog, Series
from rezolus.wire.encode import Encoder
from tests.synthetic import Walk

SYSTEMINFO = {"hostname": "far", "cpus": 2}


def small_catalog() -> Catalog:
    return Catalog(
        (Series("cpu_usage", "counter", {"state": "user"}, "nanoseconds", "Time of CPUs.", "cpu"),),
        (Series("memory_free", "gauge", {}, "bytes", "", "memory"),),
        (Series("latency", "histogram", {}, "nanoseconds", "", "latencies"),),
    )


class Pages:
    """What the server answers."""

    def __init__(self) -> None:
        self.walk = Walk(small_catalog())
        self.encoder = Encoder("v2", {"source": "rezolus", "version": "5.17.0"})
        self.lock = threading.Lock()

    def page(self, path: str) -> bytes | None:
        with self.lock:
            if path == "/metrics/binary":
                reading = self.walk.step()
                reading.time_ns = time.time_ns()
                return self.encoder.encode(reading)
            if path == "/metrics":
                return f"# TYPE hits counter\nhits {self.walk.step().time_ns}\n".encode()
            if path == "/systeminfo":
                return json.dumps(SYSTEMINFO).encode()
            if path == "/metrics/descriptions":
                return json.dumps({"cpu_usage": "Time of CPUs."}).encode()
            return None


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Recorders are killed in tests."""


@contextmanager
def agent(*, only: str = "") -> Iterator[str]:
    """The address of one; `only` that path is there."""
    pages = Pages()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and body in one packet; the second would wait for an acknowledgement

        def do_GET(self) -> None:
            body = pages.page(self.path) if only in {"", self.path} else None
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *arguments: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
