"""A new configuration and tunnels over QUIC: sockets stay, certificates change, who is asked for more is let go."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.http import ask, request
from tests.support.ports import reserved
from tests.support.process import until
from tests.support.service import Exchange, Service
from tests.support.tidegate import Gateway
from tests.system.guarded import UPGRADE
from tests.system.load import Visitors
from tests.system.over_quic import Quic
from tests.system.test_draining import Held


@pytest.fixture(scope="module")
def quic(authority: Authority) -> Quic:
    """Both ends trust it."""
    return Quic(authority)


def put_in_force(gateway: Gateway, config: dict[str, Any]) -> None:
    """Writes a configuration and has it applied."""
    gateway.write(config)
    answer = gateway.reload()
    assert answer.status == 200, answer.text


def session(gateway: Gateway, endpoint: str) -> Any:
    """The number of the only session of an endpoint."""
    found = [each for each in gateway.status()["endpoints"] if each["name"] == endpoint]
    return found[0]["listeners"][0]["session"] if found else None


def test_what_is_asked_for_the_same_touches_no_tunnel_and_a_renewed_certificate_is_shown(
    quic: Quic, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Quic(Authority(tmp_path_factory.mktemp("other")))
    with (
        Gateway(quic.config()) as gateway,
        quic.agent(gateway.agents, "http", "web", service.address),
        Visitors.of(gateway.proxy, "web") as visitors,
    ):
        before = session(gateway, "web")
        for config in (other.config(), quic.config() | {"limits": {"head_fields": 90}}, other.config()):
            put_in_force(gateway, config)
            visitors.until_served(20)
        assert session(gateway, "web") == before
        with other.agent(gateway.agents, "http", "more", service.address):
            gateway.until_offered("more")
        assert visitors.lost == []


def test_an_agent_that_showed_no_certificate_is_let_go_once_one_is_demanded(quic: Quic) -> None:
    cert, key = quic.authority.issue("agent", use="clientAuth")
    demanding = quic.tls | {"client_ca": str(quic.authority.ca)}
    answer = Held()
    with ExitStack() as stack:
        service = stack.enter_context(Service(answer))
        stack.callback(answer.release.set)
        gateway = stack.enter_context(Gateway(quic.config()))
        stack.enter_context(quic.agent(gateway.agents, "http", "without", service.address))
        known = ("--connect-cert", cert, "--connect-key", key)
        stack.enter_context(quic.agent(gateway.agents, "http", "with", service.address, *known))
        for name in ("without", "with"):
            gateway.until_offered(name)
        running = ask(gateway.proxy, "/stay", endpoint="without")
        answer.until_arrived()

        put_in_force(gateway, quic.config(tls=demanding))
        gateway.event("terms changed", listener="agents")
        gateway.event("agent connected", endpoint="with", nth=2)
        until(lambda: request(gateway.proxy, endpoint="without").status == 502, "it is offered no more")
        assert request(gateway.proxy, endpoint="with").status == 200
        answer.release.set()
        assert running.result(20).text == "finished"
        gateway.event("agent disconnected", endpoint="without")
        assert len(gateway.seen("agent connected", endpoint="without")) == 1


def test_quic_that_is_taken_away_lets_agents_go_and_comes_back_on_the_same_port(quic: Quic) -> None:
    answer = Held()
    with ExitStack() as stack:
        service = stack.enter_context(Service(answer))
        stack.callback(answer.release.set)
        bind = stack.enter_context(reserved())
        gateway = stack.enter_context(Gateway(quic.config(bind=bind)))
        words = (bind, "http", "web", service.address)
        hurried = {"TIDEGATE_TIMEOUTS_HANDSHAKE": "0.5"}
        agent = stack.enter_context(quic.agent(*words, env=hurried))
        gateway.until_offered("web")
        running = ask(gateway.proxy, "/stay", endpoint="web")
        answer.until_arrived()

        # What runs keeps the socket, and nobody new comes in by it.
        put_in_force(gateway, quic.config(bind=bind, transports=["websocket"]))
        assert "takes no connections over QUIC" in agent.event("disconnected")["reason"]
        put_in_force(gateway, quic.config(bind=bind))
        gateway.event("agent connected", nth=2)
        assert request(gateway.proxy, endpoint="web").status == 200
        answer.release.set()
        assert running.result(20).text == "finished"

        # With nothing left on it the socket closes, and is bound again.
        put_in_force(gateway, quic.config(bind=bind, transports=["websocket"]))
        until(lambda: request(gateway.proxy, endpoint="web").status == 502, "the tunnels have ended")
        until(lambda: can_be_bound(bind), "the port is free", 30)
        put_in_force(gateway, quic.config(bind=bind))
        gateway.event("agent connected", nth=3)
        assert request(gateway.proxy, endpoint="web").status == 200


def can_be_bound(address: str) -> bool:
    """Whether nobody has this UDP port."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True


def test_a_port_for_quic_alone_becomes_one_for_both_and_keeps_its_tunnels(quic: Quic, service: Service) -> None:
    with (
        reserved() as bind,
        Gateway(quic.config(bind=bind, transports=["quic"])) as gateway,
        quic.agent(bind, "http", "web", service.address),
    ):
        gateway.until_offered("web")
        before = session(gateway, "web")
        put_in_force(gateway, quic.config(bind=bind))
        with quic.agent(gateway.agents, "http", "more", service.address, transport="websocket"):
            gateway.until_offered("more")
        assert session(gateway, "web") == before
        listener = next(each for each in gateway.status()["listeners"] if each["name"] == "agents")
        assert listener["addresses"] == [gateway.agents]


def test_what_cannot_be_bound_changes_nothing(quic: Quic, service: Service) -> None:
    with (
        Gateway(quic.config()) as gateway,
        quic.agent(gateway.agents, "http", "web", service.address),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken,
    ):
        gateway.until_offered("web")
        taken.bind(("127.0.0.1", 0))
        gateway.write(quic.config(bind=f"127.0.0.1:{taken.getsockname()[1]}"))
        answer = gateway.reload()
        assert answer.status == 422
        assert "is in use" in answer.text
        assert request(gateway.proxy, endpoint="web").status == 200
        assert gateway.seen("agent disconnected") == []


def test_reloads_under_load_lose_nothing(quic: Quic, service: Service) -> None:
    with (
        Gateway(quic.config()) as gateway,
        quic.agent(gateway.agents, "http", "web", service.address, connections=2),
        Visitors.of(gateway.proxy, "web") as visitors,
    ):
        for turn in range(20):
            changed = [{}, {"allow": ["127.0.0.0/8"]}][turn // 10]
            put_in_force(gateway, quic.config(**changed) | {"limits": {"head_fields": 80 + turn}})
        visitors.until_served(100)
        assert visitors.lost == []


def test_where_quic_stands_is_told_by_websocket(quic: Quic) -> None:
    context = quic.authority.client()

    def told(gateway: Gateway) -> tuple[bool, str | None]:
        host, _, port = gateway.agents.rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=10)
        with context.wrap_socket(plain, server_hostname="localhost") as tls:
            fields = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
            tls.sendall(f"GET /piko/v1/upstream/web HTTP/1.1\r\nHost: gate\r\n{fields}\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += tls.recv(1000)
        lines = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return "quic" in found["x-tidegate-features"].split(", "), found.get("x-tidegate-quic")

    with Gateway(quic.config()) as gateway:
        assert told(gateway) == (True, None)
        put_in_force(gateway, quic.config(transports=["websocket"]))
        assert told(gateway) == (False, None)
        put_in_force(gateway, quic.config(transports=["websocket"], quic_at="gate.example.com:9443"))
        assert told(gateway) == (False, "gate.example.com:9443")
        put_in_force(gateway, quic.config(quic_at="gate.example.com:9443"))
        assert told(gateway) == (False, "gate.example.com:9443")


def test_a_gateway_that_leaves_takes_no_new_tunnel_and_says_so(quic: Quic) -> None:
    begun, release = threading.Event(), threading.Event()

    def wait(exchange: Exchange) -> None:
        exchange.read()
        begun.set()
        release.wait(20)
        exchange.answer("200 OK", b"finished")

    with ExitStack() as stack:
        service = stack.enter_context(Service(wait))
        stack.callback(release.set)
        gateway = stack.enter_context(Gateway(quic.config()))
        words = (gateway.agents, "http", "web", service.address)
        agent = stack.enter_context(quic.agent(*words))
        gateway.until_offered("web")
        running = ask(gateway.proxy, "/", endpoint="web")
        assert begun.wait(20)
        gateway.signal(signal.SIGTERM)
        gateway.event("draining")
        assert "takes no connections over QUIC" in agent.event("disconnected")["reason"]
        release.set()
        assert running.result(20).text == "finished"
        assert gateway.wait() == 0
