"""`tidegate reload` against an admin listener."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tidegate.cli.reload import reload


class Answers(BaseHTTPRequestHandler):
    """What an admin listener would say."""

    answer: tuple[int, dict[str, Any]] = (200, {})

    def do_POST(self) -> None:
        code, found = self.answer
        body = json.dumps(found).encode() if self.path == "/reload" else b"lost"
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def run(monkeypatch: pytest.MonkeyPatch, url: str, code: int, **answer: Any) -> Result:
    monkeypatch.setattr(Answers, "answer", (code, answer))
    return CliRunner().invoke(reload, ["--url", url])


def test_what_is_different_is_printed(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    changes = {"routes": {"added": {"count": 1, "names": ["sh\x1bop"]}}}
    result = run(monkeypatch, url, 200, result="applied", seconds=0.5, changes=changes)
    assert (result.exit_code, result.output) == (0, "applied in 0.50 s: routes: 1 added (sh\\x1bop)\n")


def test_every_reason_of_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    result = run(monkeypatch, url, 422, result="refused", reasons=["a: 1", "b: 2"])
    assert str(result.exception) == "refused, the configuration before stays in force: a: 1; b: 2"


def test_who_may_not_ask_is_told_why(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    result = run(monkeypatch, url, 403, error="not from here", detail="only for this machine itself")
    assert str(result.exception) == f"{url} answered 403: only for this machine itself"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url", "http://x:1", "--ca", "ca.pem"], "speaks no TLS"),
        (["--url", "https://x:1", "--cert", "c.pem"], "--cert and --key belong together"),
        (["--url", "https://x:1", "--ca", "/nowhere.pem"], "/nowhere.pem: no such file"),
    ],
)
def test_options_of_tls_have_to_fit(words: list[str], said: str) -> None:
    assert said in str(CliRunner().invoke(reload, words).exception)
