"""Agents that choose between QUIC and WebSocket by what the network lets pass, in networks of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.http import Response, request
from tests.support.namespace import Namespace
from tests.support.process import until
from tests.support.service import Exchange, Service
from tests.support.tidegate import Agent, Gateway
from tests.system.load import Visitors
from tests.system.over_quic import Quic

_BACK = 30
"""Seconds after which an agent is back on QUIC, at most."""


@pytest.fixture(scope="module")
def quic(authority: Authority) -> Quic:
    """Both ends trust it."""
    return Quic(authority)


@pytest.fixture
def network() -> Iterator[Namespace]:
    """What the test opens is in it."""
    with Namespace() as namespace, namespace.inside():
        yield namespace


@pytest.fixture
def service(network: Namespace) -> Iterator[Service]:
    """A service in it, which says what it was asked."""
    with Service() as service:
        yield service


def choosing(quic: Quic, gateway: Gateway, service: Service, connections: int = 1, **more: Any) -> Agent:
    """An agent that may use both."""
    options = ("--admin", "127.0.0.1:0")
    return quic.agent(
        gateway.agents, "http", "web", service.address, *options, transport="auto", connections=connections, **more
    )


def tunnels(agent: Agent) -> list[dict[str, Any]]:
    """What an agent says of its tunnels."""
    admin = agent.event("listening", listener="admin")["address"]
    found: list[dict[str, Any]] = request(admin, "/status").json()["endpoints"][0]["tunnels"]
    return found


def until_over(agent: Agent, transport: str) -> None:
    """Waits until every tunnel of an agent is made of it."""
    until(lambda: {each["transport"] for each in tunnels(agent)} == {transport}, f"all over {transport}", _BACK)


def why_not(gateway: Gateway) -> list[str]:
    """Why agents are not connected over QUIC, as a gateway's `status agents` says."""
    return [why for agent in request(gateway.admin, "/status/agents").json()["agents"] for why in agent["not_quic"]]


def test_quic_is_used_where_it_works_and_nothing_is_said_about_it(
    quic: Quic, network: Namespace, service: Service
) -> None:
    with Gateway(quic.config()) as gateway, choosing(quic, gateway, service, connections=2) as agent:
        until_over(agent, "quic")
        assert [each["not_quic"] for each in tunnels(agent)] == ["", ""]
        assert why_not(gateway) == []
        assert request(gateway.proxy, endpoint="web").status == 200
        assert agent.seen("quic unavailable") == []
        assert agent.seen("transport changed") == []


def test_an_agent_comes_by_websocket_where_udp_is_dropped_and_goes_over_when_it_is_not(
    quic: Quic, network: Namespace, service: Service
) -> None:
    network.lose_datagrams(100)
    with Gateway(quic.config()) as gateway:
        begun = time.monotonic()
        with choosing(quic, gateway, service, connections=2) as agent:
            assert time.monotonic() - begun < 4
            assert {each["transport"] for each in tunnels(agent)} == {"websocket"}
            port = gateway.agents.rpartition(":")[2]
            why = f"no answer on UDP {port}"
            assert agent.event("quic unavailable")["reason"] == why
            until(lambda: [each["not_quic"] for each in tunnels(agent)] == [why, why], "it says why")
            assert set(why_not(gateway)) == {why}
            with Visitors.of(gateway.proxy, "web", 2) as visitors:
                network.lose_datagrams(0)
                opened = time.monotonic()
                until_over(agent, "quic")
                assert time.monotonic() - opened < _BACK
                until(lambda: len(gateway.status()["endpoints"][0]["listeners"]) == 2, "nothing is left of it", _BACK)
                visitors.until_served(50)
            assert visitors.lost == []
            changed = agent.event("transport changed")
            assert (changed["from"], changed["to"], changed["reason"]) == ("websocket", "quic", "UDP is answered")
            assert [each["not_quic"] for each in tunnels(agent)] == ["", ""]
            admin = agent.event("listening", listener="admin")["address"]
            metrics = request(admin, "/metrics").text
            assert 'tidegate_transport_changes_total{from="websocket",to="quic"} 2' in metrics
            assert 'tidegate_tunnels{endpoint="web",transport="quic"} 2' in metrics


class Streamed:
    """A service whose answers to `/long` come piece by piece until `finish` is set; all others at once."""

    def __init__(self) -> None:
        self.finish = threading.Event()
        self.begun = threading.Event()

    def close(self) -> None:
        """Ends the long answers, whatever has become of the test."""
        self.finish.set()

    def __call__(self, exchange: Exchange) -> None:
        exchange.read()
        if exchange.target != "/long":
            return exchange.answer("200 OK", b"short")
        exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while not self.finish.wait(0.02):
            exchange.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            self.begun.set()
        exchange.send(b"0\r\n\r\n")
        return None


def test_requests_take_the_websocket_within_seconds_when_udp_is_cut_in_the_middle_of_a_transfer(
    quic: Quic, network: Namespace
) -> None:
    streamed = Streamed()
    with (
        Service(streamed) as service,
        Gateway(quic.config()) as gateway,
        choosing(quic, gateway, service, connections=2) as agent,
        ThreadPoolExecutor(1) as pool,
        closing(streamed),
    ):
        gateway.until_offered("web", 2)
        until_over(agent, "quic")
        transfer = pool.submit(lambda: request(gateway.proxy, "/long", endpoint="web"))
        assert streamed.begun.wait(10)
        cut = time.monotonic()
        network.lose_datagrams(100)
        changed = agent.event("transport changed")
        taken = time.monotonic() - cut
        assert taken < 3, taken
        assert (changed["from"], changed["to"]) == ("quic", "websocket")
        assert changed["reason"] == f"no answer on UDP {gateway.agents.rpartition(':')[2]}"
        with Visitors.of(gateway.proxy, "web", 2) as visitors:
            visitors.until_served(50)
            network.lose_datagrams(0)
            opened = time.monotonic()
            until_over(agent, "quic")
            assert time.monotonic() - opened < _BACK
            visitors.until_served(50)
        assert visitors.lost == []
        streamed.close()
        whole = transfer.result(30)
        assert whole.status == 200
        assert set(whole.body) == set(b"x")
        assert len(whole.body) % 1000 == 0


@pytest.mark.parametrize("percent", [5, 30])
def test_lost_datagrams_lose_no_request(quic: Quic, network: Namespace, service: Service, percent: int) -> None:
    with Gateway(quic.config()) as gateway, choosing(quic, gateway, service) as agent:
        until_over(agent, "quic")
        network.lose_datagrams(percent)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda n: request(gateway.proxy, f"/{n}", endpoint="web").status, range(60)))
        assert set(found) == {200}
        # A window of two packets is what is left of QUIC's where every third is lost: a packet comes now and then.
        sent = b"x" * (200_000 if percent < 10 else 30_000)
        answer: Response = request(gateway.proxy, endpoint="web", method="POST", body=sent, timeout=60)
        assert answer.status == 200
        network.lose_datagrams(0)
        until_over(agent, "quic")


def test_quic_passes_where_no_packet_is_larger_than_ipv6_demands(
    quic: Quic, network: Namespace, service: Service
) -> None:
    network.largest_packet(1280)
    with Gateway(quic.config()) as gateway, choosing(quic, gateway, service) as agent:
        until_over(agent, "quic")
        answer = request(gateway.proxy, endpoint="web", method="POST", body=b"x" * 2_000_000)
        assert answer.status == 200
        listener = gateway.status()["endpoints"][0]["listeners"][0]
        assert 1200 <= listener["mtu"] <= 1252
        assert agent.seen("transport changed") == []


def test_an_agent_that_was_told_to_use_websocket_says_so(quic: Quic, network: Namespace, service: Service) -> None:
    options = ("--admin", "127.0.0.1:0")
    with (
        Gateway(quic.config()) as gateway,
        quic.agent(gateway.agents, "http", "web", service.address, *options, transport="websocket") as agent,
    ):
        assert [each["not_quic"] for each in tunnels(agent)] == ["written: transport: websocket"]
        assert why_not(gateway) == ["written: transport: websocket"]
        assert agent.seen("quic unavailable") == []


def test_an_agent_at_a_gateway_without_quic_says_so_once(quic: Quic, network: Namespace, service: Service) -> None:
    with (
        Gateway(quic.config(transports=["websocket"])) as gateway,
        choosing(quic, gateway, service) as agent,
    ):
        assert agent.event("quic unavailable")["reason"] == "the gateway offers no QUIC"
        assert [each["not_quic"] for each in tunnels(agent)] == ["the gateway offers no QUIC"]
        assert request(gateway.proxy, endpoint="web").status == 200
