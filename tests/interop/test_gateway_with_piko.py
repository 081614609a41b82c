"""A tidegate gateway between Piko-shaped agents and forwards."""

from __future__ import annotations

import signal
import socket
import threading

import pytest

from tests.interop.programs import PikoAgent, PikoForward, Service, all_come_back, leave
from tests.support.http import ask, request
from tests.support.process import until
from tests.support.tidegate import Gateway


@pytest.mark.parametrize("header", ["x-piko-endpoint", "x-tidegate-endpoint"])
def test_a_request_reaches_the_service_behind_a_piko_agent(gateway: Gateway, service: Service, header: str) -> None:
    with PikoAgent(gateway.agents, "http", "web", service.http):
        gateway.until_offered("web")
        response = request(gateway.proxy, headers={header: "web"})
        assert (response.status, response.text) == (200, f"hello from {gateway.proxy}\n")


def test_the_host_names_the_endpoint(gateway: Gateway, service: Service) -> None:
    with PikoAgent(gateway.agents, "http", "web", service.http):
        gateway.until_offered("web")
        response = request(gateway.proxy, headers={"Host": "web.example.com:8000"})
        assert (response.status, response.text) == (200, "hello from web.example.com:8000\n")


def test_refusals_are_those_of_piko(gateway: Gateway) -> None:
    for endpoint, status, error in ((None, 400, "missing endpoint id"), ("nobody", 502, "no available upstreams")):
        response = request(gateway.proxy, endpoint=endpoint)
        assert (response.status, response.json()["error"]) == (status, error)
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_a_service_that_speaks_first_is_heard_through_a_piko_forward(gateway: Gateway, service: Service) -> None:
    with (
        PikoAgent(gateway.agents, "tcp", "greet", service.greet),
        PikoForward(gateway.proxy, "greet") as forward,
    ):
        gateway.until_offered("greet")
        host, port = forward.address.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            assert connection.recv(100) == b"220 ready\r\n"
            connection.sendall(b"hello")
            assert connection.recv(100) == b"hello"


def test_500_requests_run_at_once(gateway: Gateway, service: Service) -> None:
    with PikoAgent(gateway.agents, "http", "web", service.http):
        gateway.until_offered("web")
        all_come_back("--http", f"http://{gateway.proxy}", "--count", "500")
        assert service.counts()["peak"] >= 500


def test_500_tcp_connections_run_at_once(gateway: Gateway, service: Service) -> None:
    with (
        PikoAgent(gateway.agents, "tcp", "echo", service.echo),
        PikoForward(gateway.proxy, "echo") as forward,
    ):
        gateway.until_offered("echo")
        all_come_back("--tcp", forward.address, "--count", "500", "--bytes", "200000")


@pytest.mark.parametrize("moment", ["leave-head", "leave-request", "leave-upload", "leave-response"])
def test_downstreams_that_leave_in_the_middle_leave_the_session_whole(
    gateway: Gateway, service: Service, moment: str
) -> None:
    with PikoAgent(gateway.agents, "http", "web", service.http) as agent:
        gateway.until_offered("web")
        leave(gateway.proxy, "web", moment)
        until(lambda: service.counts()["active"] == 0, "the service is rid of the requests")
        all_come_back("--http", f"http://{gateway.proxy}", "--count", "100")
        assert len(agent.seen("connected")) == 1


def test_tcp_downstreams_that_leave_in_the_middle_leave_the_session_whole(gateway: Gateway, service: Service) -> None:
    with (
        PikoAgent(gateway.agents, "tcp", "echo", service.echo) as agent,
        PikoForward(gateway.proxy, "echo") as forward,
    ):
        gateway.until_offered("echo")
        leave(gateway.proxy, "echo", "leave-tunnel")
        all_come_back("--tcp", forward.address, "--count", "100")
        assert len(agent.seen("connected")) == 1


def test_no_request_is_lost_while_the_goaway_of_an_agent_is_in_flight(gateway: Gateway, service: Service) -> None:
    with (
        PikoAgent(gateway.agents, "http", "web", service.http) as leaving,
        PikoAgent(gateway.agents, "http", "web", service.http),
    ):
        gateway.until_offered("web", tunnels=2)

        def stop() -> None:
            until(lambda: service.counts()["total"] > 500, "requests run")
            leaving.signal(signal.SIGTERM)

        stopping = threading.Thread(target=stop)
        stopping.start()
        # POST is not idempotent: the gateway may try another agent only where nothing can have been delivered.
        all_come_back("--http", f"http://{gateway.proxy}", "--path", "/echo", "--count", "50", "--rounds", "100")
        stopping.join()
        assert leaving.wait() == 0
        assert leaving.seen("exit", reason="stopped")


def test_a_piko_agent_that_stops_finishes_what_runs(gateway: Gateway, service: Service) -> None:
    with PikoAgent(gateway.agents, "http", "web", service.http) as agent:
        gateway.until_offered("web")
        answer = ask(gateway.proxy, "/slow?ms=1500", endpoint="web")
        until(lambda: service.counts()["active"] == 1, "the request is there")
        assert agent.stop() == 0
        assert answer.result().text == "slow\n"
        until(lambda: request(gateway.proxy, endpoint="web").status == 502, "the endpoint is gone")


def test_a_gateway_that_drains_ends_the_session_so_that_a_piko_agent_lives_on(service: Service) -> None:
    with Gateway() as gateway, PikoAgent(gateway.agents, "http", "web", service.http) as agent:
        gateway.until_offered("web")
        answer = ask(gateway.proxy, "/slow?ms=1500", endpoint="web")
        until(lambda: service.counts()["active"] == 1, "the request is there")
        assert gateway.stop() == 0
        assert answer.result().text == "slow\n"
        agent.event("disconnected")
        assert [away["code"] for away in agent.seen("goaway")] == [0, 2]
        assert not agent.seen("exit")
        # It looks for the gateway again, as Piko's agents do after an error.
        agent.event("connect failed", retry=True)


def test_a_piko_agent_finds_a_gateway_that_was_started_again(service: Service) -> None:
    with Gateway() as first, PikoAgent(first.agents, "http", "web", service.http) as agent:
        first.until_offered("web")
        first.stop()
        again = {"agents": {"bind": first.agents, "kind": "tunnel"}}
        with Gateway({"listeners": again}) as second:
            agent.event("connected", nth=2)
            second.until_offered("web")
            assert request(second.proxy, endpoint="web").status == 200
