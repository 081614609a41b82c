"""A JWKS behind a real HTTPS server: rotated, away, elsewhere, too large, too slow."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.process import until
from tests.unit.auth.making import NOW, jwk, jwks, signed, verifiers
from tidegate.auth.credentials import Credentials
from tidegate.auth.jwks import Jwks, url_fetch
from tidegate.auth.keys import LARGEST_SET
from tidegate.auth.verdict import Granted, Refused, Unavailable, Verdict
from tidegate.auth.verify import Verifier, VerifierSet
from tidegate.config import auth as written
from tidegate.config.credentials import Named
from tidegate.errors import ConfigError

GOOD = {"exp": NOW + 60, "tidegate": {"endpoints": ["web"]}}


class Issuer(BaseHTTPRequestHandler):
    """An issuer of tokens; what it answers is the server's."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append(self.path)
        if server.hold is not None:
            server.hold.wait(20)
        status, headers, body = server.answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class Server(ThreadingHTTPServer):
    """A running issuer."""

    daemon_threads = True

    def __init__(self, authority: Authority) -> None:
        super().__init__(("127.0.0.1", 0), Issuer)
        self.socket = authority.server("DNS:localhost").wrap_socket(self.socket, server_side=True)
        self.url = f"https://localhost:{self.server_address[1]}/jwks.json"
        self.asked: list[str] = []
        self.hold: threading.Event | None = None
        self.publish(jwk("ES256", kid="a"))

    def publish(self, *members: Any) -> None:
        self.answer: tuple[int, dict[str, str], bytes] = (200, {}, jwks(*members))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is none."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def issuer(authority: Authority) -> Iterator[Server]:
    server = Server(authority)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        if server.hold is not None:
            server.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_query_of_a_url_is_sent_and_in_nothing_that_is_told(issuer: Server, authority: Authority) -> None:
    source = written.Jwks(url=f"{issuer.url}?apikey=QSECRET", ca=str(authority.ca))
    terms = written.Verifier(jwks=source)
    Credentials({"": [Named("main", terms)]}, {}, {}, None)
    assert issuer.asked == ["/jwks.json?apikey=QSECRET"]
    said: list[str] = []
    answers: list[tuple[int, dict[str, str], bytes]] = [
        (500, {}, b""), (302, {"Location": "/"}, b""), (200, {}, b"<html>"), (200, {"Content-Encoding": "x"}, b""),
        (200, {}, jwks()), (200, {}, b" " * (LARGEST_SET + 1)),
    ]  # fmt: skip
    for issuer.answer in answers:
        with pytest.raises(ConfigError) as told:
            Credentials({"": [Named("main", terms)]}, {}, {}, None)
        said += told.value.mistakes
    said += [url_error(f"https://localhost:{port}/?apikey=QSECRET") for port in (1, issuer.server_address[1])]
    assert len(said) == 8
    assert all("/?…: " in each or "/jwks.json?…: " in each for each in said), said
    assert "QSECRET" not in "".join(said)


def url_error(url: str) -> str:
    with pytest.raises(ValueError, match="localhost") as told:
        url_fetch(url, None, 5)()
    return str(told.value)


def keys_of(issuer: Server, authority: Authority, **times: Any) -> Jwks:
    keys = Jwks("main", url_fetch(issuer.url, str(authority.ca), 5), **times)
    keys.load()
    return keys


def asking(keys: Jwks) -> VerifierSet:
    return verifiers(Verifier("main", keys))


def test_keys_come_from_an_issuer_whose_certificate_is_good(
    issuer: Server, authority: Authority, tmp_path: Path
) -> None:
    assert isinstance(asking(keys_of(issuer, authority)).verify(signed("ES256", GOOD, kid="a")), Granted)
    assert issuer.asked == ["/jwks.json"]
    for ca in (None, str(Authority(tmp_path).ca)):
        with pytest.raises(ValueError, match="certificate verify failed"):
            url_fetch(issuer.url, ca, 5)()
    with pytest.raises(ValueError, match="holds no certificate"):
        url_fetch(issuer.url, __file__, 5)()
    with pytest.raises(ValueError, match="cannot read it"):
        url_fetch(issuer.url, str(tmp_path / "missing.pem"), 5)()


def test_case_34_keys_rotate_while_tokens_come(issuer: Server, authority: Authority) -> None:
    gone: list[str] = []
    keys = keys_of(issuer, authority, refresh=0.05, retry=0.05)
    keys.changed = gone.extend
    asked = asking(keys)
    first = keys.ids()
    issuer.publish(jwk("ES256", kid="a"), jwk("ES256", kid="b", which=1))
    with ThreadPoolExecutor(8) as pool:
        both = [pool.submit(asked.verify, signed("ES256", GOOD, kid="a")) for _ in range(200)]
        assert all(isinstance(each.result(20), Granted) for each in both)

        def second_is_known() -> bool:
            return isinstance(asked.verify(signed("ES256", GOOD, kid="b", which=1)), Granted)

        until(second_is_known, "the second key is known")
        issuer.publish(jwk("ES256", kid="b", which=1))

        def first_is_gone() -> bool:
            keys.tend()
            return gone == sorted(first)

        until(first_is_gone, "the removed key is told")
        old = [pool.submit(asked.verify, signed("ES256", GOOD, kid="a")) for _ in range(20)]
        assert all(isinstance(each.result(20), Refused) for each in old)
        assert second_is_known()


def test_case_34_a_redirect_is_not_followed(issuer: Server, authority: Authority) -> None:
    for status in (301, 302, 303, 307, 308):
        issuer.answer = (status, {"Location": "/other.json"}, b"")
        with pytest.raises(ValueError, match="redirect"):
            url_fetch(issuer.url, str(authority.ca), 5)()
    assert set(issuer.asked) == {"/jwks.json"}


def test_case_34_ten_megabytes_are_not_read(issuer: Server, authority: Authority) -> None:
    issuer.answer = (200, {}, b" " * (10 << 20))
    with pytest.raises(ValueError, match="more than 1024 KiB"):
        url_fetch(issuer.url, str(authority.ca), 5)()


def test_case_34_what_is_packed_or_no_success_is_not_read(issuer: Server, authority: Authority) -> None:
    fetch = url_fetch(issuer.url, str(authority.ca), 5)
    issuer.answer = (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b")
    with pytest.raises(ValueError, match="encoding"):
        fetch()
    issuer.answer = (500, {}, jwks(jwk("ES256")))
    with pytest.raises(ValueError, match="answers 500"):
        fetch()


def test_an_issuer_that_does_not_answer_is_told(issuer: Server, authority: Authority) -> None:
    issuer.hold = threading.Event()
    with pytest.raises(ValueError, match="takes too long"):
        url_fetch(issuer.url, str(authority.ca), 0.2)()


def test_an_issuer_that_hangs_holds_up_nobody_whose_key_is_known(issuer: Server, authority: Authority) -> None:
    keys = keys_of(issuer, authority, retry=0.0)
    asked = asking(keys)
    issuer.publish(jwk("ES256", kid="a"), jwk("ES256", kid="b", which=1))
    issuer.hold = threading.Event()
    told: list[Verdict] = []
    asked.answer(signed("ES256", GOOD, kid="b", which=1), "", told.append)
    assert isinstance(asked.verify(signed("ES256", GOOD, kid="a")), Granted)
    assert told == []
    issuer.hold.set()
    until(lambda: told, "the unknown key has come")
    assert isinstance(told[0], Granted)


def test_an_issuer_that_is_away_makes_unknown_keys_unavailable(authority: Authority) -> None:
    server = Server(authority)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        keys = keys_of(server, authority, retry=0.0)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    verdict = asking(keys).verify(signed("ES256", GOOD, kid="b"))
    assert isinstance(verdict, Unavailable)
    assert "refused" in verdict.why
    assert isinstance(asking(keys).verify(signed("ES256", GOOD, kid="a")), Granted)


@pytest.mark.parametrize("said", [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"x"])
def test_an_issuer_that_never_comes_to_its_answer_is_left_in_time(said: bytes) -> None:
    over = threading.Event()

    def never_end(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: " if said == b"x" else b"")
            while not over.wait(0.02):
                connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=never_end, args=(listener,), daemon=True).start()
        fetch = url_fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/jwks.json", seconds=0.5)
        began = time.monotonic()
        try:
            with pytest.raises(ValueError, match="takes too long"):
                fetch()
        finally:
            over.set()
        assert time.monotonic() - began < 10
