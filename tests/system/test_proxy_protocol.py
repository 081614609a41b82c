"""The PROXY protocol: believed from load balancers in front of us, from nobody else, and spoken to those behind us."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import access
from tests.support.certificates import Authority
from tests.support.hello import alert, hello
from tests.support.process import until
from tests.support.raw import Raw, at
from tests.support.service import Service, TcpService, echo
from tests.support.tidegate import Gateway

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 45678 443\r\n"
V1_IPV6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 45678 443\r\n"


def v2(command: int, family: int, content: bytes) -> bytes:
    """A header of version 2."""
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(content)) + content


ADDRESSES = socket.inet_aton("203.0.113.7") + socket.inet_aton("192.0.2.1") + struct.pack(">HH", 45678, 443)
V2 = v2(0x21, 0x11, ADDRESSES)
V2_WITH_FIELDS = v2(
    0x21, 0x11, ADDRESSES + b"\x03\x00\x04crc!" + b"\x02\x00\x08one.test" + b"\xee\x01\x00" + bytes(256)
)


def say_first(connection: socket.socket) -> None:
    """Greets, then says back what it hears."""
    connection.sendall(b"ready\n")
    while heard := connection.recv(65536):
        connection.sendall(heard)


class Site:
    """Listeners of each kind whose connections begin with a header from `trusted`."""

    def __init__(self, trusted: str, folder: Path) -> None:
        authority = Authority(folder)
        cert, key = authority.issue("ended.test")
        with ExitStack() as stack:
            self.service = stack.enter_context(Service(echo))
            self.raw = stack.enter_context(TcpService(say_first))
            common = {"bind": "127.0.0.1:0", "proxy_protocol": [trusted]}
            config = {
                "listeners": {
                    "web": common,
                    "db": {**common, "kind": "tcp", "to": {"addresses": [self.raw.address]}},
                    "out": {**common, "kind": "connect", "to": [{"name": "*", "endpoint": "nobody"}]},
                    "secure": {**common, "tls": {"certificates": [{"cert": str(cert), "key": str(key)}]}},
                },
                "routes": [
                    {"sni": "passed.test", "to": {"addresses": [self.raw.address]}},
                    {"listeners": ["web", "secure"], "to": {"addresses": [self.service.address]}},
                ],
                "timeouts": {"handshake": "1s"},
                "access_log": {"to": "stdout", "format": "json"},
            }
            self.ca = authority.ca
            self.gateway = stack.enter_context(Gateway(config))
            self.stack = stack.pop_all()

    def connect(self, listener: str) -> Raw:
        """A connection to a listener."""
        return Raw(self.gateway.address(listener))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """We are the load balancer."""
    running = Site("127.0.0.0/8", tmp_path_factory.mktemp("balanced"))
    with running.stack:
        yield running


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Somebody else is."""
    running = Site("192.0.2.0/24", tmp_path_factory.mktemp("strange"))
    with running.stack:
        yield running


def ask(raw: Raw, path: str, before: bytes = b"") -> dict[str, str]:
    """The fields that the service got, in lower case."""
    raw.send(before + f"GET {path} HTTP/1.1\r\nHost: web.test\r\n\r\n".encode())
    answer = raw.answer()
    assert answer.status == 200, answer.body
    return {name.lower(): value for name, value in answer.json()["fields"]}


@pytest.mark.parametrize(
    ("header", "client"),
    [(V1, "203.0.113.7"), (V1_IPV6, "2001:db8::7"), (V2, "203.0.113.7"), (V2_WITH_FIELDS, "203.0.113.7")],
    ids=["v1", "v1-ipv6", "v2", "v2-with-fields"],
)
def test_the_client_of_the_header_is_the_client_everywhere(site: Site, header: bytes, client: str) -> None:
    path = f"/{len(header)}"
    with site.connect("web") as raw:
        assert ask(raw, path, header)["x-forwarded-for"] == client
        # Of the whole connection, not of its first request.
        assert ask(raw, path + "/again")["x-forwarded-for"] == client
    assert access.line(site.gateway, path=path)["client"].strip("[]").startswith(client)


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", v2(0x20, 0, b""), v2(0x20, 0x11, ADDRESSES)])
def test_a_load_balancer_that_speaks_for_itself_is_the_client(site: Site, header: bytes) -> None:
    with site.connect("web") as raw:
        assert ask(raw, "/itself", header)["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_header_in_pieces_is_the_same(site: Site, header: bytes) -> None:
    with site.connect("web") as raw:
        for byte in header:
            raw.send(bytes([byte]))
        assert ask(raw, "/pieces")["x-forwarded-for"] == "203.0.113.7"


def test_raw_connections_begin_behind_their_header(site: Site) -> None:
    with site.connect("db") as raw:
        raw.send(V2 + b"hello")
        assert raw.take(11) == b"ready\nhello"
    assert access.line(site.gateway, listener="db", error=None)["client"] == "203.0.113.7:45678"


def test_tls_begins_behind_its_header_ended_or_passed_through(site: Site) -> None:
    context = ssl.create_default_context(cafile=str(site.ca))
    raw = socket.create_connection(at(site.gateway.address("secure")), timeout=30)
    raw.sendall(V1)
    with context.wrap_socket(raw, server_hostname="ended.test") as secure:
        secure.sendall(b"GET /ended HTTP/1.1\r\nHost: ended.test\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := secure.recv(65536):
            answer += data
    assert b'"203.0.113.7"' in answer
    with site.connect("secure") as passed:
        whole = hello("passed.test")
        passed.send(V2 + whole[:100])
        passed.send(whole[100:])
        assert passed.take(6 + len(whole)) == b"ready\n" + whole
    assert access.line(site.gateway, host="passed.test")["client"] == "203.0.113.7:45678"


@pytest.mark.parametrize("listener", ["web", "db", "secure"])
@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        hello("ended.test"),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        v2(0x2F, 0x11, ADDRESSES),
    ],
    ids=["http", "tls", "bad-v1", "bad-v2"],
)
def test_a_load_balancer_without_a_good_header_is_not_served(site: Site, listener: str, first: bytes) -> None:
    before, raw_before = len(site.service.requests), site.raw.connections
    with site.connect(listener) as raw:
        raw.send(first)
        assert raw.rest() == b""
    assert (len(site.service.requests), site.raw.connections) == (before, raw_before)


def test_a_header_that_does_not_come_is_not_waited_for(site: Site) -> None:
    begun = time.monotonic()
    with site.connect("web") as raw:
        raw.send(V1[:20])
        assert raw.rest() == b""
    assert 0.5 < time.monotonic() - begun < 20
    assert access.line(site.gateway, error="downstream_timeout")["listener"] == "web"


def test_a_load_balancer_may_look_whether_we_are_here(site: Site) -> None:
    with site.connect("web"):
        pass
    with site.connect("web") as raw:
        ask(raw, "/after", V1)
    assert not access.lines(site.gateway, error="downstream_closed")


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_header_of_a_stranger_is_refused_on_every_kind_of_listener(stranger: Site, header: bytes) -> None:
    with stranger.connect("web") as raw:
        raw.send(header + b"GET /spoofed HTTP/1.1\r\nHost: a\r\n\r\n")
        assert raw.answer().status == 400
    with stranger.connect("secure") as raw:
        raw.send(header + hello("passed.test"))
        answer = raw.rest()
        assert answer.startswith(b"HTTP/1.1 400 ") or alert(answer) == "unexpected_message"
    with stranger.connect("out") as raw:
        raw.send(header + b"CONNECT a.test:1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert raw.answer().status == 400
    with stranger.connect("db") as raw:
        raw.send(header[:4])
        assert raw.take(6) == b"ready\n"
        raw.send(header[4:] + b"hello")
        assert raw.rest() == b""
    assert not stranger.service.named("/spoofed")


def test_the_client_of_the_header_is_who_says_connect(site: Site) -> None:
    with site.connect("out") as raw:
        raw.send(V1 + b"CONNECT named.test:1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert raw.answer().status == 502
    assert str(access.line(site.gateway, path="named.test:1")["client"]).startswith("203.0.113.7:")


def test_strangers_speak_for_themselves(stranger: Site) -> None:
    with stranger.connect("web") as raw:
        assert ask(raw, "/plain")["x-forwarded-for"] == "127.0.0.1"
    with stranger.connect("db") as raw:
        assert raw.take(6) == b"ready\n"
        raw.send(b"PROXIMITY")
        assert raw.take(9) == b"PROXIMITY"


class Behind:
    """A service that wants a header, and keeps what it got."""

    def __init__(self) -> None:
        self.headers: list[bytes] = []

    def __call__(self, connection: socket.socket) -> None:
        header = b""
        while not ((header.startswith(b"PROXY") and header.endswith(b"\r\n")) or header.startswith(SIGNATURE)):
            if not (byte := connection.recv(1)):
                return
            header += byte
        if header.startswith(SIGNATURE):
            header += (rest := connection.recv(4))
            header += connection.recv(struct.unpack(">H", rest[2:])[0]) if rest[3] else b""
        self.headers.append(header)
        while request := connection.recv(65536):
            if request.startswith(b"GET"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            else:
                connection.sendall(request)


@pytest.mark.parametrize("version", [1, 2])
def test_upstreams_are_told_the_client_once_a_connection(version: int) -> None:
    behind = Behind()
    with TcpService(behind) as service:
        upstreams = {"behind": {"addresses": [service.address], "proxy_protocol": version}}
        listeners = {
            "web": {"bind": "127.0.0.1:0", "proxy_protocol": ["127.0.0.1"]},
            "db": {"bind": "127.0.0.1:0", "kind": "tcp", "to": {"upstream": "behind"}},
        }
        config = {"listeners": listeners, "upstreams": upstreams, "routes": [{"to": {"upstream": "behind"}}]}
        with Gateway(config) as gateway:
            with Raw(gateway.address("db")) as raw:
                raw.send(b"hello")
                assert raw.take(5) == b"hello"
                ours, theirs = raw.socket.getsockname(), raw.socket.getpeername()
            said = behind.headers.pop()
            if version == 1:
                assert said == b"PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n" % (ours[1], theirs[1])
            else:
                both = socket.inet_aton("127.0.0.1") * 2
                assert said == v2(0x21, 0x11, both + struct.pack(">HH", ours[1], theirs[1]))

            # A connection that began with one client's address serves nobody else.
            clients = [b"203.0.113.7", b"203.0.113.8"]
            for client in clients:
                with Raw(gateway.address("web")) as raw:
                    raw.send(b"PROXY TCP4 %s 192.0.2.1 1000 80\r\n" % client)
                    for _ in range(2):
                        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                        assert raw.answer().body == b"ok"
            packed = [client if version == 1 else socket.inet_aton(client.decode()) for client in clients]
            assert [next(client for client in packed if client in said) for said in behind.headers] == [
                packed[0],
                packed[0],
                packed[1],
                packed[1],
            ]


def test_a_health_check_speaks_for_itself() -> None:
    behind = Behind()
    with TcpService(behind) as service:
        health = {"path": "/", "interval": "100ms"}
        upstream = {"addresses": [service.address], "proxy_protocol": 2, "health": health}
        with Gateway({"upstreams": {"behind": upstream}, "routes": [{"to": {"upstream": "behind"}}]}):
            until(lambda: behind.headers, "it was asked")
    assert behind.headers[0] == v2(0x20, 0, b"")
