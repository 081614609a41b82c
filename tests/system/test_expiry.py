"""Case 35 of the hardening list: what a token has opened ends with it, and an agent renews its token without a gap."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.interop.programs import PikoAgent
from tests.support.http import request
from tests.support.http2 import Two
from tests.support.issuer import Issuer, bearer
from tests.support.process import until
from tests.support.raw import Raw, told_by
from tests.support.service import Exchange, Service, TcpService, echo
from tests.support.tidegate import Agent, Forward, Gateway
from tests.system.guarded import LOCAL, UPGRADE, begun, config, knock, refusal
from tests.system.load import Visitors

SHORT = 2.5
"""Seconds that a token of these tests lives, whose fraction is cut."""
SLOW = 6
"""The same where a program has to start first."""
WEB = {"Host": "web.example.com"}
BOUND = 3.0
"""Seconds after its end within which everything is over; a second is promised, this machine may be busy."""

Opened = Callable[[Gateway, str], Raw]
"""Opens something with a token."""


def lasting(exchange: Exchange) -> None:
    """Answers at once, and for good below `/lasting`: a stream of events, or another protocol."""
    if "/lasting" not in exchange.target:
        return echo(exchange)
    upgrade = exchange.value("upgrade")
    if upgrade:
        head = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
        exchange.send(head.encode() + b"begun")
    else:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        exchange.send(b"5\r\nbegun\r\n")
    while exchange.receive():
        pass
    return None


def greet(connection: Any) -> None:
    """Says something and waits for the other end."""
    connection.sendall(b"begun")
    while connection.recv(1000):
        pass


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    """Whose tokens are good."""
    return Issuer(tmp_path_factory.mktemp("issuer"), "ES256")


@pytest.fixture(scope="module")
def gateway(issuer: Issuer) -> Iterator[Gateway]:
    """A gateway with agents whose token lives on: `web` and `echo`."""
    auth = {"verifiers": [issuer.name], "disconnect_on_expiry": False}
    listeners = {"lasting": {"bind": LOCAL, "kind": "tunnel", "auth": auth}}
    with ExitStack() as stack:
        gateway = stack.enter_context(Gateway(config(issuer, listeners=listeners)))
        web, tcp = stack.enter_context(Service(lasting)), stack.enter_context(TcpService(greet))
        for kind, name, to in (("http", "web", web.address), ("tcp", "echo", tcp.address)):
            stack.enter_context(Agent(gateway.agents, kind, name, to, "--token", issuer.token(name)))
            gateway.until_offered(name)
        yield gateway


def expiry(token: str) -> float:
    """When a token ends."""
    return float(jwt.decode(token, options={"verify_signature": False})["exp"])


def ended_in_time(token: str) -> None:
    """It is over now, and was not before."""
    late = time.time() - expiry(token)
    assert -0.5 < late < BOUND, f"{late:.2f} s after the token"


def events(gateway: Gateway, token: str) -> Raw:
    """A stream of events."""
    return begun(gateway, "GET /lasting", WEB | bearer(token))


def websocket(gateway: Gateway, token: str) -> Raw:
    """Another protocol."""
    return begun(gateway, "GET /lasting", WEB | UPGRADE | bearer(token))


def upload(gateway: Gateway, token: str) -> Raw:
    """A request whose body does not end."""
    return begun(gateway, "POST /lasting", WEB | bearer(token) | {"Content-Length": "1000000"})


def stream_over_websocket(gateway: Gateway, token: str) -> Raw:
    """A byte stream over a WebSocket."""
    return begun(gateway, "GET /_piko/v1/tcp/echo", {"Host": "a"} | UPGRADE | bearer(token))


@pytest.mark.parametrize("opened", [events, websocket, upload, stream_over_websocket])
def test_case_35_what_a_visitor_has_opened_ends_with_its_token(
    gateway: Gateway, issuer: Issuer, opened: Opened
) -> None:
    token, other = issuer.token("web", "echo", expires=SHORT), issuer.token("web", "echo")
    with opened(gateway, other) as lives_on, opened(gateway, token) as ending:
        assert b"0\r\n\r\n" not in ending.rest(), "it ended as if it were whole"
        ended_in_time(token)
        assert refusal(request(gateway.proxy, endpoint="web", headers=bearer(token))) == (401, "expired token")
        lives_on.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            lives_on.take(1000)


def test_case_35_a_connection_through_a_forward_ends_with_its_token(gateway: Gateway, issuer: Issuer) -> None:
    token = issuer.token("echo", expires=SLOW)
    with Forward(gateway.proxy, "echo", "--token", token) as forward, Raw(forward.address) as downstream:
        downstream.until(b"begun")
        downstream.rest()
        ended_in_time(token)


def test_case_35_a_stream_of_http2_ends_with_its_token_and_others_go_on(gateway: Gateway, issuer: Issuer) -> None:
    token, other = issuer.token("web", expires=SHORT), issuer.token("web")
    with Two(gateway.proxy) as two:
        ending = two.request(("authorization", f"Bearer {token}"), path="/lasting")
        lives_on = two.request(("authorization", f"Bearer {other}"), path="/lasting")
        two.until(lambda: all(b"begun" in stream.body for stream in two.streams.values()))
        assert two.answer(two.request(("authorization", f"Bearer {token}"))).status == 200
        assert two.answer(ending).reset is not None
        ended_in_time(token)
        assert two.get(("authorization", f"Bearer {other}")).status == 200
        assert not two.streams[lives_on].over


def test_case_35_an_agent_that_does_not_renew_is_told_and_ends(gateway: Gateway, issuer: Issuer) -> None:
    token = issuer.token("go", expires=SHORT + 1)
    visiting = issuer.token("go")
    with (
        Service(lasting) as service,
        PikoAgent(gateway.agents, "http", "go", service.address, "--token", token) as agent,
    ):
        session = gateway.event("agent connected", endpoint="go")["session"]
        with Raw(gateway.proxy) as visitor:
            shown = f"Authorization: Bearer {visiting}\r\n"
            visitor.send(f"GET /lasting HTTP/1.1\r\nHost: go.example.com\r\n{shown}\r\n".encode())
            visitor.until(b"begun")
            assert agent.event("goaway")["code"] == 0
            assert time.time() < expiry(token) + BOUND
            visitor.rest()
            gateway.event("agent disconnected", session=session)
            ended_in_time(token)
        assert agent.wait() == 1
        assert request(gateway.proxy, endpoint="go", headers=bearer(visiting)).status == 502


def test_an_agent_of_ours_that_cannot_renew_ends_and_says_why(gateway: Gateway, issuer: Issuer) -> None:
    token = issuer.token("ours", expires=SLOW)
    with Service() as service, Agent(gateway.agents, "http", "ours", service.address, "--token", token) as agent:
        assert agent.wait() == 1
        assert "expired token" in agent.log
        assert token not in agent.log


@pytest.mark.parametrize("connections", [1, 2])
def test_an_agent_renews_its_token_without_a_failed_request(issuer: Issuer, tmp_path: Path, connections: int) -> None:
    file, stop = tmp_path / "token", threading.Event()
    name = f"renewed-{connections}"

    def renew() -> None:
        fresh = file.with_suffix(".new")
        fresh.write_text(issuer.token(name, expires=6))
        fresh.replace(file)

    def keep_renewing() -> None:
        while not stop.wait(1.5):
            renew()

    renew()
    thread = threading.Thread(target=keep_renewing)
    thread.start()
    terms = config(issuer, listeners={"proxy": {"bind": LOCAL}})
    try:
        with Gateway(terms) as gateway, Service() as service:
            words = (gateway.agents, "http", name, service.address, "--token-file", str(file))
            with Agent(*words, connections=connections) as agent, Visitors.of(gateway.proxy, name) as visitors:
                agent.until_connected(times=3)
                visitors.until_served(50)
            assert visitors.lost == []
    finally:
        stop.set()
        thread.join()


def test_a_forward_shows_the_token_that_its_file_holds_now(gateway: Gateway, issuer: Issuer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(issuer.token("echo", expires=-5))
    with Forward(gateway.proxy, "echo", "--token-file", str(file)) as forward:
        assert told_by(forward.address) == b""
        fresh = file.with_suffix(".new")
        fresh.write_text(issuer.token("echo"))
        fresh.replace(file)
        forward.event("token renewed")
        with Raw(forward.address) as downstream:
            downstream.until(b"begun")


def test_a_session_outlives_its_token_where_that_is_configured(gateway: Gateway, issuer: Issuer) -> None:
    token, visiting = issuer.token("kept", expires=SLOW), issuer.token("kept")
    address = gateway.address("lasting")
    with Service() as service, Agent(address, "http", "kept", service.address, "--token", token):
        gateway.until_offered("kept")
        until(lambda: time.time() > expiry(token) + 1.2, "the token is over")
        assert request(gateway.proxy, endpoint="kept", headers=bearer(visiting)).status == 200
        assert refusal(knock(address, "kept", bearer(token))) == (401, "expired token")
        assert gateway.seen("agent disconnected", endpoint="kept") == []
