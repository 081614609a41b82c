"""Keys and terms that are taken away end what came by them, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.issuer import Issuer, PublishedKeys, bearer
from tests.support.process import until
from tests.support.raw import Raw
from tests.support.service import Exchange, Service, echo
from tests.support.tidegate import Agent, Gateway
from tests.system.guarded import LOCAL, config, knock, refusal
from tests.system.load import Visitors


def lasting(exchange: Exchange) -> None:
    """Answers at once, and for good below `/lasting`."""
    if "/lasting" not in exchange.target:
        return echo(exchange)
    exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
    while exchange.receive():
        pass
    return None


@pytest.fixture
def issuers(tmp_path: Path) -> list[Issuer]:
    """Two, each with a key."""
    return [Issuer(tmp_path, "ES256", kid=name, name=name) for name in ("one", "two")]


def terms(issuers: list[Issuer], **more: dict[str, Any]) -> dict[str, Any]:
    """A gateway with a route and a listener of agents for each, and one that lets visitors in without a token."""
    routes = [
        {"host": f"{each.name}.example.com", "to": {"endpoint": each.name}, "auth": {"verifiers": [each.name]}}
        for each in issuers
    ]
    names = [each.name for each in issuers]
    own = {name: {"bind": LOCAL, "kind": "tunnel", "auth": {"verifiers": [name]}} for name in names}
    return config(
        *issuers,
        verifiers={each.name: each.source | more.get(each.name, {}) for each in issuers},
        routes=routes,
        listeners={**own, "open": {"bind": LOCAL, "dynamic_endpoints": {"allow": names}}},
    )


@contextmanager
def offering(config: dict[str, Any], issuers: list[Issuer], **claims: Any) -> Iterator[tuple[Gateway, list[Agent]]]:
    """A gateway to which an agent of each issuer offers an endpoint of the issuer's name."""
    with ExitStack() as stack:
        gateway = stack.enter_context(Gateway(config))
        service = stack.enter_context(Service(lasting))
        agents = []
        for each in issuers:
            token = each.token(each.name, **claims)
            listener = each.name if each.name in config["listeners"] else "agents"
            to = (gateway.address(listener), "http", each.name, service.address, "--token", token)
            agents.append(stack.enter_context(Agent(*to)))
            gateway.until_offered(each.name)
        yield gateway, agents


@contextmanager
def response_of(gateway: Gateway, issuer: Issuer, **claims: Any) -> Iterator[Raw]:
    """A response that does not end, to a visitor with a token of an issuer."""
    with Raw(gateway.proxy) as visitor:
        shown = f"Authorization: Bearer {issuer.token(issuer.name, **claims)}\r\n"
        visitor.send(f"GET /lasting HTTP/1.1\r\nHost: {issuer.name}.example.com\r\n{shown}\r\n".encode())
        visitor.until(b"begun\r\n")
        yield visitor


def goes_on(visitor: Raw) -> None:
    """Nothing has ended this response."""
    visitor.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        visitor.take(1)


def test_a_key_that_is_rotated_ends_what_it_has_verified(issuers: list[Issuer], tmp_path: Path) -> None:
    one, two = issuers
    (tmp_path / "fresh").mkdir()
    fresh = Issuer(tmp_path / "fresh", "ES256", name="one")
    with (
        offering(terms(issuers), issuers) as (gateway, agents),
        response_of(gateway, one) as ending,
        response_of(gateway, two) as lives_on,
    ):
        one.file.write_bytes(fresh.public)
        gateway.event("keys removed")
        gateway.event("agent disconnected", endpoint="one")
        ending.rest()
        goes_on(lives_on)
        assert agents[0].wait() == 1
        assert "invalid token" in agents[0].log
        assert refusal(knock(gateway.agents, "one", bearer(one.token("one")))) == (401, "invalid token")
        assert knock(gateway.agents, "one", bearer(fresh.token("one"))).status == 101
        assert gateway.seen("agent disconnected", endpoint="two") == []
        assert len(agents[1].seen("connected")) == 1


def test_a_verifier_that_is_removed_ends_what_it_has_verified(issuers: list[Issuer]) -> None:
    one, two = issuers
    with (
        offering(terms(issuers), issuers) as (gateway, _),
        response_of(gateway, one) as ending,
        response_of(gateway, two) as lives_on,
        Visitors.of(gateway.address("open"), "two") as visitors,
    ):
        gateway.write(terms([two]))
        gateway.event("configuration applied")
        gateway.event("agent disconnected", endpoint="one")
        ending.rest()
        visitors.until_served(20)
        goes_on(lives_on)
        until(lambda: request(gateway.address("open"), endpoint="one").status == 502, "it is offered no more")
        assert refusal(knock(gateway.agents, "one", bearer(one.token("*")))) == (401, "invalid token")
    assert visitors.lost == []


def test_another_audience_ends_what_came_by_the_one_before(issuers: list[Issuer]) -> None:
    one, two = issuers
    before, after = {"audience": "gate"}, {"audience": "door"}
    with (
        offering(terms(issuers, one=before), issuers, aud="gate") as (gateway, agents),
        response_of(gateway, one, aud="gate") as ending,
        response_of(gateway, two, aud="gate") as lives_on,
    ):
        token = one.token("one", aud="gate")
        assert knock(gateway.agents, "one", bearer(token)).status == 101
        gateway.write(terms(issuers, one=after))
        gateway.event("configuration applied")
        # Its verdicts are of the set that is no more.
        assert refusal(knock(gateway.agents, "one", bearer(token))) == (401, "invalid token")
        host = {"Host": "one.example.com"}
        assert refusal(request(gateway.proxy, headers={**host, **bearer(token)})) == (401, "invalid token")
        assert request(gateway.proxy, headers={**host, **bearer(one.token("one", aud="door"))}).status == 502
        gateway.event("agent disconnected", endpoint="one")
        ending.rest()
        goes_on(lives_on)
        assert agents[0].wait() == 1


@pytest.mark.parametrize(
    "more",
    [
        {"listeners": {"one": {"verifiers": ["two", "one"]}}},
        {"verifiers": {"one": {"leeway": "5s"}}},
        {"verifiers": {"one": {"limits": {"sessions": 5, "requests": 1000}}}},
        {"verifiers": {"three": None}, "listeners": {"one": {"verifiers": ["one", "three"]}}},
        {"tenants": {"acme": {}, "globex": {"limits": {"sessions": 1}}}},
    ],
    ids=["a verifier beside it", "leeway", "limits", "a new verifier", "tenants"],
)
def test_whoever_else_is_believed_and_how_much_there_is_ends_nothing(
    issuers: list[Issuer], more: dict[str, dict[str, Any]]
) -> None:
    one, two = issuers
    config = terms(issuers)
    with offering(config, issuers) as (gateway, agents), response_of(gateway, one) as lives_on:
        token = one.token("one")
        assert knock(gateway.address("one"), "one", bearer(token)).status == 101
        for name, changed in more.get("verifiers", {}).items():
            config["verifiers"][name] = {**config["verifiers"].get(name, two.source), **(changed or {})}
        for name, auth in more.get("listeners", {}).items():
            config["listeners"][name] = {**config["listeners"][name], "auth": auth}
            config["routes"][0]["auth"] = auth
        config["tenants"] = more.get("tenants", {})
        gateway.write(config)
        gateway.event("configuration applied")
        assert knock(gateway.address("one"), "one", bearer(token)).status == 101
        if "two" in more.get("listeners", {}).get("one", {}).get("verifiers", ()):
            assert knock(gateway.address("one"), "one", bearer(two.token("one"))).status == 101
        goes_on(lives_on)
        assert [len(agent.seen("connected")) for agent in agents] == [1, 1]
        assert gateway.seen("agent refused") == gateway.seen("keys removed") == []
        assert request(gateway.proxy, headers={"Host": "one.example.com", **bearer(token)}).status == 200
        # Nor does going back to what was before.
        gateway.write(terms(issuers))
        gateway.event("configuration applied", nth=2)
        goes_on(lives_on)
        assert [len(agent.seen("connected")) for agent in agents] == [1, 1]


def test_a_tenant_that_is_removed_ends_what_its_tokens_opened(issuers: list[Issuer]) -> None:
    one, two = issuers
    owned = {"two": {"tenant": "kept"}}
    config = terms(issuers, **owned)
    config["tenants"] = {"gone": {}, "kept": {}}
    config["routes"][0]["to"]["tenant"], config["routes"][1]["to"]["tenant"] = "gone", "kept"
    tenants = {"one": "gone", "two": None}
    with ExitStack() as stack:
        gateway = stack.enter_context(Gateway(config))
        service = stack.enter_context(Service(lasting))
        tokens = {each.name: each.token(each.name, tenant=tenants[each.name]) for each in issuers}
        for name, token in tokens.items():
            to = (gateway.address(name), "http", name, service.address, "--token", token)
            stack.enter_context(Agent(*to))
            gateway.event("agent connected", endpoint=name)
        ending = stack.enter_context(response_of(gateway, one, tenant="gone"))
        lives_on = stack.enter_context(response_of(gateway, two))
        left = dict(gateway.config)
        left["tenants"] = {"kept": {}}
        left["routes"] = left["routes"][1:]
        gateway.write(left)
        gateway.event("configuration applied")
        gateway.event("agent disconnected", endpoint="one")
        ending.rest()
        goes_on(lives_on)
        refused = knock(gateway.address("one"), "one", bearer(tokens["one"]))
        assert refusal(refused) == (401, "unknown tenant")
        assert gateway.seen("agent disconnected", endpoint="two") == []
        # Nor is anybody a tenant where the last one is gone.
        left["verifiers"]["two"].pop("tenant")
        left["tenants"], left["routes"] = {}, []
        gateway.write(left)
        gateway.event("configuration applied", nth=2)
        gateway.event("agent disconnected", endpoint="two")
        lives_on.rest()
        refused = knock(gateway.address("one"), "one", bearer(one.token("one", tenant="gone")))
        assert refusal(refused) == (401, "unknown tenant")
        assert gateway.event("credentials ended", nth=2)["ended"] >= 1


def test_a_configuration_whose_key_cannot_be_read_is_refused_and_the_last_one_goes_on(
    issuers: list[Issuer], tmp_path: Path
) -> None:
    with offering(terms(issuers), issuers) as (gateway, agents), response_of(gateway, issuers[0]) as lives_on:
        for wrong, said in ((b"", "one"), (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "one")):
            good = issuers[0].file.read_bytes()
            issuers[0].file.write_bytes(wrong)
            answer = gateway.reload()
            assert answer.status in (400, 422), answer
            assert said in answer.text
            assert (
                request(gateway.proxy, headers={"Host": "one.example.com", **bearer(issuers[0].token("one"))}).status
                == 200
            )
            issuers[0].file.write_bytes(good)
        goes_on(lives_on)
        assert [len(agent.seen("connected")) for agent in agents] == [1, 1]


# Published keys.


@contextmanager
def publishing(authority: Authority, *issuers: Issuer, **times: str) -> Iterator[tuple[PublishedKeys, dict[str, Any]]]:
    """An HTTPS server of keys, and the configuration that fetches them."""
    with PublishedKeys(authority.server("DNS:localhost"), *issuers) as published:
        jwks = {"url": published.url, "ca": str(authority.ca), **times}
        auth = {"verifiers": ["main"]}
        yield (
            published,
            {
                "verifiers": {"main": {"jwks": jwks}},
                "listeners": {
                    "agents": {"bind": LOCAL, "kind": "tunnel", "auth": auth},
                    "proxy": {"bind": LOCAL, "auth": auth},
                },
            },
        )


def test_keys_rotate_while_requests_come(issuers: list[Issuer], authority: Authority) -> None:
    one, two = issuers
    with (
        publishing(authority, one, refresh="500ms", retry="200ms") as (published, config),
        offering(config, [one]) as (gateway, agents),
        Service(lasting) as service,
        response_of(gateway, one) as ending,
    ):
        assert request(gateway.proxy, endpoint="one", headers=bearer(two.token("*"))).status == 401
        published.publish(one, two)
        headers = bearer(two.token("two"))
        with Agent(gateway.agents, "http", "two", service.address, "--token", two.token("two")):
            with Visitors(lambda: request(gateway.proxy, endpoint="two", headers=headers)) as visitors:
                published.publish(two)
                gateway.event("keys removed")
                gateway.event("agent disconnected", endpoint="one")
                visitors.until_served(20)
            assert visitors.lost == []
        ending.rest()
        assert agents[0].wait() == 1
        assert refusal(knock(gateway.agents, "one", bearer(one.token("one")))) == (401, "invalid token")


def test_known_tokens_go_on_while_the_keys_cannot_be_fetched(issuers: list[Issuer], authority: Authority) -> None:
    one, two = issuers
    with (
        publishing(authority, one, refresh="300ms", retry="100ms") as (published, config),
        offering(config, [one]) as (gateway, agents),
        response_of(gateway, one) as lives_on,
    ):
        published.status = 500
        known = bearer(one.token("one"))

        def unavailable() -> bool:
            return knock(gateway.agents, "two", bearer(two.token("two"))).status == 503

        until(unavailable, "nobody knows whether the token is good")
        refused = knock(gateway.agents, "two", bearer(two.token("two")))
        assert refusal(refused) == (503, "credentials cannot be checked now")
        for headers in (known, bearer(one.token("one"))):
            assert request(gateway.proxy, endpoint="one", headers=headers).status == 200
        goes_on(lives_on)
        assert len(agents[0].seen("connected")) == 1
        published.status = 200
        published.publish(one, two)
        until(lambda: knock(gateway.agents, "two", bearer(two.token("two"))).status == 101, "the key is known")


def test_made_up_key_names_cause_one_fetch_at_most(issuers: list[Issuer], authority: Authority, tmp_path: Path) -> None:
    one = issuers[0]
    (tmp_path / "strange").mkdir()
    with publishing(authority, one, retry="10m") as (published, config), Gateway(config) as gateway:
        for number in range(30):
            forged = Issuer(tmp_path / "strange", "ES256", kid=f"kid-{number}").token("one")
            assert knock(gateway.agents, "one", bearer(forged)).status == 401
        assert published.asked <= 2
        assert knock(gateway.agents, "one", bearer(one.token("one"))).status == 101


@pytest.mark.parametrize("place", ["url", "file"])
@pytest.mark.parametrize("left", [[], [{"kty": "EC", "use": "enc"}]], ids=["empty", "for something else"])
def test_a_set_that_is_published_without_a_good_key_ends_what_came_by_the_one_before(
    place: str, left: list[Any], issuers: list[Issuer], authority: Authority, tmp_path: Path
) -> None:
    one = issuers[0]
    file = tmp_path / "jwks.json"
    with publishing(authority, one, refresh="300ms", retry="100ms") as (published, config):
        file.write_bytes(published.body)
        if place == "file":
            config["verifiers"]["main"]["jwks"] = {"file": str(file)}
        with offering(config, [one]) as (gateway, agents), response_of(gateway, one) as ending:
            good = published.body
            published.body = json.dumps({"keys": left}).encode()
            file.write_bytes(published.body)
            gateway.event("keys removed")
            ending.rest()
            assert agents[0].wait() == 1
            assert refusal(knock(gateway.agents, "one", bearer(one.token("one")))) == (401, "invalid token")
            told = gateway.event("keys all withdrawn")["reason"]
            assert "holds no key that verifies signatures" in told
            until(lambda: told in gateway.status()["problems"], "status says so")
            published.body = good
            file.write_bytes(good)
            until(lambda: knock(gateway.agents, "one", bearer(one.token("one"))).status == 101, "its tokens are good")
