"""Agents that choose between QUIC and WebSocket by what the network lets pass, in networks of their own."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.http import Response, request
from tests.support.namespace import Namespace
from tests.support.ports import reserved
from tests.support.process import until
from tests.support.service import Exchange, Service, TcpService
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
        assert why_not(gateway) == ["the gateway offers no QUIC"]
        assert request(gateway.proxy, endpoint="web").status == 200


def test_a_gateway_that_is_gone_is_left_within_two_seconds(quic: Quic, network: Namespace, service: Service) -> None:
    with reserved() as gone, Gateway(quic.config()) as gateway:
        begun = time.monotonic()
        with quic.agent(
            gone, "http", "web", service.address, "--connect", f"https://{gateway.agents}", transport="auto"
        ):
            gateway.until_offered("web")
            # Two seconds and the start of a program.
            assert time.monotonic() - begun < 4
            assert request(gateway.proxy, endpoint="web").status == 200


def test_requests_go_to_another_gateway_at_once_when_one_is_killed(
    quic: Quic, network: Namespace, service: Service
) -> None:
    watchful = {"TIDEGATE_TUNNEL_PING_INTERVAL": "0.5"}
    with Gateway(quic.config()) as first, Gateway(quic.config()) as second:
        more = ("--connect", f"https://{second.agents}")
        with quic.agent(first.agents, "http", "web", service.address, *more, transport="auto", env=watchful) as agent:
            assert agent.event("connected")["transport"] == "quic"
            first.until_offered("web")
            first.kill()
            killed = time.monotonic()
            second.until_offered("web")
            # Half a second until it asks, a second without an answer, and up to one until it looks.
            assert time.monotonic() - killed < 3.5
            assert request(second.proxy, endpoint="web").status == 200


def test_agents_use_both_gateways_where_one_offers_no_quic_and_lose_no_request(
    quic: Quic, network: Namespace, service: Service
) -> None:
    with (
        Gateway(quic.config()) as with_quic,
        Gateway(quic.config(transports=["websocket"])) as without,
        quic.agent(
            *(with_quic.agents, "http", "web", service.address),
            *("--connect", f"https://{without.agents}", "--admin", "127.0.0.1:0"),
            transport="auto",
            connections=2,
        ) as agent,
    ):
        with_quic.until_offered("web")
        without.until_offered("web")

        def made_of() -> dict[str, str]:
            return {each["gateway"].rpartition("/")[2]: each["transport"] for each in tunnels(agent)}

        until(lambda: made_of() == {with_quic.agents: "quic", without.agents: "websocket"}, "each by its own")
        assert why_not(without) == ["the gateway offers no QUIC"]
        with Visitors.of(with_quic.proxy, "web", 2) as one, Visitors.of(without.proxy, "web", 2) as other:
            other.until_served(20)
        assert one.lost == other.lost == []
        network.lose_datagrams(100)
        until(lambda: set(made_of().values()) == {"websocket"}, "UDP is missed", _BACK)
        with Visitors.of(with_quic.proxy, "web", 2) as one, Visitors.of(without.proxy, "web", 2) as other:
            network.lose_datagrams(0)
            until(lambda: made_of() == {with_quic.agents: "quic", without.agents: "websocket"}, "it is back", _BACK)
            one.until_served(20)
            other.until_served(20)
        assert one.lost == other.lost == []
        assert agent.seen("disconnected") == []


def test_another_server_at_the_tcp_port_of_a_gateway_ends_no_agent(
    quic: Quic, network: Namespace, service: Service
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = quic.tls["certificates"][0]
    context.load_cert_chain(certificate["cert"], certificate["key"])
    asked = threading.Semaphore(0)

    def not_found(connection: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
            while not secured.recv(65536).endswith(b"\r\n\r\n"):
                pass
            secured.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            asked.release()

    watchful = {"TIDEGATE_TUNNEL_PING_INTERVAL": "0.5", "TIDEGATE_TUNNEL_PING_TIMEOUT": "2"}
    network.lose_datagrams(100)
    with (
        TcpService(not_found) as other,
        Gateway(quic.config(bind=other.address, transports=["quic"])) as gateway,
        quic.agent(gateway.agents, "http", "web", service.address, transport="auto", wait=False, env=watchful) as agent,
    ):
        # While QUIC is slow.
        assert asked.acquire(timeout=20)
        network.lose_datagrams(0)
        agent.event("connected")
        assert request(gateway.proxy, endpoint="web").status == 200
        # While it does not work, which is longer than an attempt takes.
        network.lose_datagrams(100)
        agent.event("disconnected", nth=2)
        network.lose_datagrams(0)
        agent.event("connected", nth=2)
        assert request(gateway.proxy, endpoint="web").status == 200
        assert agent.seen("refused") == []


def test_tunnels_do_not_gather_at_one_of_two_gateways(quic: Quic, network: Namespace, service: Service) -> None:
    bind = "127.0.0.1:7001"
    with (
        Gateway(quic.config(bind=bind)) as first,
        Gateway(quic.config()) as second,
        quic.agent(
            *(first.agents, "http", "web", service.address),
            *("--connect", f"https://{second.agents}", "--admin", "127.0.0.1:0"),
            transport="auto",
            connections=2,
        ) as agent,
    ):

        def at() -> list[tuple[str, str]]:
            return sorted((each["gateway"], each["transport"]) for each in tunnels(agent))

        until_over(agent, "quic")
        expected = sorted([(f"https://{first.agents}", "websocket"), (f"https://{second.agents}", "quic")])
        for transports in (["websocket"], ["websocket", "quic"]):
            first.write(quic.config(bind=bind, transports=transports))
            assert first.reload().status == 200
            until(lambda: at() == expected, "one at each")
            assert request(first.proxy, endpoint="web").status == 200


def test_an_agent_that_leaves_does_not_wait_for_what_runs_on_a_silent_tunnel(quic: Quic, network: Namespace) -> None:
    streamed = Streamed()
    hurried = {"TIDEGATE_TUNNEL_PING_TIMEOUT": "1"}
    with (
        Service(streamed) as service,
        Gateway(quic.config()) as gateway,
        choosing(quic, gateway, service, env=hurried) as agent,
        ThreadPoolExecutor(1) as pool,
        closing(streamed),
    ):
        until_over(agent, "quic")
        transfer = pool.submit(lambda: request(gateway.proxy, "/long", endpoint="web", timeout=60))
        assert streamed.begun.wait(10)
        network.lose_datagrams(100)
        begun = time.monotonic()
        agent.signal(signal.SIGTERM)
        agent.event("stopped")
        # A second until it is silent, and one that it may be.
        assert time.monotonic() - begun < 6
        streamed.close()
        network.lose_datagrams(0)
        with suppress(Exception):
            transfer.result(60)
