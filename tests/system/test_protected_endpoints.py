"""Case 36 of the hardening list: an endpoint that a route protects is reached by no other way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.http import request
from tests.support.http2 import Two
from tests.support.issuer import Issuer, basic, bearer
from tests.support.raw import Raw, told_by
from tests.support.service import Service
from tests.support.tidegate import Agent, Forward, Gateway
from tests.system.guarded import LOCAL, UPGRADE

SPELLINGS = [
    "secret", "SECRET", "Secret", "secret.", "secret..", "sec%72et", "%73ecret", "secret%00", "secret%2e", "secret/",
    "./secret", "open/../secret", "secret;x", "secret?x", "secret#x", "\tsecret", "secret,open", "open,secret",
]  # fmt: skip


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    """Whose tokens are good on the route."""
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="module")
def gateway(issuer: Issuer) -> Iterator[Gateway]:
    """A listener that asks nobody and takes every name, and a route that asks before it leads to `secret`."""
    routes = [
        {"host": "guarded.test", "to": {"endpoint": "secret"}, "auth": {"verifiers": [issuer.name]}},
        {"host": "near.test", "to": {"endpoint": "near"}, "deny": ["127.0.0.0/8"]},
        {"host": "guarded.test", "path": "/public", "respond": {"body": "public"}, "auth": "none"},
    ]
    config = {
        "verifiers": {issuer.name: issuer.source},
        "listeners": {"proxy": {"bind": LOCAL, "dynamic_endpoints": True}},
        "routes": routes,
    }
    with Gateway(config) as running, Service() as service:
        agents = [Agent(running.agents, "http", name, service.address) for name in ("secret", "near", "open")]
        try:
            for agent in agents:
                running.until_offered(agent.endpoint)
            yield running
        finally:
            for agent in agents:
                agent.kill()


def test_only_the_route_leads_there(gateway: Gateway, issuer: Issuer) -> None:
    guarded = {"Host": "guarded.test"}
    assert request(gateway.proxy, headers=guarded).status == 401
    assert request(gateway.proxy, headers={**guarded, **bearer(issuer.token("secret"))}).status == 200
    assert request(gateway.proxy, endpoint="open").status == 200
    assert request(gateway.proxy, headers={"Host": "near.test"}).status == 403


@pytest.mark.parametrize("name", [*SPELLINGS, "near", "NEAR"])
def test_no_name_leads_there(gateway: Gateway, issuer: Issuer, name: str) -> None:
    for headers in (
        {"Host": f"{name}.localhost"}, {"Host": f"{name}.localhost:8000"}, {"x-tidegate-endpoint": name},
        {"x-piko-endpoint": name}, {"Host": "open.localhost", "x-piko-endpoint": name},
        {"Host": "x.test", "x-tidegate-endpoint": name, **bearer(issuer.token("secret"))},
    ):  # fmt: skip
        assert request(gateway.proxy, headers=headers).status in (400, 404, 502), headers
    for path in (f"/_piko/v1/tcp/{name}", f"//_piko/v1/tcp/{name}", f"/_piko/v1/tcp/open/../{name}"):
        if "\t" not in path:
            assert request(gateway.proxy, path, headers=UPGRADE).status in (400, 404, 502), path


def test_no_path_of_the_route_leads_past_its_question(gateway: Gateway) -> None:
    for path in ("/public/..", "/public/../x", "/public%2f..%2fx", "/%70ublic/../x", "//public", "/PUBLIC", "/publicx"):
        with Raw(gateway.proxy) as raw:
            raw.send(f"GET {path} HTTP/1.1\r\nHost: guarded.test\r\n\r\n".encode())
            answer = raw.answer()
            assert answer.status in (400, 401) or answer.body == b"public", path
    with Raw(gateway.proxy) as raw:
        raw.send(b"GET http://guarded.test/ HTTP/1.1\r\nHost: open.localhost\r\n\r\n")
        assert raw.answer().status in (400, 401)
    with Raw(gateway.proxy) as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: open.localhost\r\nHost: guarded.test\r\n\r\n")
        assert raw.answer().status == 400


def test_no_header_of_a_stranger_leads_there(gateway: Gateway) -> None:
    for headers in (
        {"X-Forwarded-Host": "open.localhost"}, {"x-piko-forward": "true"}, {"Connection": "authorization"},
        {"X-Original-URL": "/public"}, {"X-HTTP-Method-Override": "GET"}, basic("a", "b"), bearer("x.y.z"),
    ):  # fmt: skip
        assert request(gateway.proxy, headers={"Host": "guarded.test", **headers}).status == 401, headers


def test_neither_a_forward_nor_http2_leads_there(gateway: Gateway, issuer: Issuer) -> None:
    for words in ((), ("--token", issuer.token("secret"))):
        with Forward(gateway.proxy, "secret", *words) as forward:
            assert told_by(forward.address) == b""
    with Two(gateway.proxy) as two:
        assert two.get(authority="guarded.test").status == 401
        assert two.get(("x-piko-endpoint", "secret"), authority="open.localhost").status == 502
        assert two.get(authority="secret.localhost").status == 502
        assert two.get(("host", "guarded.test"), authority="open.localhost").status in (0, 400, 401)
