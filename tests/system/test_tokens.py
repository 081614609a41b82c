"""Agents, visitors and forwards show tokens, by every header and protocol; whoever shows none is told so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.programs import PikoAgent, PikoForward, all_come_back
from tests.interop.programs import Service as GoService
from tests.support.certificates import Authority
from tests.support.http import Response, request
from tests.support.http2 import Two
from tests.support.issuer import Issuer, PublishedKeys, basic, bearer
from tests.support.process import until
from tests.support.raw import Raw, told_by
from tests.support.service import Service
from tests.support.tidegate import Agent, Forward, Gateway
from tests.support.tools import curl
from tests.system.guarded import LOCAL, UPGRADE, config, knock, refusal

OURS, PIKOS = "x-tidegate-authorization", "x-piko-authorization"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    """Whose tokens are good."""
    return Issuer(tmp_path_factory.mktemp("issuer"), "ES256")


@pytest.fixture(scope="module")
def gateway(issuer: Issuer, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that asks everybody for a token, and routes that see it their own way; `web` is offered."""
    other = Issuer(tmp_path_factory.mktemp("other"), "EdDSA", name="other")
    auth = {"verifiers": [issuer.name]}
    to = {"endpoint": "web"}
    routes: list[dict[str, Any]] = [
        {"host": "open.example.com", "to": to, "auth": "none"},
        {"host": "asks.example.com", "to": to},
        {"host": "passes.example.com", "to": to, "auth": {**auth, "pass": True}},
        {"host": "others.example.com", "to": to, "auth": {"verifiers": ["other"]}},
        {"host": "upstream.example.com", "to": {"upstream": "direct"}},
    ]
    more: dict[str, Any] = {
        "verifiers": {issuer.name: issuer.source, "other": other.source},
        "upstreams": {"direct": {"addresses": [service.address]}},
        "routes": routes,
    }
    with (
        Gateway(config(issuer, **more)) as running,
        Agent(running.agents, "http", "web", service.address, "--token", issuer.token("web")),
    ):
        running.until_offered("web")
        yield running


def ask(gateway: Gateway, host: str, token: str | None = None, field: str = "Authorization") -> Response:
    """A request for a host name, with a token or without."""
    return request(gateway.proxy, headers={"Host": host, **({} if token is None else bearer(token, field))})


# Agents.


def test_every_refusal_of_an_agent_is_pikos(gateway: Gateway, issuer: Issuer, tmp_path: Path) -> None:
    forged = Issuer(tmp_path, "ES256").token("web")
    good = issuer.token("web")
    shown: list[tuple[dict[str, str], str]] = [
        ({}, "missing authorization"),
        ({"Authorization": "Bearer"}, "invalid authorization"),
        ({"Authorization": good}, "invalid authorization"),
        ({"Authorization": f"Bearer {good}, {good}"}, "invalid authorization"),
        ({"Authorization": "Digest a=b"}, "unsupported auth type"),
        (basic("web", good), "unsupported auth type"),
        (bearer("x"), "invalid token"),
        (bearer(forged), "invalid token"),
        (bearer(issuer.sign({"tidegate": {"endpoints": ["web"]}})), "invalid token"),
        (bearer(issuer.token("web", nbf=4e9)), "invalid token"),
        (bearer(issuer.token("web", expires=-5)), "expired token"),
        ({**bearer(good), "x-piko-tenant-id": "acme"}, "unknown tenant"),
        ({**bearer(good), "x-tidegate-tenant-id": "acme"}, "unknown tenant"),
        (bearer(issuer.token("webs")), "endpoint not permitted"),
        (bearer(issuer.token()), "endpoint not permitted"),
    ]
    for headers, message in shown:
        response = knock(gateway.agents, "web", headers)
        assert refusal(response) == (401, message), headers
        assert (response.headers["WWW-Authenticate"] or "").startswith("Bearer realm=")
    assert knock(gateway.agents, "web", bearer(good)).status == 101


def test_a_credential_that_stands_there_twice_is_no_request(gateway: Gateway, issuer: Issuer) -> None:
    field = f"Authorization: Bearer {issuer.token('web')}\r\n"
    for fields in (field * 2, field + field.lower(), field.replace("A", "x-piko-a", 1) * 2):
        with Raw(gateway.agents) as agent:
            upgrade = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
            agent.send(f"GET /piko/v1/upstream/web HTTP/1.1\r\nHost: a\r\n{upgrade}{fields}\r\n".encode())
            assert agent.answer().status == 400
        with Raw(gateway.proxy) as visitor:
            visitor.send(f"GET / HTTP/1.1\r\nHost: web.example.com\r\n{fields}\r\n".encode())
            assert visitor.answer().status == 400


def test_the_most_particular_header_counts(gateway: Gateway, issuer: Issuer) -> None:
    good, bad = issuer.token("web"), "no.good.token"
    for first, second in ((OURS, PIKOS), (PIKOS, "Authorization"), (OURS, "Authorization")):
        for headers, statuses in (
            ({**bearer(good, first), **bearer(bad, second)}, (101, 200)),
            ({**bearer(bad, first), **bearer(good, second)}, (401, 401)),
            ({**bearer(good, first), **basic("a", "b")}, (101, 200) if first != "Authorization" else (401, 401)),
        ):
            knocked = knock(gateway.agents, "web", headers)
            asked = request(gateway.proxy, endpoint="web", headers=headers)
            assert (knocked.status, asked.status) == statuses, (first, second)


def test_agents_and_visitors_come_in_by_every_algorithm(tmp_path: Path) -> None:
    algorithms = ("HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA")
    issuers = [Issuer(tmp_path, algorithm, name=algorithm) for algorithm in algorithms]
    with Gateway(config(*issuers)) as gateway:
        for issuer in issuers:
            token = issuer.token("web")
            turned = token[:-8] + token[-8:][::-1]
            assert knock(gateway.agents, "web", bearer(token)).status == 101
            assert knock(gateway.agents, "web", bearer(turned)).status == 401
            # It is let in, and finds nobody.
            assert ask(gateway, "web.example.com", token).status == 502
            assert ask(gateway, "web.example.com", turned).status == 401


@pytest.mark.parametrize("place", ["url", "file"])
def test_agents_and_visitors_come_in_by_published_keys(
    place: str, service: Service, authority: Authority, tmp_path: Path
) -> None:
    one, two = Issuer(tmp_path, "ES256", kid="1", name="one"), Issuer(tmp_path, "RS256", kid="2", name="two")
    with PublishedKeys(authority.server("DNS:localhost"), one, two) as published:
        (tmp_path / "jwks.json").write_bytes(published.body)
        jwks = {"url": published.url, "ca": str(authority.ca)} if place == "url" else {"file": f"{tmp_path}/jwks.json"}
        with (
            Gateway(config(one, verifiers={one.name: {"jwks": jwks}})) as gateway,
            Agent(gateway.agents, "http", "web", service.address, "--token", one.token("web")),
        ):
            gateway.until_offered("web")
            assert ask(gateway, "web.example.com", two.token("web")).status == 200
            assert knock(gateway.agents, "web", bearer(two.token("web"))).status == 101


def test_a_piko_agent_and_a_piko_forward_come_in_with_a_token(gateway: Gateway, issuer: Issuer) -> None:
    token = issuer.token("echo", "go")
    with GoService() as service:
        with PikoAgent(gateway.agents, "tcp", "echo", service.echo, "--token", token):
            gateway.until_offered("echo")
            with PikoForward(gateway.proxy, "echo", "--token", token) as forward:
                all_come_back("--tcp", forward.address, "--count", "20")
            with Forward(gateway.proxy, "echo", "--token", token) as forward:
                all_come_back("--tcp", forward.address, "--count", "20")
        with PikoAgent(gateway.agents, "http", "go", service.http, "--token", token):
            gateway.until_offered("go")
            assert ask(gateway, "go.example.com", token).status == 200


def test_a_forward_without_a_good_token_carries_nothing(gateway: Gateway, issuer: Issuer) -> None:
    for words in ((), ("--token", "no.good.token"), ("--token", issuer.token("other"))):
        with Forward(gateway.proxy, "web", *words) as forward:
            assert told_by(forward.address) == b""
    headers = {**UPGRADE, **bearer(issuer.token("web"))}
    assert request(gateway.proxy, "/_piko/v1/tcp/web", headers=headers).status == 101
    assert refusal(request(gateway.proxy, "/_piko/v1/tcp/web", headers=UPGRADE)) == (401, "missing authorization")


def test_an_agent_that_is_refused_ends_and_says_why(gateway: Gateway, issuer: Issuer, service: Service) -> None:
    told = {issuer.token("other"): "endpoint not permitted", issuer.token("web", expires=-5): "expired token"}
    for token, message in told.items():
        words = (gateway.agents, "http", "web", service.address, "--token", token)
        with Agent(*words, wait=False) as agent:
            assert agent.wait() == 1
            assert message in agent.log
            assert token not in agent.log


# Visitors.


def test_visitors_show_a_token_where_the_listener_or_the_route_asks(gateway: Gateway, issuer: Issuer) -> None:
    good = issuer.token("web")
    for host in ("web.example.com", "asks.example.com", "passes.example.com", "upstream.example.com"):
        assert refusal(ask(gateway, host)) == (401, "missing authorization"), host
        assert refusal(ask(gateway, host, "x.y.z")) == (401, "invalid token"), host
        assert ask(gateway, host, good).status == 200, host
    assert ask(gateway, "open.example.com").status == 200
    assert ask(gateway, "open.example.com", "x.y.z").status == 200
    assert refusal(ask(gateway, "others.example.com", good)) == (401, "invalid token")
    challenge = ask(gateway, "web.example.com", "x.y.z").headers["WWW-Authenticate"]
    assert challenge == 'Bearer realm="tidegate", error="invalid_token"'


def test_a_credential_goes_no_further_than_where_it_is_asked_for(gateway: Gateway, issuer: Issuer) -> None:
    good = issuer.token("web")
    strange = {"x-tidegate-made-up": "1", "x-piko-made-up": "1", "x-piko-forward": "true", "x_piko_endpoint": "evil"}

    def seen(host: str, headers: dict[str, str]) -> dict[str, str]:
        response = request(gateway.proxy, headers={"Host": host, **strange, **headers})
        assert response.status == 200, response
        return {name.lower(): value for name, value in response.json()["fields"]}

    for host in ("web.example.com", "asks.example.com", "upstream.example.com"):
        assert good not in str(seen(host, bearer(good)))
        assert good not in str(seen(host, bearer(good, OURS)))
        # What was not the credential is the upstream's own.
        assert seen(host, {**bearer(good, PIKOS), **basic("u", "p")})["authorization"] == "Basic dTpw"
    assert seen("passes.example.com", bearer(good))["authorization"] == f"Bearer {good}"
    assert good not in str(seen("passes.example.com", bearer(good, PIKOS)))
    assert seen("open.example.com", bearer("theirs"))["authorization"] == "Bearer theirs"
    for host in ("web.example.com", "open.example.com", "passes.example.com"):
        names = seen(host, {**bearer(good, OURS), **bearer(good, PIKOS), "Connection": OURS})
        assert not [name for name in names if name.startswith(("x-piko-", "x-tidegate-", "x_piko"))], names


def test_what_a_token_may_reach_and_listen_on_are_two_things(gateway: Gateway, issuer: Issuer) -> None:
    def with_claims(**said: list[str]) -> str:
        return issuer.token(tidegate=said)

    reaches = with_claims(reach=["w*"], listen=["other"])
    listens = with_claims(listen=["we*"], reach=["other"])
    assert ask(gateway, "web.example.com", reaches).status == 200
    assert knock(gateway.agents, "web", bearer(reaches)).status == 401
    assert knock(gateway.agents, "web", bearer(listens)).status == 101
    assert knock(gateway.agents, "other", bearer(reaches)).status == 101
    # By itself it names what might as well not be there; by a route it is told.
    assert refusal(ask(gateway, "web.example.com", listens)) == (502, "no available upstreams")
    assert refusal(ask(gateway, "asks.example.com", listens)) == (401, "endpoint not permitted")
    goods = (with_claims(reach=["*"]), with_claims(endpoints=["x", "we*"]), issuer.token(piko={"endpoints": ["web"]}))
    for good in goods:
        assert ask(gateway, "web.example.com", good).status == 200
    for nothing in (
        with_claims(reach=["WEB"]),
        with_claims(reach=["webs*"]),
        with_claims(endpoints=[]),
        issuer.token(),
    ):
        assert ask(gateway, "web.example.com", nothing).status == 502
    for wrong in (
        with_claims(reach=["*b"]),
        with_claims(reach=["web", "a b"]),
        issuer.token(tidegate={"reach": "web"}),
    ):
        assert refusal(ask(gateway, "web.example.com", wrong)) == (401, "invalid token")


def test_http2_is_asked_for_the_same(gateway: Gateway, issuer: Issuer) -> None:
    good = issuer.token("web")
    shown = {f"Bearer {good}": 200, f"bearer {good}": 200, "Bearer x.y.z": 401, "Digest a=b": 401}
    with Two(gateway.proxy) as two:
        bare = two.request()
        streams = {two.request(("authorization", value)): status for value, status in shown.items()}
        pikos = two.request(("authorization", "Bearer x.y.z"), (PIKOS, f"Bearer {good}"))
        double = two.request(("authorization", f"Bearer {good}"), ("authorization", f"Bearer {good}"))
        two.until(lambda: all(stream.over for stream in two.streams.values()))
        assert two.streams[bare].status == 401
        assert two.streams[bare].field("www-authenticate") == 'Bearer realm="tidegate"'
        assert {stream: two.streams[stream].status for stream in streams} == streams
        assert two.streams[pikos].status == 200
        assert good not in two.streams[pikos].body.decode()
        assert two.streams[double].status == 400 or two.streams[double].reset is not None
    words = ("--http2-prior-knowledge", "-H", "Host: web.example.com", f"http://{gateway.proxy}/")
    assert curl(*words, "--oauth2-bearer", good).status == 200


def test_every_request_of_a_connection_is_asked_for_its_own(gateway: Gateway, issuer: Issuer) -> None:
    good = issuer.token("web")
    shown = {f"Authorization: Bearer {good}\r\n": 200, f"{PIKOS}: Bearer {good}\r\n": 200, "": 401}
    with Raw(gateway.proxy) as visitor:
        for field, status in shown.items():
            visitor.send(f"GET / HTTP/1.1\r\nHost: web.example.com\r\n{field}\r\n".encode())
            assert visitor.answer().status == status


def test_an_admin_listener_asks_for_tokens_of_its_own(issuer: Issuer, tmp_path: Path) -> None:
    ops = Issuer(tmp_path, "HS256", name="ops")
    verifiers = {"issuer": issuer.source, "ops": ops.source | {"unlimited": True}}
    admin = {"bind": LOCAL, "auth": {"verifiers": ["ops"]}}
    with Gateway(config(issuer, verifiers=verifiers, admin=admin)) as gateway:
        for path in ("/status", "/metrics", "/status/config"):
            assert request(gateway.admin, path).status == 401
            assert request(gateway.admin, path, headers=bearer(issuer.token("web"))).status == 401
            assert request(gateway.admin, path, headers=bearer(ops.token())).status == 200, path
        until(lambda: request(gateway.admin, "/health").status == 200, "health is everybody's")
