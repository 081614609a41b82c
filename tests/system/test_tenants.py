"""Tenants own their names: two of them with the same endpoint never see each other's traffic, whatever way it takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest

from tests.support import access
from tests.support.http import Response, request
from tests.support.http2 import Two
from tests.support.issuer import Issuer, bearer
from tests.support.process import until
from tests.support.raw import Raw, told_by
from tests.support.service import Exchange, Service
from tests.support.tidegate import Agent, Forward, Gateway, Tidegate
from tests.system.guarded import LOCAL, UPGRADE, knock, refusal

ACME, UMBRELLA = "acme", "umbrella"
FIELDS = ("x-tidegate-tenant-id", "x-piko-tenant-id")
NOBODY = (502, "no available upstreams")


@pytest.fixture(scope="module")
def issuers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Issuer]:
    """One of each tenant, and `any`, whose tokens say a tenant themselves or none."""
    folder = tmp_path_factory.mktemp("issuers")
    return {name: Issuer(folder, "ES256", name=name) for name in (ACME, UMBRELLA, "any")}


def answering(word: str) -> Callable[[Exchange], None]:
    """A service that says a word."""

    def answer(exchange: Exchange) -> None:
        exchange.read()
        exchange.answer(body=word.encode())

    return answer


@contextmanager
def gateway_of(issuers: dict[str, Issuer], **more: Any) -> Iterator[Gateway]:
    """A gateway of both tenants with all kinds of listeners; each tenant offers `web`, and `NAME-only`."""
    own = {name: issuers[name].source | {"tenant": name} for name in (ACME, UMBRELLA)}
    auth = {"verifiers": list(issuers)}
    dynamic = {"dynamic_endpoints": {"allow": ["web", "acme-only", "umbrella-only"]}}
    to = {"endpoint": "web"}
    config = {
        "verifiers": {**own, "any": issuers["any"].source},
        "tenants": {name: {"verifiers": [name]} for name in own},
        "listeners": {
            "agents": {"bind": LOCAL, "kind": "tunnel", "auth": auth},
            "acme-agents": {"bind": LOCAL, "kind": "tunnel", "auth": auth, "tenant": ACME},
            "chosen-agents": {"bind": LOCAL, "kind": "tunnel", "auth": {"by_tenant": True}},
            "proxy": {"bind": LOCAL, "auth": auth, **dynamic},
            "chosen": {"bind": LOCAL, "auth": {"by_tenant": True}, **dynamic},
            "acme-web": {"bind": LOCAL, "tenant": ACME, **dynamic},
            "acme-asks": {"bind": LOCAL, "tenant": ACME, "auth": auth, **dynamic},
            "open": {"bind": LOCAL, **dynamic},
            "acme-tcp": {"bind": LOCAL, "kind": "tcp", "to": to, "tenant": ACME},
            "umbrella-tcp": {"bind": LOCAL, "kind": "tcp", "to": {**to, "tenant": UMBRELLA}},
            "nobody-tcp": {"bind": LOCAL, "kind": "tcp", "to": to},
        },
        "routes": [
            {"host": "acme.example.com", "to": {**to, "tenant": ACME}, "auth": "none"},
            {"host": "umbrella.example.com", "to": to, "tenant": UMBRELLA, "auth": "none"},
            {"host": "nobody.example.com", "to": to, "auth": "none", "listeners": ["proxy", "open"]},
            {"host": "asks.example.com", "to": {**to, "tenant": UMBRELLA}, "listeners": ["proxy"]},
        ],
        **more,
    }
    with ExitStack() as stack:
        gateway = stack.enter_context(Gateway(config))
        for name in own:
            service = stack.enter_context(Service(answering(name)))
            endpoints = [{"name": endpoint, "to": service.address} for endpoint in ("web", f"{name}-only")]
            file = issuers[name].file.with_suffix(".yaml")
            file.write_text(json.dumps({"connect": {"connections": 1}, "endpoints": endpoints}))
            words = ("--connect", f"http://{gateway.agents}", "--token", issuers[name].token("*"))
            stack.enter_context(Tidegate("agent", "start", "--config", file, *words))
            for endpoint in endpoints:
                gateway.event("agent connected", tenant=name, endpoint=endpoint["name"])
        yield gateway


@pytest.fixture(scope="module")
def gateway(issuers: dict[str, Issuer]) -> Iterator[Gateway]:
    """The same for all tests of this file."""
    with gateway_of(issuers) as running:
        yield running


def told(response: Response) -> str | tuple[int, str]:
    """Who has answered, or why nobody has."""
    return response.text if response.status == 200 else refusal(response)


def test_a_token_leads_to_its_own_tenant(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    for name in (ACME, UMBRELLA):
        other = UMBRELLA if name == ACME else ACME
        for token in (issuers[name].token("*"), issuers["any"].token("*", tenant=name)):
            ways: list[dict[str, str]] = [
                {"Host": "web.example.com"}, {"x-tidegate-endpoint": "web"}, {"x-piko-endpoint": "web"},
                {"Host": "WEB.example.com"}, {"Host": "web.example.com."}, {"Host": "web.example.com:80"},
                {"Host": f"{other}-only.example.com", "x-piko-endpoint": "web"},
            ]  # fmt: skip
            for way in ways:
                assert told(request(gateway.proxy, headers={**way, **bearer(token)})) == name, way
            assert told(request(gateway.proxy, endpoint=f"{other}-only", headers=bearer(token))) == NOBODY
            with Two(gateway.proxy) as two:
                assert two.get(("authorization", f"Bearer {token}")).body.decode() == name


def test_case_36_no_spelling_leads_to_another_tenant(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    token = issuers[UMBRELLA].token("*")
    names = [
        "acme-only", "ACME-ONLY", "acme%2donly", "acme/acme-only", "acme%2Facme-only", "acme:acme-only",
        "acme.acme-only",
        "../acme/acme-only", "acme-only.", ".acme-only", "acme-only%00", "web%2F..%2Facme-only", "acme\\acme-only",
    ]  # fmt: skip
    for name in names:
        for fields in ({"x-tidegate-endpoint": name}, {"x-piko-endpoint": name}, {"Host": f"{name}.example.com"}):
            response = request(gateway.proxy, headers={**fields, **bearer(token)})
            assert response.status in (400, 404, 502), (fields, response)
        for path in (f"/_piko/v1/tcp/{name}", f"/_piko/v1/tcp/web/../{name}"):
            response = request(gateway.proxy, path, headers={**UPGRADE, **bearer(token)})
            assert response.status in (400, 404, 502), (path, response)
    for lines in (
        "x-piko-endpoint: web\r\nx-piko-endpoint: acme-only\r\n",
        "x-piko-endpoint: acme-only\r\nx-tidegate-endpoint: acme-only\r\n",
        "Connection: x-piko-authorization, x-piko-endpoint\r\nx-piko-endpoint: acme-only\r\n",
        "x_piko_endpoint: acme-only\r\nx-piko-endpoint: acme-only\r\n",
    ):
        with Raw(gateway.proxy) as visitor:
            shown = f"Authorization: Bearer {token}\r\n"
            visitor.send(f"GET / HTTP/1.1\r\nHost: acme-only.example.com\r\n{lines}{shown}\r\n".encode())
            assert visitor.answer().status in (400, 502), lines


def test_case_38_a_header_between_hops_takes_no_credential_away(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    acme, umbrella = issuers[ACME].token("web"), issuers[UMBRELLA].token("web")
    for named in ("x-piko-authorization", "X-Tidegate-Authorization, authorization", "close, x-piko-authorization"):
        headers = {"Connection": named, **bearer(acme, "x-tidegate-authorization"), **bearer(umbrella)}
        assert told(request(gateway.proxy, endpoint="web", headers=headers)) == ACME
        headers = {"Connection": f"{named}, x-piko-tenant-id", "x-piko-tenant-id": UMBRELLA, **bearer(acme)}
        assert told(request(gateway.proxy, endpoint="web", headers=headers)) == (401, "unknown tenant")


def test_a_tenant_header_counts_only_with_a_token_of_that_tenant(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    acme, unnamed = issuers[ACME].token("web"), issuers["any"].token("web")
    for field in FIELDS:
        assert told(request(gateway.proxy, endpoint="web", headers={field: ACME, **bearer(acme)})) == ACME
        for tenant in (UMBRELLA, "nobody", "ACME", "acme ", "a b", ""):
            headers = {field: tenant, **bearer(acme)}
            answer = told(request(gateway.proxy, endpoint="web", headers=headers))
            assert answer == (401, "unknown tenant") or (tenant == "acme " and answer == ACME), tenant
        headers = {field: ACME, **bearer(unnamed)}
        assert told(request(gateway.proxy, endpoint="web", headers=headers)) == (401, "unknown tenant")
        # Where nobody is asked who he is, nobody is believed.
        assert told(request(gateway.address("open"), endpoint="web", headers={field: ACME})) == NOBODY
        assert told(request(gateway.address("acme-web"), endpoint="web", headers={field: UMBRELLA})) == ACME
    two = {"x-tidegate-tenant-id": ACME, "x-piko-tenant-id": UMBRELLA, **bearer(acme)}
    assert request(gateway.proxy, endpoint="web", headers=two).status == 400
    assert request(gateway.proxy, endpoint="web", headers={**two, "x-piko-tenant-id": ACME}).status == 200
    assert told(request(gateway.proxy, endpoint="web", headers=bearer(unnamed))) == NOBODY


def test_a_tenants_verifiers_are_picked_by_the_header(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    acme, umbrella = (bearer(issuers[name].token("web")) for name in (ACME, UMBRELLA))
    for field in FIELDS:
        for name, own, other in ((ACME, acme, umbrella), (UMBRELLA, umbrella, acme)):
            assert told(request(gateway.address("chosen"), endpoint="web", headers={field: name, **own})) == name
            assert knock(gateway.address("chosen-agents"), "web", {field: name, **own}).status == 101
            for refused in (
                request(gateway.address("chosen"), endpoint="web", headers={field: name, **other}),
                knock(gateway.address("chosen-agents"), "web", {field: name, **other}),
            ):
                assert refusal(refused) == (401, "invalid token")
        for refused in (
            request(gateway.address("chosen"), endpoint="web", headers={field: "nobody", **acme}),
            request(gateway.address("chosen"), endpoint="web", headers=acme),
            knock(gateway.address("chosen-agents"), "web", {field: "nobody", **acme}),
            knock(gateway.address("chosen-agents"), "web", acme),
            knock(gateway.address("chosen-agents"), "web"),
        ):
            assert refusal(refused) == (401, "unknown tenant")
        assert refusal(knock(gateway.address("chosen-agents"), "web", {field: ACME})) == (401, "missing authorization")


def test_a_verdict_of_one_tenant_is_none_of_another(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    token = issuers["any"].token("web", tenant=ACME)
    for tenant, expected in ((None, ACME), (UMBRELLA, (401, "unknown tenant")), (ACME, ACME)) * 2:
        headers = bearer(token) | ({} if tenant is None else {FIELDS[0]: tenant})
        assert told(request(gateway.proxy, endpoint="web", headers=headers)) == expected


def test_an_issuer_speaks_for_no_tenant_but_its_own(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    forged = issuers[UMBRELLA].token("*", tenant=ACME)
    assert request(gateway.proxy, endpoint="acme-only", headers=bearer(forged)).status == 401
    assert knock(gateway.agents, "acme-only", bearer(forged)).status == 401


def test_listeners_and_routes_lead_to_their_tenant(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    for listener in ("proxy", "open", "acme-web"):
        address = gateway.address(listener)
        for name in (ACME, UMBRELLA):
            assert told(request(address, headers={"Host": f"{name}.example.com"})) == name
        if listener != "acme-web":
            assert told(request(address, headers={"Host": "nobody.example.com"})) == NOBODY
    acme, umbrella = (bearer(issuers[name].token("*")) for name in (ACME, UMBRELLA))
    asks = {"Host": "asks.example.com"}
    assert told(request(gateway.proxy, headers={**asks, **umbrella})) == UMBRELLA
    assert told(request(gateway.proxy, headers={**asks, **acme})) == (401, "endpoint not permitted")
    assert told(request(gateway.address("acme-web"), endpoint="web")) == ACME
    assert told(request(gateway.address("acme-web"), endpoint="umbrella-only")) == NOBODY
    assert told(request(gateway.address("acme-asks"), endpoint="web", headers=acme)) == ACME
    assert told(request(gateway.address("acme-asks"), endpoint="web", headers=umbrella)) == NOBODY
    assert told(request(gateway.address("open"), endpoint="web")) == NOBODY


def test_a_tunnel_listener_of_a_tenant_takes_no_other(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    address = gateway.address("acme-agents")
    assert knock(address, "web", bearer(issuers[ACME].token("web"))).status == 101
    assert refusal(knock(address, "web", bearer(issuers[UMBRELLA].token("web")))) == (401, "unknown tenant")
    # Who says no tenant is its.
    with Service(answering("unnamed")) as service:
        token = issuers["any"].token("unnamed")
        with Agent(address, "http", "unnamed", service.address, "--token", token):
            assert gateway.event("agent connected", endpoint="unnamed")["tenant"] == ACME


def test_byte_streams_reach_their_tenant(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    ask = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for name, other in ((ACME, UMBRELLA), (UMBRELLA, ACME)):
        with Raw(gateway.address(f"{name}-tcp")) as downstream:
            downstream.send(ask)
            assert downstream.rest().endswith(name.encode())
        shown = ("--token", issuers[name].token("*"))
        with Forward(gateway.proxy, "web", *shown) as forward, Raw(forward.address) as downstream:
            downstream.send(ask)
            assert downstream.rest().endswith(name.encode())
        for more in ((), ("--tenant", other)):
            words = (f"{other}-only", *shown, *more)
            with Forward(gateway.proxy, *words) as forward:
                assert told_by(forward.address) == b""
    assert told_by(gateway.address("nobody-tcp")) == b""


def test_status_metrics_and_logs_say_whose_it_is(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    for name in (ACME, UMBRELLA):
        request(gateway.proxy, f"/whose/{name}", endpoint="web", headers=bearer(issuers[name].token("web")))
        line = access.line(gateway, path=f"/whose/{name}")
        assert (line["tenant"], line["endpoint"], line["status"]) == (name, "web", 200)
        request(gateway.address("open"), f"/route/{name}", headers={"Host": f"{name}.example.com"})
        assert access.line(gateway, path=f"/route/{name}")["tenant"] == name
    found = {(each["tenant"], each["name"]) for each in gateway.status()["endpoints"]}
    assert found >= {(ACME, "web"), (UMBRELLA, "web"), (ACME, "acme-only"), (UMBRELLA, "umbrella-only")}
    metrics = request(gateway.admin, "/metrics").text
    for name in (ACME, UMBRELLA):
        assert f'tidegate_sessions{{tenant="{name}",endpoint="web",transport="websocket"}} ' in metrics, metrics
    one = request(gateway.admin, f"/status/endpoints/web?tenant={ACME}")
    assert (one.status, one.json()["tenant"]) == (200, ACME)


def test_a_tenant_that_leaves_takes_only_its_own_with_it(issuers: dict[str, Issuer]) -> None:
    with gateway_of(issuers) as gateway, Service(answering("second")) as service:
        token = issuers[ACME].token("web")
        with Agent(gateway.agents, "http", "second", service.address, "--token", issuers[ACME].token("second")):
            gateway.event("agent connected", endpoint="second")
        gateway.event("agent disconnected", tenant=ACME, endpoint="second")
        for name in (ACME, UMBRELLA):
            headers = bearer(issuers[name].token("*"))
            assert told(request(gateway.proxy, endpoint="web", headers=headers)) == name
        config = dict(gateway.config)
        config["verifiers"] = {name: each for name, each in config["verifiers"].items() if name != ACME}
        config["tenants"] = {UMBRELLA: {"verifiers": [UMBRELLA]}}
        text = {"verifiers": [UMBRELLA, "any"]}
        listeners = {name: {**each} for name, each in config["listeners"].items() if not name.startswith("acme")}
        for each in listeners.values():
            if "verifiers" in each.get("auth", {}):
                each["auth"] = text
        config["listeners"] = listeners
        config["routes"] = config["routes"][1:]
        gateway.write(config)
        gateway.event("configuration applied")
        until(lambda: {each["tenant"] for each in gateway.status()["endpoints"]} == {UMBRELLA}, "acme is gone")
        # The listener asks for a token of another list of verifiers now, so that every agent of it comes anew.
        headers = bearer(issuers[UMBRELLA].token("*"))
        ask = partial(request, gateway.proxy, endpoint="web", headers=headers)
        until(lambda: told(ask()) == UMBRELLA, "umbrella's agent is back")
        assert request(gateway.proxy, endpoint="web", headers=bearer(token)).status == 401
