"""A tidegate agent and a tidegate forward at a Piko-shaped server."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.interop.programs import PikoAgent, PikoServer, Service, all_come_back, leave
from tests.support.http import ask, request
from tests.support.process import until
from tests.support.tidegate import Agent, Forward


def test_a_request_reaches_the_service_behind_an_agent(server: PikoServer, service: Service) -> None:
    with Agent(server.upstream, "http", "web", service.http):
        server.until_offered("web")
        response = request(server.proxy, headers={"x-piko-endpoint": "web"})
        assert (response.status, response.text) == (200, f"hello from {server.proxy}\n")


def test_an_agent_holds_as_many_tunnels_as_it_is_told(server: PikoServer, service: Service) -> None:
    with Agent(server.upstream, "http", "web", service.http, connections=3):
        until(lambda: server.endpoints() == {"web": 3}, "the server has three listeners")


def test_500_requests_run_at_once(server: PikoServer, service: Service) -> None:
    with Agent(server.upstream, "http", "web", service.http):
        server.until_offered("web")
        all_come_back("--http", f"http://{server.proxy}", "--count", "500")
        assert service.counts()["peak"] >= 500


def test_500_tcp_connections_run_at_once(server: PikoServer, service: Service) -> None:
    with Agent(server.upstream, "tcp", "echo", service.echo), Forward(server.proxy, "echo") as forward:
        server.until_offered("echo")
        all_come_back("--tcp", forward.address, "--count", "500", "--bytes", "200000")


def test_a_service_that_speaks_first_is_heard(server: PikoServer, service: Service) -> None:
    with Agent(server.upstream, "tcp", "greet", service.greet), Forward(server.proxy, "greet") as forward:
        server.until_offered("greet")
        host, port = forward.address.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            assert connection.recv(100) == b"220 ready\r\n"


def test_a_forward_reaches_a_piko_agent(server: PikoServer, service: Service) -> None:
    with PikoAgent(server.upstream, "tcp", "echo", service.echo), Forward(server.proxy, "echo") as forward:
        server.until_offered("echo")
        all_come_back("--tcp", forward.address, "--count", "50")


@pytest.mark.parametrize("moment", ["leave-request", "leave-upload", "leave-response"])
def test_downstreams_that_leave_in_the_middle_leave_the_session_whole(
    server: PikoServer, service: Service, moment: str
) -> None:
    with Agent(server.upstream, "http", "web", service.http) as agent:
        server.until_offered("web")
        leave(server.proxy, "web", moment)
        until(lambda: service.counts()["active"] == 0, "the service is rid of the requests")
        all_come_back("--http", f"http://{server.proxy}", "--count", "100")
        assert len(agent.seen("connected")) == 1


@pytest.mark.parametrize("how", ["close", "tcp-fin", "tcp-rst", "goaway2"])
def test_an_agent_comes_back_after_every_end_of_its_session(server: PikoServer, service: Service, how: str) -> None:
    with Agent(server.upstream, "http", "web", service.http):
        server.until_offered("web")
        assert server.end("web", how) == 1
        server.until_offered("web", tunnels=2)
        until(lambda: server.endpoints() == {"web": 1}, "the new session is the only one")
        assert request(server.proxy, headers={"x-piko-endpoint": "web"}).status == 200


def test_an_endpoint_stays_reachable_after_a_goaway_that_asks_to_drain(server: PikoServer, service: Service) -> None:
    with Agent(server.upstream, "http", "web", service.http):
        server.until_offered("web")
        assert server.end("web", "goaway0") == 1
        all_come_back("--http", f"http://{server.proxy}", "--path", "/echo", "--count", "10", "--rounds", "20")


@pytest.mark.parametrize("how", ["close", "tcp-fin", "tcp-rst", "goaway2"])
def test_an_end_of_one_session_leaves_other_endpoints_alone(server: PikoServer, service: Service, how: str) -> None:
    with (
        Agent(server.upstream, "http", "web", service.http) as ended,
        Agent(server.upstream, "http", "other", service.http) as other,
    ):
        server.until_offered("web")
        server.until_offered("other")
        server.end("web", how)
        all_come_back("--http", f"http://{server.proxy}", "--endpoint", "other", "--count", "50")
        ended.until_connected(times=2)
        assert len(other.seen("connected")) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_refusal_that_may_pass_is_tried_again(server: PikoServer, service: Service, status: int) -> None:
    server.refuse(status, times=2)
    with Agent(server.upstream, "http", "web", service.http):
        server.until_offered("web")
        assert request(server.proxy, headers={"x-piko-endpoint": "web"}).status == 200


def test_any_other_refusal_is_final_and_says_why(service: Service) -> None:
    with (
        PikoServer("--token", "right") as server,
        Agent(server.upstream, "http", "web", service.http, "--token", "wrong", wait=False) as agent,
    ):
        assert agent.wait() == 1
        assert "invalid token" in agent.log


def test_an_agent_presents_its_token(service: Service) -> None:
    with (
        PikoServer("--token", "right") as server,
        Agent(server.upstream, "http", "web", service.http, "--token", "right"),
    ):
        server.until_offered("web")


def test_an_agent_that_stops_says_goaway_and_finishes_what_runs(server: PikoServer, service: Service) -> None:
    with Agent(server.upstream, "http", "web", service.http) as agent:
        server.until_offered("web")
        headers = {"x-piko-endpoint": "web"}
        answer = ask(server.proxy, "/slow?ms=1500", headers=headers)
        until(lambda: service.counts()["active"] == 1, "the request is there")
        agent.signal(signal.SIGTERM)
        server.event("goaway", code=0)
        assert answer.result().text == "slow\n"
        assert agent.wait() == 0
        until(lambda: server.endpoints() == {}, "the endpoint is gone")
