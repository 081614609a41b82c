"""TLS that is passed through by its server name, never decrypted: to addresses and to endpoints of agents."""

from __future__ import annotations

import array
import contextlib
import fcntl
import hashlib
import socket
import ssl
import struct
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from curl_cffi import CurlOpt, requests
from curl_cffi.requests import BrowserType

from tests.support import access
from tests.support.certificates import Authority
from tests.support.hello import alert, hello, made, names, record, records
from tests.support.process import until
from tests.support.raw import Raw, at
from tests.support.service import TcpService
from tests.support.tidegate import Agent, Gateway
from tests.support.tools import curl, need, run


class Secret:
    """A TLS service that says which one it is, to HTTP and to everybody else."""

    def __init__(self, name: str, context: ssl.SSLContext) -> None:
        self.name = name
        self._context = context

    def __call__(self, connection: socket.socket) -> None:
        with self._context.wrap_socket(connection, server_side=True) as secure:
            while head := secure.recv(65536):
                if head.startswith(b"GET "):
                    body = self.name.encode()
                    secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                else:
                    secure.sendall(head)


class Site:
    """A gateway with one port for `one.test`, `*.wild.test` and an endpoint `tunnel.test`, none of them its own."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        with ExitStack() as stack:
            services = {}
            for name in ("one.test", "wild.test", "tunnel.test"):
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*self.authority.issue(name, f"DNS:{name}", f"DNS:*.{name}"))
                services[name] = stack.enter_context(TcpService(Secret(name, context)))
            routes = [
                {"sni": "one.test", "to": {"addresses": [services["one.test"].address]}},
                {"sni": "*.wild.test", "to": {"addresses": [services["wild.test"].address]}},
                {"sni": "tunnel.test", "to": {"endpoint": "vault"}},
                {"sni": "nobody.test", "to": {"endpoint": "nobody"}},
                {"sni": "dead.test", "to": {"addresses": ["127.0.0.1:1"]}},
            ]
            secure = {"bind": "127.0.0.1:0", "tls": {}}
            config = {
                "listeners": {"secure": secure},
                "routes": routes,
                "timeouts": {"handshake": "2s"},
                "access_log": {"to": "stdout", "format": "json"},
            }
            self.gateway = stack.enter_context(Gateway(config))
            stack.enter_context(Agent(self.gateway.agents, "tcp", "vault", services["tunnel.test"].address))
            self.gateway.until_offered("vault")
            self.address = self.gateway.address("secure")
            self.services = services
            self._stack = stack.pop_all()

    def connect(self, name: str) -> ssl.SSLSocket:
        """A TLS connection for a name."""
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        return context.wrap_socket(socket.create_connection(at(self.address), timeout=30), server_hostname=name)

    def answer(self, *segments: bytes) -> bytes:
        """What comes back for these segments, up to the first bytes of an answer or the end."""
        with Raw(self.address) as raw:
            for segment in segments:
                raw.send(segment)
            try:
                return raw.socket.recv(65536)
            except ConnectionResetError:
                return b""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The gateway and what stands behind it."""
    running = Site(tmp_path_factory.mktemp("passthrough"))
    with running._stack:
        yield running


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one.test", b"one.test"),
        ("ONE.Test", b"one.test"),
        ("a.wild.test", b"wild.test"),
        ("tunnel.test", b"tunnel.test"),
    ],
)
def test_a_connection_goes_by_its_server_name_and_ends_where_its_certificate_is(
    site: Site, name: str, expected: bytes
) -> None:
    host, port = at(site.address)
    got = curl("--cacert", str(site.authority.ca), "--resolve", f"{name}:{port}:{host}", f"https://{name}:{port}/")
    assert (got.code, got.body) == (0, expected)


def test_openssl_sees_the_certificate_of_the_service(site: Site) -> None:
    said = run(
        need("openssl"), "s_client", "-connect", site.address, "-servername", "one.test", "-CAfile", site.authority.ca
    )
    assert "subject=CN = one.test" in said
    assert "Verify return code: 0 (ok)" in said


def test_what_was_passed_through_is_logged_with_its_name_and_counted(site: Site) -> None:
    with site.connect("b.wild.test") as secure:
        secure.sendall(b"hello")
        assert secure.recv(100) == b"hello"
    line = access.line(site.gateway, host="b.wild.test")
    assert (line["listener"], line["endpoint"], line["status"], line["error"]) == ("secure", "routes[1]", 0, None)
    assert line["method"] is None
    assert min(line["bytes_in"], line["bytes_out"]) > 200


@pytest.mark.parametrize("name", ["two.test", "wild.test", "xone.test", "one.test.evil"])
def test_a_name_that_nobody_here_has_is_told_so(site: Site, name: str) -> None:
    assert alert(site.answer(hello(name))) == "unrecognized_name"


def test_a_connection_without_a_name_is_told_so(site: Site) -> None:
    assert alert(site.answer(hello(None))) == "unrecognized_name"


def test_a_route_that_leads_to_nobody_ends_the_connection(site: Site) -> None:
    for name, code in (("nobody.test", "no_upstream"), ("dead.test", "upstream_unreachable")):
        assert site.answer(hello(name)) == b""
        assert access.line(site.gateway, host=name)["error"] == code


def test_case_29_a_hello_cut_anywhere_over_segments_and_records_takes_the_same_way(site: Site) -> None:
    whole = hello("one.test")
    ways: list[tuple[str, tuple[bytes, ...]]]
    ways = [(f"two segments at {cut}", (whole[:cut], whole[cut:])) for cut in range(1, len(whole))]
    ways += [(f"two records at {cut}", (records(whole, [cut]),)) for cut in range(1, len(whole) - 5)]
    ways.append(("records of a byte", (records(whole, range(1, len(whole) - 5)),)))

    def first(way: tuple[str, tuple[bytes, ...]]) -> tuple[str, int]:
        what, segments = way
        with Raw(site.address) as raw:
            for segment in segments:
                raw.send(segment)
                if len(segments) > 1:
                    # What is acknowledged has left: the next segment is another one.
                    until(lambda: _unsent(raw.socket) == 0, "the segment is there")
            return what, raw.take(1)[0]

    with ThreadPoolExecutor(16) as several:
        for what, kind in several.map(first, ways):
            assert kind == 22, f"{what}: no handshake record came back"


def _unsent(connection: socket.socket) -> int:
    """Bytes that the other end has not acknowledged."""
    left = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, left)
    return left[0]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (made([names(b"one.test", b"two.test")]), "illegal_parameter"),
        (made([names(b"one.test"), names(b"one.test")]), "illegal_parameter"),
        (made([names(b"")]), "decode_error"),
        (made([(0, b"")]), "decode_error"),
        (made([names(b"one.test\x00.evil")]), "unrecognized_name"),
        (made([names(b"x" * 254)]), "unrecognized_name"),
        (made([names(b"127.0.0.1")]), "unrecognized_name"),
        (b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"x" * 37, "protocol_version"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "unexpected_message"),
        (record(b""), "unexpected_message"),
        (b"\x16\x03\x01\x40\x01" + b"\x01" * 100, "record_overflow"),
        (record(b"\x01\xff\xff\xff"), "decode_error"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_case_30_every_odd_hello_has_its_alert(site: Site, what: bytes, expected: str) -> None:
    assert alert(site.answer(what)) == expected


def test_a_hello_of_more_than_64_kib_is_refused_and_one_below_is_passed_on(site: Site) -> None:
    small = made([names(b"one.test"), (21, bytes(60_000))])
    # OpenSSL answers it, if only to say what it thinks of it.
    assert site.answer(small) != b""
    until(lambda: access.lines(site.gateway, host="one.test"), "it was passed on")
    # The same, in records so small that their headers are too much.
    many = made([names(b"one.test"), (21, bytes(60_000))], 40)
    assert len(many) > 65536
    assert alert(site.answer(many)) == "decode_error"


def test_a_hello_that_is_late_is_cut_off_however_it_trickles(site: Site) -> None:
    whole, begun = hello("one.test"), time.monotonic()
    with Raw(site.address) as raw:
        raw.socket.settimeout(0.2)
        for byte in whole:
            with contextlib.suppress(TimeoutError):
                if raw.socket.recv(1) == b"":
                    break
            with contextlib.suppress(OSError):
                raw.send(bytes([byte]))
        else:
            raise AssertionError("the whole hello was waited for")
    assert 1.5 < time.monotonic() - begun < 20


def test_bulk_and_half_closes_pass_as_they_are(site: Site) -> None:
    data = hashlib.shake_256(b"seed").digest(8 << 20)
    with site.connect("one.test") as secure, ThreadPoolExecutor(1) as beside:
        sent = beside.submit(secure.sendall, data)
        got = bytearray()
        while len(got) < len(data):
            got += secure.recv(1 << 20)
        sent.result()
    assert bytes(got) == data


def test_a_broken_connection_breaks_on_the_other_side(site: Site) -> None:
    with site.connect("c.wild.test") as secure:
        secure.sendall(b"x")
        assert secure.recv(1) == b"x"
        secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert access.line(site.gateway, host="c.wild.test")["error"] == "downstream_closed"


BROWSERS = sorted(browser.value for browser in BrowserType)


@pytest.mark.parametrize("browser", BROWSERS)
def test_browsers_reach_the_service_whatever_their_hello_looks_like(site: Site, browser: str) -> None:
    host, port = at(site.address)
    got = requests.get(
        f"https://one.test:{port}/",
        impersonate=browser,
        curl_options={CurlOpt.RESOLVE: [f"one.test:{port}:{host}".encode()], CurlOpt.CAINFO: str(site.authority.ca)},
        timeout=30,
    )
    assert (got.status_code, got.text) == (200, "one.test")


def test_pipes_of_bulk_are_given_back(site: Site) -> None:
    def pipes() -> int:
        found = 0
        for link in Path(f"/proc/{site.gateway.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found += link.readlink().name.startswith("pipe:")
        return found

    before = pipes()
    for _ in range(3):
        test_bulk_and_half_closes_pass_as_they_are(site)
    # A few are kept by each worker, at two descriptors a pipe.
    until(lambda: pipes() <= before + 4 * 2 * 4, "the pipes of what has ended are closed")
