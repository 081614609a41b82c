"""Who may come by address: `allow` and `deny` on listeners and routes of every kind, and whose word about it counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.support import access
from tests.support.certificates import Authority
from tests.support.hello import hello
from tests.support.http import request
from tests.support.http2 import Two
from tests.support.issuer import Issuer, bearer
from tests.support.process import until
from tests.support.raw import Raw, told_by
from tests.support.service import Service, TcpService
from tests.support.tidegate import Gateway
from tests.system.guarded import LOCAL, config, knock, refusal

DENIED = (403, "not from this address")
NEAR, FAR = ["127.0.0.0/8"], ["203.0.113.0/24"]


def greet(connection: Any) -> None:
    """Greets, then says back what it hears."""
    connection.sendall(b"ready\n")
    while heard := connection.recv(65536):
        connection.sendall(heard)


@pytest.fixture(scope="module")
def gateway(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with listeners of every kind, near or far by name, that believes this machine about visitors."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    cert, key = authority.issue("ended.test")
    with ExitStack() as stack:
        raw = stack.enter_context(TcpService(greet))
        to, web = {"addresses": [raw.address]}, {"addresses": [service.address]}
        tls = {"certificates": [{"cert": str(cert), "key": str(key)}]}
        told = {"bind": LOCAL, "proxy_protocol": ["127.0.0.0/8"]}
        listeners = {
            "web-near": {"bind": LOCAL, "allow": NEAR},
            "web-far": {"bind": LOCAL, "allow": FAR},
            "web-denied": {"bind": LOCAL, "deny": NEAR},
            "web-but": {"bind": LOCAL, "allow": NEAR, "deny": ["127.0.0.1/32"]},
            "db-near": {"bind": LOCAL, "kind": "tcp", "to": to, "allow": NEAR},
            "db-far": {"bind": LOCAL, "kind": "tcp", "to": to, "allow": FAR},
            "db-told": {**told, "kind": "tcp", "to": to, "allow": FAR},
            "web-told": {**told, "allow": FAR},
            "agents-near": {"bind": LOCAL, "kind": "tunnel", "allow": NEAR},
            "agents-far": {"bind": LOCAL, "kind": "tunnel", "deny": NEAR},
            "secure": {"bind": LOCAL, "tls": tls},
            "secure-far": {"bind": LOCAL, "tls": tls, "allow": FAR},
        }
        routes = [
            {"host": "far.test", "to": web, "allow": FAR},
            {"host": "denied.test", "to": web, "deny": NEAR},
            {"host": "answers.test", "respond": 204, "deny": NEAR},
            {"host": "open.test", "to": web},
            {"sni": "open.sni.test", "to": to},
            {"sni": "far.sni.test", "to": to, "allow": FAR},
        ]
        yield stack.enter_context(
            Gateway({"listeners": listeners, "routes": routes, "trusted_proxies": ["127.0.0.1/32"]})
        )


def test_listeners_of_http_answer_who_may_come(gateway: Gateway) -> None:
    for listener, expected in (("near", 200), ("far", 403), ("denied", 403), ("but", 403)):
        response = request(gateway.address(f"web-{listener}"), headers={"Host": "open.test"})
        assert response.status == expected, listener
        if expected == 403:
            assert refusal(response) == DENIED
    with Two(gateway.address("web-far")) as two:
        assert two.get(authority="open.test").status == 403
    with Two(gateway.address("web-near")) as two:
        assert two.get(authority="open.test").status == 200


def test_routes_answer_who_may_come(gateway: Gateway) -> None:
    for host in ("far.test", "denied.test", "answers.test"):
        response = request(gateway.proxy, f"/denied/{host}", headers={"Host": host})
        assert refusal(response) == DENIED
        assert access.line(gateway, path=f"/denied/{host}")["error"] == "address_denied"
    assert request(gateway.proxy, headers={"Host": "open.test"}).status == 200


def test_a_trusted_proxys_word_counts_and_no_other_spelling_does(gateway: Gateway) -> None:
    far = "203.0.113.7"
    for listener, host in (("proxy", "far.test"), ("web-far", "open.test")):
        address = gateway.address(listener)
        assert request(address, headers={"Host": host, "X-Forwarded-For": far}).status == 200, host
        # Who is not known is asked for himself.
        for forged in ({"X-Forwarded-For": f"{far}, 198.51.100.1"}, {"X-Real-IP": far}):
            assert request(address, headers={"Host": host, **forged}).status == 403, forged
    assert request(gateway.address("web-near"), headers={"Host": "open.test", "X-Forwarded-For": far}).status == 403


@pytest.mark.parametrize("order", [1, -1])
def test_case_37_a_field_with_underscores_says_nothing_about_where_a_visitor_comes_from(order: int) -> None:
    routes = [{"respond": 200, "allow": ["203.0.113.0/24"]}]
    fields = ["X-Forwarded-For: 198.51.100.1", "X_Forwarded_For: 203.0.113.7"][::order]
    with Gateway({"routes": routes, "trusted_proxies": ["127.0.0.1/32"]}) as gateway, Raw(gateway.proxy) as proxy:
        proxy.send("\r\n".join(["GET / HTTP/1.1", "Host: a.test", *fields, "", ""]).encode())
        assert proxy.answer().status == 403


def test_a_stranger_speaks_for_nobody(service: Service) -> None:
    routes = [{"host": "far.test", "to": {"addresses": [service.address]}, "allow": FAR}]
    with Gateway({"routes": routes}) as gateway:
        for name in ("X-Forwarded-For", "X-Real-IP", "X-Client-IP", "CF-Connecting-IP"):
            headers = {"Host": "far.test", name: "203.0.113.7", "Forwarded": "for=203.0.113.7"}
            assert refusal(request(gateway.proxy, headers=headers)) == DENIED


def test_a_proxy_header_says_who_comes(gateway: Gateway) -> None:
    for source, status in (("203.0.113.7", 200), ("198.51.100.7", 403)):
        with Raw(gateway.address("web-told")) as visitor:
            visitor.send(f"PROXY TCP4 {source} 192.0.2.1 45678 443\r\n".encode())
            visitor.send(b"GET / HTTP/1.1\r\nHost: open.test\r\n\r\n")
            assert visitor.answer().status == status
        with Raw(gateway.address("db-told")) as visitor:
            visitor.send(f"PROXY TCP4 {source} 192.0.2.1 45678 443\r\n".encode())
            assert visitor.rest_or(b"ready\n") == (b"ready\n" if status == 200 else b"")


def test_byte_streams_begin_for_who_may_come(gateway: Gateway) -> None:
    with Raw(gateway.address("db-near")) as visitor:
        assert visitor.until(b"\n") == b"ready\n"
    assert told_by(gateway.address("db-far")) == b""


def test_agents_come_from_where_they_may(gateway: Gateway) -> None:
    assert knock(gateway.address("agents-near"), "web").status == 101
    for headers in ({}, {"X-Forwarded-For": "203.0.113.7"}):
        # Nobody stands before an agent, and nothing is said to one that may not come.
        with pytest.raises((ConnectionError, HTTPException)):
            knock(gateway.address("agents-far"), "web", headers)


def test_what_is_passed_through_begins_for_who_may_come(gateway: Gateway) -> None:
    for listener, name, passes in (
        ("secure", "open.sni.test", True),
        ("secure", "far.sni.test", False),
        ("secure-far", "open.sni.test", False),
    ):
        with Raw(gateway.address(listener)) as visitor:
            visitor.send(hello(name))
            assert (b"ready\n" in visitor.rest_or(b"ready\n")) is passes, (listener, name)


def test_addresses_are_asked_before_credentials(service: Service, tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    auth = {"verifiers": [issuer.name]}
    listeners = {
        "proxy": {"bind": LOCAL, "auth": auth, "deny": NEAR},
        "agents": {"bind": LOCAL, "kind": "tunnel", "auth": auth, "deny": NEAR},
    }
    with Gateway(config(issuer, listeners=listeners)) as gateway:
        for headers in ({}, bearer(issuer.token("web")), bearer("x.y.z")):
            assert refusal(request(gateway.proxy, endpoint="web", headers=headers)) == DENIED
            with pytest.raises((ConnectionError, HTTPException)):
                knock(gateway.agents, "web", headers)
        until(lambda: "questions_total" in request(gateway.admin, "/metrics").text, "metrics are there")
        assert 'questions_total{kind="token"} 0' in request(gateway.admin, "/metrics").text


def test_addresses_change_by_reload(service: Service) -> None:
    def terms(deny: list[str]) -> dict[str, Any]:
        return {"routes": [{"host": "a.test", "to": {"addresses": [service.address]}, "deny": deny}]}

    with Gateway(terms(FAR)) as gateway, Raw(gateway.proxy) as kept:
        kept.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert kept.answer().status == 200
        gateway.write(terms(NEAR))
        gateway.event("configuration applied")
        kept.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert kept.answer().status == 403
