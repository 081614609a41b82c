"""An agent that asks its service whether it works, and offers the endpoint only while it does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.support.http import ask, request
from tests.support.ports import reserved
from tests.support.process import until
from tests.support.service import Exchange, Service, TcpService
from tests.support.tidegate import Agent, Gateway, Tidegate

HEALTH = {"path": "/healthz", "interval": "100ms", "timeout": "1s", "fall": 2, "rise": 2}


@dataclass
class Patient:
    """A service whose health is the test's choice, and whose answers may be held back."""

    well: bool = True
    held: threading.Event = field(default_factory=threading.Event)

    def __call__(self, exchange: Exchange) -> None:
        exchange.read()
        if exchange.target == "/healthz":
            exchange.answer("200 OK" if self.well else "500 Internal Server Error")
            return
        if exchange.target == "/slow":
            assert self.held.wait(20)
        exchange.answer("200 OK", b"served")


@contextmanager
def agent(gateway: Gateway, folder: Path, to: str, health: object, *, tunnels: int = 2) -> Iterator[Tidegate]:
    """An agent with the endpoint `web` and its admin listener."""
    config = {
        "connect": {"urls": [f"http://{gateway.agents}"], "connections": tunnels},
        "endpoints": [{"name": "web", "to": to, "health": health}],
        "admin": {"bind": "127.0.0.1:0"},
    }
    file = folder / "agent.yaml"
    file.write_text(yaml.safe_dump(config))
    with Tidegate("agent", "start", "--config", file) as running:
        running.ready("started")
        yield running


def tunnels_of(running: Tidegate) -> list[dict[str, str]]:
    """What the agent's status says of its tunnels."""
    address = str(running.event("listening", listener="admin")["address"])
    (endpoint,) = request(address, "/status").json()["endpoints"]
    tunnels: list[dict[str, str]] = endpoint["tunnels"]
    return tunnels


def offered(gateway: Gateway) -> bool:
    """Whether anybody offers the endpoint."""
    return any(endpoint["name"] == "web" for endpoint in gateway.status()["endpoints"])


def test_an_endpoint_is_withdrawn_while_its_service_fails_and_running_requests_end(tmp_path: Path) -> None:
    patient = Patient()
    with (
        Service(patient) as service,
        Gateway() as gateway,
        agent(gateway, tmp_path, f"http://{service.address}", HEALTH) as running,
    ):
        gateway.until_offered("web", 2)
        assert request(gateway.proxy, endpoint="web").text == "served"
        slow = ask(gateway.proxy, "/slow", endpoint="web")
        until(lambda: service.named("/slow"), "the slow request is at the service")

        patient.well = False
        unhealthy = running.event("service unhealthy", endpoint="web")
        assert unhealthy["reason"] == "it answered 500 to GET /healthz"
        until(lambda: not offered(gateway), "nobody offers the endpoint")
        assert request(gateway.proxy, endpoint="web").status == 502
        tunnels = tunnels_of(running)
        assert [tunnel["state"] for tunnel in tunnels] == ["unhealthy"] * 2
        assert {tunnel["reason"] for tunnel in tunnels} == {unhealthy["reason"]}

        patient.held.set()
        response = slow.result()
        assert (response.status, response.text) == (200, "served")
        # What was withdrawn does not linger.
        gateway.event("agent disconnected", endpoint="web", nth=2)

        patient.well = True
        running.event("service healthy", endpoint="web", nth=2)
        gateway.until_offered("web", 4)
        assert request(gateway.proxy, endpoint="web").text == "served"


def test_nothing_is_offered_before_the_first_check_has_succeeded(tmp_path: Path) -> None:
    with (
        reserved() as address,
        Gateway() as gateway,
        agent(gateway, tmp_path, f"http://{address}", HEALTH, tunnels=1) as running,
    ):
        unhealthy = running.event("service unhealthy", endpoint="web")
        assert "nothing listens on" in unhealthy["reason"]
        assert not offered(gateway)
        assert not gateway.seen("agent connected")
        host, _, port = address.rpartition(":")
        with Service(Patient(), host, int(port)):
            running.event("service healthy", endpoint="web")
            gateway.until_offered("web")
            assert request(gateway.proxy, endpoint="web").text == "served"


@pytest.mark.parametrize(
    ("kind", "health"), [("http", "tcp"), ("http", "/healthz"), ("tcp", "tcp")], ids=["http-tcp", "http-path", "tcp"]
)
def test_a_check_can_be_asked_for_on_the_command_line(kind: str, health: str) -> None:
    def service() -> TcpService:
        return Service(Patient()) if kind == "http" else TcpService(lambda _: None)

    with (
        service() as behind,
        Gateway() as gateway,
        Agent(gateway.agents, kind, "web", behind.address, "--health", health) as running,
    ):
        gateway.until_offered("web")
        running.event("service healthy", endpoint="web")


def test_agents_whose_service_fails_leave_requests_to_others(tmp_path: Path) -> None:
    def broken(exchange: Exchange) -> None:
        exchange.read()
        exchange.answer("503 Service Unavailable")

    with (
        Service(broken) as bad,
        Service(Patient()) as good,
        Gateway({"workers": 1}) as gateway,
        Agent(gateway.agents, "http", "web", bad.address, connections=1),
        Agent(gateway.agents, "http", "web", good.address, connections=1),
    ):
        gateway.until_offered("web", 2)
        statuses = [request(gateway.proxy, endpoint="web").status for _ in range(10)]
        assert sorted(statuses) == [200] * 5 + [503] * 5
        gateway.event("upstream ejected", upstream="web")
        assert {request(gateway.proxy, endpoint="web").status for _ in range(10)} == {200}
        (endpoint,) = gateway.status()["endpoints"]
        assert sorted(session["state"] for session in endpoint["listeners"]) == ["ejected", "up"]
