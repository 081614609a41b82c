"""Forwards over QUIC: each connection is a stream, and meets what it would have met over WebSocket."""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import access
from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.issuer import Issuer
from tests.support.ports import reserved
from tests.support.process import until
from tests.support.raw import Raw, told_by
from tests.support.relay import ConnectProxy
from tests.support.service import Service, TcpService
from tests.support.tidegate import Agent, Forward, Gateway
from tests.system.over_quic import Quic, echo, says, way
from tests.system.test_quic_reload import put_in_force

ADMIN = ("--admin", "127.0.0.1:0")


@pytest.fixture(scope="module")
def quic(authority: Authority) -> Quic:
    """Both ends trust it."""
    return Quic(authority)


@pytest.fixture(scope="module")
def service() -> Iterator[TcpService]:
    """Says back what it hears."""
    with TcpService(echo) as service:
        yield service


def reached(quic: Quic, **more: Any) -> dict[str, Any]:
    """A configuration whose `proxy` takes forwards over QUIC."""
    return {"listeners": {"proxy": quic.reached(**more)}}


def until_over(forward: Forward, transport: str) -> None:
    """Waits until new connections take it; they bring back what the gateway says of QUIC."""

    def are() -> bool:
        with Raw(forward.address) as line:
            says(line, b"which way\n")
        return way(forward)[0] == transport

    until(are, f"new connections go over {transport}", 30)


def refusals(forward: Forward) -> list[str]:
    """Why connections came to nothing, without the address of the gateway."""
    return [each["reason"].partition(" ")[2] for each in forward.seen("stream refused")]


def test_connections_share_one_session_and_are_those_of_visitors(quic: Quic, service: TcpService) -> None:
    with (
        Gateway(reached(quic)) as gateway,
        Agent(gateway.agents, "tcp", "db", service.address),
        quic.forward(gateway.proxy, "db", *ADMIN, transport="auto") as forward,
    ):
        until(lambda: way(forward) == ("quic", ""), "there is a session")
        with ExitStack() as stack:
            lines = [stack.enter_context(Raw(forward.address)) for _ in range(40)]
            for number, line in enumerate(lines):
                says(line, b"hello %d\n" % number)
            # The session has a place, and so has each of its streams.
            proxy = next(each for each in gateway.status()["listeners"] if each["name"] == "proxy")
            assert proxy["connections"] == 41
            assert proxy["transports"] == ["websocket", "quic"]
        handshakes = 'tidegate_quic_handshakes_total{listener="proxy",outcome="full"} 1'
        assert handshakes in request(gateway.admin, "/metrics").text
        noted = until(lambda: access.lines(gateway, endpoint="db", listener="proxy"), "they are noted")[0]
        assert (noted["status"], noted["client"].partition(":")[0]) == (101, "127.0.0.1")
        assert noted["path"] == "/_piko/v1/tcp/db"
        assert forward.seen("transport changed") == []
        admin = forward.event("listening", listener="admin")["address"]
        assert 'tidegate_transport_changes_total{from="quic",to="websocket"} 0' in request(admin, "/metrics").text


def test_bytes_end_in_each_direction_by_itself(quic: Quic) -> None:
    def digest(connection: socket.socket) -> None:
        known = hashlib.sha256()
        while data := connection.recv(65536):
            known.update(data)
        connection.sendall(known.hexdigest().encode())

    def first(connection: socket.socket) -> None:
        connection.sendall(b"all that there is")
        connection.shutdown(socket.SHUT_WR)
        heard.append(connection.makefile("rb").read())

    heard: list[bytes] = []
    with (
        TcpService(digest) as digests,
        TcpService(first) as speaks,
        Gateway(reached(quic)) as gateway,
        Agent(gateway.agents, "tcp", "digest", digests.address),
        Agent(gateway.agents, "tcp", "first", speaks.address),
        quic.forward(gateway.proxy, "digest") as to_digest,
        quic.forward(gateway.proxy, "first") as to_first,
    ):
        for size in (0, 1, 5_000_000):
            data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            with Raw(to_digest.address) as downstream:
                downstream.send(data)
                downstream.end()
                assert downstream.rest().decode() == hashlib.sha256(data).hexdigest()
        with Raw(to_first.address) as downstream:
            assert downstream.rest() == b"all that there is"
            downstream.send(b"and yet it is heard")
            downstream.end()
            until(lambda: heard == [b"and yet it is heard"], "the service has heard it")


def test_what_is_refused_is_refused_in_the_same_words(quic: Quic, service: TcpService, tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    known = {"verifiers": {issuer.name: issuer.source}}
    guarded = reached(quic, auth={"verifiers": [issuer.name]}) | known
    narrow = reached(quic, dynamic_endpoints={"allow": ["other"]})
    of_tenant = reached(quic, auth={"verifiers": [issuer.name]}, tenant="acme") | known | {"tenants": {"acme": {}}}
    denied = reached(quic, deny=["127.0.0.0/8"])
    offers = {"agents": {"bind": "127.0.0.1:0", "kind": "tunnel"}}
    for config, endpoint, options in (
        (reached(quic), "nobody", ()),
        (guarded, "db", ()),
        (guarded, "db", ("--token", "not.a.token")),
        (guarded, "db", ("--token", issuer.token("other"))),
        (of_tenant, "db", ("--token", issuer.token("db", tenant="umbrella"))),
        (narrow, "db", ()),
        (denied, "db", ()),
    ):
        config["listeners"] |= offers
        with Gateway(config) as gateway, Agent(gateway.agents, "tcp", "db", service.address):
            words = []
            for transport in ("auto", "websocket"):
                with quic.forward(gateway.proxy, endpoint, *options, transport=transport) as forward:
                    assert told_by(forward.address) == b""
                    forward.event("stream refused")
                    words.append(refusals(forward))
            assert words[0] == words[1], words
            assert words[0][0].startswith("answered "), words


def test_each_connection_shows_the_token_of_its_time(quic: Quic, service: TcpService, tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    config = reached(quic, auth={"verifiers": [issuer.name]}) | {"verifiers": {issuer.name: issuer.source}}
    file = tmp_path / "token"
    file.write_text(issuer.token("db"))
    with (
        Gateway(config) as gateway,
        Agent(gateway.agents, "tcp", "db", service.address),
        quic.forward(gateway.proxy, "db", "--token-file", file) as forward,
        Raw(forward.address) as line,
    ):
        says(line, b"first\n")
        file.write_text(issuer.token("other"))
        forward.event("token renewed")
        assert told_by(forward.address) == b""
        assert "502" in forward.event("stream refused")["reason"]
        says(line, b"still there\n")


def test_a_stream_ends_when_its_token_does_and_its_neighbours_do_not(
    quic: Quic, service: TcpService, tmp_path: Path
) -> None:
    issuer = Issuer(tmp_path)
    config = reached(quic, auth={"verifiers": [issuer.name]}) | {"verifiers": {issuer.name: issuer.source}}
    file = tmp_path / "token"
    file.write_text(issuer.token("db", expires=8))
    with (
        Gateway(config) as gateway,
        Agent(gateway.agents, "tcp", "db", service.address),
        quic.forward(gateway.proxy, "db", "--token-file", file) as forward,
        Raw(forward.address) as short,
    ):
        says(short, b"short\n")
        file.write_text(issuer.token("db"))
        forward.event("token renewed")
        with Raw(forward.address) as long:
            says(long, b"long\n")
            assert short.rest() == b""
            says(long, b"still there\n")


def test_a_certificate_is_shown_where_one_is_asked_for(quic: Quic, service: TcpService) -> None:
    cert, key = quic.authority.issue("visitor", "DNS:db", use="clientAuth")
    shown = ("--connect-cert", cert, "--connect-key", key)
    tls = quic.tls | {"client_ca": str(quic.authority.ca)}
    needed = reached(quic, tls=tls | {"client_certificate": "required"})
    named = reached(quic, tls=tls | {"client_certificate": "optional"}, auth={"certificate": {"endpoints": "dns"}})
    for config, without in ((needed, "TLS over QUIC was refused"), (named, "answered 401")):
        with Gateway(config) as gateway, Agent(gateway.agents, "tcp", "db", service.address):
            with quic.forward(gateway.proxy, "db") as forward:
                assert told_by(forward.address) == b""
                assert without in forward.event("stream refused")["reason"]
            with quic.forward(gateway.proxy, "db", *shown) as forward, Raw(forward.address) as line:
                says(line, b"who am I\n")


def test_a_gateway_without_quic_is_served_over_websocket_and_says_so_once(quic: Quic, service: TcpService) -> None:
    with (
        Gateway(reached(quic, transports=["websocket"])) as gateway,
        Agent(gateway.agents, "tcp", "db", service.address),
        quic.forward(gateway.proxy, "db", *ADMIN, transport="auto") as forward,
    ):
        for _ in range(3):
            with Raw(forward.address) as line:
                says(line, b"hello\n")
        until(lambda: way(forward) == ("websocket", "the gateway offers no QUIC"), "it has been told")
        reasons = [each["reason"] for each in forward.seen("quic unavailable")]
        assert reasons.count("the gateway offers no QUIC") == 1


def test_quic_that_stands_elsewhere_is_found(quic: Quic, service: TcpService) -> None:
    with reserved() as elsewhere, reserved() as for_agents:
        config = {
            "listeners": {
                "proxy": quic.reached(transports=["websocket"], quic_at=elsewhere),
                "elsewhere": quic.reached(bind=elsewhere),
                "agents": quic.listener(transports=["websocket"], quic_at=for_agents),
                "for-agents": quic.listener(bind=for_agents, transports=["quic"]),
            }
        }
        with (
            Gateway(config) as gateway,
            quic.agent(gateway.agents, "tcp", "db", service.address, *ADMIN, transport="auto") as agent,
            quic.forward(gateway.proxy, "db", *ADMIN, transport="auto") as forward,
        ):
            until(lambda: tunnels(agent) == [("quic", "")], "the agent's tunnel is one of QUIC", 30)
            assert agent.seen("transport changed")[0]["to"] == "quic"
            # A forward is told by the answer to its first connection.
            with Raw(forward.address) as line:
                says(line, b"hello\n")
                until(lambda: way(forward) == ("quic", ""), "there is a session", 30)
                says(line, b"still there\n")
            with Raw(forward.address) as line:
                says(line, b"hello\n")
            access.line(gateway, listener="elsewhere", endpoint="db", status=101)


def tunnels(agent: Agent) -> list[tuple[str, str]]:
    """What the tunnels of an agent are made of, and why not of QUIC."""
    admin = agent.event("listening", listener="admin")["address"]
    found = request(admin, "/status").json()["endpoints"][0]["tunnels"]
    return [(each["transport"], each["not_quic"]) for each in found]


def test_an_http_proxy_between_means_websocket(quic: Quic, service: TcpService) -> None:
    why = "an HTTP proxy stands between"
    listeners = {"proxy": quic.reached(), "agents": quic.listener()}
    with Gateway({"listeners": listeners}) as gateway, ConnectProxy() as proxy:
        options = (*ADMIN, "--proxy-url", f"http://{proxy.address}")
        with (
            quic.agent(gateway.agents, "tcp", "db", service.address, *options, transport="auto") as agent,
            quic.forward(gateway.proxy, "db", *options, transport="auto") as forward,
            Raw(forward.address) as line,
        ):
            says(line, b"hello\n")
            assert tunnels(agent) == [("websocket", why)]
            assert way(forward) == ("websocket", why)
            assert agent.seen("quic unavailable") + forward.seen("quic unavailable") == []
            until(lambda: len(proxy.asked) == 2, "both went through it")


def test_a_url_without_tls_means_websocket(service: TcpService) -> None:
    with (
        Gateway() as gateway,
        Agent(gateway.agents, "tcp", "db", service.address),
        Forward(gateway.proxy, "db", *ADMIN) as forward,
        Raw(forward.address) as line,
    ):
        says(line, b"hello\n")
        assert way(forward) == ("websocket", "QUIC needs https:// (the URL begins with http://)")


def test_the_first_gateway_that_has_the_endpoint_serves(quic: Quic, service: TcpService) -> None:
    with (
        reserved() as nobody,
        Gateway(reached(quic)) as without,
        Gateway(reached(quic)) as gateway,
        Agent(gateway.agents, "tcp", "db", service.address),
        quic.forward(nobody, "db", *ADMIN, *(f"--connect=https://{each.proxy}" for each in (without, gateway)),
                     transport="auto") as forward,
    ):  # fmt: skip
        for _ in range(2):
            with Raw(forward.address) as line:
                says(line, b"hello\n")
        admin = forward.event("listening", listener="admin")["address"]
        found = request(admin, "/status").json()["gateways"]
        assert [each["gateway"].rpartition("/")[2] for each in found] == [nobody, without.proxy, gateway.proxy]
        assert [each["connected"] for each in found] == [False, True, True]


def test_a_gateway_that_leaves_finishes_what_runs(quic: Quic, service: TcpService) -> None:
    with (
        Gateway(reached(quic)) as gateway,
        Agent(gateway.agents, "tcp", "db", service.address),
        quic.forward(gateway.proxy, "db") as forward,
        ThreadPoolExecutor(1) as pool,
        Raw(forward.address) as line,
    ):
        says(line, b"before\n")
        stopping = pool.submit(gateway.stop)
        gateway.event("draining")
        says(line, b"meanwhile\n")
        line.end()
        assert line.rest() == b""
        assert stopping.result(20) == 0
        assert gateway.event("stopped")["clean"] is True


def test_a_forward_that_leaves_finishes_what_runs(quic: Quic, service: TcpService) -> None:
    with (
        Gateway(reached(quic)) as gateway,
        Agent(gateway.agents, "tcp", "db", service.address),
        quic.forward(gateway.proxy, "db") as forward,
        ThreadPoolExecutor(1) as pool,
        Raw(forward.address) as line,
    ):
        says(line, b"before\n")
        stopping = pool.submit(forward.stop)
        forward.event("draining")
        says(line, b"meanwhile\n")
        line.send(b"x" * 500_000)
        line.end()
        assert line.rest() == b"x" * 500_000
        assert stopping.result(20) == 0
        assert forward.event("stopped")["clean"] is True
        # Nothing is left of it at the gateway.
        until(lambda: visitors(gateway) == 0, "the session has ended")


def visitors(gateway: Gateway) -> int:
    """How many connections of visitors a gateway has."""
    found: int = next(each for each in gateway.status()["listeners"] if each["name"] == "proxy")["connections"]
    return found


def test_a_new_configuration_cuts_nothing_that_runs(quic: Quic, service: TcpService) -> None:
    with (
        reserved() as bind,
        Gateway(reached(quic, bind=bind)) as gateway,
        Agent(gateway.agents, "tcp", "db", service.address),
        quic.forward(bind, "db", *ADMIN, transport="auto") as forward,
        Raw(forward.address) as line,
    ):
        says(line, b"over QUIC\n")
        for more, there in (
            ({"transports": ["websocket"]}, "websocket"), ({}, "quic"), ({"dynamic_endpoints": True}, "quic")
        ):  # fmt: skip
            put_in_force(gateway, reached(quic, bind=bind, **more))
            until_over(forward, there)
            with Raw(forward.address) as other:
                says(other, b"new\n")
            says(line, b"still there\n")


def test_one_bad_connection_harms_no_other(quic: Quic, service: TcpService) -> None:
    def never_reads(connection: socket.socket) -> None:
        stuck.append(connection)
        until(lambda: over, "the test is over")

    stuck: list[socket.socket] = []
    over: list[bool] = []
    with (
        TcpService(never_reads) as deaf,
        Gateway(reached(quic)) as gateway,
        Agent(gateway.agents, "tcp", "db", service.address),
        Agent(gateway.agents, "tcp", "deaf", deaf.address),
        quic.forward(gateway.proxy, "db") as forward,
        quic.forward(gateway.proxy, "deaf") as to_deaf,
        ExitStack() as stack,
    ):
        stack.callback(over.append, True)
        lines = [stack.enter_context(Raw(to_deaf.address, timeout=2)) for _ in range(10)]
        for line in lines:
            line.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    line.socket.send(b"x" * 65536)
        with Raw(forward.address) as line:
            line.send(b"y" * 1_000_000)
            assert line.take(1_000_000) == b"y" * 1_000_000


def test_requests_of_http_pass_as_bytes_too(quic: Quic) -> None:
    with (
        Service() as service,
        Gateway(reached(quic)) as gateway,
        Agent(gateway.agents, "tcp", "web", service.address),
        quic.forward(gateway.proxy, "web") as forward,
    ):
        assert {request(forward.address, f"/{number}").status for number in range(50)} == {200}


def test_over_tcp_bytes_come_in_a_websocket_and_the_answer_says_where_quic_is(quic: Quic, service: TcpService) -> None:
    def asked(gateway: Gateway, listener: str, *fields: str) -> str:
        tls = quic.authority.client()
        with Raw(gateway.address(listener), tls=tls, name="localhost") as line:
            head = ("GET /_piko/v1/tcp/db HTTP/1.1", "Host: a", "Connection: Upgrade", *fields, "", "")
            line.send("\r\n".join(head).encode())
            return line.until(b"\r\n\r\n").decode().lower()

    upgrade = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    listeners = {
        "proxy": quic.reached(),
        "without": quic.reached(transports=["websocket"]),
        "elsewhere": quic.reached(transports=["websocket"], quic_at="gate.example.com:9443"),
    }
    with Gateway({"listeners": listeners}) as gateway, Agent(gateway.agents, "tcp", "db", service.address):
        assert asked(gateway, "proxy", "Upgrade: tidegate-bytes").startswith("http/1.1 400 ")
        said = asked(gateway, "proxy", *upgrade)
        assert "x-tidegate-features: quic\r\n" in said
        assert "x-tidegate-quic" not in said
        assert "quic" not in asked(gateway, "without", *upgrade)
        assert "x-tidegate-quic: gate.example.com:9443\r\n" in asked(gateway, "elsewhere", *upgrade)
        both = asked(gateway, "proxy", *upgrade, "x-tidegate-features: half-close")
        assert "x-tidegate-features: half-close, quic\r\n" in both
