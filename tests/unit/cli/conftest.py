"""An admin listener that says what a test wants, for commands that ask one."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

Answers = dict[str, tuple[int, bytes]]
"""A status and a body for each method and path, such as `GET /status`."""


@pytest.fixture
def answers() -> Answers:
    """What the listener says; nothing, where a file of tests does not say otherwise."""
    return {}


@pytest.fixture
def url(answers: Answers) -> Iterator[str]:
    """The URL of the listener."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answers[f"{self.command} {self.path}"]
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
