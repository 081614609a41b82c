"""Agents behind a router that gives them another port while they are connected, at a gateway with four workers."""

from __future__ import annotations

import pytest

from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.nat import Nat
from tests.support.process import until
from tests.support.service import Exchange, Service
from tests.support.tidegate import Gateway
from tests.system.load import Visitors
from tests.system.over_quic import Quic

LIVELY = {"TIDEGATE_TUNNEL_PING_INTERVAL": "0.3"}
"""An agent learns of its new port from nobody: it is seen there with the next thing that it says by itself."""


@pytest.fixture(scope="module")
def quic(authority: Authority) -> Quic:
    """Both ends trust it."""
    return Quic(authority)


def until_seen_at(gateway: Gateway, address: str) -> None:
    """Waits until the gateway sees the only agent there."""

    def seen() -> bool:
        return bool(gateway.status()["endpoints"][0]["listeners"][0]["address"] == address)

    until(seen, f"it is seen at {address}")


def test_a_tunnel_goes_on_from_every_new_port_without_a_lost_request(quic: Quic, service: Service) -> None:
    with (
        Gateway(quic.config() | {"workers": 4}) as gateway,
        Nat(gateway.agents) as nat,
        quic.agent(nat.address, "http", "web", service.address, env=LIVELY),
    ):
        gateway.until_offered("web")
        with Visitors.of(gateway.proxy, "web", 2) as visitors:
            for _ in range(10):
                until_seen_at(gateway, nat.move())
                visitors.until_served(10)
        assert visitors.lost == []
        assert gateway.seen("agent disconnected") == []
        metrics = request(gateway.admin, "/metrics").text
        passed = next(line for line in metrics.splitlines() if 'datagrams_total{outcome="passed_on"}' in line)
        # That all ten new ports lead to the worker of the first one happens once in a million times.
        assert float(passed.rpartition(" ")[2]) > 0


def test_a_long_answer_goes_on_across_a_new_port(quic: Quic) -> None:
    def large(exchange: Exchange) -> None:
        exchange.read()
        exchange.answer("200 OK", b"z" * 8_000_000)

    with (
        Service(large) as service,
        Gateway(quic.config() | {"workers": 4}) as gateway,
        Nat(gateway.agents) as nat,
        quic.agent(nat.address, "http", "web", service.address, env=LIVELY),
    ):
        gateway.until_offered("web")
        for _ in range(3):
            nat.move()
            assert len(request(gateway.proxy, endpoint="web").body) == 8_000_000


def test_an_agent_whose_datagrams_are_lost_is_given_up_and_comes_back(quic: Quic, service: Service) -> None:
    hurried = {"TIDEGATE_TUNNEL_PING_INTERVAL": "0.5", "TIDEGATE_TUNNEL_PING_TIMEOUT": "0.5"}
    watched = {"tunnel": {"ping_interval": 0.5, "ping_timeout": 0.5}}
    with (
        Gateway(quic.config() | watched) as gateway,
        Nat(gateway.agents) as nat,
        quic.agent(nat.address, "http", "web", service.address, env=hurried) as agent,
    ):
        gateway.until_offered("web")
        nat.blocked.set()
        assert gateway.event("agent disconnected")["reason"] == "no answer to a ping"
        assert "no answer to a ping" in agent.event("disconnected")["reason"]
        nat.blocked.clear()
        gateway.event("agent connected", nth=2)
        assert request(gateway.proxy, endpoint="web").status == 200
