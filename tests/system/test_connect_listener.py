"""Listeners of kind connect: which agent a target leads to, who may come in, what an agent is sent and may answer."""

from __future__ import annotations

import base64
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from tests.support import access
from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.issuer import Issuer
from tests.support.process import until
from tests.support.raw import Raw, told_by
from tests.support.service import Service, TcpService
from tests.support.tidegate import Agent, Gateway
from tests.support.tools import curl
from tests.system.connecting import THROUGH, asked, connector, refused, through

LOCAL = "127.0.0.1:0"
TO_DC1 = [{"network": "127.0.0.0/8", "endpoint": "dc1"}, {"name": "*", "endpoint": "dc1"}]


def out(to: list[dict[str, str]] | None = None, **more: Any) -> dict[str, Any]:
    """A listener `out` of kind connect."""
    return {"out": {"bind": LOCAL, "kind": "connect", "to": to or TO_DC1, **more}}


def greet(connection: socket.socket) -> None:
    """Says hello, then what it hears."""
    connection.sendall(b"hello")
    while data := connection.recv(65536):
        connection.sendall(data)


@pytest.fixture(scope="module")
def greeter() -> Iterator[TcpService]:
    """A service that speaks first."""
    with TcpService(greet) as service:
        yield service


def greeted(address: str, target: str, *fields: str) -> bool:
    """Whether a target says hello."""
    with through(address, target, *fields) as client:
        return client.take(5) == b"hello"


def basic(user: str, password: str) -> str:
    """The field that shows a password to a proxy."""
    return "Proxy-Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_the_first_rule_that_is_for_a_target_picks_its_agent(greeter: TcpService) -> None:
    rules = [
        {"network": "127.0.0.1/32", "endpoint": "dc1"},
        {"network": "127.0.0.0/8", "endpoint": "nobody"},
        {"name": "localhost", "endpoint": "dc2"},
        {"name": "*.example", "endpoint": "nobody"},
    ]
    local = f"localhost:{greeter.port}"
    with (
        Gateway({"listeners": out(rules)}) as gateway,
        connector(gateway, greeter.address) as dc1,
        connector(gateway, local, endpoint="dc2") as dc2,
    ):
        address = gateway.address("out")
        assert greeted(address, greeter.address)
        assert greeted(address, f"[::ffff:127.0.0.1]:{greeter.port}")
        assert greeted(address, local)
        assert access.line(dc2)["path"] == local
        assert access.line(dc1, path=greeter.address)["status"] == 200
        for target, code in (
            (f"127.0.0.2:{greeter.port}", "no_upstream"),
            ("a.example:443", "no_upstream"),
            ("192.0.2.1:443", "target_denied"),
            ("example:443", "target_denied"),
        ):
            answer = refused(address, target)
            assert answer.field("x-tidegate-error") == code, target
        assert answer.json()["detail"] == "no rule leads there"
        assert len(access.lines(dc1)) == 2
        line = access.line(gateway, path=local)
        assert (line["listener"], line["endpoint"], line["status"]) == ("out", "dc2", 200)


def test_curl_goes_through_it_as_through_any_proxy() -> None:
    with (
        Service() as service,
        Gateway({"listeners": out()}) as gateway,
        connector(gateway, service.address),
    ):
        proxy = ("-p", "--proxy", f"http://{gateway.address('out')}", "--noproxy", "")
        curled = curl(*proxy, f"http://{service.address}/a")
        assert (curled.code, curled.status) == (0, 200), curled
        denied = curl(*proxy, "http://127.0.0.1:1/")
        assert (denied.code, denied.status) == (56, 403), denied


@contextmanager
def raw_agent(handle: Callable[[socket.socket], None], **limits: Any) -> Iterator[Gateway]:
    """A gateway whose endpoint `dc1` is something else than our server of CONNECT."""
    with (
        TcpService(handle) as service,
        Gateway({"listeners": out(), **limits}) as gateway,
        Agent(gateway.agents, "tcp", "dc1", service.address),
    ):
        gateway.until_offered("dc1")
        yield gateway


def test_case_6_an_agent_gets_a_request_of_ours_and_nothing_else_before_it_agrees() -> None:
    heard: list[bytes] = []
    agrees = threading.Event()

    def serve(connection: socket.socket) -> None:
        if not (first := connection.recv(65536)):
            return  # the agent looked whether somebody is there
        heard.append(first)
        assert agrees.wait(20)
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 Fine\r\nServer: x\r\n\r\nfirst words, ")
        heard.append(connection.recv(65536))
        connection.sendall(heard[1])

    with raw_agent(serve) as gateway, Raw(gateway.address("out")) as client:
        secret = ("Proxy-Authorization: Basic c2VjcmV0OjE=", "X-Other: 1", "Connection: x-other")
        client.send(asked("Host.Example.:443", *secret) + b"early")
        until(lambda: heard, "the request arrives")
        assert heard == [b"CONNECT host.example:443 HTTP/1.1\r\nHost: host.example:443\r\n\r\n"]
        agrees.set()
        client.end()
        assert client.rest() == THROUGH + b"first words, early"
    assert heard[1] == b"early"


@pytest.mark.parametrize(
    ("says", "status", "code", "body"),
    [
        (b"HTTP/1.1 403 No\r\nContent-Length: 4\r\nX-Tidegate-Error: x\r\n\r\nnope", 403, None, b"nope"),
        (b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnope\r\n0\r\n\r\n", 404, None, b"nope"),
        (b"HTTP/1.0 407 No\r\nProxy-Authenticate: Basic\r\n\r\nnope", 407, None, b"nope"),
        (b"HTTP/1.1 101 No\r\n\r\n", 502, "upstream_malformed", None),
        (b"HTTP/1.1 500 No\r\nContent-Length: 99999\r\n\r\n" + b"x" * 99999, 502, "upstream_malformed", None),
        (b"SSH-2.0-OpenSSH\r\n", 502, "upstream_malformed", None),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20000 + b"\r\n\r\n", 502, "upstream_malformed", None),
        (b"", 502, "upstream_closed", None),
    ],
)
def test_an_answer_of_another_server_is_passed_on_or_refused(
    says: bytes, status: int, code: str | None, body: bytes | None
) -> None:
    def serve(connection: socket.socket) -> None:
        if connection.recv(65536):
            connection.sendall(says)

    with raw_agent(serve) as gateway:
        answer = refused(gateway.address("out"), "host.example:443")
        assert (answer.status, answer.field("x-tidegate-error")) == (status, code)
        assert body is None or answer.body == body
        assert answer.field("proxy-authenticate") is None


def test_an_agent_that_does_not_answer_is_a_504_and_stalls_nobody(greeter: TcpService) -> None:
    done = threading.Event()
    rules = [{"name": "*", "endpoint": "dc1"}, {"network": "127.0.0.0/8", "endpoint": "dc2"}]
    with ExitStack() as stack:
        service = stack.enter_context(TcpService(lambda _: (done.wait(20), None)[1]))
        config = {"listeners": out(rules), "timeouts": {"response": "1s"}}
        gateway = stack.enter_context(Gateway(config))
        stack.enter_context(Agent(gateway.agents, "tcp", "dc1", service.address))
        stack.enter_context(connector(gateway, greeter.address, endpoint="dc2"))
        gateway.until_offered("dc1")
        stack.callback(done.set)
        late = stack.enter_context(Raw(gateway.address("out")))
        late.send(asked("host.example:443"))
        assert all(greeted(gateway.address("out"), greeter.address) for _ in range(10))
        answer = late.answer()
        assert (answer.status, answer.field("x-tidegate-error")) == (504, "upstream_timeout")


def test_an_agent_of_a_web_service_says_that_it_serves_no_connect() -> None:
    with (
        Service() as service,
        Gateway({"listeners": out()}) as gateway,
        Agent(gateway.agents, "http", "dc1", service.address),
    ):
        gateway.until_offered("dc1")
        answer = refused(gateway.address("out"), service.address)
        assert (answer.status, answer.field("x-tidegate-error")) == (405, "method_not_supported")
    assert service.requests == []


def test_an_endpoint_of_its_rules_is_reached_by_no_name(greeter: TcpService) -> None:
    with Gateway({"listeners": out()}) as gateway, connector(gateway, greeter.address):
        assert request(gateway.proxy, endpoint="dc1").status == 502


def test_users_show_their_password_to_the_proxy(greeter: TcpService, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"ann:{bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}\n")
    users.chmod(0o600)
    auth = {"users": {"file": str(users)}, "realm": "Net"}
    with Gateway({"listeners": out(auth=auth)}) as gateway, connector(gateway, greeter.address):
        address = gateway.address("out")
        for field, code in (
            ("X: 1", "proxy_authorization_required"),
            (basic("ann", "secret").removeprefix("Proxy-"), "proxy_authorization_required"),
            (basic("ann", "wrong"), "invalid_authorization"),
            ("Proxy-Authorization: Bearer abc", "unsupported_auth_type"),
        ):
            answer = refused(address, greeter.address, field)
            assert (answer.status, answer.field("x-tidegate-error")) == (407, code), field
            assert answer.field("proxy-authenticate") == 'Basic realm="Net", charset="UTF-8"'
            assert answer.field("www-authenticate") is None
        # Whoever shows nothing is told nothing about targets.
        assert refused(address, "user@host:80").field("x-tidegate-error") == "proxy_authorization_required"
        assert greeted(address, greeter.address, basic("ann", "secret"))
        twice = refused(address, greeter.address, basic("ann", "secret"), basic("ann", "secret"))
        assert (twice.status, twice.field("x-tidegate-error")) == (400, "malformed_request")
        assert "secret" not in gateway.log


def test_a_token_leads_to_its_endpoints_and_what_it_opened_ends_with_it(greeter: TcpService, tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    rules = [{"network": "127.0.0.1/32", "endpoint": "dc1"}, {"name": "localhost", "endpoint": "dc2"}]
    config = {
        "verifiers": {issuer.name: issuer.source},
        "listeners": out(rules, auth={"verifiers": [issuer.name]}),
    }
    with (
        Gateway(config) as gateway,
        connector(gateway, greeter.address),
        connector(gateway, f"localhost:{greeter.port}", endpoint="dc2"),
    ):
        address = gateway.address("out")
        field = f"Proxy-Authorization: Bearer {issuer.token('dc1')}"
        assert greeted(address, greeter.address, field)
        answer = refused(address, f"localhost:{greeter.port}", field)
        assert (answer.status, answer.field("x-tidegate-error")) == (407, "endpoint_not_permitted")
        short = f"Proxy-Authorization: Bearer {issuer.token('dc1', expires=2)}"
        with through(address, greeter.address, short) as client:
            assert client.take(5) == b"hello"
            with pytest.raises(ConnectionResetError):
                client.socket.recv(1)
        assert access.line(gateway, error="expired_token")["endpoint"] == "dc1"


def test_a_client_certificate_opens_it_and_tls_ends_there(greeter: TcpService, authority: Authority) -> None:
    cert, key = authority.issue("proxy", "DNS:localhost", "IP:127.0.0.1")
    known = authority.issue("dc1", use="clientAuth")
    other = authority.issue("dc9", use="clientAuth")
    tls = {"certificates": [{"cert": str(cert), "key": str(key)}], "client_ca": str(authority.ca)}
    auth = {"certificate": {"endpoints": "cn"}}
    with (
        Service() as service,
        Gateway({"listeners": out(tls=tls, auth=auth)}) as gateway,
        connector(gateway, service.address),
    ):
        proxy = f"https://{gateway.address('out')}"
        options = ("-p", "--proxy", proxy, "--proxy-cacert", str(authority.ca), "--noproxy", "")
        mine = ("--proxy-cert", str(known[0]), "--proxy-key", str(known[1]))
        curled = curl(*options, *mine, f"http://{service.address}/")
        assert (curled.code, curled.status) == (0, 200), curled
        wrong = ("--proxy-cert", str(other[0]), "--proxy-key", str(other[1]))
        assert curl(*options, *wrong, f"http://{service.address}/").status == 407
        assert curl(*options, f"http://{service.address}/").code != 0, "none is shown"
    assert len(service.requests) == 1


def test_only_the_networks_of_its_lists_come_in(greeter: TcpService) -> None:
    with Gateway({"listeners": out(allow=["192.0.2.0/24"])}) as gateway:
        assert told_by(gateway.address("out")) == b""
        assert access.line(gateway, listener="out")["error"] == "address_denied"


def test_new_rules_are_for_new_connections_and_streams_run_on(greeter: TcpService) -> None:
    with Gateway({"listeners": out()}) as gateway, connector(gateway, greeter.address):
        address = gateway.address("out")
        with through(address, greeter.address) as client:
            assert client.take(5) == b"hello"
            elsewhere = [{"network": "10.0.0.0/8", "endpoint": "dc1"}]
            gateway.write({"listeners": {"out": {**out(elsewhere)["out"]}}})
            assert gateway.reload().status == 200
            assert refused(address, greeter.address).json()["detail"] == "no rule leads there"
            client.send(b"still here")
            assert client.take(10) == b"still here"


def test_a_gateway_that_leaves_lets_streams_finish(greeter: TcpService) -> None:
    with (
        Gateway({"listeners": out()}) as gateway,
        connector(gateway, greeter.address),
        Raw(gateway.address("out")) as idle,
        through(gateway.address("out"), greeter.address) as client,
    ):
        assert client.take(5) == b"hello"
        gateway.signal(signal.SIGTERM)
        gateway.event("draining")
        assert idle.rest() == b"", "it has asked nothing"
        client.send(b"to the end")
        client.end()
        assert client.rest() == b"to the end"
        assert gateway.wait() == 0


def test_a_head_that_does_not_end_is_a_408_and_silence_is_no_answer() -> None:
    with (
        Gateway({"listeners": out(), "timeouts": {"head": "1s"}}) as gateway,
        Raw(gateway.address("out")) as slow,
        Raw(gateway.address("out")) as silent,
    ):
        slow.send(b"CONNECT a.example:443 HTTP/1.1\r\n")
        assert slow.answer().status == 408
        assert silent.rest() == b""
