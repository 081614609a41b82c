"""How much a token and a tenant may have: sessions, streams, requests and bytes; more is 429, and says until when."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.programs import PikoAgent
from tests.support.http import Response, request
from tests.support.http2 import Two
from tests.support.issuer import Issuer, bearer
from tests.support.process import until
from tests.support.raw import Raw
from tests.support.service import Exchange, Service, echo
from tests.support.tidegate import Agent, Gateway
from tests.system.guarded import LOCAL, begun, refusal

TOO_MANY = (429, "too many")


def answer(exchange: Exchange) -> None:
    """Answers; below `/lasting` without an end, below `/large` with a mebibyte."""
    if "/lasting" in exchange.target:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        while exchange.receive():
            pass
    elif "/large" in exchange.target:
        exchange.read()
        exchange.answer(body=bytes(1 << 20))
    else:
        echo(exchange)


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    """Whose tokens are good."""
    return Issuer(tmp_path)


@contextmanager
def limited(issuer: Issuer, of_token: dict[str, Any] | None = None, of_tenant: Any = None) -> Iterator[Gateway]:
    """A gateway with `web` behind a route, for tokens of `acme` with these limits."""
    verifier = issuer.source | {"unlimited": True, "tenant": "acme"} | ({"limits": of_token} if of_token else {})
    auth = {"verifiers": [issuer.name]}
    config: dict[str, Any] = {
        "verifiers": {issuer.name: verifier},
        "tenants": {"acme": {"limits": of_tenant} if of_tenant else {}},
        "listeners": {
            "agents": {"bind": LOCAL, "kind": "tunnel", "auth": auth},
            "proxy": {"bind": LOCAL, "auth": auth},
        },
    }
    with ExitStack() as stack:
        service = stack.enter_context(Service(answer))
        config["routes"] = [{"host": "web.test", "to": {"addresses": [service.address]}}]
        yield stack.enter_context(Gateway(config))


def ask(gateway: Gateway, token: str, path: str = "/") -> Response:
    """A request with a token."""
    return request(gateway.proxy, path, headers={"Host": "web.test", **bearer(token)})


def told_when(response: Response) -> int:
    """After how many seconds it may be tried again."""
    assert refusal(response) == TOO_MANY
    return int(response.headers["Retry-After"])


def refused(gateway: Gateway, limit: str) -> int:
    """How often the tenant was refused for this."""
    line = f'tidegate_tenant_refused_total{{tenant="acme",limit="{limit}"}} '
    found = [each for each in request(gateway.admin, "/metrics").text.splitlines() if each.startswith(line)]
    return int(found[0].rpartition(" ")[2]) if found else 0


def begin(gateway: Gateway, token: str) -> Raw:
    """A request that runs until it is closed."""
    return begun(gateway, "GET /lasting", {"Host": "web.test"} | bearer(token))


def test_a_token_has_so_many_streams_and_another_one_its_own(issuer: Issuer) -> None:
    one, other = issuer.token(), issuer.token()
    with limited(issuer, {"streams": 2}) as gateway, begin(gateway, one):
        with begin(gateway, one):
            assert told_when(ask(gateway, one)) >= 1
            assert ask(gateway, other).status == 200
            with Two(gateway.proxy) as two:
                assert two.get(("authorization", f"Bearer {one}"), authority="web.test").status == 429
        until(lambda: ask(gateway, one).status == 200, "a place is free again")


def test_a_tenant_has_so_many_streams_of_all_its_tokens(issuer: Issuer) -> None:
    with limited(issuer, of_tenant={"streams": 2}) as gateway, begin(gateway, issuer.token()):
        with begin(gateway, issuer.token()):
            assert told_when(ask(gateway, issuer.token())) >= 1
            assert refused(gateway, "streams") == 1
        until(lambda: ask(gateway, issuer.token()).status == 200, "a place is free again")


@pytest.mark.parametrize("whose", ["token", "tenant"])
def test_so_many_requests_a_second(issuer: Issuer, whose: str) -> None:
    limits = {"requests": 5}
    with limited(issuer, **{f"of_{whose}": limits}) as gateway:
        token, began = issuer.token(), time.monotonic()
        answers = [ask(gateway, token) for _ in range(40)]
        passed = sum(answer.status == 200 for answer in answers)
        over = time.monotonic() - began
        assert {answer.status for answer in answers} == {200, 429}
        # A second's worth may come at once.
        assert 5 <= passed <= 5 * (over + 1) + 1, f"{passed} in {over:.2f} s"
        assert told_when(next(answer for answer in answers if answer.status == 429)) == 1
        assert (refused(gateway, "requests") > 0) is (whose == "tenant")
        until(lambda: ask(gateway, token).status == 200, "the next second")


@pytest.mark.parametrize("whose", ["token", "tenant"])
def test_so_many_bytes_a_second(issuer: Issuer, whose: str) -> None:
    with limited(issuer, **{f"of_{whose}": {"bytes": "512KiB"}}) as gateway:
        token = issuer.token()
        # What runs is finished; what comes next has to wait for it.
        assert len(ask(gateway, token, "/large").body) == 1 << 20
        assert 1 <= told_when(ask(gateway, token)) <= 3
        assert (ask(gateway, issuer.token()).status == 200) is (whose == "token")
        until(lambda: ask(gateway, token).status == 200, "it is paid for")


@pytest.mark.parametrize("whose", ["token", "tenant"])
def test_so_many_sessions_and_an_agent_waits_for_its_place(issuer: Issuer, service: Service, whose: str) -> None:
    token = issuer.token()
    with limited(issuer, **{f"of_{whose}": {"sessions": 2}}) as gateway:
        words = ("--token", token)
        with (
            Agent(gateway.agents, "http", "one", service.address, *words),
            PikoAgent(gateway.agents, "http", "two", service.address, *words) as leaves,
        ):
            gateway.until_offered("two")
            with Agent(gateway.agents, "http", "three", service.address, *words, wait=False) as waits:
                gateway.event("agent refused", error="too_many")
                assert waits.running
                assert "too many" in str(waits.event("disconnected")["reason"])
                leaves.kill()
                gateway.until_offered("three")
                waits.until_connected()


def test_limits_change_by_reload_without_an_end_of_what_runs(issuer: Issuer) -> None:
    token = issuer.token()
    with limited(issuer, of_tenant={"streams": 1}) as gateway, begin(gateway, token) as lives_on:
        assert ask(gateway, token).status == 429
        gateway.write(gateway.config | {"tenants": {"acme": {"limits": {"streams": 2}}}})
        gateway.event("configuration applied")
        assert ask(gateway, token).status == 200
        lives_on.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            lives_on.take(100)
