"""State of a node: as text, as a read-only page on this computer, and as metrics for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..system.pages import render
from .queue import Queue

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_HOST = "127.0.0.1"
_IDLE_SECONDS = 10.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


def describe(summary: Mapping[str, Any]) -> str:
    """A summary of the queue as text."""
    counts = ", ".join(f"{count} {state}" for state, count in summary["series"].items())
    lines = [
        f"Series: {counts}.",
        f"Waiting: {summary['waiting_bytes'] / 1e9:.2f} GB. Done in the last hour: {summary['done_in_last_hour']}, "
        f"in {summary['mean_seconds']:g} s each on average.",
    ]
    lines += [
        f"{trouble['series']}: {trouble['state']}"
        + f", attempt {trouble['attempts']}" * bool(trouble["attempts"])
        + f": {trouble['reason']}"
        for trouble in summary["troubles"]
    ]
    return "\n".join(lines)


def metrics(summary: Mapping[str, Any]) -> str:
    """A summary of the queue in the text format of Prometheus."""
    lines = ["# TYPE xviewsynth_node_series gauge"]
    lines += [f'xviewsynth_node_series{{state="{state}"}} {count}' for state, count in summary["series"].items()]
    for name in ("instances", "instance_bytes", "waiting_bytes", "done_in_last_hour", "mean_seconds"):
        lines += [f"# TYPE xviewsynth_node_{name} gauge", f"xviewsynth_node_{name} {summary[name]}"]
    return "\n".join(lines) + "\n"


@contextmanager
def status_page(port: int, queue: Queue) -> Iterator[str]:
    """Serve the page and the metrics on this computer until the context ends. Yields the address.

    Raises:
        InputError: the port is taken.
    """
    pages = {
        "/": ("text/html; charset=utf-8", lambda: render(_TEMPLATE, **queue.summary())),
        "/metrics": ("text/plain; version=0.0.4", lambda: metrics(queue.summary())),
    }

    class Handler(BaseHTTPRequestHandler):
        timeout = _IDLE_SECONDS

        def do_GET(self) -> None:
            if self.path not in pages:
                self.send_error(404)
                return
            kind, made = pages[self.path]
            content = made().encode()
            self.send_response(200)
            for name, value in _HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def version_string(self) -> str:
            return "node"

        def log_message(self, *_: object) -> None:
            """Requests are not logged."""

    try:
        server = ThreadingHTTPServer((_HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise InputError(f"The page cannot be served at port {port} ({error}): choose another --page.") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{_HOST}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
